from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from coreimage.boot_test.console import Console, Seen
from coreimage.boot_test.judge import OUTCOMES, judge
from coreimage.boot_test.machine import running_clock
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


def test_time_in_which_the_guest_cannot_run_is_not_counted(tmp_path: Path) -> None:
    """The clock stands still for twenty looks, in which far more than the limit passes."""
    ours, guest = socket.socketpair()
    looks = itertools.count()

    def clock() -> float:
        return max(0, next(looks) - 20) * 0.05

    with ours, guest:
        console = Console(ours, tmp_path / "serial.log", clock=clock)
        assert console.await_any(OUTCOMES, 0.02) == Seen("deadline")
    assert next(looks) > 20


def test_the_clock_of_a_process_stands_still_while_it_waits_for_a_processor() -> None:
    """Two processes on one processor want 0.3 s each: either waits for about as long as it runs."""
    work = "import time; print(flush=True); input()\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    argv = ["taskset", "--cpu-list", "0", sys.executable, "-c", work]
    clocks, orders, answers = [], [], []
    with ExitStack() as stack:
        for _ in range(2):
            child = stack.enter_context(
                subprocess.Popen(argv, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            assert child.stdin
            assert child.stdout
            child.stdout.readline()
            clocks.append(running_clock(child.pid))
            orders.append(child.stdin)
            answers.append(child.stdout)
        begin_s, begins_s = time.monotonic(), [clock() for clock in clocks]
        for order in orders:
            order.write("work\n")
        for answer in answers:
            answer.readline()
        passed_s = time.monotonic() - begin_s
        ran_s = sum(clock() - clock_begin_s for clock, clock_begin_s in zip(clocks, begins_s, strict=True))
        for order in orders:
            order.write("end\n")
    assert ran_s < 1.5 * passed_s
