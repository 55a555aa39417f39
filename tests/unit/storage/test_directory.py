"""What a put returned from survives a power cut: the object's bytes, then its name, then the folders above it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coreimage.storage.directory import DirectoryStore


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where each file or folder was, in the order in which they were synced."""
    paths: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda handle: paths.append(Path(f"/proc/self/fd/{handle}").readlink()))
    return paths


@pytest.mark.parametrize("if_absent", [True, False])
@pytest.mark.parametrize("again", [True, False])
def test_bytes_name_and_folders_are_synced_before_put_returns(
    synced: list[Path], tmp_path: Path, *, if_absent: bool, again: bool
) -> None:
    store, root = DirectoryStore(tmp_path / "new/store"), tmp_path / "new/store"
    if again:
        store.put_bytes("a/b/first", b"1", media_type="")
        synced.clear()
    store.put_bytes("a/b/object", b"content", media_type="", if_absent=if_absent)
    if not again:
        assert {root, root.parent, tmp_path} <= set(synced[:3])
        del synced[:3]
    content, *folders = synced
    assert content.parent == root / ".coreimage"
    assert folders == [root / "a/b", root / "a", root]


def test_a_file_and_a_copy_are_synced_as_bytes_are(synced: list[Path], tmp_path: Path) -> None:
    store, source = DirectoryStore(tmp_path / "store"), tmp_path / "source"
    source.write_bytes(b"content")
    store.put_file("a/object", source, media_type="")
    assert synced[-2:] == [tmp_path / "store/a", tmp_path / "store"]
    store.copy("a/object", "b/copy")
    assert synced[-2:] == [tmp_path / "store/b", tmp_path / "store"]


@pytest.mark.parametrize("key", ["x" * 300, "a/" * 3000 + "x"])
def test_a_name_that_no_file_can_have_is_absent(key: str, tmp_path: Path) -> None:
    assert DirectoryStore(tmp_path).head(key) is None
