"""Disks of boards, byte by byte: no board is at hand to try them on."""

from __future__ import annotations

import struct
import zlib

from coreimage.disk_image import ImageIdentity
from coreimage.disk_image.boot_loaders import grub_environment, uboot_environment, uboot_script

IDENTITY = ImageIdentity(channel="c/1/edge", device="d", version=7, architecture="arm64", epoch=1_700_000_000)


def test_a_script_is_what_u_boot_sources() -> None:
    made = uboot_script(b"echo hello\n", "arm64", IDENTITY.epoch)
    fields = struct.unpack(">7I4B32s", made[:64])
    assert (fields[0], fields[2], fields[3]) == (0x27051956, IDENTITY.epoch, len(made) - 64)
    assert fields[6] == zlib.crc32(made[64:])
    assert fields[1] == zlib.crc32(made[:4] + bytes(4) + made[8:64])
    assert fields[7:11] == (5, 22, 6, 0)
    assert made[64:] == struct.pack(">II", 11, 0) + b"echo hello\n"


def test_an_environment_has_no_empty_values() -> None:
    assert uboot_environment({"slot": "a", "trial": "", "tries": "0"}) == b"slot=a\ntries=0\n"


def test_the_environment_of_grub_is_1024_bytes() -> None:
    block = grub_environment({"slot": "b", "trial": ""})
    assert block == b"# GRUB Environment Block\nslot=b\ntrial=\n".ljust(1024, b"#")
