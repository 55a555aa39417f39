"""What the importer does to a rootfs of product `core` (system-image §5.1), streaming."""

from __future__ import annotations

import gzip
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from coreimage.errors import VerificationError
from coreimage.process import Run
from coreimage.tarball import MemberCheck, TarWriter, decompressed, directory, symlink

PREFIX = "system/"
_DROPPED = {"SWAP.swap", "etc/mtab"}
_ROOTS = ("system", "writable", "boot", "assets", "hardware.yaml")
"""What images unpack; the first part of a name says where it goes."""
_ANY_TIME = (1 << 33) - 1
"""The latest time that a tar header holds: the build has clamped its times already."""


def customise_rootfs(source: Path, target: IO[bytes]) -> None:
    """Rewrites the gzip tarball `source` to a plain tarball, entries in the same order.

    Everything moves below `system/`, SWAP.swap and etc/mtab go, and mount points and mtab that are missing are
    appended, as new as the newest entry. Raises VerificationError for members that have no place in a rootfs.
    The format is pax: tar of 2015 reads it, and only it holds file capabilities.
    """
    seen: dict[str, bytes] = {}
    newest = 1
    check = MemberCheck(where=source.name)
    try:
        with (
            gzip.open(source) as plain,
            tarfile.open(fileobj=plain, mode="r|") as tar,
            TarWriter(target, epoch=_ANY_TIME) as output,
        ):
            for member in tar:
                check(member)
                if member.name not in _DROPPED:
                    seen[member.name] = member.type
                    newest = max(newest, int(member.mtime))
                    output.add(member, tar.extractfile(member) if member.isreg() else None, prefix=PREFIX)
            for member in appended(seen):
                member.mtime = newest
                output.add(member, prefix=PREFIX)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _not_gzip(source, error) from error


def repack_component(source: Path, target: IO[bytes], *, run: Run) -> None:
    """The members of a tarball (gzip, bzip2, xz, zstd or plain) as they are, each checked, owners by number only.

    Raises VerificationError for members that have no place in a version.
    """
    check = MemberCheck(where=source.name, roots=_ROOTS)
    try:
        with (
            decompressed(source, run=run) as plain,
            tarfile.open(fileobj=plain, mode="r|*") as tar,
            TarWriter(target, epoch=_ANY_TIME) as output,
        ):
            for member in tar:
                check(member)
                output.add(member, tar.extractfile(member) if member.isreg() else None)
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, TypeError) as error:
        # TypeError: what tarfile says of a gzip header that is cut short.
        raise VerificationError(
            f"not a tarball: {error}",
            where=source.name,
            resolution="a component is a .tar, .tar.gz, .tar.xz, .tar.zst",
        ) from error


def unpack_gzip(source: Path, target: IO[bytes]) -> None:
    """A device tarball is recompressed only; its members stay as they are."""
    try:
        with gzip.open(source) as plain:
            shutil.copyfileobj(plain, target, 1 << 20)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _not_gzip(source, error) from error


def appended(seen: Mapping[str, bytes]) -> Iterator[tarfile.TarInfo]:
    """Pure: the entries that a rootfs with the members `seen` (name to tar type) still needs."""
    merged_usr = seen.get("lib") == tarfile.SYMTYPE
    for name in ("writable", "usr/lib/modules" if merged_usr else "lib/modules"):
        if name not in seen:
            yield directory(name)
    mtab = symlink("etc/mtab", "/proc/mounts")
    mtab.mode = 0o444
    yield mtab


def _not_gzip(source: Path, error: Exception) -> VerificationError:
    return VerificationError(
        f"not a tar.gz: {error}", where=source.name, resolution="build it again, and publish that build"
    )
