"""From what is installed to what a channel offers, into a folder as a device's updater does it: every kind of way, what
must be refused, and death at any step."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coreimage.client import Image, Index, NotPresentError, RepositoryError, Session, SignatureError
from coreimage.client.apply import Activity, InstallRequest, find_upgrade, install
from coreimage.client.errors import NoSpaceError, TargetError
from coreimage.client.folder import FolderTree
from coreimage.client.slot import Slot
from coreimage.client.tree import Entry
from coreimage.http import Downloader
from coreimage.signing import GnupgSigner, Role, make_keyring
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image import ChannelTree, alias_channel, publish_keyrings, roll_back
from coreimage.system_image.web import FetchWeb, GpgvVerify
from tests.harness.original_server import EDGE, original_tree
from tests.harness.trees import CHANNEL, DEVICE, NOW, RememberingSigner, now, released

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files their owners, as a device does")

STABLE = "debian-core/13/stable"


def text(seed: int) -> bytes:
    """Large enough that patching it costs less than sending it, and sending it less than a full image."""
    return hashlib.shake_256(b"all").digest(60_000) + b"version %d" % seed


class World:
    """A channel of three versions, its web root copied for each test, and a device's slots."""

    def __init__(self, www: Path, top: bytes, folder: Path) -> None:
        self.www, self._top, self.folder = www, top, folder

    def session(self, **options: Any) -> Session:
        web = FetchWeb(self.www.as_uri(), Downloader())
        return Session(web, GpgvVerify(), self._top, NOW.timestamp, **options)

    def slot(self, name: str, **options: Any) -> Slot:
        return Slot(self.folder / name, self.folder / f"{name}.json", self.folder / "work", no_tools, **options)

    def install(self, slot: Slot, request: InstallRequest, **options: Any) -> Image | None:
        return install(self.session(), request, slot, self.folder / "downloads", **options)

    def request(self, base: Slot | None = None, **options: Any) -> InstallRequest:
        """An update of what `base` holds."""
        held = base.held() if base else None
        build = held.version if held else 0
        return InstallRequest(CHANNEL, DEVICE, build, base.tree() if base else None, **options)

    def first(self, version: int = 1) -> Slot:
        slot = self.slot("a")
        image = self.install(slot, InstallRequest(CHANNEL, DEVICE, revision=version))
        assert image is not None
        assert image.version == version
        return slot

    def way(self, request: InstallRequest) -> list[tuple[int, int | None, str]]:
        return [(image.version, image.base, image.form) for image in find_upgrade(self.session(), request).images]


def no_tools(argv: Sequence[str], _source: Path, _target: Path) -> None:
    raise AssertionError(argv)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, signer: GnupgSigner) -> Path:
    store, remembering = DirectoryStore(tmp_path_factory.mktemp("published")), RememberingSigner(signer)
    publish_keyrings(ChannelTree(store, remembering, now))
    for number in (1, 2, 3):
        released(store, remembering, f"2026112{number}", text(number), names=[f"etc/only-{number}"])
    alias_channel(ChannelTree(store, remembering, now), STABLE, CHANNEL)
    return Path(store.url.removeprefix("file://")) / "system-image"


@pytest.fixture
def top(signer: GnupgSigner) -> bytes:
    return make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER))


@pytest.fixture
def world(published: Path, top: bytes, tmp_path: Path) -> World:
    www = tmp_path / "www"
    shutil.copytree(published, www)
    return World(www, top, tmp_path)


def unpacked(world: World, version: int, channel: str = CHANNEL, **options: Any) -> list[Entry]:
    """What the full image of the version makes, unpacked by GNU tar, one tarball over the other."""
    session, folder = world.session(**options), world.folder / f"expected-{version}"
    folder.mkdir(exist_ok=True)
    (world.folder / "expected").mkdir(exist_ok=True)
    image = session.select(channel, DEVICE, version)
    for file in session.download(channel, DEVICE, image, world.folder / "expected"):
        os.system(f"tar -xf {file} -C {folder} --numeric-owner --xattrs '--xattrs-include=*' --same-owner -p")  # noqa: S605
    return held_in(folder)


