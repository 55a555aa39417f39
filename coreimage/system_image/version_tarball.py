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


def version_tarball(
    channel: str, device: str, version: int, version_detail: str, *, server: Server, mtime: int, target: str = ""
) -> bytes:
    """The bytes of `version-<N>.tar.xz`. `mtime` is UNIX seconds, not 0; `target` the channel that an alias follows.

    Raises UsageError for a `%` in a value.
    """
    ini = channel_ini(channel, device, version, version_detail, server=server, target=target)
    config = "system/etc/system-image"
    plain = io.BytesIO()
    with TarWriter(plain, epoch=mtime, form="gnu") as tar:
        for name, content in (("system/etc/ubuntu-build", f"{version}\n"), (f"{config}/channel.ini", ini)):
            _add(tar, regular(name, len(content.encode())), mtime, content.encode())
        # 0775 as in the original (LP #1454447)
        _add(tar, directory(f"{config}/config.d", 0o775), mtime)
        _add(tar, symlink(f"{config}/config.d/00_default.ini", "../client.ini"), mtime)
        _add(tar, symlink(f"{config}/config.d/01_channel.ini", "../channel.ini"), mtime)
    return stored_xz(plain.getvalue())


def channel_ini(
    channel: str, device: str, version: int, version_detail: str, *, server: Server, target: str = ""
) -> str:
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


def _add(tar: TarWriter, member: tarfile.TarInfo, mtime: int, content: bytes | None = None) -> None:
    member.mtime = mtime
    tar.add(member, content)


def read_identity(content: IO[bytes], where: str) -> tuple[dict[str, str], int]:
    """What a version tarball says of itself: the values of its channel.ini, and its time (UNIX seconds). Raises
    VerificationError when it says nothing, or when `ubuntu-build` has another number."""
    wanted = {"system/etc/ubuntu-build", "system/etc/system-image/channel.ini"}
    try:
        with tarfile.open(fileobj=content, mode="r:xz") as tar:
            files = [
                member for member in tar if member.isreg() and member.name in wanted and member.size < _LIMIT_BYTES
            ]
            mtime = max((int(member.mtime) for member in files), default=0)
            texts = {m.name: file.read().decode(errors="replace") for m in files if (file := tar.extractfile(m))}
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise _unreadable(f"not a version tarball: {error}", where) from error
    if texts.keys() != wanted:
        raise _unreadable(f"the version tarball lacks {', '.join(sorted(wanted - texts.keys()))}", where)
    build, ini = (texts[name] for name in sorted(wanted, reverse=True))
    values = dict(line.split(": ", 1) for line in ini.splitlines() if ": " in line)
    if build.strip() != values.get("build_number"):
        raise _unreadable("ubuntu-build and channel.ini have two numbers", where)
    return values, mtime


def _unreadable(problem: str, where: str) -> VerificationError:
    return VerificationError(problem, where=where, resolution="import the build again: it gets the next number")
