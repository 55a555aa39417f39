"""What every store promises, against every store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse, HTTPHeaders
from botocore.exceptions import ConnectionClosedError

from coreimage.errors import (
    ConflictError,
    DiskFullError,
    HostError,
    InfrastructureError,
    NotFoundError,
    UsageError,
    VerificationError,
)
from coreimage.storage import Store, open_store
from coreimage.storage.directory import DirectoryStore
from coreimage.storage.s3 import S3Store
from tests.harness.kill import Killed, KillStore, for_each_kill_point
from tests.harness.memory_store import MemoryStore
from tests.harness.s3 import S3Server

TEXT = "text/plain"


@pytest.fixture(params=["memory", "directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "directory":
        return open_store((tmp_path / "store with blank").as_uri())
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{server.bucket}/{uuid.uuid4().hex}")


def read(store: Store, key: str, start: int = 0, stop: int | None = None) -> bytes:
    with store.open(key, start=start, stop=stop) as file:
        return file.read()


def put(store: Store, key: str, content: bytes = b"x") -> str:
    return store.put_bytes(key, content, media_type=TEXT).etag


def test_put_and_read(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from a file")
    info = store.put_file("a/file", tmp_path / "file", media_type=TEXT)
    found = store.head("a/file")
    assert found
    assert (info.key, info.size_bytes, info.etag) == ("a/file", 11, found.etag) == (found.key, 11, found.etag)
    assert abs(info.modified - found.modified) < timedelta(seconds=5)
    assert read(store, "a/file") == b"from a file"
    put(store, "a/file", b"new")
    assert read(store, "a/file") == b"new"
    assert isinstance(store, MemoryStore) or open_store(store.url).head("a/file") == store.head("a/file")


def test_ranges(store: Store) -> None:
    put(store, "k", b"0123456789")
    assert read(store, "k", 3) == b"3456789"
    assert read(store, "k", 3, 5) == b"34"
    assert read(store, "k", 8, 50) == b"89"
    assert read(store, "k", 5, 5) == read(store, "k", 50) == b""
    put(store, "empty", b"")
    assert read(store, "empty") == b""


def test_absent_things(store: Store, tmp_path: Path) -> None:
    assert store.head("none") is None
    store.delete(["none", "no/ne"])
    for action in (lambda: read(store, "none"), lambda: store.copy("none", "b")):
        with pytest.raises(NotFoundError):
            action()
    with pytest.raises(NotFoundError):
        store.put_file("k", tmp_path / "none", media_type=TEXT)
    assert list(store.list()) == []


def test_conditions(store: Store) -> None:
    first = store.put_bytes("k", b"1", media_type=TEXT, if_absent=True)
    with pytest.raises(ConflictError):
        store.put_bytes("k", b"2", media_type=TEXT, if_absent=True)
    store.put_bytes("k", b"3", media_type=TEXT, if_match=first.etag)
    with pytest.raises(ConflictError):
        store.put_bytes("k", b"4", media_type=TEXT, if_match=first.etag)
    with pytest.raises(ConflictError):
        store.put_bytes("none", b"5", media_type=TEXT, if_match=first.etag)
    assert read(store, "k") == b"3"
    assert store.head("none") is None


def test_copies(store: Store) -> None:
    put(store, "a", b"a")
    put(store, "b", b"b")
    store.copy("a", "c/d")
    with pytest.raises(ConflictError):
        store.copy("a", "b", if_absent=True)
    assert (read(store, "c/d"), read(store, "b")) == (b"a", b"b")
    assert read(store, store.copy("a", "e", if_absent=True).key) == b"a"


def test_order_and_prefixes(store: Store) -> None:
    keys = ["a-b", "a/b", "a/b2/c", "a0", "ä/ö ü", "z"]
    for key in reversed(keys):
        put(store, key)
    assert [info.key for info in store.list()] == sorted(keys)
    assert [info.key for info in store.list("a/b")] == ["a/b", "a/b2/c"]
    assert [info.key for info in store.list("a/")] == ["a/b", "a/b2/c"]
    assert [info.key for info in store.list("ä")] == ["ä/ö ü"]
    assert list(store.list("q/")) == []


def test_folders_are_those_that_have_something(store: Store) -> None:
    for key in ("a/b/c/d", "a/b/e", "a/f", "a/g/h", "ab/c", "a/ä ö/i"):
        put(store, key)
    assert store.folders("a/") == ("b", "g", "ä ö")
    assert store.folders("a/b/") == ("c",)
    assert store.folders("a/b/c/") == store.folders("none/") == ()


@pytest.mark.parametrize("key", ["", "/a", "a/../b", "..", "a//b", "a/", "a\0b", "./a"])
def test_keys_that_leave_the_store(store: Store, key: str) -> None:
    for action in (lambda: put(store, key), lambda: store.head(key), lambda: store.delete([key])):
        with pytest.raises(VerificationError):
            action()


def test_many(store: Store) -> None:
    keys = [f"many/{number:04}" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: put(store, key), keys))
    assert [info.key for info in store.list("many/")] == keys
    store.delete(keys)
    assert list(store.list()) == []


def test_compare_and_swap_loses_no_increment(store: Store) -> None:
    put(store, "n", b"0")

    def increment(_: int) -> None:
        while True:
            found = store.head("n")
            assert found
            try:
                number = int(read(store, "n"))
                store.put_bytes("n", b"%d" % (number + 1), media_type=TEXT, if_match=found.etag)
            except ConflictError:
                continue
            return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increment, range(24)))
    assert read(store, "n") == b"24"


def race(count: int, action: Callable[[int], object]) -> int:
    """How many of `count` simultaneous tries do not lose."""
    gate = threading.Barrier(count)

    def attempt(number: int) -> bool:
        gate.wait()
        try:
            action(number)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(attempt, range(count)))


def test_one_creator_wins(store: Store) -> None:
    for turn in range(5):
        key = f"race/{turn}"
        assert race(8, lambda n, key=key: store.put_bytes(key, b"%d" % n, media_type=TEXT, if_absent=True)) == 1  # type: ignore[misc]


def test_readers_see_whole_objects(store: Store) -> None:
    put(store, "k", b"0" * 100_000)

    def write(number: int) -> None:
        put(store, "k", b"%d" % number * 100_000)

    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(write, number) for number in range(10)]
        while not all(future.done() for future in writes):
            content = read(store, "k")
            assert content == content[:1] * 100_000


def test_unknown_urls() -> None:
    for url in ("ftp://host/x", "s3:///x", "file://host/x"):
        with pytest.raises(UsageError):
            open_store(url)


# A directory


def test_etags_of_quick_writes_differ(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    assert len({put(store, "k", b"%04d" % number) for number in range(500)}) == 500


def test_an_object_is_no_folder(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    put(store, "a")
    put(store, "b/c")
    for key in ("a/b", "b"):
        for if_absent in (False, True):
            with pytest.raises(ConflictError, match="folder"):
                store.put_bytes(key, b"", media_type=TEXT, if_absent=if_absent)
    with pytest.raises(VerificationError):
        put(store, ".coreimage/lock")


def test_put_beside_delete(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)

    def turn(number: int) -> None:
        for _ in range(50):
            put(store, f"d/e/{number}")
            store.delete([f"d/e/{number}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(turn, range(4)))
    assert [path.name for path in tmp_path.iterdir()] == [".coreimage"]


def test_a_killed_writer_leaves_nothing_visible(tmp_path: Path) -> None:
    script = (
        "import os, signal, stat, sys; from pathlib import Path\n"
        "from coreimage.storage.directory import DirectoryStore\n"
        "def killed(fd): stat.S_ISREG(os.fstat(fd).st_mode) and os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.fsync = killed\n"
        "DirectoryStore(Path(sys.argv[1])).put_bytes('k', b'half', media_type='')"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=root, check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = (tmp_path / ".coreimage").glob("tmp-*")
    store = DirectoryStore(tmp_path)
    assert list(store.list()) == []
    os.utime(left, (0, 0))
    put(store, "k", b"whole")
    assert not left.exists()
    assert read(store, "k") == b"whole"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store = DirectoryStore(tmp_path)
    with pytest.raises(DiskFullError, match="the disk is full"):
        put(store, "a/b")
    assert [path.name for path in tmp_path.rglob("*")] == [".coreimage"]


# S3


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server.bucket


def uploads(store: S3Store) -> object:
    return store._client.list_multipart_uploads(Bucket=store._bucket, Prefix=store._prefix).get("Uploads")


def test_large_files_go_up_in_parts(bucket: str, tmp_path: Path) -> None:
    store = S3Store(bucket, uuid.uuid4().hex, part_bytes=5 << 20)
    content = os.urandom(12 << 20)
    (tmp_path / "big").write_bytes(content)
    info = store.put_file("big", tmp_path / "big", media_type=TEXT, if_absent=True)
    assert read(store, "big") == content
    with pytest.raises(ConflictError):
        store.put_file("big", tmp_path / "big", media_type=TEXT, if_absent=True)
    store.put_file("big", tmp_path / "big", media_type=TEXT, if_match=info.etag)
    assert not uploads(store)


def test_large_copies_are_made_of_parts(bucket: str) -> None:
    store = S3Store(bucket, uuid.uuid4().hex, copy_part_bytes=5 << 20)
    content = os.urandom(12 << 20)
    put(store, "big", content)
    for if_absent in (False, True):
        info = store.copy("big", f"copy-{if_absent}", if_absent=if_absent)
        assert info.size_bytes == len(content)
        assert read(store, info.key) == content
    assert not uploads(store)


def lose_answer(store: S3Store) -> None:
    """The server does what the store's next conditional write asks for, and the answer gets lost on the way."""
    client: Any = store._once
    connection = client._endpoint.http_session
    send = connection.send

    def lose(request: Any) -> None:
        connection.send = send
        send(request)
        lost: Exception = ConnectionClosedError(endpoint_url=request.url)
        raise lost

    connection.send = lose


