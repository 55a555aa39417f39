from __future__ import annotations

import io
import lzma
from pathlib import Path

import pytest

from coreimage.disk_image.assembly import sparse_sha256
from coreimage.disk_image.images import CHUNK_BYTES, compress, decompress
from coreimage.errors import VerificationError


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.write(b"start")
        file.seek(2 * CHUNK_BYTES + 7)
        file.write(b"middle" * 1000)
        file.truncate(4 * CHUNK_BYTES + 512)
    return path


def test_there_and_back_with_holes(sparse: Path, tmp_path: Path) -> None:
    compressed = compress(sparse, tmp_path / "disk.img.xz")
    assert lzma.decompress(compressed.read_bytes()) == sparse.read_bytes()
    with compressed.open("rb") as source, (tmp_path / "back.img").open("wb") as target:
        assert decompress(source, target) == sparse.stat().st_size
    assert (tmp_path / "back.img").read_bytes() == sparse.read_bytes()
    assert (tmp_path / "back.img").stat().st_blocks * 512 < CHUNK_BYTES * 3


def test_a_cut_image_is_refused(sparse: Path, tmp_path: Path) -> None:
    content = compress(sparse, tmp_path / "disk.img.xz").read_bytes()
    with pytest.raises(VerificationError, match="cut short"):
        decompress(io.BytesIO(content[:-20]), io.BytesIO())


def test_the_digest_counts_holes_as_zeros(sparse: Path) -> None:
    import hashlib  # noqa: PLC0415

    assert sparse_sha256(sparse) == hashlib.sha256(sparse.read_bytes()).hexdigest()
