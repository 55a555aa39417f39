"""Which tree a command reads, whom it trusts, and what it remembers of servers; nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.client import Seen
from coreimage.errors import HostError, NotFoundError, UsageError
from coreimage.operations import tree_source
from coreimage.operations.tree_source import TreeSource, server_keyring, store_keyring
from coreimage.storage import open_store


def source(tmp_path: Path, server: str | None = None) -> TreeSource:
    return TreeSource((tmp_path / "store").as_uri(), tmp_path / "servers", server)


def test_the_web_root_is_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert source(tmp_path).url == f"{(tmp_path / 'store').as_uri()}/system-image"
    assert source(tmp_path, "https://example.com/x").url == "https://example.com/x"
    assert source(tmp_path, "mirror").url == (tmp_path / "mirror").as_uri()


def test_nobody_is_trusted_unless_somebody_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_source, "_INSTALLED", (tmp_path / "absent", tmp_path / "installed"))
    with pytest.raises(UsageError, match="--keyring"):
        server_keyring("https://example.com", None)
    (tmp_path / "installed").write_bytes(b"of the device")
    assert server_keyring("https://example.com", None) == b"of the device"
    (tmp_path / "named").write_bytes(b"of the command line")
    assert server_keyring("https://example.com", tmp_path / "named") == b"of the command line"


def test_a_store_is_trusted_by_its_own_keyring(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(NotFoundError, match="coreimage build CHANNEL"):
        store_keyring(store)
    store.put_bytes("system-image/gpg/archive-master.tar.xz", b"own", media_type="")
    assert store_keyring(store) == b"own"


def test_what_was_seen_of_a_server_is_remembered(tmp_path: Path) -> None:
    record = tmp_path / "servers/a.json"
    assert tree_source._read_seen(record) == Seen()
    tree_source._write_seen(record, "https://example.com", Seen(number=7, sha256="ab"))
    assert tree_source._read_seen(record) == Seen(number=7, sha256="ab")
    assert [path.name for path in record.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"number": "x", "sha256": ""}', b"\xff"])
def test_a_damaged_record_is_an_error_and_not_a_first_visit(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(HostError, match="old channels would go unnoticed"):
        tree_source._read_seen(tmp_path / "a.json")


def test_a_record_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "servers").write_text("a file")
    with pytest.raises(HostError, match="cannot be written"):
        tree_source._write_seen(tmp_path / "servers/a.json", "https://example.com", Seen())
