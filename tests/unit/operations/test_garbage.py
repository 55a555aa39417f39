from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coreimage.model import JSON, LockedPackage, PackageLock
from coreimage.operations.garbage import collect_blobs, digests, needed_blobs
from coreimage.rootfs import lock_pointer, move_lock_pointer, note_released, store_lock
from coreimage.storage import Store, open_store, put_blob_bytes

LATER = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def blob(store: Store, content: str) -> str:
    return put_blob_bytes(store, content.encode(), "x").sha256


def locked(store: Store, *debs: str) -> PackageLock:
    packages = tuple(
        LockedPackage(
            name=deb,
            version="1",
            architecture="all",
            sha256=blob(store, deb),
            size_bytes=1,
            filename="f",
            archive="u s",
        )
        for deb in debs
    )
    return PackageLock(architecture="amd64", epoch=1, packages=packages, releases=())


def left(store: Store) -> set[bytes]:
    found = set()
    for info in store.list("blobs/"):
        with store.open(info.key) as file:
            found.add(file.read())
    return found


def test_only_what_nothing_needs_goes(store: Store, tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    pointer = lock_pointer("p", "13", "core", "amd64")
    old, new = locked(store, "old deb", "kept deb"), locked(store, "kept deb", "new deb")
    move_lock_pointer(pointer, store_lock(store, old), store)
    move_lock_pointer(pointer, store_lock(store, new), store)
    released = locked(store, "released deb")
    note_released(pointer, "p/13/edge", store_lock(store, released), store)
    published = locked(store, "published deb")
    store.put_bytes("cdimage/p/13/daily/20260101/a.lock.json", published.model_dump_json().encode(), media_type=JSON)
    store.put_bytes("inputs/plan/x.json", f'"{blob(store, "told of")}"'.encode(), media_type=JSON)
    (records / "build-rootfs-x").write_text(f'{{"result": "\\"{blob(store, "result")}\\""}}')
    blob(store, "unused")
    before = left(store)
    removed, left_bytes = collect_blobs(store, records, budget_bytes=0, dry_run=True, now=LATER)
    assert left(store) == before
    assert collect_blobs(store, records, budget_bytes=0, dry_run=False, now=LATER) == (removed, left_bytes)
    gone = before - left(store)
    debs = {b"old deb", b"released deb", b"told of", b"unused"}
    assert debs < gone
    assert gone - debs == {f"{old.model_dump_json(indent=1)}\n".encode()}
    assert sum(map(len, left(store))) == left_bytes


def test_what_was_just_written_stays(store: Store, tmp_path: Path) -> None:
    blob(store, "of a running build")
    assert collect_blobs(store, tmp_path / "none", budget_bytes=0, dry_run=False)[0] == ()


def test_a_lost_lock_needs_nothing(store: Store, tmp_path: Path) -> None:
    ref = store_lock(store, locked(store, "deb"))
    move_lock_pointer(lock_pointer("p", "13", "core", "amd64"), ref, store)
    store.delete([ref.uri])
    assert needed_blobs(store, tmp_path / "none") == {ref.uri}


def test_digests_are_whole_words() -> None:
    assert digests(f'{{"a": "{"a" * 64}"}} x{"b" * 64}. {"c" * 65}'.encode()) == {"a" * 64, "b" * 64}
