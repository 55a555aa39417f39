"""The tarball that tells an image its own version, channel and server (system-image §2.6)."""

from __future__ import annotations

import io
import lzma
import tarfile
from typing import IO

from coreimage.errors import UsageError, VerificationError
from coreimage.model import Server
from coreimage.tarball import TarWriter, directory, regular, stored_xz, symlink

_LIMIT_BYTES = 1 << 20
_BUILD, _INI = "system/etc/ubuntu-build", "system/etc/system-image/channel.ini"


def version_tarball(
    channel: str, device: str, version: int, version_detail: str, *, server: Server, mtime: int, target: str = ""
) -> bytes:
    """Return the bytes of `version-<N>.tar.xz`.

    Args:
        server: Where devices of this version look for updates.
        mtime: UNIX seconds, not 0: the time of every member.
        target: The channel that an alias follows; empty for a channel that is no alias.

    Raises:
        UsageError: A value holds `%`, which clients cannot read.
    """
    ini = channel_ini(channel, device, version, version_detail, server=server, target=target).encode()
    build = f"{version}\n".encode()
    folder = "system/etc/system-image/config.d"
    members = [
        (regular(_BUILD, len(build)), build),
        (regular(_INI, len(ini)), ini),
        (directory(folder, 0o775), None),  # 0775 as in the original (LP #1454447)
        (symlink(f"{folder}/00_default.ini", "../client.ini"), None),
        (symlink(f"{folder}/01_channel.ini", "../channel.ini"), None),
    ]
    plain = io.BytesIO()
    with TarWriter(plain, epoch=mtime, form="legacy") as tar:
        for member, content in members:
            member.mtime = mtime
            tar.add(member, content)
    return stored_xz(plain.getvalue())


def channel_ini(
    channel: str, device: str, version: int, version_detail: str, *, server: Server, target: str = ""
) -> str:
    """Return the text of channel.ini, by which a device knows its channel. Raises as `version_tarball`."""
    values = {
        "base": server.base,
        "http_port": server.http_port if server.http_port is not None else "disabled",
        "https_port": server.https_port if server.https_port is not None else "disabled",
        "channel": channel,
        "device": device,
        "build_number": version,
        **({"channel_target": target} if target else {}),
        "version_detail": version_detail,
    }
    for name, value in values.items():
        if "%" in str(value) or "\n" in str(value):
            raise UsageError(
                f"{name} {value!r} holds `%` or a line end, which clients cannot read", resolution="choose other words"
            )
    return "".join(["[service]\n", *(f"{name}: {value}\n" for name, value in values.items())])


def read_identity(content: IO[bytes], where: str) -> tuple[dict[str, str], int]:
    """Read what a version tarball says of itself.

    Returns:
        The values of its channel.ini, and its time (UNIX seconds).

    Raises:
        VerificationError: The tarball says nothing, or its `ubuntu-build` has another number. The error names `where`.
    """
    try:
        with tarfile.open(fileobj=content, mode="r:xz") as tar:
            files = [
                member
                for member in tar
                if member.isreg() and member.name in {_BUILD, _INI} and member.size < _LIMIT_BYTES
            ]
            mtime = max((int(member.mtime) for member in files), default=0)
            texts = {m.name: file.read().decode(errors="replace") for m in files if (file := tar.extractfile(m))}
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise _unreadable(f"not a version tarball: {error}", where) from error
    missing = {_BUILD, _INI} - texts.keys()
    if missing:
        raise _unreadable(f"the version tarball lacks {', '.join(sorted(missing))}", where)
    values = dict(line.split(": ", 1) for line in texts[_INI].splitlines() if ": " in line)
    if texts[_BUILD].strip() != values.get("build_number"):
        raise _unreadable("ubuntu-build and channel.ini have two numbers", where)
    return values, mtime


def _unreadable(problem: str, where: str) -> VerificationError:
    return VerificationError(problem, where=where, resolution="import the build again: it gets the next number")
