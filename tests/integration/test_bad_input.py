"""Everything that users and their surroundings can get wrong, through the command itself.

Each case checks the exit status, that the message says what, where and what to do next, and that nothing half-written
is left: in the store, under the output's name, in TMPDIR.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coreimage.disk_image import assemble
from coreimage.errors import BuildError
from coreimage.host.process import run, spawn
from coreimage.host.sandbox import Sandbox
from coreimage.rootfs.spec import DEVICE_PACKAGES
from coreimage.services.prefect_server import prefect_server
from coreimage.signing import GnupgSigner, Role, create_keys, make_keyring
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image import ChannelTree, publish_keyrings
from tests.boot.synthetic import GADGET, IDENTITY, device_tarball, tarball
from tests.harness.archive import LocalArchive, TestKey
from tests.harness.ordinary_user import as_ordinary_user
from tests.harness.tiny import ROOT_DIR, SUITE, tiny_archive, tiny_project
from tests.harness.tools import SharedTools
from tests.harness.trees import released

CHANNEL = "tiny/1/edge"
MIB = 1 << 20


@dataclass
class Shared:
    """What all cases use and none changes."""

    folder: Path
    archive: LocalArchive
    other_key: TestKey
    api_url: str
    tools: SharedTools

    def __post_init__(self) -> None:
        self.keys = self.folder / "keys"
        create_keys(self.keys, bits=dict.fromkeys(Role, 2048))


@pytest.fixture(scope="module")
def shared(tools: SharedTools) -> Iterator[Shared]:
    # gpg-agent's socket path must be short.
    folder = Path(tempfile.mkdtemp(prefix="bad-"))
    keys = [TestKey.make(folder / name, name) for name in ("a", "b")]
    with prefect_server(folder / "prefect", {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}) as url:
        yield Shared(folder, plannable(tiny_archive(folder / "archive", keys[0])), keys[1], url, tools)
    for key in keys:
        key.close()
    shutil.rmtree(folder)


def plannable(archive: LocalArchive) -> LocalArchive:
    """The device's part can be planned too: all is planned before anything is built."""
    for name in DEVICE_PACKAGES:
        archive.add(SUITE, name)
    return archive.publish()