def held_in(folder: Path) -> list[Entry]:
    """Without what GNU tar makes of folders: those that it makes as it goes, and times of those it comes back to."""
    made = {b"system", b"assets", b"system/etc/system-image"}
    entries = [entry for entry in FolderTree(folder).entries() if entry.name not in made]
    return [replace(entry, mtime=0) if entry.kind == "folder" else entry for entry in entries]


def holds(folder: Path, world: World, version: int) -> bool:
    expected = unpacked(world, version)
    assert [entry.name for entry in held_in(folder)] == [entry.name for entry in expected]
    return held_in(folder) == expected


def test_a_full_image(world: World) -> None:
    slot = world.slot("a")
    heard: list[tuple[Activity, int, int]] = []
    image = world.install(slot, world.request(), on_progress=lambda *said: heard.append(said))
    assert image is not None
    assert (image.type, image.version) == ("full", 3)
    assert holds(world.folder / "a", world, 3)
    assert not list((world.folder / "work").iterdir())
    assert not (world.folder / "downloads").exists()
    assert [done for activity, done, _ in heard if activity == "download"][-1] == sum(f.size_bytes for f in image.files)


def test_chained_compact_deltas_from_one_slot_to_the_other(world: World) -> None:
    first = world.first()
    request = world.request(first)
    assert world.way(request) == [(2, 1, "compact"), (3, 2, "compact")]
    second = world.slot("b")
    world.install(second, request)
    assert holds(world.folder / "b", world, 3)
    assert holds(world.folder / "a", world, 1)
    assert world.install(second, world.request(second)) is None


def test_over_what_a_slot_held_before(world: World) -> None:
    first, second = world.first(), world.slot("b")
    (world.folder / "b/system").mkdir(parents=True)
    (world.folder / "b/system/old").write_text("old")
    (world.folder / "b/system/link").symlink_to("/")
    world.install(second, world.request(first))
    assert holds(world.folder / "b", world, 3)


def test_what_is_held_is_not_fetched_again(world: World) -> None:
    slot = world.first()
    shutil.rmtree(world.www / "pool")
    assert world.install(slot, InstallRequest(CHANNEL, DEVICE, revision=1)) is not None


def test_legacy_deltas_of_the_original_server(top: bytes, signer: GnupgSigner, tmp_path: Path) -> None:
    original_tree(tmp_path / "www", signer, NOW.timestamp())
    world = World(tmp_path / "www", top, tmp_path)

    class OnlyDeltas(Session):
        def index(self, channel: str, device: str) -> Index:
            index = super().index(channel, device)
            return replace(index, images=tuple(i for i in index.images if i.base or i.version == 1))

    session = OnlyDeltas(FetchWeb(world.www.as_uri(), Downloader()), GpgvVerify(), top, NOW.timestamp, legacy=True)
    first, second = world.slot("a"), world.slot("b")
    install(session, InstallRequest(EDGE, DEVICE, revision=1), first, tmp_path / "downloads")
    request = InstallRequest(EDGE, DEVICE, 1, first.tree())
    assert [image.base for image in find_upgrade(session, request).images] == [1, 2]
    install(session, request, second, tmp_path / "downloads")
    names = {entry.name: entry.sha256 for entry in FolderTree(tmp_path / "b").entries()}
    assert b"system/etc/only-1" not in names
    assert b"system/etc/only-3" in names
    assert names[b"system/etc/issue"] == hashlib.sha256(b"version 3").digest()
    assert (tmp_path / "b/system/etc/ubuntu-build").read_text() == "3\n"


def test_a_step_of_nothing_but_the_number(published: Path, world: World, signer: GnupgSigner) -> None:
    """A roll-back: another version of a content that was there, and a tag, which is the version file alone."""
    store = DirectoryStore(world.folder / "store")
    shutil.copytree(published, world.folder / "store/system-image")
    roll_back(ChannelTree(store, RememberingSigner(signer), now), CHANNEL, DEVICE, 1)
    world.www = world.folder / "store/system-image"
    third, other = world.first(3), world.slot("b")
    assert world.way(world.request(third))[-1][0] == 4
    world.install(other, world.request(third))
    assert holds(world.folder / "b", world, 4)
    assert [e for e in unpacked(world, 4) if b"issue" in e.name] == [
        e for e in unpacked(world, 1) if b"issue" in e.name
    ]


