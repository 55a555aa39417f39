"""Disks of boards, byte by byte: no board is at hand to try them on."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from coreimage.disk_image import ImageIdentity, image_size_bytes, load_gadget
from coreimage.disk_image.gadget.loading import parse_gadget
from coreimage.disk_image.gadget.structure import Gadget
from coreimage.disk_image.layout import plan_layout
from coreimage.disk_image.table import read_partitions, write_raw, write_table
from coreimage.errors import BuildError

IDENTITY = ImageIdentity(channel="c/1/edge", device="d", version=7, architecture="arm64", epoch=1_700_000_000)
SHIPPED = Path(__file__).parents[3] / "deployments" / "gadgets" / "uboot_arm64"
BEAGLEBONE = """
volumes:
  disk:
    schema: mbr
    bootloader: u-boot
    id: "0x1234abcd"
    structure:
      - {name: mlo, type: bare, offset: 131072, size: 128K, content: [{image: MLO}], offset-write: mlo-table+4}
      - {name: mlo-table, type: bare, offset: 384K, size: 512, content: [{image: table, offset: 8}]}
      - {name: u-boot, type: bare, offset: 393728, size: 1M, content: [{image: u-boot.img}]}
      - {name: system-boot, role: system-boot, type: 0C, filesystem: vfat, filesystem-label: system-boot, size: 128M}
      - {name: system-a, role: system-a, type: "83", filesystem: ext4, filesystem-label: system-a, size: 1G}
      - {name: system-b, role: system-b, type: "83", filesystem: ext4, filesystem-label: system-b, size: 1G}
      - {name: writable, role: system-data, type: "83", filesystem: ext4, filesystem-label: writable}
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "gadget.yaml").write_text(BEAGLEBONE)
    (tmp_path / "MLO").write_bytes(b"M" * 70_000)
    (tmp_path / "table").write_bytes(b"TABLE")
    (tmp_path / "u-boot.img").write_bytes(b"U" * 400_001)
    return tmp_path


def _disk(path: Path, gadget: Gadget, folder: Path) -> Path:
    path.touch()
    layout = plan_layout(gadget, image_size_bytes(4))
    write_table(path, layout, IDENTITY)
    write_raw(path, gadget, folder, layout)
    return path


def test_the_table_is_that_of_2015(board: Path) -> None:
    """device-flash §4.3: boot partition active and of type 0x0c, sectors 8192, 270336, 2367488, 4464640-7614463."""
    disk = _disk(board / "disk.img", load_gadget(board), board)
    assert disk.stat().st_size == 3_899_999_744
    with disk.open("rb") as file:
        sector = file.read(512)
    chs = "feffff"
    assert sector == bytes.fromhex(
        "00" * 440
        + "cdab3412 0000"
        + f"80 {chs} 0c {chs} 00200000 00000400"
        + f"00 {chs} 83 {chs} 00200400 00002000"
        + f"00 {chs} 83 {chs} 00202400 00002000"
        + f"00 {chs} 83 {chs} 00204400 00103000"
        + "55aa"
    )
    assert [(entry.first, entry.last) for entry in read_partitions(disk)] == [
        (8192, 270335),
        (270336, 2367487),
        (2367488, 4464639),
        (4464640, 7614463),
    ]


def test_raw_images_are_at_their_offsets_between_zeros(board: Path) -> None:
    disk = _disk(board / "disk.img", load_gadget(board), board)
    with disk.open("rb") as file:
        before = file.read(8192 * 512)
    expected = bytearray(8192 * 512)
    expected[:512] = before[:512]
    expected[131072 : 131072 + 70_000] = b"M" * 70_000
    expected[393216 + 4 : 393216 + 8] = struct.pack("<I", 131072 // 512)
    expected[393216 + 8 : 393216 + 13] = b"TABLE"
    expected[393728 : 393728 + 400_001] = b"U" * 400_001
    assert before == expected


def test_the_shipped_board_has_room_for_an_upgrade_of_its_kernel() -> None:
    layout = plan_layout(load_gadget(SHIPPED), image_size_bytes(4))
    assert [(p.structure.name, p.first, p.last) for p in layout.partitions] == [
        ("system-boot", 8192, 1056767),
        ("system-a", 1056768, 3153919),
        ("system-b", 3153920, 5251071),
        ("writable", 5251072, 7614463),
    ]


def test_a_boot_record_of_the_gadget_and_offset_write_keep_the_table(tmp_path: Path) -> None:
    """As snapd's pc gadget has them: boot.img in sector 0 gets the sector of core.img at byte 92."""
    head = """
  - {name: mbr, type: mbr, size: 440, content: [{image: boot.img}], update: {edition: 1}}
  - {name: BIOS Boot, type: "DA,21686148-6449-6E6F-744E-656564454649", size: 1M, offset: 1M, offset-write: mbr+92,
     content: [{image: core.img}]}
"""
    guid = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
    rest = "".join(
        f"  - {{name: {name}, type: '83,{guid}', filesystem: {kind}, filesystem-label: {name}, size: 64M}}\n"
        for name, kind in (("system-boot", "vfat"), ("system-a", "ext4"), ("system-b", "ext4"), ("writable", "ext4"))
    )
    text = f"volumes:\n pc:\n  schema: gpt\n  bootloader: grub\n  structure:{head}{rest}"
    (tmp_path / "boot.img").write_bytes(b"B" * 440)
    (tmp_path / "core.img").write_bytes(b"C" * 1000)
    gadget = parse_gadget(text, "gadget.yaml")[0]
    disk = _disk(tmp_path / "disk.img", gadget, tmp_path)
    with disk.open("rb") as file:
        content = file.read(2 << 20)
    assert content[:440] == b"B" * 92 + struct.pack("<I", 2048) + b"B" * 344
    assert content[1 << 20 : (1 << 20) + 1000] == b"C" * 1000
    assert [entry.name for entry in read_partitions(disk)][:2] == ["BIOS Boot", "system-boot"]
    assert gadget.by_role("system-data") is not None, "a label implies its role"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("size: 128K", "size: 64K", r"structure mlo: its image MLO ends at byte 70000, and it has 65536"),
        ("{image: MLO}", "{image: MLO, size: 512}", r"structure mlo: .*more than its size 512"),
        ("[{image: MLO}]", "[{image: table, offset: 8}, {image: MLO}, {image: MLO, offset: 9}]", "begins inside"),
        ("mlo-table+4", "mlo-table+510", r"structure mlo: its offset-write to byte 393726 would hit something else"),
    ],
)
def test_images_that_do_not_fit(board: Path, old: str, new: str, message: str) -> None:
    (board / "meta" / "gadget.yaml").write_text(BEAGLEBONE.replace(old, new))
    with pytest.raises(BuildError, match=message):
        _disk(board / "disk.img", load_gadget(board), board)


def test_raw_structures_may_not_reach_into_the_first_partition(board: Path) -> None:
    text = BEAGLEBONE.replace("offset: 393728, size: 1M", "offset: 393728, size: 8M").replace(
        "filesystem-label: system-boot, size", "filesystem-label: system-boot, offset: 4M, size"
    )
    with pytest.raises(BuildError, match="structure system-boot: starts at sector 8192, but the disk is taken"):
        plan_layout(parse_gadget(text, "gadget.yaml")[0], image_size_bytes(4))
