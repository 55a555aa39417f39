"""S3 through a network and a server that fail: what was asked for is done right, or a clear error says why not."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from botocore.retries.standard import ExponentialBackoff

from coreimage.errors import (
    ConflictError,
    HostError,
    InfrastructureError,
    UsageError,
    VerificationError,
)
from coreimage.model import TAR_GZ
from coreimage.storage import Store, fetch_blob, open_store, put_blob_file, require_format
from coreimage.storage import s3 as s3_module
from coreimage.storage.s3 import S3Store
from tests.harness.proxy import Fault, faulty, reset, server_source, slow, status, truncate, wrong_bytes, wrong_request
from tests.harness.s3 import S3Server
from tests.harness.server import Reply, Request, send, serve_source

TEXT = "text/plain"
CONTENT = os.urandom(3 << 20)
MOST_REQUESTS = 40


@pytest.fixture
def through(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], S3Store]:
    """A store that reaches the server by the given address."""
    monkeypatch.setattr(s3_module, "_PAUSES_S", (0.01, 0.02, 0.04))
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.01)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    prefix = uuid.uuid4().hex

    def reach(url: str) -> S3Store:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        return S3Store(s3_server.bucket, prefix, part_bytes=5 << 20)

    return reach


def read(store: Store, key: str) -> bytes:
    with store.open(key) as file:
        return file.read()


def test_a_download_goes_on_where_it_broke(s3_server: S3Server, through: Callable[[str], S3Store]) -> None:
    through(s3_server.endpoint).put_bytes("k", CONTENT, media_type=TEXT)
    cut = (reset(1_000_000), truncate(1_000_000))
    with faulty(s3_server.endpoint) as proxy:
        store = through(proxy.url)
        for fault in (reset(), *cut, status(500), status(503, retry_after="0"), slow(0.001, 1 << 18)):
            proxy.faults.extend([fault, fault])
            assert read(store, "k") == CONTENT
            proxy.faults.clear()
    ranges = [request.headers["range"] for request in proxy.requests if "range" in request.headers]
    assert len(ranges) >= 2
    assert all(int(wanted.removeprefix("bytes=").rstrip("-")) >= 900_000 for wanted in ranges), "not from the start"


def test_what_was_replaced_meanwhile_is_not_mixed(s3_server: S3Server, through: Callable[[str], S3Store]) -> None:
    direct = through(s3_server.endpoint)
    direct.put_bytes("k", CONTENT, media_type=TEXT)

    def read_while_it_is_replaced(store: Store) -> None:
        with store.open("k") as file:
            file.read(10)
            direct.put_bytes("k", CONTENT[::-1], media_type=TEXT)
            file.read()

    with faulty(s3_server.endpoint, truncate(1_000_000)) as proxy, pytest.raises(ConflictError):
        read_while_it_is_replaced(through(proxy.url))


def test_a_download_that_always_breaks_ends(s3_server: S3Server, through: Callable[[str], S3Store]) -> None:
    through(s3_server.endpoint).put_bytes("k", CONTENT, media_type=TEXT)
    with faulty(s3_server.endpoint, *[reset(10)] * MOST_REQUESTS) as proxy, pytest.raises(InfrastructureError):
        read(through(proxy.url), "k")
    assert len(proxy.requests) < MOST_REQUESTS


def test_damaged_bytes_are_no_artifact(s3_server: S3Server, through: Callable[[str], S3Store], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    ref = put_blob_file(through(s3_server.endpoint), tmp_path / "file", TAR_GZ)
    with (
        faulty(s3_server.endpoint, wrong_bytes(5)) as proxy,
        pytest.raises((InfrastructureError, VerificationError)),
    ):
        fetch_blob(through(proxy.url), ref, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize(
    "fault",
    [reset(), status(500), status(503, retry_after="0"), truncate(0), wrong_request(7)],
    ids=["reset", "500", "503", "truncated", "damaged"],
)
def test_uploads_arrive_whole_or_not_at_all(
    s3_server: S3Server, through: Callable[[str], S3Store], tmp_path: Path, fault: Fault
) -> None:
    """Of one piece, and of two parts with the fault when they are begun, sent and completed."""
    direct = through(s3_server.endpoint)
    (tmp_path / "small").write_bytes(CONTENT)
    (tmp_path / "large").write_bytes(large := CONTENT * 2)
    with faulty(s3_server.endpoint) as proxy:
        store = through(proxy.url)
        for name, content, before in (("small", CONTENT, 0), *(("large", large, number) for number in range(4))):
            for if_absent in (False, True):
                key = f"{name}/{before}/{if_absent}"
                proxy.requests.clear()
                proxy.faults.extend([*[None] * before, fault])
                with suppress(InfrastructureError):
                    store.put_file(key, tmp_path / name, media_type=TEXT, if_absent=if_absent)
                proxy.faults.clear()
                if direct.head(key) is None:
                    store.put_file(key, tmp_path / name, media_type=TEXT, if_absent=if_absent)
                assert len(proxy.requests) < MOST_REQUESTS
                assert read(direct, key) == content


def test_a_server_that_is_always_busy_is_given_up(s3_server: S3Server, through: Callable[[str], S3Store]) -> None:
    with faulty(s3_server.endpoint, *[status(503, retry_after="0")] * MOST_REQUESTS) as proxy:
        store = through(proxy.url)
        actions: tuple[Callable[[], object], ...] = (
            lambda: store.head("k"),
            lambda: store.put_bytes("k", b"", media_type=TEXT, if_absent=True),
        )
        for action in actions:
            with pytest.raises(InfrastructureError) as raised:
                action()
            assert raised.value.retryable
    assert len(proxy.requests) < MOST_REQUESTS


def without_conditions(endpoint: str) -> Callable[[Request], Reply]:
    """A server as there were many: it takes no notice of conditions."""
    upstream = server_source(endpoint)

    def answer(request: Request) -> Reply:
        reply = upstream(request)
        conditional = {"if-none-match", "if-match"} & request.headers.keys()
        return Reply(200, {"ETag": '"any"'}) if conditional and reply.status == 412 else reply

    return answer


def test_a_server_without_conditional_puts_is_refused(s3_server: S3Server, through: Callable[[str], S3Store]) -> None:
    require_format(through(s3_server.endpoint))
    refused = pytest.raises(HostError, match=r"ignores conditional puts \(if_absent\)")
    with serve_source(without_conditions(s3_server.endpoint), send) as server, refused as raised:
        require_format(through(server.url))
    assert "If-None-Match" in raised.value.resolution


def test_a_server_is_tried_once_and_again_when_it_is_another(
    s3_server: S3Server, through: Callable[[str], S3Store]
) -> None:
    upstream, name = server_source(s3_server.endpoint), ["one"]

    def answer(request: Request) -> Reply:
        reply = upstream(request)
        return Reply(reply.status, {**reply.headers, "Server": name[0]}, reply.body)

    def puts() -> int:
        asked = [request.method for request in server.requests]
        server.requests.clear()
        return asked.count("PUT")

    with serve_source(answer, send) as server:
        store = through(server.url)
        require_format(store)
        assert puts() == 4, "the mark, a trial of each condition, and that it passed"
        require_format(store)
        require_format(through(server.url))
        assert puts() == 0
        name[0] = "two"
        require_format(store)
        assert puts() == 3
    assert json.loads(read(through(s3_server.endpoint), "format.json"))["format"] == 1


def test_a_trusted_server_that_becomes_another_is_refused(
    s3_server: S3Server, through: Callable[[str], S3Store]
) -> None:
    sources = [server_source(s3_server.endpoint), without_conditions(s3_server.endpoint)]

    def answer(request: Request) -> Reply:
        reply = sources[0](request)
        return Reply(reply.status, {**reply.headers, "Server": f"number {len(sources)}"}, reply.body)

    with serve_source(answer, send) as server:
        store = through(server.url)
        require_format(store)
        del sources[0]
        for _ in range(2):
            with pytest.raises(HostError, match="ignores conditional puts"):
                require_format(store)


def test_a_server_that_does_not_know_conditions_is_refused(through: Callable[[str], S3Store]) -> None:
    error = b"<Error><Code>NotImplemented</Code><Message>no</Message></Error>"

    def answer(request: Request) -> Reply:
        return Reply(404) if request.method == "HEAD" else Reply(501, {"Content-Type": "application/xml"}, error)

    with serve_source(answer, send) as server, pytest.raises(HostError, match="no full S3"):
        require_format(through(server.url))


def test_an_endpoint_that_is_none_is_said_so(through: Callable[[str], S3Store], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Invalid endpoint"):
        through("localhost:8333")

    for page in (b"<html>It works!</html>", b"<!doctype html><p>It works!"):
        with (
            serve_source(lambda _, page=page: Reply(200, {"Content-Type": "text/html"}, page), send) as server,  # type: ignore[misc]
            pytest.raises(InfrastructureError, match="object storage"),
        ):
            list(through(server.url).list())


def test_a_bucket_that_cannot_be_one(s3_server: S3Server, through: Callable[[str], S3Store]) -> None:
    through(s3_server.endpoint)
    with pytest.raises(UsageError, match="bucket name"):
        list(open_store("s3://Not_A_Bucket!!/x").list())


def test_a_region_that_is_another(through: Callable[[str], S3Store]) -> None:
    error = b"<Error><Code>IllegalLocationConstraintException</Code><Message>elsewhere</Message></Error>"

    def answer(_: Request) -> Reply:
        return Reply(400, {"Content-Type": "application/xml"}, error)

    with serve_source(answer, send) as server, pytest.raises(HostError, match="another region"):
        list(through(server.url).list())
