"""What is inside a version's files: identity (§2.6), rootfs and device parts (§2.4, §5.1), deltas (§2.5)."""

from __future__ import annotations

import io
import tarfile
from typing import Any

from tests.harness.strict_client.refusal import require
from tests.harness.strict_client.tar import FOLDER, HARD, REGULAR, SOFT, read_tarball

_TOP = "system/etc/system-image"
_IDENTITY = [
    "system/etc/ubuntu-build",
    f"{_TOP}/channel.ini",
    f"{_TOP}/config.d",
    f"{_TOP}/config.d/00_default.ini",
    f"{_TOP}/config.d/01_channel.ini",
]
_ORDER = ["base", "http_port", "https_port", "channel", "device", "build_number", "channel_target", "version_detail"]


def check_identity(tarball: bytes, image: dict[str, Any], channel: str, device: str, target: str | None) -> None:
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:xz") as tar:
        members = {member.name: member for member in tar}
        texts = {m.name: tar.extractfile(m).read().decode() for m in members.values() if m.isreg()}  # type: ignore[union-attr]
    require(list(members) == _IDENTITY, "members of the version tarball")
    require(all(m.mtime > 0 and m.uid == m.gid == 0 for m in members.values()), "mtimes and owners")
    require(members[f"{_TOP}/config.d"].mode == 0o775, "mode of config.d")
    require(members[f"{_TOP}/config.d/00_default.ini"].linkname == "../client.ini", "00_default.ini")
    require(members[f"{_TOP}/config.d/01_channel.ini"].linkname == "../channel.ini", "01_channel.ini")
    require(texts["system/etc/ubuntu-build"] == f"{image['version']}\n", "ubuntu-build")
    said = identity(texts[f"{_TOP}/channel.ini"])
    optional = {"channel_target": target, "version_detail": image.get("version_detail")}
    require(list(said) == [key for key in _ORDER if optional.get(key, "always")], "keys of channel.ini")
    wanted = {"channel": channel, "device": device, "build_number": str(image["version"]), **optional}
    for key, value in wanted.items():
        require(said.get(key) == value, f"{key} of channel.ini is {said.get(key)!r}, not {value!r}")
    ports = {said["http_port"], said["https_port"]}
    require(all(port == "disabled" or port.isdecimal() for port in ports) and ports != {"disabled"}, "ports")


def identity(ini: str) -> dict[str, str]:
    """As the client's own parser reads it, which dies of a `%`."""
    lines = ini.splitlines()
    require(lines[0] == "[service]" and "%" not in ini, "channel.ini")
    return dict(line.split(": ", 1) for line in lines[1:])


def check_delta(tarball: bytes) -> None:
    first, *others = read_tarball(tarball)
    require(first.name == "removed" and first.kind == REGULAR, "removed comes first")
    lines = first.content.decode().splitlines()
    names = [member.name for member in others]
    require(lines and all(lines), "removed names something (LP #1437225)")
    require(not any(line.startswith(("/", "./")) or ".." in line.split("/") for line in lines), "removed stays inside")
    require(len(set(names)) == len(names), "no duplicates")


def check_rootfs(tarball: bytes) -> None:
    """Of product `core`, as the server makes it."""
    members = list(read_tarball(tarball))
    found = {member.name: member for member in members}
    require(all(f"{member.name}/".startswith("system/") for member in members), "everything is below system/")
    require("system/SWAP.swap" not in found, "no swap file")
    files = [member.name for member in members if member.kind != FOLDER]
    require(len(set(files)) == len(files), "no duplicates")
    require(found["system/etc/mtab"].link == "/proc/mounts", "mtab")
    require(found["system/writable"].kind == FOLDER, "writable mount point")
    modules = "usr/lib/modules" if "system/lib" in found and found["system/lib"].kind == SOFT else "lib/modules"
    require(found[f"system/{modules}"].kind == FOLDER, "modules mount point")
    require(all(m.link.startswith("system/") for m in members if m.kind == HARD), "hard links move along")
