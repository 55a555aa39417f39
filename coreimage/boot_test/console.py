"""A serial console as a stream of events: send text, wait for what comes."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
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
    """The guest's end is `connection`; all that it says also goes to `log`."""

    def __init__(self, connection: socket.socket, log: Path) -> None:
        self._connection, self._log = connection, log
        self._received = bytearray()
        self._consumed = 0

    def send(self, text: str) -> None:
        self._connection.sendall(text.encode())

    def await_any(self, patterns: Mapping[str, str], timeout_s: float) -> Seen:
        """Waits for the earliest match after what earlier waits consumed. Patterns are regular expressions."""
        compiled = {name: re.compile(pattern.encode()) for name, pattern in patterns.items()}
        deadline = time.monotonic() + timeout_s
        searched = self._consumed
        while True:
            found = self._first(compiled, max(self._consumed, searched - _LOOK_BACK_BYTES))
            if found:
                return found
            searched = len(self._received)
            problem = self._receive(deadline - time.monotonic())
            if problem:
                return Seen(problem)

    def expect(self, pattern: str, timeout_s: float) -> str:
        """The text that matched. Raises BootError with the last lines when it does not come."""
        seen = self.await_any({"found": pattern}, timeout_s)
        if seen.name != "found":
            why = "the console closed" if seen.name == "closed" else f"it did not come within {timeout_s:.0f} s"
            raise BootError(
                f"waited for {pattern!r} on the serial console: {why}\n" + "\n".join(f"  | {x}" for x in self.lines())
            )
        return seen.text

    def lines(self) -> tuple[str, ...]:
        """The last lines so far, without terminal control sequences."""
        text = _CONTROL.sub(b"", bytes(self._received[-16 * _LOOK_BACK_BYTES :])).decode(errors="replace")
        lines = [line.rstrip() for line in text.replace("\r", "\n").split("\n")]
        return tuple(line for line in lines if line)[-_KEPT_LINES:]

    def _first(self, compiled: Mapping[str, re.Pattern[bytes]], start: int) -> Seen | None:
        matches = [
            (found.start(), name, found) for name, p in compiled.items() if (found := p.search(self._received, start))
        ]
        if not matches:
            return None
        _, name, found = min(matches, key=lambda match: match[:2])
        self._consumed = found.end()
        return Seen(name, found[0].decode(errors="replace"))

    def _receive(self, timeout_s: float) -> str:
        if timeout_s <= 0:
            return "deadline"
        self._connection.settimeout(timeout_s)
        try:
            chunk = self._connection.recv(1 << 16)
        except TimeoutError:
            return "deadline"
        except ConnectionError:
            return "closed"
        if not chunk:
            return "closed"
        self._received += chunk
        with self._log.open("ab") as log:
            log.write(chunk)
        return ""
