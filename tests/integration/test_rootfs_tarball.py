from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from coreimage.errors import ProcessError
from coreimage.host.process import Completed, run
from coreimage.tarball import compress_xz, gzip_writer, stored_xz, written_by
from tests.harness.tools import SharedTools

CONTENT = b"".join(number.to_bytes(4, "big") for number in range(5 << 20))


def _produce(file: IO[bytes]) -> None:
    file.write(CONTENT)


def test_xz_has_the_same_bytes_for_any_number_of_threads(tmp_path: Path) -> None:
    for threads in (1, 5):
        compress_xz(_produce, tmp_path / str(threads), run=run, lzma="preset=0", code_filter="x86", threads=threads)
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
        compress_xz(_produce, tmp_path / "x.xz", run=run, lzma="preset=77")
    assert not list(tmp_path.iterdir())


def test_of_a_pipe_s_two_ends_the_one_is_told_that_failed_first() -> None:
    def cut_off(file: IO[bytes]) -> None:
        file.write(b"begun")
        raise LookupError("no more")

    def unread(file: IO[bytes]) -> None:
        with pytest.raises(BrokenPipeError):
            _produce(file)
        raise LookupError("nobody reads")

    def read(produce: Callable[[IO[bytes]], None], size: int) -> None:
        with written_by(produce) as content:
            content.read(size)
            raise EOFError("not what it should be")

    with pytest.raises(LookupError, match="no more"):
        read(cut_off, -1)
    with pytest.raises(EOFError, match="not what it should be"):
        read(unread, 1)


def test_gzip_is_the_tree_s_and_says_neither_name_nor_time(tools: SharedTools, tmp_path: Path) -> None:
    for name in ("a", "b"):
        with gzip_writer(tmp_path / name, run=tools.run) as file:
            file.write(CONTENT)
    packed = (tmp_path / "a").read_bytes()
    assert packed == (tmp_path / "b").read_bytes()
    assert packed[3:8] == bytes(5), "flags and time (RFC 1952)"
    assert gzip.decompress(packed) == CONTENT


def test_a_failed_gzip_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with gzip_writer(tmp_path / "a", run=run) as file:
            file.write(CONTENT)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_gzip_that_ends_early_is_named_and_ends_its_writer(tmp_path: Path) -> None:
    def broken(argv: Sequence[str | Path], **options: Any) -> Completed:
        return run(["sh", "-c", "head -c 9 >/dev/null; echo no room >&2; exit 3"], **options)

    with pytest.raises(ProcessError, match="no room"), gzip_writer(tmp_path / "a", run=broken) as file:
        file.write(CONTENT)
    assert not list(tmp_path.iterdir())


def test_stored_xz_passes_xz_s_own_check() -> None:
    assert run(["xz", "--test", "--verbose"], stdin=stored_xz(CONTENT[:200_000])).status == 0