@dataclass
class Case:
    """A folder of its own, in which the command runs."""

    folder: Path
    shared: Shared
    wrapper: tuple[str, ...] = ()
    store: Path = field(init=False)
    temporary: Path = field(init=False)

    def __post_init__(self) -> None:
        self.store, self.temporary = self.folder / "store", self.folder / "tmp"
        self.temporary.mkdir()

    def project(self, *changes: tuple[str, str]) -> Case:
        self.with_tools(tiny_project(self.folder, self.shared.archive, *changes))
        return self

    def with_tools(self, project: Path) -> None:
        project.write_text(project.read_text() + self.shared.tools.yaml)
        self.shared.tools.seed(self.store)

    def hook(self, script: str) -> Case:
        (self.folder / "hook.sh").write_text(f"#!/bin/sh\n{script}\n")
        return self.project(("hooks: []", "hooks: [hook.sh]"))

    @property
    def argv(self) -> list[str]:
        options = ["--project", "project.yaml", "--store", self.store.as_uri()]
        return [*self.wrapper, sys.executable, "-m", "coreimage.cli", *options]

    @property
    def env(self) -> dict[str, str]:
        return {
            "PYTHONPATH": os.pathsep.join([str(ROOT_DIR), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "COREIMAGE_KEYS": str(self.shared.keys),
            "PREFECT_API_URL": self.shared.api_url,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "TMPDIR": str(self.temporary),
            "HOME": str(self.folder),
            "COREIMAGE_CACHE": os.environ["COREIMAGE_CACHE"],
        }

    def refused(self, *words: str, status: int = 1, sandbox: Sandbox = Sandbox.NONE) -> str:
        """The message of `coreimage build`, which has to fail with `status` and to leave nothing."""
        words = words or (CHANNEL, "--output", "x.img")
        ended = run([*self.argv, "build", *words], env=self.env, cwd=self.folder, accept=(status,), sandbox=sandbox)
        self.nothing_left()
        assert "Traceback" not in ended.output
        return ended.output[ended.output.rfind("error: ") :]

    def nothing_left(self) -> None:
        assert list(self.temporary.iterdir()) == []
        assert list(self.folder.glob("*x.img*")) == []
        names = [path.relative_to(self.store).as_posix() for path in self.store.rglob("*") if path.is_file()]
        assert [name for name in names if name.startswith(("cdimage/", "system-image/", "images/"))] == []
        assert [name for name in names if "/tmp-" in name] == []
        for name in names:
            if name.startswith("blobs/sha256/"):
                assert hashlib.sha256((self.store / name).read_bytes()).hexdigest() == Path(name).name


@pytest.fixture
def case(tmp_path: Path, shared: Shared) -> Case:
    return Case(tmp_path, shared)


def test_an_unknown_channel(case: Case) -> None:
    said = case.project().refused("tiny/1/egde", "--output", "x.img", status=2)
    assert "channel 'tiny/1/egde' is not in project tiny; did you mean 'tiny/1/edge'?" in said
    assert "→ known channels: tiny/1/edge" in said


def test_all_problems_of_a_project_file_at_once(case: Case) -> None:
    case.project(("codename: tiny", "codname: tiny"), ("packages: [editor]\n", "packages: editor\n"))
    said = case.refused(status=2)
    assert "project.yaml has 3 problems:" in said
    assert "project.yaml:4: series.1.codename: is missing" in said
    assert "project.yaml:5: series.1.codname: unknown key; did you mean 'codename'?" in said
    assert "project.yaml:9: series.1.rootfs.packages: " in said
    assert "docs/project-file.md" in said


def test_an_archive_that_does_not_answer(case: Case) -> None:
    said = case.project((case.shared.archive.uri, "http://127.0.0.1:9/debian")).refused()
    assert "http://127.0.0.1:9/debian/dists/tiny/InRelease" in said
    assert "→" in said


def test_an_archive_signed_by_another_key(case: Case) -> None:
    case.project()
    shutil.copy(case.shared.other_key.public, case.folder / "archive.asc")
    said = case.refused(status=3)
    assert f"{case.shared.archive.uri} tiny: InRelease is signed by " in said
    assert "; trusted are " in said
    assert "→ nothing of it is used" in said


def test_a_package_that_does_not_exist(case: Case) -> None:
    said = case.project(("packages: [editor]\n      hooks", "packages: [editr]\n      hooks")).refused()
    assert "no archive has a package 'editr'; did you mean 'editor'?" in said
    assert "→ mend the package list in the project file" in said


def test_a_failing_hook(case: Case) -> None:
    said = case.hook("echo the hook speaks\nls /absent\nexit 7").refused()
    assert "hook hook.sh: ended with status " in said
    assert "| the hook speaks" in said
    assert "→ mend the hook" in said


def test_a_failing_maintainer_script(case: Case, tmp_path: Path) -> None:
    archive = tiny_archive(tmp_path / "archive", case.shared.archive.key)
    archive.add(SUITE, "broken", postinst="#!/bin/sh\necho the script speaks\nexit 4\n")
    plannable(archive)
    case.with_tools(
        tiny_project(tmp_path, archive, ("packages: [editor]\n      hooks", "packages: [broken]\n      hooks"))
    )
    said = case.refused()
    assert "| the script speaks" in said
    assert "broken" in said
    assert "→" in said


def on_small_disk(case: Case, place: Path, size_bytes: int) -> Case:
    """The case with a file system of its own at `place`, in a mount namespace where no memory takes its place."""
    script = "mount -t proc proc /proc; mount --bind /dev/null /proc/meminfo; "
    script += 'mount -t tmpfs -o "size=$1" small "$2"; shift 2; "$@"; status=$?; '
    script += (
        f'find "{place}" -mindepth 1 ! -type d ! -name lock ! -path "*/blobs/*" ! -path "*/locks/*" >&2; exit $status'
    )
    case.wrapper = ("sh", "-c", script, "sh", str(size_bytes), str(place))
    return case


def test_a_disk_that_fills_up_while_the_chroot_is_made(case: Case) -> None:
    said = on_small_disk(case.project(), case.temporary, 24 * MIB).refused(sandbox=Sandbox.ROOT)
    assert "while installing packages: the disk is full" in said
    assert "→ free some space, or let TMPDIR name a folder with about 2 GB free" in said
    assert str(case.temporary) not in said.partition("→")[2]


def test_a_store_that_fills_up(case: Case) -> None:
    case.store.mkdir()
    packages_bytes = sum(path.stat().st_size for path in case.shared.archive.folder.rglob("*.deb"))
    said = on_small_disk(case.project(), case.store, packages_bytes + MIB).refused(sandbox=Sandbox.ROOT)
    assert f"{case.store.as_uri()}: the disk is full" in said
    assert "→ free some space" in said
    assert "tmp-" not in said


def test_an_interrupted_build(case: Case) -> None:
    case.hook("echo in the hook; exec sleep 31536")
    argv = [*case.argv, "--debug", "build", CHANNEL, "--output", "x.img"]
    with spawn(argv, env=case.env, cwd=case.folder) as child:
        watchdog = threading.Timer(120, child.end)
        watchdog.start()
        lines = child.lines()
        assert any("in the hook" in line for line in lines)
        os.kill(child.pid, signal.SIGINT)
        said = list(lines)
        watchdog.cancel()
        assert child.wait(30) == 130
    assert any(line.startswith("Interrupted: nothing partial is left; run the same command again") for line in said)
    case.nothing_left()
    commands = [path.read_bytes() for path in _command_lines()]
    assert not [command for command in commands if b"31536" in command]


def _command_lines() -> Iterator[Path]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            path.read_bytes()
        except OSError:
            continue
        yield path


@pytest.mark.parametrize("folder", ["absent", "sealed", "/proc"])
def test_an_output_that_cannot_be_written(case: Case, folder: str) -> None:
    case.project()
    before = sorted(case.store.rglob("*"))
    (case.folder / "sealed").mkdir(mode=0o555)
    words = [*case.argv, "build", CHANNEL, "--output", f"{folder}/x.img"]
    argv = as_ordinary_user(words, case.folder)
    env = {name: value for name, value in case.env.items() if name != "TMPDIR"}
    said = run(argv, env=env, cwd=case.folder, accept=(2,)).output
    assert f"{folder}/x.img: " in said
    assert "→" in said
    assert sorted(case.store.rglob("*")) == before


@dataclass
class Tree:
    """A channel on a server, and who flashes from it."""

    case: Case
    web: Path
    keyring: Path

    def refused(self) -> str:
        argv = [*self.case.argv, "flash", "core", "13", "--channel", "edge", "--output", "x.img", "--keyring"]
        argv[argv.index("project.yaml")] = str(ROOT_DIR / "deployments/debian-core.yaml")
        argv += [str(self.keyring), "--server", str(self.web)]
        ended = run(argv, env=self.case.env, cwd=self.case.folder, accept=(3,))
        assert "Traceback" not in ended.output
        self.case.nothing_left()
        return ended.output[ended.output.rfind("error: ") :]

    def only(self, pattern: str) -> Path:
        (found,) = self.web.glob(pattern)
        return found


@pytest.fixture
def tree(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    web = tmp_path_factory.mktemp("web")
    signer = GnupgSigner(case.shared.keys)
    store = DirectoryStore(web)
    publish_keyrings(ChannelTree(store, signer, lambda: datetime.now(UTC)))
    released(store, signer)
    keyring = case.folder / "archive-master.tar.xz"
    keyring.write_bytes(make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER)))
    return Tree(case, web / "system-image", keyring)


def flipped(content: bytes) -> bytes:
    """One bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_tampered_file_of_the_pool(tree: Tree) -> None:
    place = tree.only("pool/ubuntu-*.tar.xz")
    place.write_bytes(flipped(place.read_bytes()))
    said = tree.refused()
    assert place.name in said
    assert "→" in said


@pytest.mark.parametrize("pattern", ["pool/ubuntu-*.tar.xz.asc", "channels.json.gpg"])
def test_a_tampered_signature(tree: Tree, pattern: str) -> None:
    place = tree.only(pattern)
    place.write_bytes(flipped(place.read_bytes()))
    said = tree.refused()
    assert place.name.rpartition(".")[0] in said
    assert "→" in said


def test_a_keyring_with_no_good_signature(tree: Tree) -> None:
    """It has two places: that of 2015, and one named by the keyring's digest."""
    signatures = list(tree.web.glob("gpg/image-signing*.asc"))
    for place in signatures:
        place.write_bytes(flipped(place.read_bytes()))
    said = tree.refused()
    assert len(signatures) == 2
    assert "gpg/image-signing.tar.xz" in said
    assert "→" in said


def test_an_expired_keyring(tree: Tree) -> None:
    signer = GnupgSigner(tree.case.shared.keys)
    yesterday = int(datetime.now(UTC).timestamp()) - 86_400
    expired = make_keyring("image-signing", signer.public_key(Role.IMAGE_SIGNING), expiry=yesterday)
    (tree.web / "gpg/image-signing.tar.xz").write_bytes(expired)
    (tree.web / "gpg/image-signing.tar.xz.asc").write_bytes(signer.detached(Role.IMAGE_MASTER, expired))
    said = tree.refused()
    assert "gpg/image-signing.tar.xz: the image-signing keyring has expired" in said
    assert "→" in said


def test_a_rootfs_that_is_too_large_for_its_slot(tmp_path: Path) -> None:
    gadget = tmp_path / "gadget"
    shutil.copytree(GADGET, gadget)
    described = gadget / "meta/gadget.yaml"
    described.write_text(described.read_text().replace("size: 1G", "size: 16M"))
    large = tarball(tmp_path / "rootfs.tar.gz", [("system", None, {}), ("system/large", os.urandom(24 * MIB), {})])
    device = device_tarball(tmp_path / "device.tar.gz", b"kernel", b"initrd")
    (tmp_path / "work").mkdir()
    with pytest.raises(BuildError) as caught:
        assemble([large, device], gadget, IDENTITY, tmp_path / "x.img", run=run, work_folder=tmp_path / "work")
    assert "system-a" in str(caught.value)
    assert "→" in str(caught.value)
    assert list(tmp_path.glob("*x.img*")) == []
    assert list((tmp_path / "work").iterdir()) == []
