"""Tar archives whose bytes depend on nothing but what is in them."""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from coreimage.errors import BuildError

_XATTR = "SCHILY.xattr."
"""Prefix of the pax records that carry extended attributes (star(5), GNU tar)."""

_KEPT_TYPES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE}


def directory(name: str, mode: int = 0o755) -> tarfile.TarInfo:
    return _member(name, tarfile.DIRTYPE, mode)


def regular(name: str, size_bytes: int, mode: int = 0o644) -> tarfile.TarInfo:
    member = _member(name, tarfile.REGTYPE, mode)
    member.size = size_bytes
    return member


def symlink(name: str, target: str) -> tarfile.TarInfo:
    member = _member(name, tarfile.SYMTYPE, 0o777)
    member.linkname = target
    return member


def normalise(member: tarfile.TarInfo, *, epoch: int | None = None, prefix: str = "") -> tarfile.TarInfo:
    """A copy of `member` with all that must not vary taken out.

    No leading `./`, `prefix` before the name (and before a hard link's target), numeric owners only, whole seconds
    not later than `epoch`, no pax records but extended attributes. Raises BuildError for devices and FIFOs.
    """
    if member.type not in _KEPT_TYPES:
        raise BuildError(
            f"{member.name} is neither file, directory nor link",
            resolution="remove it from what is packed; device nodes are made by the running system",
        )
    clean = tarfile.TarInfo(prefix + _plain(member.name))
    clean.type = tarfile.REGTYPE if member.type == tarfile.AREGTYPE else member.type
    clean.mode = stat.S_IMODE(member.mode)
    clean.uid, clean.gid = member.uid, member.gid
    clean.size = member.size if member.isreg() else 0
    clean.mtime = int(member.mtime) if epoch is None else min(int(member.mtime), epoch)
    clean.linkname = prefix + _plain(member.linkname) if member.islnk() else member.linkname
    clean.pax_headers = {key: value for key, value in sorted(member.pax_headers.items()) if key.startswith(_XATTR)}
    return clean


class TarWriter:
    """Writes members in the order given, streaming. Use as a context manager: the archive ends with the block."""

    def __init__(self, file: IO[bytes], *, epoch: int, form: Literal["pax", "gnu"] = "pax") -> None:
        self._epoch = epoch
        self._tar = tarfile.open(  # noqa: SIM115
            fileobj=file, mode="w|", format=tarfile.PAX_FORMAT if form == "pax" else tarfile.GNU_FORMAT
        )

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._tar.close()

    def add(self, member: tarfile.TarInfo, content: IO[bytes] | bytes | None = None, *, prefix: str = "") -> None:
        """`content` has exactly the member's size; None for all but regular files."""
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        self._tar.addfile(normalise(member, epoch=self._epoch, prefix=prefix), source)

    def add_tree(self, folder: Path, *, prefix: str = "", paths: Iterable[Path] | None = None) -> None:
        """Everything below `folder`, sorted by name, owned by root, files 0644 or 0755, dated `epoch`."""
        for path in sorted(folder.rglob("*") if paths is None else paths):
            name = prefix + path.relative_to(folder).as_posix()
            if path.is_symlink():
                self._add_dated(symlink(name, str(path.readlink())))
            elif path.is_dir():
                self._add_dated(directory(name))
            elif path.is_file():
                with path.open("rb") as file:
                    self._add_dated(regular(name, path.stat().st_size, _mode(path)), file)
            else:
                raise BuildError("neither file, directory nor link", where=str(path), resolution="remove it")

    def _add_dated(self, member: tarfile.TarInfo, content: IO[bytes] | None = None) -> None:
        member.mtime = self._epoch
        self.add(member, content)


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, mode
    return member


def _plain(name: str) -> str:
    while name.startswith("./"):
        name = name[2:]
    return name.rstrip("/") if len(name) > 1 else name


def _mode(path: Path) -> int:
    return 0o755 if path.stat().st_mode & 0o111 else 0o644
