"""The tarball that tells an image its own version, channel and server (system-image §2.6)."""

from __future__ import annotations

import io
import lzma
import tarfile

from coreimage.errors import UsageError
from coreimage.model import Value


class Server(Value):
    """Where devices look for updates. A port is None when that protocol is disabled."""

    base: str = "localhost"
    http_port: int | None = 80
    https_port: int | None = 443


def version_tarball(
    channel: str, device: str, version: int, version_detail: str, *, server: Server, mtime: int
) -> bytes:
    """The bytes of `version-<N>.tar.xz`. `mtime` is UNIX seconds, not 0. Raises UsageError for a `%` in a value."""
    ini = channel_ini(channel, device, version, version_detail, server=server)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as tar:
        _file(tar, "system/etc/ubuntu-build", f"{version}\n".encode(), mtime)
        _file(tar, "system/etc/system-image/channel.ini", ini.encode(), mtime)
        # 0775 as in the original (LP #1454447)
        tar.addfile(_member("system/etc/system-image/config.d", tarfile.DIRTYPE, 0o775, mtime))
        for link, target in (("00_default.ini", "../client.ini"), ("01_channel.ini", "../channel.ini")):
            member = _member(f"system/etc/system-image/config.d/{link}", tarfile.SYMTYPE, 0o777, mtime)
            member.linkname = target
            tar.addfile(member)
    return lzma.compress(plain.getvalue(), preset=6)


def channel_ini(channel: str, device: str, version: int, version_detail: str, *, server: Server) -> str:
    values = {
        "base": server.base,
        "http_port": server.http_port if server.http_port is not None else "disabled",
        "https_port": server.https_port if server.https_port is not None else "disabled",
        "channel": channel,
        "device": device,
        "build_number": version,
        "version_detail": version_detail,
    }
    for name, value in values.items():
        if "%" in str(value) or "\n" in str(value):
            raise UsageError(
                f"{name} {value!r} holds `%` or a line end, which clients cannot read", resolution="choose other words"
            )
    return "".join(["[service]\n", *(f"{name}: {value}\n" for name, value in values.items())])


def _file(tar: tarfile.TarFile, name: str, content: bytes, mtime: int) -> None:
    member = _member(name, tarfile.REGTYPE, 0o644, mtime)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _member(name: str, kind: bytes, mode: int, mtime: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = kind, mode, mtime
    member.uname = member.gname = "root"
    return member
