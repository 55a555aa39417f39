from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from coreimage.disk_image import sparse_sha256
from coreimage.disk_image.images import compress, decompress
from coreimage.errors import VerificationError
from coreimage.host.process import run

SIZE_BYTES = (40 << 20) + 512


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.write(b"start")
        file.seek((20 << 20) + 7)
        file.write(b"middle" * 1000)
        file.truncate(SIZE_BYTES)
    return path


def test_there_and_back_with_holes(sparse: Path, tmp_path: Path) -> None:
    compressed = compress(sparse, tmp_path / "disk.img.zst", run=run)
    with compressed.open("rb") as source:
        back = decompress(source, tmp_path / "back.img", SIZE_BYTES, run=run)
    assert back.read_bytes() == sparse.read_bytes()
    assert back.stat().st_blocks * 512 < 2 << 20


def test_the_bytes_do_not_depend_on_the_cores(sparse: Path, tmp_path: Path) -> None:
    by_threads = {compress(sparse, tmp_path / str(count), run=run, threads=count).read_bytes() for count in (1, 2, 5)}
    assert len(by_threads) == 1


@pytest.mark.parametrize(("cut_bytes", "size_bytes"), [(20, SIZE_BYTES), (0, SIZE_BYTES + 1), (0, SIZE_BYTES - 512)])
def test_what_is_cut_or_of_another_size_is_refused(
    sparse: Path, tmp_path: Path, cut_bytes: int, size_bytes: int
) -> None:
    content = compress(sparse, tmp_path / "disk.img.zst", run=run).read_bytes()
    with pytest.raises(VerificationError, match="damaged"):
        decompress(io.BytesIO(content[: len(content) - cut_bytes]), tmp_path / "back.img", size_bytes, run=run)


def test_the_digest_counts_holes_as_zeros(sparse: Path) -> None:
    assert sparse_sha256(sparse) == hashlib.sha256(sparse.read_bytes()).hexdigest()
