"""Compressors without processes, for unit tests: Python's own in place of a base image's."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from coreimage.client import RepositoryError
from coreimage.client.compact import PACKERS, UNPACKERS
from coreimage.host.process import Completed


class PythonTools:
    """gzip alone, at the levels named in `packers`; `as_if` packs with another level than it is asked for."""

    def __init__(self, packers: Sequence[str], as_if: int | None = None) -> None:
        self._packers, self._as_if = packers, as_if

    def unpack(self, tool: str, source: Path, target: Path) -> bool:
        if tool != "gzip" or not self._packers:
            return False
        target.write_bytes(gzip.decompress(source.read_bytes()))
        return True

    def pack(self, packer: str, source: Path, target: Path) -> bool:
        if packer not in self._packers:
            return False
        level = self._as_if or int(packer.rpartition("-")[2])
        target.write_bytes(gzip.compress(source.read_bytes(), level, mtime=0))
        return True

    def require(self, argv: Sequence[str], source: Path, target: Path) -> None:
        if tuple(argv) == UNPACKERS["gzip"]:
            done = self.unpack("gzip", source, target)
        else:
            name = next(name for name, words in PACKERS.items() if words == tuple(argv))
            done = self._as_if is not None or self.pack(name, source, target)
            if self._as_if is not None:
                target.write_bytes(gzip.compress(source.read_bytes(), self._as_if, mtime=0))
        if not done:
            raise RepositoryError("no such tool")


def xz_run(argv: Sequence[str | Path], *, stdin: Any = None, stdout: IO[bytes] | None = None, **_: Any) -> Completed:
    assert argv[0] == "xz"
    assert stdout is not None
    stdout.write(lzma.compress(stdin.read()))
    return Completed(("xz",), 0, "")