def test_a_lost_answer_to_a_conditional_write_is_no_conflict(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(6 << 20))
    store = S3Store(bucket, uuid.uuid4().hex, part_bytes=5 << 20)
    old = put(store, "old", b"old")
    for action in (
        lambda: store.put_bytes("k", b"mine", media_type=TEXT, if_absent=True),
        lambda: store.put_bytes("old", b"mine", media_type=TEXT, if_match=old),
        lambda: store.put_file("big", tmp_path / "big", media_type=TEXT, if_absent=True),
        lambda: store.copy("k", "copy", if_absent=True),
    ):
        lose_answer(store)
        info = action()  # type: ignore[no-untyped-call]
        found = store.head(info.key)
        assert found
        assert (found.etag, found.size_bytes) == (info.etag, info.size_bytes)
    with pytest.raises(ConflictError):
        store.put_bytes("k", b"other", media_type=TEXT, if_absent=True)
    assert read(store, "k") == read(store, "old") == read(store, "copy") == b"mine"
    assert not uploads(store)


def test_a_lost_answer_to_a_losing_write_is_a_conflict(bucket: str) -> None:
    store = S3Store(bucket, uuid.uuid4().hex)
    put(store, "k", b"theirs")
    conditions: tuple[dict[str, Any], ...] = ({"if_absent": True}, {"if_match": '"other"'})
    for condition in conditions:
        lose_answer(store)
        with pytest.raises(ConflictError):
            store.put_bytes("k", b"mine", media_type=TEXT, **condition)
    assert read(store, "k") == b"theirs"


