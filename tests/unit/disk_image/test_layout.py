from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.disk_image import ImageIdentity, image_size_bytes, load_gadget
from coreimage.disk_image.gadget.structure import Gadget
from coreimage.disk_image.gpt import read_table, table_bytes
from coreimage.disk_image.layout import plan_layout
from coreimage.errors import BuildError, VerificationError

GADGET = load_gadget(Path(__file__).parents[3] / "deployments" / "gadgets" / "generic_amd64")
IDENTITY = ImageIdentity(channel="c/1/edge", device="d", version=7, architecture="amd64", epoch=0)


@pytest.mark.parametrize(("size_gb", "size_bytes"), [(1, 974_999_552), (2, 1_949_999_616), (4, 3_899_999_744)])
def test_sizes_of_2015(size_gb: int, size_bytes: int) -> None:
    assert image_size_bytes(size_gb) == size_bytes


def test_sectors_of_the_default_disk() -> None:
    layout = plan_layout(GADGET, image_size_bytes(4))
    assert [(p.structure.name, p.first, p.last) for p in layout.partitions] == [
        ("grub", 8192, 16383),
        ("system-boot", 16384, 1064959),
        ("system-a", 1064960, 3162111),
        ("system-b", 3162112, 5259263),
        ("writable", 5259264, 7614463),
    ]


def _with(number: int, **changes: object) -> Gadget:
    dumped = GADGET.model_dump(by_alias=True)
    dumped["volumes"]["pc"]["structure"][number].update(changes)
    return Gadget.model_validate(dumped)


def test_overlap_and_overflow_are_refused_by_name() -> None:
    with pytest.raises(BuildError, match=r"structure system-b.*taken up to sector 3162111"):
        plan_layout(_with(3, offset="1G"), image_size_bytes(4))
    with pytest.raises(BuildError, match=r"structure writable.*does not fit"):
        plan_layout(_with(4, size="3G"), image_size_bytes(4))
    with pytest.raises(BuildError, match=r"structure writable.*does not fit"):
        plan_layout(GADGET, 5259264 * 512 + (100 << 20))


def test_the_table_reads_back(tmp_path: Path) -> None:
    layout = plan_layout(GADGET, image_size_bytes(4))
    primary, backup = table_bytes(layout, IDENTITY)
    assert (len(primary), len(backup)) == (34 * 512, 33 * 512)
    image = tmp_path / "disk.img"
    image.write_bytes(primary)
    table = read_table(image)
    assert [(e.name, e.first, e.last) for e in table] == [
        (p.structure.name, p.first, p.last) for p in layout.partitions
    ]
    assert len({entry.guid for entry in table}) == 5
    assert table_bytes(layout, IDENTITY) == (primary, backup)
    assert table_bytes(layout, IDENTITY.model_copy(update={"version": 8}))[0] != primary


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    primary = bytearray(table_bytes(plan_layout(GADGET, image_size_bytes(4)), IDENTITY)[0])
    primary[1100] ^= 1
    image = tmp_path / "disk.img"
    image.write_bytes(primary)
    with pytest.raises(VerificationError, match="no valid GUID partition table"):
        read_table(image)
