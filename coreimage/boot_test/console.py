"""A serial console: send text, and wait for text."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from coreimage.errors import BootError

_KEPT_LINES = 30
_LOOK_BACK_BYTES = 4096
_CONTROL = re.compile(rb"\x1b\[[0-9;?=]*[A-Za-z]|\x1b[()][A-Z0-9]|[\x00-\x08\x0b-\x1a\x1c-\x1f]")


@dataclass(frozen=True)
class Seen:
    """The first of the awaited patterns that came; `name` is "closed" or "deadline" when none did."""

    name: str
    text: str = ""


class Console:
    """The serial port of a guest, whose end is `connection`. All that comes from the guest also goes to `log`.

    Time limits are measured with `clock`, which gives seconds and may stand still while the guest cannot run.
    """

    def __init__(self, connection: socket.socket, log: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection, self._log, self._clock = connection, log, clock
        self._received = bytearray()
        self._consumed = 0

    def send(self, text: str) -> None:
        self._connection.sendall(text.encode())

    def await_any(self, patterns: Mapping[str, str], timeout_s: float) -> Seen:
        """Wait for the earliest match after what earlier waits consumed.

        Args:
            patterns: Regular expressions by name.
            timeout_s: How long to wait, by the console's clock.
        """
        compiled = {name: re.compile(pattern.encode()) for name, pattern in patterns.items()}
        deadline = self._clock() + timeout_s
        searched = self._consumed
        while True:
            seen = self._first(compiled, max(self._consumed, searched - _LOOK_BACK_BYTES))
            if seen:
                return seen
            searched = len(self._received)
            remaining_s = deadline - self._clock()
            if remaining_s <= 0:
                return Seen("deadline")
            if not self._receive(remaining_s):
                return Seen("closed")

    def expect(self, pattern: str, timeout_s: float) -> str:
        """Wait for a text that matches, and return it.

        Raises:
            BootError: It does not come. The message has the console's last lines.
        """
        seen = self.await_any({"expected": pattern}, timeout_s)
        if seen.name != "expected":
            why = "the console closed" if seen.name == "closed" else f"it did not come within {timeout_s:.0f} s"
            raise BootError(
                f"waited for {pattern!r} on the serial console: {why}\n" + "\n".join(f"  | {x}" for x in self.lines())
            )
        return seen.text

    def lines(self) -> tuple[str, ...]:
        """Return the last lines so far, without terminal control sequences."""
        text = _CONTROL.sub(b"", bytes(self._received[-16 * _LOOK_BACK_BYTES :])).decode(errors="replace")
        lines = [line.rstrip() for line in text.replace("\r", "\n").split("\n")]
        return tuple(line for line in lines if line)[-_KEPT_LINES:]

    def _first(self, compiled: Mapping[str, re.Pattern[bytes]], start: int) -> Seen | None:
        matches = {name: match for name, p in compiled.items() if (match := p.search(self._received, start))}
        if not matches:
            return None
        name, match = min(matches.items(), key=lambda item: (item[1].start(), item[0]))
        self._consumed = match.end()
        return Seen(name, match[0].decode(errors="replace"))

    def _receive(self, timeout_s: float) -> bool:
        """Receive what comes within a time, which may be nothing, and return whether the console is still open."""
        self._connection.settimeout(timeout_s)
        try:
            chunk = self._connection.recv(1 << 16)
        except TimeoutError:
            return True
        except ConnectionError:
            return False
        self._received += chunk
        with self._log.open("ab") as log:
            log.write(chunk)
        return bool(chunk)
