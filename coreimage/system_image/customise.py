"""What the importer does to a rootfs of product `core` (system-image §5.1), streaming."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from coreimage.errors import VerificationError

_DROPPED = {"SWAP.swap", "etc/mtab"}
_PREFIX = "system/"
_XATTR = "SCHILY.xattr."


def customise_rootfs(source: Path, target: Path) -> None:
    """Rewrites the gzip tarball `source` to the plain tarball `target`, entries in the same order.

    Everything moves below `system/`, SWAP.swap and etc/mtab go, and the writable and modules mount points and mtab
    are appended unless they are there, as new as the newest entry. Raises VerificationError for names that leave it.
    """
    seen: dict[str, bytes] = {}
    newest = 1
    with _reading(source) as tar, tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as output:
        for member in tar:
            if member.name in _DROPPED:
                continue
            content = tar.extractfile(member) if member.isreg() else None
            seen[member.name] = member.type
            newest = max(newest, int(member.mtime))
            _add(output, _moved(member), content)
        for member in appended(seen):
            member.mtime = newest
            _add(output, member, None)


def unpack_gzip(source: Path, target: Path) -> None:
    """A device tarball is recompressed only; its members stay as they are."""
    try:
        with gzip.open(source) as plain, target.open("wb") as file:
            shutil.copyfileobj(plain, file, 1 << 20)
    except (OSError, EOFError, zlib.error) as error:
        raise VerificationError(f"not a gzip file: {error}", where=source.name, resolution="build it again") from error


def appended(seen: dict[str, bytes]) -> Iterator[tarfile.TarInfo]:
    """Pure: the entries that a rootfs with the members `seen` (name to tar type) still needs."""
    merged_usr = seen.get("lib") == tarfile.SYMTYPE
    for name in ("writable", "usr/lib/modules" if merged_usr else "lib/modules"):
        if name not in seen:
            folder = tarfile.TarInfo(_PREFIX + name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            folder.uname = folder.gname = "root"
            yield folder
    mtab = tarfile.TarInfo(f"{_PREFIX}etc/mtab")
    mtab.type, mtab.mode, mtab.linkname = tarfile.SYMTYPE, 0o444, "/proc/mounts"
    mtab.uname = mtab.gname = "root"
    yield mtab


def _moved(member: tarfile.TarInfo) -> tarfile.TarInfo:
    _check_name(member.name)
    member.name = _PREFIX + member.name
    if member.islnk():
        _check_name(member.linkname)
        member.linkname = _PREFIX + member.linkname
    if member.issparse():
        member.type = tarfile.REGTYPE
    member.mtime = int(member.mtime)
    member.pax_headers = {name: value for name, value in member.pax_headers.items() if name.startswith(_XATTR)}
    return member


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name.startswith("./") or name in {"", "."}:
        raise VerificationError(
            f"the rootfs tarball holds the name {name!r}", resolution="build it again; names carry no `./` and no `..`"
        )


def _add(output: tarfile.TarFile, member: tarfile.TarInfo, content: IO[bytes] | None) -> None:
    """GNU format, which the original server writes, save where only pax can hold extended attributes."""
    output.format = tarfile.PAX_FORMAT if member.pax_headers else tarfile.GNU_FORMAT
    output.addfile(member, content)


def _reading(source: Path) -> tarfile.TarFile:
    return tarfile.open(source, "r|gz")
