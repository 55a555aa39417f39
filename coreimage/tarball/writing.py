"""Writing tar archives whose bytes depend on nothing but their members. Reading those of others is in `reading`."""

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


def directory(name: str, mode: int = 0o755) -> tarfile.TarInfo:
    """Return the member for a folder."""
    return _member(name, tarfile.DIRTYPE, mode)


def regular(name: str, size_bytes: int, mode: int = 0o644) -> tarfile.TarInfo:
    """Return the member for a file."""
    member = _member(name, tarfile.REGTYPE, mode)
    member.size = size_bytes
    return member


def symlink(name: str, target: str) -> tarfile.TarInfo:
    """Return the member for a symbolic link."""
    member = _member(name, tarfile.SYMTYPE, 0o777)
    member.linkname = target
    return member


def normalise(member: tarfile.TarInfo, *, epoch: int | None = None, prefix: str = "") -> tarfile.TarInfo:
    """Return a copy of a member without everything that may vary.

    Names have no `./` before them, owners no names, times no fractions, and pax records are extended attributes only.

    Args:
        member: The member.
        epoch: The latest time that it may have, in seconds, UTC; None for its own.
        prefix: What goes before its name, and before the target of a hard link.

    Raises:
        BuildError: It is a device or a FIFO.
    """
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise BuildError(
            f"{member.name} is neither file, directory nor link",
            resolution="remove it from what is packed; device nodes are made by the running system",
        )
    clean = tarfile.TarInfo(prefix + _plain(member.name))
    clean.type = tarfile.REGTYPE if member.isreg() else member.type
    clean.mode = stat.S_IMODE(member.mode)
    clean.uid, clean.gid = member.uid, member.gid
    clean.size = member.size if member.isreg() else 0
    clean.mtime = int(member.mtime) if epoch is None else min(int(member.mtime), epoch)
    clean.linkname = prefix + _plain(member.linkname) if member.islnk() else member.linkname
    clean.pax_headers = {key: value for key, value in sorted(member.pax_headers.items()) if key.startswith(_XATTR)}
    return clean


class LegacyTar(tarfile.TarFile):
    """An archive that every applier of 2015 reads: long names as GNU tar has them, as busybox and toybox of the time
    skip pax headers and would cut a name that is only there. Extended attributes, for which GNU's form has no place,
    are all that is in a pax header."""

    @classmethod
    def writing(cls, file: IO[bytes]) -> LegacyTar:
        """Write to `file`, which need not be seekable."""
        return cls.open(fileobj=file, mode="w|", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape")

    def addfile(self, tarinfo: tarfile.TarInfo, fileobj: IO[bytes] | None = None) -> None:  # type: ignore[override]
        """Add a member, and before it a header of its pax records."""
        if tarinfo.pax_headers:
            records = b"".join(_pax_record(key, value) for key, value in tarinfo.pax_headers.items())
            header = tarfile.TarInfo("././@PaxHeader")
            header.type, header.size = tarfile.XHDTYPE, len(records)
            super().addfile(header, io.BytesIO(records))
        super().addfile(tarinfo, fileobj)


class TarWriter:
    """An archive being written to `file`, as a context manager: its end is written where the block succeeds.

    No member is later than `epoch` (seconds, UTC). `form` is that of tar headers: pax, or the one of `LegacyTar`.
    """

    def __init__(self, file: IO[bytes], *, epoch: int, form: Literal["pax", "legacy"] = "pax") -> None:
        self._epoch = epoch
        self._tar = (
            LegacyTar.writing(file)
            if form == "legacy"
            else tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        )

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._tar.close()

    def add(self, member: tarfile.TarInfo, content: IO[bytes] | bytes | None = None, *, prefix: str = "") -> None:
        """Add a member, made the same by `normalise`.

        Args:
            member: The member.
            content: Of a regular file, exactly as long as the member's size.
            prefix: What goes before its name.
        """
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        self._tar.addfile(normalise(member, epoch=self._epoch, prefix=prefix), source)

    def add_tree(self, folder: Path, *, prefix: str = "", paths: Iterable[Path] | None = None) -> None:
        """Add everything below a folder, sorted, owned by root, files 0644 or 0755, dated `epoch`.

        Args:
            folder: The folder.
            prefix: What goes before the names.
            paths: What to add instead of everything.

        Raises:
            BuildError: There is something else than files, folders and links.
        """
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


def _pax_record(key: str, value: str) -> bytes:
    """Return a record of a pax header: its own length in decimal, a blank, `key=value`, a line end."""
    rest = f" {key}={value}\n".encode("utf-8", "surrogateescape")
    length = len(rest)
    while length != len(str(length)) + len(rest):
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


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
