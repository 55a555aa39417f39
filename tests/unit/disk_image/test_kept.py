from __future__ import annotations

import os
from pathlib import Path

import pytest

from coreimage.disk_image import KeptImages, image_key
from coreimage.disk_image.kept import copy_sparse

KEY = "0" * 64


def sparse(path: Path, content: bytes = b"content", size_bytes: int = 1 << 22) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
        file.seek(1 << 20)
        file.write(content)
    return path


def test_it_comes_back_with_its_holes(tmp_path: Path) -> None:
    kept, image = KeptImages(tmp_path / "kept", 1 << 30), sparse(tmp_path / "a")
    assert kept.give(KEY, tmp_path / "b") is None
    kept.keep(KEY, image, 5)
    facts = kept.give(KEY, tmp_path / "b")
    assert facts
    assert facts.epoch == 5
    assert (tmp_path / "b").read_bytes() == image.read_bytes()
    assert (tmp_path / "b").stat().st_blocks <= image.stat().st_blocks
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [f"{KEY}.img", f"{KEY}.json"]


def test_the_digest_is_of_the_content_and_not_of_the_holes(tmp_path: Path) -> None:
    image = sparse(tmp_path / "a")
    (tmp_path / "full").write_bytes(image.read_bytes())
    assert copy_sparse(image, tmp_path / "x") == copy_sparse(tmp_path / "full", tmp_path / "y")
    moved = bytearray(image.read_bytes())
    moved[1 << 20 : (1 << 20) + 4096], moved[1 << 21 : (1 << 21) + 4096] = (
        bytes(4096),
        moved[1 << 20 : (1 << 20) + 4096],
    )
    (tmp_path / "moved").write_bytes(moved)
    assert copy_sparse(image, tmp_path / "x") != copy_sparse(tmp_path / "moved", tmp_path / "y")


@pytest.mark.parametrize("damage", ["a byte", "no facts", "facts of nothing", "cut"])
def test_what_is_damaged_is_not_believed(tmp_path: Path, damage: str) -> None:
    kept, image = KeptImages(tmp_path / "kept", 1 << 30), sparse(tmp_path / "a")
    kept.keep(KEY, image, 5)
    entry, facts = tmp_path / "kept" / f"{KEY}.img", tmp_path / "kept" / f"{KEY}.json"
    if damage == "a byte":
        with entry.open("r+b") as file:
            file.seek(1 << 20)
            file.write(b"C")
    elif damage == "cut":
        os.truncate(entry, 1 << 19)
    else:
        facts.write_text("{}")
        if damage == "no facts":
            facts.unlink()
    assert kept.give(KEY, tmp_path / "b") is None
    assert not (tmp_path / "b").exists()
    kept.keep(KEY, image, 5)
    assert kept.give(KEY, tmp_path / "b")


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    one_bytes = sparse(tmp_path / "a", os.urandom(1 << 16)).stat().st_blocks * 512
    kept = KeptImages(tmp_path / "kept", 2 * one_bytes)
    for number in range(3):
        kept.keep(str(number), tmp_path / "a", 5)
        for path in (tmp_path / "kept").glob("*.img"):
            if path.stem == str(number):
                os.utime(path, (number, number))
        if number == 1:
            assert kept.give("0", tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "kept").glob("*.img")) == ["0.img", "2.img"]
    assert kept.give("1", tmp_path / "b") is None
    kept.clear()
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file")
    KeptImages(tmp_path / "kept", 1).keep(KEY, sparse(tmp_path / "a"), 5)


def test_all_that_decides_the_bytes_is_in_the_key(tmp_path: Path) -> None:
    gadget = tmp_path / "gadget"
    gadget.mkdir()
    (gadget / "grub.cfg").write_text("one")
    keys = {image_key(["a", "b"], gadget, {"size": 4}), image_key(["b", "a"], gadget, {"size": 4})}
    keys |= {image_key(["a", "b"], gadget, {"size": 5})}
    (gadget / "grub.cfg").write_text("two")
    keys |= {image_key(["a", "b"], gadget, {"size": 4})}
    assert len(keys) == 4