def answer(status: int, code: str) -> Any:
    """Answers in the server's place, as S3 does."""

    def send(request: Any, **_: Any) -> Any:
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        headers: Any = HTTPHeaders()
        raw: Any = SimpleNamespace(stream=lambda: [body])
        return AWSResponse(request.url, status, headers, raw)

    return send


def test_a_failing_abort_does_not_hide_what_failed_first(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(6 << 20))
    store = S3Store(bucket, uuid.uuid4().hex, part_bytes=5 << 20)
    events = store._client.meta.events
    events.register("before-send.s3.UploadPart", answer(403, "AccessDenied"))
    events.register("before-send.s3.AbortMultipartUpload", answer(400, "InvalidRequest"))
    with pytest.raises(HostError, match="refused us"):
        store.put_file("k", tmp_path / "big", media_type=TEXT)


def test_a_put_to_a_missing_bucket_is_said_so(bucket: str, tmp_path: Path) -> None:
    """Answered here: SeaweedFS makes the bucket."""
    (tmp_path / "big").write_bytes(bytes(6 << 20))
    store = S3Store(bucket, uuid.uuid4().hex, part_bytes=5 << 20)
    for client in (store._client, store._once):
        client.meta.events.register("before-send.s3", answer(404, "NoSuchBucket"))
    for action in (
        lambda: put(store, "k"),
        lambda: store.put_bytes("k", b"", media_type=TEXT, if_absent=True),
        lambda: store.put_bytes("k", b"", media_type=TEXT, if_match='"x"'),
        lambda: store.put_file("k", tmp_path / "big", media_type=TEXT),
        lambda: read(store, "k"),
    ):
        with pytest.raises(HostError, match="bucket does not exist"):
            action()


