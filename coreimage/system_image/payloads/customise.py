"""What the importer does to the tarballs of a build (system-image §5.1), streaming: a tarball in, a plain one out."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from coreimage.errors import VerificationError
from coreimage.host.process import Run
from coreimage.tarball import VERSION_ROOTS, MemberCheck, TarWriter, decompressed, directory, symlink

PREFIX = "system/"
_DROPPED = {"SWAP.swap", "etc/mtab"}
_ANY_TIME = (1 << 33) - 1
"""The latest time that a tar header holds: the build has clamped its times already."""


def customise_rootfs(source: Path, target: IO[bytes]) -> None:
    """Rewrite the rootfs of a build as the `system/` tree of an image, members in the same order.

    Everything moves below `system/`, SWAP.swap and etc/mtab go, and mount points and mtab that are missing are
    appended, as new as the newest member.

    Args:
        source: A gzip tarball.
        target: Gets a plain tarball.

    Raises:
        VerificationError: The tarball is damaged, or has members that have no place in a rootfs.
    """
    kinds: dict[str, bytes] = {}
    newest = 1
    check = MemberCheck()
    try:
        with (
            gzip.open(source) as plain,
            tarfile.open(fileobj=plain, mode="r|") as tar,
            TarWriter(target, epoch=_ANY_TIME, form="legacy") as output,
        ):
            for member in tar:
                check.accept(member, source.name)
                if member.name not in _DROPPED:
                    kinds[member.name] = member.type
                    newest = max(newest, int(member.mtime))
                    output.add(member, tar.extractfile(member) if member.isreg() else None, prefix=PREFIX)
            for member in appended(kinds):
                member.mtime = newest
                output.add(member, prefix=PREFIX)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _not_gzip(source, error) from error


def appended(kinds: Mapping[str, bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield the members that a rootfs still needs. Pure.

    Args:
        kinds: The tar type of each member that is there, by name.
    """
    is_merged_usr = kinds.get("lib") == tarfile.SYMTYPE
    for name in ("writable", "usr/lib/modules" if is_merged_usr else "lib/modules"):
        if name not in kinds:
            yield directory(name)
    mtab = symlink("etc/mtab", "/proc/mounts")
    mtab.mode = 0o444
    yield mtab


def repack_tarball(source: Path, target: IO[bytes], *, run: Run) -> None:
    """Write the members of a device tarball or a component as they are, each checked, owners by number only.

    Args:
        source: A tarball: gzip, bzip2, xz, zstd or plain.
        target: Gets a plain tarball.

    Raises:
        VerificationError: The tarball is damaged, or has members that have no place in a version.
    """
    check = MemberCheck(roots=VERSION_ROOTS)
    try:
        with (
            decompressed(source, run=run) as plain,
            tarfile.open(fileobj=plain, mode="r|*") as tar,
            TarWriter(target, epoch=_ANY_TIME, form="legacy") as output,
        ):
            for member in tar:
                check.accept(member, source.name)
                output.add(member, tar.extractfile(member) if member.isreg() else None)
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, TypeError) as error:
        # TypeError: what tarfile says of a gzip header that is cut short.
        raise VerificationError(
            f"not a tarball: {error}",
            where=source.name,
            resolution="it must be a .tar, .tar.gz, .tar.xz or .tar.zst: make it again",
        ) from error


def _not_gzip(source: Path, error: Exception) -> VerificationError:
    return VerificationError(
        f"not a tar.gz: {error}", where=source.name, resolution="build it again, and publish that build"
    )
