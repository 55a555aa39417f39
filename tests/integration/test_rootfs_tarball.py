from __future__ import annotations

import lzma
from pathlib import Path

from coreimage.process import run
from coreimage.tarball import XzFilter, compress_xz


def test_xz_has_the_same_bytes_for_any_number_of_threads(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"".join(number.to_bytes(4, "big") for number in range(5 << 20)))
    for threads in (1, 5):
        compress_xz(source, tmp_path / str(threads), run=run, preset=0, filters=XzFilter.X86, threads=threads)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "5").read_bytes()
    assert lzma.decompress((tmp_path / "1").read_bytes()) == source.read_bytes()
