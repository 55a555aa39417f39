"""The tree's operations as runs: what the commands do, by name and parameters, over a real tree."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.exceptions import ParameterTypeError

from coreimage.errors import AttentionError
from coreimage.signing import GnupgSigner, Role
from coreimage.storage import open_store
from coreimage.system_image import Change, ChannelTree, publish_keyrings
from flows import changes, keys
from flows.upkeep import expire_channel
from flows.verify import verify_tree
from tests.harness.product import small_keys
from tests.harness.trees import CHANNEL, DEVICE, now, released
from tests.harness.workshop import Workshop
from tests.integration.test_import import PROJECT, published

STABLE = "debian-core/13/stable"


@pytest.fixture
def www(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = small_keys(tmp_path / "var/keys")
    store = open_store(str(tmp_path / "var/store"))
    publish_keyrings(ChannelTree(store, GnupgSigner(folder), now))
    released(store, GnupgSigner(folder))
    (tmp_path / "project.yaml").write_text(PROJECT.replace("boot_test: [bios]", "boot_test: []"))
    monkeypatch.setenv("COREIMAGE_STORE", str(tmp_path / "var/store"))
    monkeypatch.setenv("COREIMAGE_KEYS", str(folder))
    monkeypatch.setenv("COREIMAGE_PROJECT", str(tmp_path / "project.yaml"))
    return tmp_path / "var/store/system-image"


def channels(www: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((www / "channels.json").read_bytes())
    return found


def test_every_operation_has_its_run(www: Path) -> None:
    runs: list[tuple[Flow[..., Change], dict[str, Any]]] = [
        (changes.create_channel, {"name": STABLE}),
        (changes.promote_version, {"source": CHANNEL, "target": STABLE, "device": DEVICE, "percentage": 10}),
        (changes.phase_version, {"channel": STABLE, "device": DEVICE, "percentage": 50}),
        (changes.tag_version, {"channel": STABLE, "device": DEVICE, "tag": "13.0", "delta_bases": 0}),
        (changes.tag_version, {"channel": STABLE, "device": DEVICE, "tag": "13.1"}),
        (changes.create_device, {"channel": STABLE, "device": "pc_amd64"}),
        (changes.remove_device, {"channel": STABLE, "device": "pc_amd64"}),
        (changes.hide_channel, {"channel": STABLE}),
        (changes.show_channel, {"channel": STABLE}),
        (changes.alias_channel, {"name": "stable", "channel": STABLE}),
        (changes.redirect_channel, {"name": "old", "channel": STABLE}),
        (changes.rename_channel, {"channel": STABLE, "name": "debian-core/13/final"}),
        (changes.remove_channel, {"channel": "old"}),
    ]
    for operation, parameters in runs:
        assert operation(**parameters).changed, operation.name
    (device,) = channels(www)["stable"]["devices"].values()
    images = json.loads((www / device["index"].lstrip("/")).read_bytes())["images"]
    assert [image["version"] for image in images if image["type"] == "delta"] == [3], "13.0 was to have none"
    assert not changes.set_keyring(CHANNEL, DEVICE).changed
    assert channels(www)["stable"]["alias"] == "debian-core/13/final"
    assert verify_tree() > 10
    with pytest.raises(ParameterTypeError, match="less than or equal to 100"):
        changes.phase_version(CHANNEL, DEVICE, 101)


def test_imports_roll_backs_and_keys(www: Path, tmp_path: Path) -> None:
    published(Workshop(tmp_path, ordinary=False), b"two")
    (imported,) = changes.import_channel(CHANNEL)
    assert (imported.candidate.version, imported.release is not None) == (2, True)
    assert changes.roll_back(CHANNEL, DEVICE, 1).version == 3
    before = GnupgSigner(tmp_path / "var/keys").fingerprint(Role.CDIMAGE)
    assert keys.rotate_key(Role.CDIMAGE, overlap_days=7).fingerprint != before


def test_keys_are_made_published_revoked_and_kept(www: Path, tmp_path: Path) -> None:
    assert keys.create_keys() == ()
    assert keys.publish_keyrings() == ()
    (www / "gpg/image-signing.tar.xz").unlink()
    assert keys.publish_keyrings() == ("image-signing",)
    signing = GnupgSigner(tmp_path / "var/keys").fingerprint(Role.IMAGE_SIGNING)
    assert keys.revoke_key(signing).fingerprint != signing
    assert verify_tree() > 10
    assert keys.sign_anew() == 0
    backup = tmp_path / "backup.tar"
    assert set(keys.back_up_keys(str(backup))) == {role.value for role in Role}
    assert backup.stat().st_mode & 0o777 == 0o600


def test_what_retention_gives_up_takes_its_files_along(www: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = www / "pool/ubuntu-left.tar.xz"
    left.write_bytes(b"of a version that went")
    assert "system-image/pool/ubuntu-left.tar.xz" not in expire_channel(CHANNEL)
    monkeypatch.setattr("tasks.site.now", lambda: now() + timedelta(days=30))
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