def test_a_changed_base_takes_a_full_image(world: World) -> None:
    first = world.first()
    (world.folder / "a/system/etc/issue").write_text("somebody edited it")
    request = world.request(first)
    assert world.way(request)[0] in {(2, None, "legacy"), (3, None, "legacy")}
    second = world.slot("b")
    world.install(second, request)
    assert holds(world.folder / "b", world, 3)


def test_without_a_base_only_full_images_lead_on(world: World) -> None:
    assert world.way(InstallRequest(CHANNEL, DEVICE, 2)) == [(3, None, "legacy")]


def test_an_alias_that_leads_elsewhere_counts_nothing_of_what_is_installed(world: World) -> None:
    base = world.first(3).tree()
    assert world.way(InstallRequest(STABLE, DEVICE, 3, base, channel_target=CHANNEL)) == []
    assert world.way(InstallRequest(STABLE, DEVICE, 3, base, channel_target="another")) == [(3, None, "legacy")]


def test_a_channel_that_is_not_there(world: World) -> None:
    with pytest.raises(NotPresentError, match="no-such"):
        install(world.session(), InstallRequest("no-such", DEVICE), world.slot("a"), world.folder / "downloads")
    assert not (world.folder / "a").exists()


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_tampered_file_is_refused_and_nothing_changes(world: World) -> None:
    first, second = world.first(2), world.slot("b")
    (delta,) = [image.files[0] for image in find_upgrade(world.session(), world.request(first)).images]
    spoil(world.www / delta.path.lstrip("/"))
    with pytest.raises(RepositoryError, match=delta.name):
        world.install(second, world.request(first))
    assert not (world.folder / "b").exists()
    assert second.held() is None
    assert holds(world.folder / "a", world, 2)


def test_a_signature_of_something_else_is_refused(world: World) -> None:
    first = world.first(2)
    (delta,) = [image.files[0] for image in find_upgrade(world.session(), world.request(first)).images]
    other = next(path for path in (world.www / "pool").glob("*.asc") if path.name != f"{delta.name}.asc")
    shutil.copy(other, world.www / delta.signature.lstrip("/"))
    with pytest.raises(SignatureError):
        world.install(world.slot("b"), world.request(first))


class Swapping(Session):
    """A server that was made to sign an index in which each delta is another's."""

    def index(self, channel: str, device: str) -> Index:
        index = super().index(channel, device)
        deltas = [image for image in index.images if image.form == "compact"]
        swapped = {
            one: replace(one, files=(other.files[0], *one.files[1:]))
            for one, other in zip(deltas, reversed(deltas), strict=True)
        }
        return replace(index, images=tuple(swapped.get(image, image) for image in index.images))


def test_a_swapped_delta_is_refused_though_it_is_signed(world: World, top: bytes) -> None:
    first, second = world.first(2), world.slot("b")
    web = FetchWeb(world.www.as_uri(), Downloader())
    session = Swapping(web, GpgvVerify(), top, NOW.timestamp)
    with pytest.raises(RepositoryError, match="for another base"):
        install(session, world.request(first), second, world.folder / "downloads")
    assert not (world.folder / "b").exists()


def test_files_that_do_not_make_the_version_are_refused(world: World, top: bytes) -> None:
    class Wrong(Session):
        def index(self, channel: str, device: str) -> Index:
            index = super().index(channel, device)
            return replace(index, images=tuple(replace(image, tree_sha256="0" * 64) for image in index.images))

    session = Wrong(FetchWeb(world.www.as_uri(), Downloader()), GpgvVerify(), top, NOW.timestamp)
    with pytest.raises(RepositoryError, match="do not make the version"):
        install(session, world.request(), world.slot("a"), world.folder / "downloads")
    assert not (world.folder / "a").exists()


def test_what_does_not_read_back_is_not_taken_for_whole(world: World) -> None:
    def meddle(activity: Activity, done: int, total: int) -> None:
        if activity == "write" and done == total:
            (world.folder / "a/system/etc/issue").write_text("a bad disk")

    slot = world.slot("a", on_progress=meddle)
    with pytest.raises(TargetError, match=r"a/system/etc/issue: it does not read back"):
        world.install(slot, world.request())
    assert slot.held() is None
    world.install(world.slot("a"), world.request())
    assert holds(world.folder / "a", world, 3)


