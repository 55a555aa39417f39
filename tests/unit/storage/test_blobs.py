"""Whatever is in the store under a digest: other bytes are never handed out."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from coreimage.errors import NotFoundError, VerificationError
from coreimage.model import TEXT
from coreimage.storage import fetch_blob, open_blob, put_blob_bytes, put_blob_file, read_blob
from tests.harness.memory_store import MemoryStore

CONTENT = b"content of the blob"
DAMAGED = pytest.mark.parametrize(
    "stored", [CONTENT[:-1] + b"?", CONTENT[:-1], CONTENT + b"more", b""], ids=["other", "cut", "longer", "empty"]
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_a_blob_is_written_once_and_read_back(store: MemoryStore, tmp_path: Path) -> None:
    ref = put_blob_bytes(store, CONTENT, TEXT)
    written = store.head(ref.uri)
    (tmp_path / "file").write_bytes(CONTENT)
    assert put_blob_bytes(store, CONTENT, TEXT) == put_blob_file(store, tmp_path / "file", TEXT) == ref
    assert store.head(ref.uri) == written
    assert read_blob(store, ref) == fetch_blob(store, ref, tmp_path / "copy").read_bytes() == CONTENT


@DAMAGED
def test_other_bytes_are_refused_when_read(store: MemoryStore, stored: bytes) -> None:
    ref = put_blob_bytes(store, CONTENT, TEXT)
    store.put_bytes(ref.uri, stored, media_type=TEXT)
    with pytest.raises(VerificationError, match="not those that were recorded"):
        read_blob(store, ref)


@DAMAGED
def test_other_bytes_are_refused_when_fetched_and_nothing_is_left(
    store: MemoryStore, tmp_path: Path, stored: bytes
) -> None:
    ref = put_blob_bytes(store, CONTENT, TEXT)
    store.put_bytes(ref.uri, stored, media_type=TEXT)
    with pytest.raises(VerificationError, match="not those that were recorded"):
        fetch_blob(store, ref, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


@DAMAGED
def test_other_bytes_are_refused_at_the_end_of_a_stream(store: MemoryStore, stored: bytes) -> None:
    ref = put_blob_bytes(store, CONTENT, TEXT)
    store.put_bytes(ref.uri, stored, media_type=TEXT)
    with open_blob(store, ref) as file, pytest.raises(VerificationError, match="not those that were recorded"):
        deque(iter(lambda: file.read(4), b""))


def test_a_reference_of_another_size_is_refused(store: MemoryStore) -> None:
    ref = put_blob_bytes(store, CONTENT, TEXT)
    with pytest.raises(VerificationError, match="not those that were recorded"):
        read_blob(store, ref.model_copy(update={"size_bytes": ref.size_bytes + 1}))


def test_an_absent_blob_is_not_found(store: MemoryStore) -> None:
    ref = put_blob_bytes(store, CONTENT, TEXT)
    store.delete([ref.uri])
    with pytest.raises(NotFoundError):
        read_blob(store, ref)
