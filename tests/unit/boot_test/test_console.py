from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from coreimage.boot_test.console import Console, Seen
from coreimage.boot_test.judge import OUTCOMES, judge
from coreimage.errors import BootError


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[socket.socket, Console]]:
    guest, ours = socket.socketpair()
    with guest, ours:
        yield guest, Console(ours, tmp_path / "serial.log")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (b"Debian GNU/Linux 13 tiny ttyS0\r\n\r\ntiny login: ", "login"),
        (b"[ 1.0] Kernel panic - not syncing: VFS", "panic"),
        (b"You are in emergency mode. After logging in", "emergency"),
        (b"BusyBox v1.35\r\n(initramfs) ", "initramfs"),
        (b"grub rescue> ", "grub"),
        (b"UEFI Interactive Shell v2.2", "firmware"),
        (b"Kernel panic - not syncing\r\nlater tiny login: ", "panic"),
    ],
)
def test_outcomes(pair: tuple[socket.socket, Console], said: bytes, name: str) -> None:
    guest, console = pair
    guest.sendall(said)
    seen = console.await_any(OUTCOMES, 5)
    assert seen.name == name
    assert judge(seen)[0] == (name == "login")


def test_a_match_is_consumed_and_split_output_is_found(pair: tuple[socket.socket, Console]) -> None:
    guest, console = pair
    guest.sendall(b"one slot=a two sl")
    assert console.expect(r"slot=\w", 5) == "slot=a"
    guest.sendall(b"ot=b")
    assert console.expect(r"slot=\w", 5) == "slot=b"


def test_silence_and_end(pair: tuple[socket.socket, Console], tmp_path: Path) -> None:
    guest, console = pair
    guest.sendall(b"\x1b[2Jlast words\r\n")
    assert console.await_any(OUTCOMES, 0.05) == Seen("deadline")
    with pytest.raises(BootError, match="last words"):
        console.expect("never", 0.05)
    guest.close()
    assert console.await_any(OUTCOMES, 5) == Seen("closed")
    assert console.lines() == ("last words",)
    assert (tmp_path / "serial.log").read_bytes() == b"\x1b[2Jlast words\r\n"
