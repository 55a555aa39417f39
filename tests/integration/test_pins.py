"""What people pin stays, from the command line to the pages; what nobody pinned goes with its time."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coreimage.cli.app import run
from coreimage.host.process import run as run_process
from coreimage.operations.expire_channel import ExpiredItems, expire_channel
from coreimage.pages import write_pages
from coreimage.project.loading import load_project
from coreimage.signing import GnupgSigner, Role, make_keyring
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image import ChannelTree, verify_store
from coreimage.system_image.channels.document import read_channels, read_index
from tests.harness.grown_tree import CHANNEL, DEVICE, TREE, grow
from tests.harness.ordinary_user import ROOT_DIR
from tests.harness.product import small_keys

DAYS = 5
STABLE = "debian-core/13/stable"


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and keys, and a project whose channel keeps one version and nothing by age."""
    folder = tmp_path_factory.mktemp("pins")
    signer = GnupgSigner(small_keys(folder / "var/keys"))
    store = DirectoryStore(folder / "var/store")
    grow(store, signer, DAYS)
    write_pages(store=store)
    text = (ROOT_DIR / "deployments/debian-core.yaml").read_text()
    kept = "{keep_count: 1, keep_days: 0}"
    shutil.copytree(ROOT_DIR / "deployments/gadgets", folder / "deployments/gadgets")
    (folder / "deployments/debian-core.yaml").write_text(text.replace("{keep_count: 10, keep_days: 14}", kept))
    return folder


