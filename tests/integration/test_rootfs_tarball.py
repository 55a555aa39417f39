from __future__ import annotations

import lzma
from pathlib import Path
from typing import IO

import pytest

from coreimage.errors import ProcessError
from coreimage.process import run
from coreimage.tarball import XzFilter, compress_xz

CONTENT = b"".join(number.to_bytes(4, "big") for number in range(5 << 20))


def _produce(file: IO[bytes]) -> None:
    file.write(CONTENT)


def test_xz_has_the_same_bytes_for_any_number_of_threads(tmp_path: Path) -> None:
    for threads in (1, 5):
        compress_xz(_produce, tmp_path / str(threads), run=run, preset=0, filters=XzFilter.X86, threads=threads)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "5").read_bytes()
    assert lzma.decompress((tmp_path / "1").read_bytes()) == CONTENT


def test_a_producer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(file: IO[bytes]) -> None:
        file.write(b"begun")
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        compress_xz(fail, tmp_path / "x.xz", run=run)
    assert not list(tmp_path.iterdir())


def test_an_xz_that_fails_ends_its_producer_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProcessError):
        compress_xz(_produce, tmp_path / "x.xz", run=run, preset=77)
    assert not list(tmp_path.iterdir())
