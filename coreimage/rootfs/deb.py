"""Debian packages with nothing compressed in them: to unpack one costs an emulated dpkg next to nothing."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from coreimage.process import Run

_VERSION = b"2.0\n"


def decompress_deb(package: Path, *, run: Run) -> None:
    """Replaces a .deb by one of the same content (deb(5): an ar(5) archive of three members)."""
    members = {"control.tar": "--ctrl-tarfile", "data.tar": "--fsys-tarfile"}
    target = package.with_suffix(".plain")
    with target.open("wb") as file:
        file.write(b"!<arch>\n" + _header("debian-binary", len(_VERSION)) + _VERSION)
        for name, option in members.items():
            _append(file, name, ["dpkg-deb", option, package], run)
    target.replace(package)


def _append(file: IO[bytes], name: str, argv: list[str | Path], run: Run) -> None:
    """A member is as long as what the command writes: its header is written last."""
    start = file.tell()
    file.write(_header(name, 0))
    file.flush()
    run(argv, stdout=file)
    end = file.seek(0, 2)
    file.seek(start)
    file.write(_header(name, end - start - len(_header(name, 0))))
    file.seek(end)
    if end % 2:
        file.write(b"\n")


def _header(name: str, size_bytes: int) -> bytes:
    return f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{size_bytes:<10}`\n".encode()
