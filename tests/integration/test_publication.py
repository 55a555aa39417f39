"""Publication into a directory and a bucket: signed and verified by real GnuPG, publishers killed with SIGKILL."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from coreimage.errors import HostError, VerificationError
from coreimage.host.process import run
from coreimage.model import TEXT, PublishedBuild
from coreimage.publication import (
    BuildContent,
    BuildTree,
    complete_builds,
    mark_good,
    parse_build_id,
    publish_build,
    read_build,
)
from coreimage.signing import GnupgSigner, Role, create_keys, verify_detached
from coreimage.storage import Store, read_bytes
from coreimage.storage.directory import DirectoryStore
from coreimage.storage.s3 import S3Store
from tests.harness.s3 import S3Server
from tests.unit.publication.builds import NOON, boot_report, content
from tests.unit.publication.stores import WatchedStore

# Not children of this process itself: other tests' threads and exit hooks, such as Prefect's, do not survive a fork.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload([__name__])
TREE = BuildTree(project="debian-core", series="13", image_type="daily-preinstalled")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> GnupgSigner:
    return new_signer(tmp_path_factory.mktemp("keys"))


def new_signer(folder: Path) -> GnupgSigner:
    create_keys(folder, bits=dict.fromkeys(Role, 2048))
    return GnupgSigner(folder)


def verify(store: Store, published: PublishedBuild, signer: GnupgSigner) -> None:
    keyring = signer.public_key(Role.CDIMAGE)
    checksums = read(store, published.checksums.uri)
    signed_by = verify_detached(checksums, read(store, published.signature.uri), [keyring])
    assert signed_by == signer.fingerprint(Role.CDIMAGE)


def read(store: Store, key: str) -> bytes:
    found = read_bytes(store, key)
    assert found is not None, key
    return found


def check_as_a_poller(store: Store, signer: GnupgSigner) -> list[str]:
    """The ids of the builds that stand there, each verified whole; the pointers name none but these.

    The pointers are read first, as by whoever follows them: a publisher may be at work.
    """
    pending, current = read_bytes(store, TREE.pending_key), read_bytes(store, TREE.current_key)
    builds = complete_builds(TREE, store=store)
    for build_id in builds:
        published = read_build(TREE, build_id, store=store)
        verify(store, published, signer)
        for file in published.files:
            assert hashlib.sha256(read(store, file.artifact.uri)).hexdigest() == file.artifact.sha256
    ids = [str(build_id) for build_id in builds]
    assert pending is None or json.loads(pending)["build_id"] in ids
    assert current is None or all(good["build_id"] in ids for good in json.loads(current)["architectures"].values())
    return ids


def test_sha256sum_and_gpg_accept_what_is_published(tmp_path: Path, signer: GnupgSigner) -> None:
    store = DirectoryStore(tmp_path)
    published = publish_build(content(store), store=store, signer=signer, now=NOON)
    run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / published.prefix)
    mark_good(published, "amd64", [boot_report(store)], store=store, now=NOON)
    assert check_as_a_poller(store, signer) == ["20261123"]
    assert read(store, published.signature.uri).startswith(b"-----BEGIN PGP SIGNATURE-----")


def test_a_file_changed_together_with_its_checksum_is_refused(tmp_path: Path, signer: GnupgSigner) -> None:
    store = DirectoryStore(tmp_path)
    published = publish_build(content(store), store=store, signer=signer, now=NOON)
    file = published.files[-1].artifact
    changed = read(store, published.checksums.uri).decode().replace(file.sha256, hashlib.sha256(b"other").hexdigest())
    store.put_bytes(file.uri, b"other", media_type=file.media_type)
    store.put_bytes(published.checksums.uri, changed.encode(), media_type=TEXT)
    with pytest.raises(VerificationError, match="does not match the content"):
        check_as_a_poller(store, signer)


def test_without_the_key_nothing_is_published(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    built = content(store)
    with pytest.raises(HostError, match="cdimage key is not on this machine"):
        publish_build(built, store=store, signer=GnupgSigner(tmp_path / "keys"), now=NOON)
    assert not list(store.list("cdimage/"))


def test_a_signature_left_by_a_kill_is_replaced_when_the_key_was(tmp_path: Path, signer: GnupgSigner) -> None:
    store = DirectoryStore(tmp_path / "store")
    built = content(store)
    published = publish_build(built, store=store, signer=new_signer(tmp_path / "old keys"), now=NOON)
    store.delete([published.checksums.uri])
    publish_build(built, store=store, signer=signer, now=NOON)
    assert check_as_a_poller(store, signer) == ["20261123"]


def test_a_right_signature_stays_since_another_publisher_may_have_recorded_it(
    tmp_path: Path, signer: GnupgSigner
) -> None:
    store = DirectoryStore(tmp_path / "store")
    built = content(store)
    published = publish_build(built, store=store, signer=signer, now=NOON)
    file = tmp_path / "store" / published.signature.uri
    before = file.stat().st_ino
    store.delete([published.checksums.uri])
    assert publish_build(built, store=store, signer=signer, now=NOON) == published
    assert file.stat().st_ino == before, "it was not even written again"


def publish_and_mark(built: BuildContent, store: Store, signer: GnupgSigner, *, days_later: int = 0) -> str:
    now = NOON + timedelta(days=days_later)
    published = publish_build(built, store=store, signer=signer, now=now)
    mark_good(published, "amd64", [], store=store, now=now)
    return published.build_id


def die_at(root: Path, built: BuildContent, signer: GnupgSigner, call: int, *, after: bool) -> None:
    """What the child does: publishes, and is gone at the `call`-th call of the store."""
    calls = iter(range(1_000_000))

    def count(operation: str, key: str) -> None:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    store = DirectoryStore(root)
    publish_and_mark(built, WatchedStore(store, after=count) if after else WatchedStore(store, count), signer)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_call_a_rerun_completes_with_the_same_id(
    tmp_path: Path, signer: GnupgSigner, after: bool
) -> None:
    for call in range(1_000):
        root = tmp_path / f"{call}"
        store = DirectoryStore(root)
        built = content(store, logs="of the first run")
        child = CHILDREN.Process(target=die_at, args=(root, built, signer, call), kwargs={"after": after})
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        check_as_a_poller(store, signer)
        reserved = store.head(TREE.reservation_key(parse_build_id("20261123"))) is not None
        rerun = content(store, logs="of the rerun")
        assert publish_and_mark(rerun, store, signer, days_later=int(reserved)) == "20261123"
        assert check_as_a_poller(store, signer) == ["20261123"]
    assert call > 10


def die_at_request(url: str, environment: dict[str, str], built: BuildContent, signer: GnupgSigner, last: int) -> None:
    """What the child does: publishes into a bucket, and is gone before its `last`-th request (from 0) leaves."""
    os.environ.update(environment)
    store, requests = S3Store(*url.removeprefix("s3://").split("/")), iter(range(1_000_000))

    def count(**_: object) -> None:
        if next(requests) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    for client in (store._client, store._once):
        client.meta.events.register("before-send.s3", count)
    publish_and_mark(built, store, signer)


@contextmanager
def polling(store: Store, signer: GnupgSigner) -> Iterator[None]:
    """Looks at the tree all the time until the block is left, which raises what a look found wrong."""
    ended = threading.Event()

    def look() -> int:
        looks = 0
        while not ended.is_set():
            check_as_a_poller(store, signer)
            looks += 1
        return looks

    with ThreadPoolExecutor(1) as beside:
        looks = beside.submit(look)
        try:
            yield
        finally:
            ended.set()
        assert looks.result() > 0


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_killed_at_its_requests_to_a_bucket_no_poller_sees_half_a_build(
    s3_server: S3Server, signer: GnupgSigner, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    killed = 0
    for last in range(0, 10_000, every):
        store = S3Store(s3_server.bucket, f"killed-{every}-{last}")
        built = content(store, logs="of the first run")
        arguments = (store.url, s3_server.environment(), built, signer, last)
        child = CHILDREN.Process(target=die_at_request, args=arguments)
        with polling(store, signer):
            child.start()
            child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        killed += 1
        reserved = store.head(TREE.reservation_key(parse_build_id("20261123"))) is not None
        rerun = content(store, logs="of the rerun")
        with polling(store, signer):
            assert publish_and_mark(rerun, store, signer, days_later=int(reserved)) == "20261123", last
        assert check_as_a_poller(store, signer) == ["20261123"], last
    assert killed * every > 50
