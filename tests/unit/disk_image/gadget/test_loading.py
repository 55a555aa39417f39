from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from coreimage.disk_image import load_gadget, pack_gadget, unpack_gadget
from coreimage.disk_image.gadget.loading import parse_gadget
from coreimage.errors import ConfigError
from coreimage.storage import open_store

GADGETS = Path(__file__).parents[4] / "deployments" / "gadgets"
GADGET = GADGETS / "generic_amd64"


def _document() -> dict[str, object]:
    loaded: dict[str, object] = yaml.safe_load((GADGET / "meta" / "gadget.yaml").read_text())
    return loaded


def _changed(structure: int, **changes: object) -> str:
    document = _document()
    entry = document["volumes"]["pc"]["structure"][structure]  # type: ignore[index]
    for key, value in changes.items():
        entry[key.replace("_", "-")] = value
    return yaml.safe_dump({key: document[key] for key in document})


def _volume(**changes: object) -> str:
    document = _document()
    document["volumes"]["pc"].update(changes)  # type: ignore[index]
    return yaml.safe_dump(document)


@pytest.mark.parametrize(("device", "first"), [("generic_amd64", ["grub"]), ("generic_arm64", []), ("uboot_arm64", [])])
def test_the_shipped_gadgets_are_valid(device: str, first: list[str]) -> None:
    names = [structure.name for structure in load_gadget(GADGETS / device).structures]
    assert names == [*first, "system-boot", "system-a", "system-b", "writable"]


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        (_changed(2, filesytem="ext4"), "system-a", "did you mean 'filesystem'"),
        (_changed(2, filesystem="vfat"), "system-a", "needs `filesystem: ext4`"),
        (_changed(2, size="1T"), "system-a.size", "a size is a whole number"),
        (_changed(2, size=1000), "system-a", "multiple of 512"),
        (_changed(3, role="system-a"), "system-b", "the role system-a is there twice"),
        (_changed(3, role="system-a"), "structure", "no structure has the role system-b"),
        (_changed(3, name="system-a"), "system-a", "the name is there twice"),
        (_changed(3, size=None), "system-b", "only the last structure may have no size"),
        (_changed(1, content=[{"source": "../x", "target": "x"}]), "system-boot.content", "stays inside its folder"),
        (_changed(1, content=[{"source": "x", "target": "/../x"}]), "system-boot.content", "stays inside its folder"),
        (_changed(0, offset_write=None), "grub", "offset-write"),
        (_changed(0, offset_write="mbr-92"), "grub.offset-write", "OFFSET"),
        (_changed(0, offset_write="gap+92"), "grub", "relative to 'gap', which is no structure"),
        (_changed(2, type="0C"), "system-a", "schema gpt needs a GUID"),
        (_changed(2, type="wrong"), "system-a.type", "two hex digits, a GUID"),
        (_changed(2, type="bare"), "system-a", "needs a partition"),
        (_changed(0, size=4097), "grub", "size 4097 is not a multiple of 512"),
        (_changed(0, filesystem="vfat"), "grub", "have a filesystem"),
        (_changed(1, content=[{"source": "x"}]), "system-boot.content", "either `source` and `target`, or `image`"),
        (_changed(1, content=[{"image": "x"}]), "system-boot", "takes no `image`"),
        (_changed(2, content=[{"source": "x", "target": "y"}]), "system-a", "files can only go on"),
        (_volume(schema="mbr"), "system-boot", "schema mbr needs two hex digits"),
        (_volume(schema="mbr"), "writable", "room for 4 partitions, and this is one more"),
        (_volume(bootloader="lk"), "volumes.pc.bootloader", "'grub' or 'u-boot'"),
        (_volume(shema="gpt"), "volumes.pc.shema", "did you mean 'schema'"),
        ("volumes: [", "yaml", "expected"),
        ("volumes: {}\nvolumes: {}\n", "volumes", "twice"),
    ],
)
def test_problems_name_the_structure_and_the_rule(text: str, where: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_gadget(text, "gadget.yaml")
    assert any(where in problem.key and message in problem.message for problem in caught.value.problems), caught.value


def test_every_problem_has_its_line() -> None:
    text = (GADGET / "meta" / "gadget.yaml").read_text().replace("filesystem: ext4", "filesystem: vfat")
    with pytest.raises(ConfigError) as caught:
        parse_gadget(text, "gadget.yaml")
    names = {problem.key.rpartition(".")[2]: problem.line for problem in caught.value.problems}
    lines = text.splitlines()
    assert sorted(names) == ["system-a", "system-b", "writable"]
    assert all(f"name: {name}" in lines[line - 1] for name, line in names.items())


def test_content_must_exist_and_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "gadget.yaml").write_text((GADGET / "meta" / "gadget.yaml").read_text())
    with pytest.raises(ConfigError, match=r"grub\.cfg is not in the gadget folder"):
        load_gadget(tmp_path)
    (tmp_path / "grub.cfg").symlink_to("/etc/hostname")
    with pytest.raises(ConfigError, match="leaves the gadget folder"):
        load_gadget(tmp_path)


def test_a_packed_gadget_is_the_same_from_everywhere_and_comes_back(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    packed = pack_gadget(GADGET, store=store)
    unpacked = unpack_gadget(packed, tmp_path / "elsewhere", store=store)
    assert load_gadget(unpacked) == load_gadget(GADGET)
    assert pack_gadget(unpacked, store=store) == packed