def test_what_cannot_be_written_is_named(world: World) -> None:
    shutil.rmtree(world.folder / "a", ignore_errors=True)
    (world.folder / "a").write_text("in the way")
    with pytest.raises(TargetError, match=r"/a: cannot be written: File exists"):
        world.install(world.slot("a"), world.request())
    assert world.slot("a").held() is None


@pytest.mark.parametrize("place", ["downloads", "work", "a"])
def test_a_full_disk_leaves_what_goes_on_later(world: World, place: str) -> None:
    small = world.folder / place
    small.mkdir()
    os.system(f"mount -t tmpfs -o size=40k small {small}")  # noqa: S605
    try:
        with pytest.raises(NoSpaceError, match=r"the disk is full|are free"):
            world.install(world.slot("a"), world.request())
        assert world.slot("a").held() is None
        os.system(f"mount -o remount,size=100m {small}")  # noqa: S605
        world.install(world.slot("a"), world.request())
        assert holds(world.folder / "a", world, 3)
    finally:
        os.system(f"umount {small}")  # noqa: S605


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def changes_a_disk(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return bool((arguments[2] or 0) & WRITING)
    named = ("mkdir", "rmdir", "remove", "rename", "link", "symlink", "chmod", "chown", "setxattr", "utime")
    return event in {f"os.{name}" for name in named}


def in_a_child(action: Callable[[], object], die_at: int) -> tuple[bool, int]:
    """Whether it was killed, and how many changes of the disk there were before."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if changes_a_disk(event, arguments):
                count += 1
                if count == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        action()
        os.write(writing, str(count).encode())
        os._exit(0)
    os.close(writing)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(reading) as said:
        return os.WIFSIGNALED(status), int(said.read() or 0)


def test_killed_at_any_step_it_is_never_taken_for_whole_and_goes_on(world: World) -> None:
    first, second = world.first(), world.slot("b")
    world.install(second, InstallRequest(CHANNEL, DEVICE, revision=2))
    expected = {version: unpacked(world, version) for version in (2, 3)}
    older = world.folder / "older"
    os.system(f"cp -a {world.folder / 'b'} {older}")  # noqa: S605
    record = (world.folder / "b.json").read_bytes()
    session, request = world.session(), world.request(first)
    find_upgrade(session, request)

    def update() -> None:
        install(session, request, second, world.folder / "downloads")

    killed, changes = in_a_child(update, 0)
    assert not killed
    for die_at in range(1, changes + 1, max(1, changes // 30)):
        shutil.rmtree(world.folder / "b")
        os.system(f"cp -a {older} {world.folder / 'b'}")  # noqa: S605
        (world.folder / "b.json").write_bytes(record)
        assert in_a_child(update, die_at)[0]
        held = second.held()
        assert held is None or held_in(world.folder / "b") == expected[held.version]
        update()
        held = second.held()
        assert held is not None
        assert held.version == 3
        assert held_in(world.folder / "b") == expected[3]
    assert holds(world.folder / "a", world, 1)


_IN_A_PROCESS = """
import re, sys
from pathlib import Path
from coreimage.client.documents import Image
from coreimage.client.apply import ApplyPlan, InstallRequest, VerifiedImage
from coreimage.client.slot import Slot

folder = Path(sys.argv[1])
image = Image(1, "full", None, "", "", ())
slot = Slot(folder / "slot", folder / "slot.json", folder / "work", lambda *said: None)
verified = VerifiedImage(image, tuple(map(Path, sys.argv[2:])))
slot.apply(ApplyPlan(InstallRequest("tiny/1/edge", "board_amd64"), (verified,)))
print(re.findall(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[0])
"""


def test_an_image_of_24_000_files_fits_into_64_mib(tmp_path: Path) -> None:
    packed = tmp_path / "ubuntu-1.tar.xz"
    with tarfile.open(packed, "w:xz", format=tarfile.PAX_FORMAT, preset=0) as tar:
        for number in range(24_000):
            member = tarfile.TarInfo(f"system/usr/share/of-many/{number // 100}/a-file-of-such-a-name-{number}")
            member.size = 64
            tar.addfile(member, io.BytesIO(b"%064d" % number))
    argv = [sys.executable, "-c", _IN_A_PROCESS, str(tmp_path), str(packed)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
    assert len(list((tmp_path / "slot").rglob("a-file-*"))) == 24_000
    assert int(done.stdout) <= 64 << 10
