"""What U-Boot reads from a boot partition: its scripts, and the state of the slots as a text environment."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from coreimage.model import Architecture

STATE_FILE = "coreimage.env"
"""On system-boot: `name=value` lines, for `env import -t` and `env export -t`."""
SOURCE_SUFFIX, SCRIPT_SUFFIX = ".cmd", ".scr"
_HEADER = struct.Struct(">7I4B32s")
_MAGIC = 0x27051956
_LINUX, _SCRIPT, _PLAIN = 5, 6, 0
_ARCHITECTURES: dict[Architecture, int] = {"amd64": 24, "arm64": 22}
"""U-Boot, include/image.h: IH_MAGIC, IH_OS_LINUX, IH_TYPE_SCRIPT, IH_COMP_NONE, IH_ARCH_X86_64, IH_ARCH_ARM64."""


def script(text: bytes, architecture: Architecture, epoch: int, name: str = "coreimage") -> bytes:
    """A script as `source` runs it: what `mkimage -T script` makes of its text."""
    body = struct.pack(">II", len(text), 0) + text
    fields = [epoch, len(body), 0, 0, zlib.crc32(body)]
    kinds = [_LINUX, _ARCHITECTURES[architecture], _SCRIPT, _PLAIN, name.encode()]
    blank = _HEADER.pack(_MAGIC, 0, *fields, *kinds)
    return _HEADER.pack(_MAGIC, zlib.crc32(blank), *fields, *kinds) + body


def state(variables: Mapping[str, str]) -> bytes:
    """Empty values are left out: an environment has no others."""
    return "".join(f"{name}={value}\n" for name, value in variables.items() if value).encode()
