from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from coreimage.errors import ConflictError, LostWriteError
from coreimage.model import TEXT
from coreimage.storage import open_store, read_bytes, retry_lost_writes, swap


def test_what_is_decided_is_written_and_the_same_is_not(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert swap(store, "n", lambda present: (present or b"") + b"1", media_type=TEXT)
    written = store.head("n")
    assert not swap(store, "n", lambda present: present or b"", media_type=TEXT)
    assert store.head("n") == written
    assert read_bytes(store, "n") == b"1"


@pytest.mark.parametrize("before", [None, b"0"], ids=["a new object", "an old object"])
def test_the_loser_decides_again_from_what_the_winner_wrote(tmp_path: Path, before: bytes | None) -> None:
    store = open_store(str(tmp_path))
    if before:
        store.put_bytes("n", before, media_type=TEXT)
    seen: list[bytes | None] = []

    def decide(present: bytes | None) -> bytes:
        seen.append(present)
        if len(seen) == 1:
            store.put_bytes("n", b"winner", media_type=TEXT)
        return (present or b"") + b" loser"

    assert swap(store, "n", decide, media_type=TEXT)
    assert seen == [before, b"winner"]
    assert read_bytes(store, "n") == b"winner loser"


def test_attempts_are_bounded_with_growing_random_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("coreimage.storage.swap"), "LONGEST_PAUSE_S", 0.5)
    pauses_s: list[float] = []

    def attempt() -> None:
        raise LostWriteError("lost")

    with pytest.raises(ConflictError, match="50 times in a row") as raised:
        retry_lost_writes(attempt, where="s3://b/k", pause=pauses_s.append)
    assert not isinstance(raised.value, LostWriteError)
    assert raised.value.where == "s3://b/k"
    assert len(pauses_s) == 50
    assert pauses_s[0] <= 0.01
    assert 0.1 < max(pauses_s) <= 0.5
    assert len(set(pauses_s)) > 25


def test_a_conflict_that_is_no_lost_write_ends_at_once() -> None:
    calls = []

    def attempt() -> None:
        calls.append(1)
        raise ConflictError("an alias follows it")

    with pytest.raises(ConflictError, match="alias"):
        retry_lost_writes(attempt, where="", pause=lambda _: pytest.fail("no pause"))
    assert calls == [1]
