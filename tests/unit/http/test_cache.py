from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from coreimage.errors import HostError, VerificationError
from coreimage.http import DownloadCache

CONTENT = b"payload" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Origin:
    """Counts how often it is asked, and from where on."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content, self.starts = content, list[int]()

    def __call__(self, part: BinaryIO) -> None:
        start = part.seek(0, os.SEEK_END)
        self.starts.append(start)
        part.write(self.content[start:])


def test_the_second_time_nothing_is_asked(tmp_path: Path) -> None:
    origin, cache = Origin(), DownloadCache(tmp_path / "cache")
    for name in ("a", "b"):
        cache.fetch(SHA256, tmp_path / name, origin)
        assert (tmp_path / name).read_bytes() == CONTENT
    assert origin.starts == [0]


def test_a_damaged_entry_is_not_believed(tmp_path: Path) -> None:
    origin, cache = Origin(), DownloadCache(tmp_path / "cache")
    cache.fetch(SHA256, tmp_path / "a", origin)
    (tmp_path / "a").unlink()
    (tmp_path / "cache" / SHA256).write_bytes(b"x" * len(CONTENT))
    cache.fetch(SHA256, tmp_path / "b", origin)
    assert (tmp_path / "b").read_bytes() == CONTENT
    assert origin.starts == [0, 0]


def test_what_a_killed_run_left_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{SHA256}.part").write_bytes(CONTENT[:500])
    origin = Origin()
    DownloadCache(tmp_path / "cache").fetch(SHA256, tmp_path / "a", origin)
    assert origin.starts == [500]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [SHA256]


def test_other_content_never_gets_in(tmp_path: Path) -> None:
    cache = DownloadCache(tmp_path / "cache")
    with pytest.raises(VerificationError):
        cache.fetch(SHA256, tmp_path / "a", Origin(b"other"))
    assert not (tmp_path / "a").exists()
    cache.fetch(SHA256, tmp_path / "a", Origin())
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_many_at_once_ask_once(tmp_path: Path) -> None:
    origin, cache = Origin(), DownloadCache(tmp_path / "cache")
    threads = [threading.Thread(target=cache.fetch, args=(SHA256, tmp_path / str(n), origin)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert origin.starts == [0]
    assert all((tmp_path / str(n)).read_bytes() == CONTENT for n in range(8))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = DownloadCache(tmp_path / "cache", limit_bytes=250)
    names = []
    for number in range(4):
        content = bytes([number]) * 100
        names.append(hashlib.sha256(content).hexdigest())
        cache.fetch(names[-1], tmp_path / "target", Origin(content))
        os.utime(tmp_path / "cache" / names[-1], (number, number))
        if number == 1:
            cache.fetch(names[0], tmp_path / "target", Origin(b""))
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {names[0], names[3]}


def test_clearing_empties_it_and_a_full_disk_leaves_no_part(tmp_path: Path) -> None:
    def full(part: BinaryIO) -> None:
        part.write(b"half")
        raise HostError("the disk is full")

    cache = DownloadCache(tmp_path / "cache")
    with pytest.raises(HostError):
        cache.fetch(SHA256, tmp_path / "a", full)
    assert all(path.stat().st_size == 0 for path in (tmp_path / "cache").iterdir())
    cache.fetch(SHA256, tmp_path / "a", Origin())
    cache.clear()
    assert list((tmp_path / "cache").iterdir()) == []
    assert (tmp_path / "a").read_bytes() == CONTENT