@pytest.fixture
def place(grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(grown, tmp_path / "place", copy_function=shutil.copy2)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


class Command:
    """Runs `coreimage` here, and gives what it printed."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured

    def __call__(self, *words: str, status: int = 0) -> str:
        found = run(["--quiet", *words])
        out, error = self._captured.readouterr()
        assert found == status, error
        return out if status == 0 else error

    def document(self, *words: str) -> Any:
        return json.loads(self("--json", *words))


@pytest.fixture
def coreimage(place: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def retire(place: Path, *, dry_run: bool = False) -> ExpiredItems:
    """A month later."""
    project = load_project(place / "deployments/debian-core.yaml")
    signer, store = GnupgSigner(place / "var/keys"), DirectoryStore(place / "var/store")
    later = datetime.now(UTC) + timedelta(days=30)
    return expire_channel(ChannelTree(store, signer, lambda: later), project, CHANNEL, dry_run=dry_run)


def page(place: Path, key: str) -> str:
    return (place / "var/store" / key).read_text()


def test_what_nobody_pinned_goes_with_its_images(place: Path) -> None:
    expected = ExpiredItems(
        builds=("20261102", "20261103", "20261104", "20261105"),
        versions=retire(place, dry_run=True).versions,
        images=tuple(f"images/{CHANNEL}/{DEVICE}/{version}" for version in (1, 2, 3, 4)),
    )
    assert expected.versions[0].versions == (1, 2, 3, 4)
    assert retire(place, dry_run=True) == expected
    assert retire(place) == expected
    assert retire(place) == ExpiredItems()
    left = {path.name for path in (place / f"var/store/images/{CHANNEL}/{DEVICE}").iterdir()}
    assert left == {"5"}


def test_a_pinned_build_stays_and_is_shown(place: Path, coreimage: Command) -> None:
    build_page = f"{TREE.prefix}/20261103/index.html"
    assert "pinned" not in page(place, build_page)
    assert coreimage("pin", CHANNEL, "--build", "20261103", "--note", "shown <at> the fair").startswith(
        "build 20261103"
    )
    assert coreimage("pin", CHANNEL, "--build", "20261103", "--note", "shown <at> the fair").endswith(
        "nothing to change\n"
    )
    for key in (build_page, f"{TREE.prefix}/index.html"):
        assert "pinned: shown &lt;at&gt; the fair" in page(place, key)
    lines = {line["build_id"]: line for line in coreimage.document("builds", CHANNEL)}
    assert list(lines) == ["20261106", "20261105", "20261104", "20261103", "20261102"]
    assert lines["20261103"]["pinned"] == "shown <at> the fair"
    newest = lines["20261106"]
    assert (newest["newest"], newest["current"], newest["good"], newest["carried"]) == (True, ["amd64"], ["amd64"], {})
    assert "20261106" in coreimage("builds", CHANNEL)
    assert json.loads(page(place, f"{TREE.prefix}/index.json"))["builds"][3]["pinned"] == "shown <at> the fair"
    assert coreimage.document("verify")["orphans"] == []
    assert "pinned: shown <at> the fair" in coreimage("builds", CHANNEL)
    assert retire(place).builds == ("20261102", "20261104", "20261105")
    run_process(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=place / f"var/store/{TREE.prefix}/20261103")

    assert coreimage.document("unpin", CHANNEL, "--build", "20261103")["changed"] is True
    assert coreimage.document("unpin", CHANNEL, "--build", "20261103")["changed"] is False
    assert "pinned" not in page(place, build_page)
    assert retire(place).builds == ("20261103",)


def test_a_pinned_version_stays_with_its_image_and_is_shown(place: Path, coreimage: Command) -> None:
    words = (CHANNEL, "--device", DEVICE, "--version", "2")
    coreimage("pin", *words, "--note", "13.1")
    assert coreimage.document("pin", *words, "--note", "13.1")["changed"] is False
    shown = page(place, f"system-image/{CHANNEL}/{DEVICE}/index.html")
    assert "pinned: 13.1" in shown
    assert f"{TREE.prefix}/20261103/index.html" in shown, "its build is still found"
    listed = coreimage.document("query", "--list-images", "--channel", CHANNEL, "--device", DEVICE)
    assert [image["pinned"] for image in listed] == [None, "13.1", None, None, None]
    assert "pinned='13.1'" in coreimage("query", "--list-images", "--channel", CHANNEL, "--device", DEVICE)
    retired = retire(place)
    assert retired.versions[0].versions == (1, 3, 4)
    assert {path.rpartition("/")[2] for path in retired.images} == {"1", "3", "4"}
    coreimage("verify")

    coreimage("unpin", *words)
    assert retire(place).versions[0].versions == (2,)
    coreimage("verify")


def test_pins_are_not_copied_with_a_version(place: Path, coreimage: Command) -> None:
    coreimage("pin", CHANNEL, "--device", DEVICE, "--version", str(DAYS), "--note", "edge only")
    signer, store = GnupgSigner(place / "var/keys"), DirectoryStore(place / "var/store")
    coreimage("channel", "create", STABLE)
    coreimage("promote", CHANNEL, STABLE, "--device", DEVICE)
    assert "Version 1" in page(place, f"system-image/{STABLE}/{DEVICE}/index.html")
    tree = ChannelTree(store, signer, lambda: datetime.now(UTC))
    (image,) = read_index(store, read_channels(tree).channels, STABLE, DEVICE).images
    assert image.pinned is None
    assert verify_store(store, make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER))).errors == ()


def test_gc_retires_too_and_names_what_it_removed(place: Path, coreimage: Command) -> None:
    (place / "deployments/debian-core.yaml").write_text(
        (place / "deployments/debian-core.yaml").read_text().replace("keep_days: 0", "keep_days: 1")
    )
    coreimage("pin", CHANNEL, "--build", "20261102")
    dry = coreimage.document("gc", "--dry-run")
    assert (dry["builds"], dry["images"]) == (["20261103", "20261104", "20261105"], [])
    assert "builds 20261103, 20261104, 20261105" in coreimage("gc")
    assert [line["build_id"] for line in coreimage.document("builds", CHANNEL)] == ["20261106", "20261102"]
    assert "20261104" not in page(place, f"{TREE.prefix}/index.html")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("pin", CHANNEL), 2, "name a --build, or a --device and its --version"),
        (("pin", CHANNEL, "--build", "20261103", "--version", "3"), 2, "name a --build"),
        (("pin", CHANNEL, "--device", DEVICE), 2, "name a --build"),
        (("pin", CHANNEL, "--build", "yesterday"), 2, "looks like 20261123"),
        (("pin", CHANNEL, "--build", "20261113"), 1, "did you mean '20261103'"),
        (("unpin", CHANNEL, "--device", DEVICE, "--version", "9"), 1, "its versions: 1, 2, 3, 4, 5"),
        (("pin", "debian-core/13/egde", "--build", "20261103"), 2, "did you mean 'debian-core/13/edge'"),
        (("builds", "debian-core/13/egde"), 2, "did you mean 'debian-core/13/edge'"),
    ],
)
def test_what_cannot_be_pinned_is_said(coreimage: Command, words: tuple[str, ...], status: int, said: str) -> None:
    assert said in coreimage(*words, status=status)
