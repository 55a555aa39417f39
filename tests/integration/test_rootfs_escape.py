"""A hook that leaves its chroot finds nothing behind it that it may change, and nothing of whoever builds."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coreimage.host.process import run
from coreimage.model import RootfsBuild
from tests.harness.archive import TestKey
from tests.harness.stranger import built_by_stranger, text_in
from tests.harness.tiny import build_tiny, tiny_archive, tiny_project

SOURCE = Path(__file__).parents[1] / "harness/escape.c"
NODE = Path("/dev/coreimage-was-here")
NODES = {".", "..", "null", "zero", "full", "random", "urandom", "tty", "fd", "shm", "pts", "ptmx"}
_ADD_KEY = {"x86_64": 248, "aarch64": 217}
_SESSION_KEYRING = -3
_IPC_CREAT, _IPC_RMID = 0o1000, 0


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="escape-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def outside() -> Iterator[tuple[str, int]]:
    """Things of whoever builds, that anybody may use who sees them: a key, a socket, shared memory."""
    name, key = f"coreimage-test-{os.getpid()}", 0x636F0000 | os.getpid() & 0xFFFF
    libc = ctypes.CDLL(None, use_errno=True)
    add_key = _ADD_KEY[platform.machine()]
    assert libc.syscall(add_key, b"user", name.encode(), b"secret", 6, _SESSION_KEYRING) > 0, ctypes.get_errno()
    memory = libc.shmget(key, 4096, _IPC_CREAT | 0o666)
    assert memory >= 0
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}\0")
        listener.listen()
        yield name, key
    libc.shmctl(memory, _IPC_RMID, None)


def put_back(host_name: str) -> None:
    """Undo what a hook did to this machine where the box did not hold."""
    NODE.unlink(missing_ok=True)
    if socket.gethostname() != host_name:
        socket.sethostname(host_name)


def as_root(home: Path, project: Path) -> RootfsBuild:
    return build_tiny(project, (home / "store").as_uri())


def as_user(home: Path, project: Path) -> RootfsBuild:
    words = (str(project), (home / "store").as_uri())
    imports = "from tests.harness.tiny import build_tiny"
    return built_by_stranger(imports, "build_tiny(Path(argv[1]), argv[2])", home, *words)


@pytest.mark.parametrize("build", [as_root, as_user])
def test_a_hook_that_leaves_its_chroot_gets_at_nothing(
    build: Callable[[Path, Path], RootfsBuild], folder: Path, outside: tuple[str, int]
) -> None:
    home, host_name, (name, memory) = folder / "home", socket.gethostname(), outside
    home.mkdir()
    words = [f'-DOUTSIDE_NAME="{name}"', f"-DOUTSIDE_KEY={memory}"]
    run(["gcc", "-static", "-O1", *words, "-o", home / "hook.sh", SOURCE])
    key = TestKey.make(folder / "key", "tiny")
    project = tiny_project(home, tiny_archive(folder / "archive", key), ("hooks: []", "hooks: [hook.sh]"))
    key.close()
    try:
        built = build(home, project)
        assert socket.gethostname() == host_name
        assert not NODE.exists()
    finally:
        put_back(host_name)
    report = text_in(built, "etc/report-escape", (home / "store").as_uri()).splitlines()
    assert report[0] == "left the chroot"
    assert report[-1] == "done"
    assert not [line for line in report if line.startswith("REACHED")], "\n".join(report)
    opened = [line.split()[2] for line in report if line.startswith("open: ")]
    assert len(opened) <= 1, "mmdebstrap, which runs in the box, leaves its hooks a socket to it"
    assert all(target.startswith("socket:") for target in opened)
    assert {line.removeprefix("node: ") for line in report if line.startswith("node: ")} <= NODES
