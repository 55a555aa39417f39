from __future__ import annotations

import os
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from coreimage.disk_image import CachedImages, cached_images, image_key

KEY = "0" * 64


def sparse(path: Path, content: bytes = b"content", size_bytes: int = 1 << 22) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
        file.seek(1 << 20)
        file.write(content)
    return path


def test_it_comes_back_with_its_holes(tmp_path: Path) -> None:
    cached, image = CachedImages(tmp_path / "cache", 1 << 30), sparse(tmp_path / "a")
    assert cached.get(KEY, tmp_path / "b") is None
    cached.put(KEY, image, 5)
    facts = cached.get(KEY, tmp_path / "b")
    assert facts
    assert facts.epoch == 5
    assert (tmp_path / "b").read_bytes() == image.read_bytes()
    assert (tmp_path / "b").stat().st_blocks <= image.stat().st_blocks
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [f"{KEY}.img", f"{KEY}.json"]


@pytest.mark.parametrize("damage", ["a byte", "no facts", "facts of nothing", "cut"])
def test_what_is_damaged_is_not_believed(tmp_path: Path, damage: str) -> None:
    cached, image = CachedImages(tmp_path / "cache", 1 << 30), sparse(tmp_path / "a")
    cached.put(KEY, image, 5)
    entry, facts = tmp_path / "cache" / f"{KEY}.img", tmp_path / "cache" / f"{KEY}.json"
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
    assert cached.get(KEY, tmp_path / "b") is None
    assert not (tmp_path / "b").exists()
    cached.put(KEY, image, 5)
    assert cached.get(KEY, tmp_path / "b")


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    one_bytes = sparse(tmp_path / "a", os.urandom(1 << 16)).stat().st_blocks * 512
    cached = CachedImages(tmp_path / "cache", 2 * one_bytes)
    for number in range(3):
        cached.put(str(number), tmp_path / "a", 5)
        for path in (tmp_path / "cache").glob("*.img"):
            if path.stem == str(number):
                os.utime(path, (number, number))
        if number == 1:
            assert cached.get("0", tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "cache").glob("*.img")) == ["0.img", "2.img"]
    assert cached.get("1", tmp_path / "b") is None
    cached.clear()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    CachedImages(tmp_path / "cache", 1).put(KEY, sparse(tmp_path / "a"), 5)


def test_all_that_decides_the_bytes_is_in_the_key(tmp_path: Path) -> None:
    gadget = tmp_path / "gadget"
    gadget.mkdir()
    (gadget / "grub.cfg").write_text("one")
    keys = {image_key(["a", "b"], gadget, {"size": 4}), image_key(["b", "a"], gadget, {"size": 4})}
    keys |= {image_key(["a", "b"], gadget, {"size": 5})}
    (gadget / "grub.cfg").write_text("two")
    keys |= {image_key(["a", "b"], gadget, {"size": 4})}
    keys |= {image_key(["a", "b"], gadget, {"size": 4}, tools_tree="0" * 64)}
    assert len(keys) == 5


@pytest.mark.parametrize("module", ["disk_image/assembly.py", "architecture/grub.py", "tarball/writing.py"])
def test_our_own_code_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    for package in ("disk_image", "architecture", "tarball"):
        shutil.copytree(str(files(f"coreimage.{package}")), tmp_path / package)
    monkeypatch.setattr(cached_images, "files", lambda package: tmp_path / package.removeprefix("coreimage."))
    before = image_key([], tmp_path / "gadget", {})
    assert image_key([], tmp_path / "gadget", {}) == before
    (tmp_path / module).write_text((tmp_path / module).read_text() + "# other code\n")
    assert image_key([], tmp_path / "gadget", {}) != before
