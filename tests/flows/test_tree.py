"""The tree's operations as runs: what the commands do, by name and parameters, over a real tree."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coreimage.errors import AttentionError, UsageError
from coreimage.signing import GnupgSigner, Role
from coreimage.storage import open_store
from coreimage.system_image import Rotation, publish_keyrings
from flows.tree import change_keys, change_tree, import_channel, verify_tree
from flows.upkeep import expire_channel
from tests.harness.product import small_keys
from tests.harness.trees import CHANNEL, DEVICE, now, released
from tests.harness.workshop import Workshop
from tests.integration.test_import import PROJECT, published

STABLE = "debian-core/13/stable"


@pytest.fixture
def www(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    keys = small_keys(tmp_path / "var/keys")
    store = open_store(str(tmp_path / "var/store"))
    publish_keyrings(store=store, signer=GnupgSigner(keys), now=now)
    released(store, GnupgSigner(keys))
    (tmp_path / "project.yaml").write_text(PROJECT.replace("boot_test: [bios]", "boot_test: []"))
    monkeypatch.setenv("COREIMAGE_STORE", str(tmp_path / "var/store"))
    monkeypatch.setenv("COREIMAGE_KEYS", str(keys))
    monkeypatch.setenv("COREIMAGE_PROJECT", str(tmp_path / "project.yaml"))
    return tmp_path / "var/store/system-image"


def channels(www: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((www / "channels.json").read_bytes())
    return found


def test_every_operation_has_its_run(www: Path) -> None:
    steps: list[tuple[Any, dict[str, Any]]] = [
        ("create-channel", {"channel": STABLE}),
        ("promote", {"channel": CHANNEL, "target": STABLE, "device": DEVICE, "percentage": 10}),
        ("phase", {"channel": STABLE, "device": DEVICE, "percentage": 50}),
        ("tag", {"channel": STABLE, "device": DEVICE, "tag": "13.0", "delta_bases": 0}),
        ("tag", {"channel": STABLE, "device": DEVICE, "tag": "13.1"}),
        ("create-device", {"channel": STABLE, "device": "pc_amd64"}),
        ("remove-device", {"channel": STABLE, "device": "pc_amd64"}),
        ("hide-channel", {"channel": STABLE}),
        ("show-channel", {"channel": STABLE}),
        ("alias-channel", {"channel": "stable", "target": STABLE}),
        ("redirect-channel", {"channel": "old", "target": STABLE}),
        ("rename-channel", {"channel": STABLE, "target": "debian-core/13/final"}),
        ("remove-channel", {"channel": "old"}),
    ]
    for operation, parameters in steps:
        assert change_tree(operation, **parameters).changed, operation
    (device,) = channels(www)["stable"]["devices"].values()
    images = json.loads((www / device["index"].lstrip("/")).read_bytes())["images"]
    assert [image["version"] for image in images if image["type"] == "delta"] == [3], "13.0 was to have none"
    assert not change_tree("set-keyring", CHANNEL, device=DEVICE).changed
    assert channels(www)["stable"]["alias"] == "debian-core/13/final"
    assert verify_tree() > 10
    with pytest.raises(UsageError, match="needs device and percentage"):
        change_tree("phase", CHANNEL)


def test_imports_roll_backs_and_keys(www: Path, tmp_path: Path) -> None:
    published(Workshop(tmp_path, ordinary=False), b"two")
    (done,) = import_channel(CHANNEL)
    assert (done.candidate.version, done.release is not None) == (2, True)
    assert change_tree("roll-back", CHANNEL, device=DEVICE, version=1).version == 3
    before = GnupgSigner(tmp_path / "var/keys").fingerprint(Role.CDIMAGE)
    rotated = change_keys("rotate", "cdimage", overlap_days=7)
    assert isinstance(rotated, Rotation)
    assert rotated.fingerprint != before
    with pytest.raises(UsageError, match="no role"):
        change_keys("rotate", "cdimge")


def test_keys_are_made_published_revoked_and_kept(www: Path, tmp_path: Path) -> None:
    keys = tmp_path / "var/keys"
    assert change_keys("init") == ()
    assert change_keys("publish") == ()
    (www / "gpg/image-signing.tar.xz").unlink()
    assert change_keys("publish") == ("image-signing",)
    signing = GnupgSigner(keys).fingerprint(Role.IMAGE_SIGNING)
    revoked = change_keys("revoke", signing)
    assert isinstance(revoked, Rotation)
    assert revoked.fingerprint != signing
    assert verify_tree() > 10
    assert change_keys("re-sign") == ("0 signatures",)
    backup = tmp_path / "backup.tar"
    assert set(change_keys("backup", str(backup))) == {role.value for role in Role}
    assert backup.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="needs a key"):
        change_keys("backup")


def test_what_retention_gives_up_takes_its_files_along(www: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = www / "pool/ubuntu-left.tar.xz"
    left.write_bytes(b"of a version that went")
    assert "system-image/pool/ubuntu-left.tar.xz" not in expire_channel(CHANNEL)
    monkeypatch.setattr("flows.upkeep.now", lambda: now() + timedelta(days=30))
    assert "system-image/pool/ubuntu-left.tar.xz" in expire_channel(CHANNEL, dry_run=True)
    assert left.exists()
    assert "system-image/pool/ubuntu-left.tar.xz" in expire_channel(CHANNEL)
    assert not left.exists()


@pytest.mark.spoils
def test_what_clients_would_refuse_is_told(www: Path) -> None:
    (www / "channels.json.asc").write_bytes(b"torn")
    with pytest.raises(AttentionError, match=r"channels\.json"):
        verify_tree()
    assert verify_tree(repair=True) > 10
    next(www.glob("pool/ubuntu-*.tar.xz")).write_bytes(b"spoilt")
    with pytest.raises(AttentionError, match="ubuntu-"):
        verify_tree(repair=True)
