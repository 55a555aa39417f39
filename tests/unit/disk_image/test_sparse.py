from __future__ import annotations

from pathlib import Path

from coreimage.disk_image.sparse import copy_sparse


def sparse(path: Path, content: bytes = b"content", size_bytes: int = 1 << 22) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
        file.seek(1 << 20)
        file.write(content)
    return path


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