def test_a_clock_that_is_off_is_said_so(bucket: str) -> None:
    """Answered here, as AWS does: SeaweedFS looks at the signature only."""
    store = S3Store(bucket, uuid.uuid4().hex)
    for client in (store._client, store._once):
        client.meta.events.register("before-send.s3", answer(403, "RequestTimeTooSkewed"))
    for action in (lambda: put(store, "k"), lambda: list(store.list()), lambda: read(store, "k")):
        with pytest.raises(HostError, match="clock is off"):
            action()


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", HostError),
        ("AWS_ACCESS_KEY_ID", "nobody", HostError),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1", InfrastructureError),
    ],
)
def test_s3_errors(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, name: str, value: str, error: type[Exception]
) -> None:
    for key, good in s3_server.environment().items():
        monkeypatch.setenv(key, good)
    monkeypatch.setenv(name, value)
    store = open_store(f"s3://{s3_server.bucket}/x")
    for action in (lambda: put(store, "k"), lambda: list(store.list())):
        with pytest.raises(error):
            action()


def test_a_missing_bucket(bucket: str) -> None:
    with pytest.raises(HostError, match="bucket does not exist"):
        list(S3Store("no-such-bucket").list())


# The kill harness


def test_every_kill_point_is_met(tmp_path: Path) -> None:
    def copy_then_point(store: Store) -> None:
        put(store, "data")
        put(store, "pointer")

    def pointer_names_data(store: Store) -> None:
        assert not store.head("pointer") or store.head("data")

    def stores() -> Store:
        return DirectoryStore(tmp_path / uuid.uuid4().hex)

    assert for_each_kill_point(stores, copy_then_point, pointer_names_data) == 2

    def wrong_order(store: Store) -> None:
        put(store, "pointer")
        put(store, "data")

    with pytest.raises(AssertionError):
        for_each_kill_point(stores, wrong_order, pointer_names_data)


def test_the_dead_touch_nothing(tmp_path: Path) -> None:
    doomed = KillStore(DirectoryStore(tmp_path), at=1)
    for action in (lambda: put(doomed, "a"), lambda: put(doomed, "b"), lambda: doomed.head("a")):
        with pytest.raises(Killed):
            action()
    assert list(doomed.store.list()) == []
