from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.errors import UsageError, VerificationError
from coreimage.model import JSON
from coreimage.storage import open_store, require_format


def test_a_fresh_store_is_marked_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    require_format(store)
    marked = store.head("format.json")
    require_format(store)
    assert marked is not None
    assert store.head("format.json") == marked


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put_bytes("format.json", b'{"format": 2}', media_type=JSON)
    with pytest.raises(UsageError, match="format 2, this coreimage knows up to 1"):
        require_format(store)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": "x"}', b"{}"])
def test_a_spoiled_mark_is_refused(tmp_path: Path, content: bytes) -> None:
    store = open_store(str(tmp_path))
    store.put_bytes("format.json", content, media_type=JSON)
    with pytest.raises(VerificationError, match="names no format"):
        require_format(store)
