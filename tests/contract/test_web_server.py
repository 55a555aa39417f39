"""The web server over a store, as clients see it."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
import requests

from coreimage.errors import InfrastructureError
from coreimage.http import Downloader
from coreimage.storage import ObjectInfo, open_store
from coreimage.storage.directory import DirectoryStore
from tests.harness.serving import nginx, serving

CONTENT = bytes(range(256)) * 4096


@pytest.fixture(params=["serve", "nginx"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Both servers give the same answers."""
    store = open_store(str(tmp_path / "store"))
    store.put_bytes("system-image/channels.json", CONTENT, media_type="application/json")
    store.put_bytes("cdimage/a b/SHA256SUMS", b"sums", media_type="text/plain")
    store.put_bytes("locks/secret", b"own", media_type="text/plain")
    running = serving(store) if request.param == "serve" else nginx(tmp_path / "store", tmp_path / "nginx")
    with running as address:
        yield address


def test_channels_are_at_the_root_and_all_is_below_its_name(url: str) -> None:
    assert requests.get(f"{url}/channels.json", timeout=9).content == CONTENT
    assert requests.get(f"{url}/system-image/channels.json", timeout=9).content == CONTENT
    assert requests.get(f"{url}/cdimage/a%20b/SHA256SUMS", timeout=9).content == b"sums"


def test_head_has_the_size_and_no_body(url: str) -> None:
    found = requests.head(f"{url}/channels.json", timeout=9)
    assert (found.status_code, found.headers["Content-Length"], found.content) == (200, str(len(CONTENT)), b"")


@pytest.mark.parametrize(
    "path", ["absent", "locks/secret", "system-image/../locks/secret", "..%2flocks%2fsecret", "%00"]
)
def test_what_is_not_published_is_not_found(url: str, path: str) -> None:
    request = requests.Request("GET", url).prepare()
    request.url = f"{url}/{path}"
    with requests.Session() as session:
        assert session.send(request, timeout=9).status_code in {400, 404}


def test_a_range_while_the_object_is_the_same(url: str) -> None:
    etag = requests.head(f"{url}/channels.json", timeout=9).headers["ETag"]
    part = requests.get(f"{url}/channels.json", headers={"Range": "bytes=100-199", "If-Range": etag}, timeout=9)
    assert (part.status_code, part.content) == (206, CONTENT[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(CONTENT)}"
    other = requests.get(f"{url}/channels.json", headers={"Range": "bytes=100-", "If-Range": '"x"'}, timeout=9)
    assert (other.status_code, other.content) == (200, CONTENT)
    beyond = requests.get(f"{url}/channels.json", headers={"Range": f"bytes={len(CONTENT)}-"}, timeout=9)
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{len(CONTENT)}")
    assert requests.get(f"{url}/channels.json", headers={"If-None-Match": etag}, timeout=9).status_code == 304


@pytest.mark.parametrize("form", ["{0}", "W/{0}", '"other", {0}', "*"])
def test_what_the_client_has_is_not_sent_again(url: str, form: str) -> None:
    etag = requests.head(f"{url}/channels.json", timeout=9).headers["ETag"]
    for method in ("GET", "HEAD"):
        answer = requests.request(
            method, f"{url}/channels.json", headers={"If-None-Match": form.format(etag)}, timeout=9
        )
        assert (answer.status_code, answer.content) == (304, b"")
    other = {"If-None-Match": f'"x{etag[1:]}'}
    assert requests.get(f"{url}/channels.json", headers=other, timeout=9).status_code == 200


def test_two_hundred_downloads_at_once(url: str) -> None:
    """All have their connection before any of them reads; every other one asks for a part."""
    crowd = 200
    gate = threading.Barrier(crowd)

    def download(number: int) -> bool:
        start = number * 1000 if number % 2 else 0
        with requests.get(
            f"{url}/channels.json", headers={"Range": f"bytes={start}-"} if start else {}, stream=True, timeout=120
        ) as answer:
            gate.wait(timeout=120)
            return answer.status_code == (206 if start else 200) and answer.content == CONTENT[start:]

    with ThreadPoolExecutor(crowd) as pool:
        assert list(pool.map(download, range(crowd))) == [True] * crowd


def test_listings_lead_everywhere(url: str) -> None:
    assert re.search('href="(/cdimage/)?a%20b/"', requests.get(f"{url}/cdimage/", timeout=9).text)
    assert "SHA256SUMS" in requests.get(f"{url}/cdimage/a%20b/", timeout=9).text


def test_our_own_downloader_is_served(url: str, tmp_path: Path) -> None:
    path = Downloader()(f"{url}/channels.json", tmp_path / "file", size_bytes=len(CONTENT))
    assert path.read_bytes() == CONTENT


def test_the_top_lists_the_web_roots(tmp_path: Path) -> None:
    with serving(open_store(str(tmp_path))) as url:
        assert "/system-image/" in requests.get(f"{url}/", timeout=9).text


def test_nginx_lets_only_that_be_kept_that_never_changes(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    digest = "0" * 64
    once = (
        f"system-image/pool/ubuntu-{digest}.tar.xz",
        f"system-image/a/13/edge/board/index-{digest}.json",
        "system-image/a/13/edge/board/version-3.tar.xz",
        "cdimage/a/13/daily-preinstalled/20261123.1/x-preinstalled-core-amd64.tar.gz",
        "images/a/13/edge/board/3/a.img.zst",
    )
    moving = (
        "index.html",
        "system-image/channels.json",
        "system-image/channels.json.gpg",
        "system-image/a/13/edge/board/index.json",
        "system-image/gpg/image-signing.tar.xz",
        "cdimage/a/13/daily-preinstalled/pending.json",
        "cdimage/a/13/daily-preinstalled/20261123.1/index.html",
        "cdimage/a/13/daily-preinstalled/20261123.1/.marked_good",
        "cdimage/a/13/daily-preinstalled/20261123.1/pinned.json",
        "cdimage/a/13/daily-preinstalled/index.json",
        "cdimage/a/13/daily-preinstalled/20261123.1/SHA256SUMS",
    )
    for key in (*once, *moving, "cdimage/a/13/daily-preinstalled/.reservations/20261123.json", "blobs/x"):
        store.put_bytes(key, b"x", media_type="")
    with nginx(tmp_path / "store", tmp_path / "nginx") as url:
        kept = {key: requests.head(f"{url}/{key}", timeout=9).headers["Cache-Control"] for key in (*once, *moving)}
        assert {key for key, said in kept.items() if "immutable" in said} == set(once)
        assert {key for key, said in kept.items() if "no-cache" in said} == set(moving)
        hidden = ("cdimage/a/13/daily-preinstalled/.reservations/20261123.json", "blobs/x", "format.json")
        assert [requests.get(f"{url}/{key}", timeout=9).status_code for key in hidden] == [404] * 3
        page = requests.get(f"{url}/", timeout=9)
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html")
        sums = requests.get(f"{url}/cdimage/a/13/daily-preinstalled/20261123.1/SHA256SUMS", timeout=9)
        assert sums.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("sent", [b"", b"GET /channels.json HTTP/1.1\r\nHost: x\r\n"])
def test_a_client_that_never_finishes_its_request_is_cut(sent: bytes, tmp_path: Path) -> None:
    with serving(open_store(str(tmp_path)), idle_limit_s=1) as url, connection(url) as client:
        client.sendall(sent)
        assert client.recv(1) == b""


def test_a_client_that_does_not_read_is_cut(tmp_path: Path) -> None:
    closed = threading.Event()

    class Watched(DirectoryStore):
        @contextmanager
        def open(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[BinaryIO]:
            try:
                with super().open(key, start=start, stop=stop) as file:
                    yield file
            finally:
                closed.set()

    store = Watched(tmp_path)
    store.put_bytes("system-image/large", bytes(32 << 20), media_type="")
    with serving(store, idle_limit_s=1) as url, connection(url) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert closed.wait(30)


def connection(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30)


def test_a_slow_reader_gets_everything(tmp_path: Path) -> None:
    size_bytes, pieces = 24 << 20, 60
    store = open_store(str(tmp_path))
    store.put_bytes("system-image/large", bytes(size_bytes), media_type="")
    with serving(store, idle_limit_s=1) as url, requests.get(f"{url}/large", stream=True, timeout=30) as answer:
        received = 0
        for chunk in answer.iter_content(size_bytes // pieces):
            received += len(chunk)
            threading.Event().wait(0.05)
        assert received == size_bytes


def test_a_store_that_is_down_is_not_a_missing_file(tmp_path: Path) -> None:
    class Down(DirectoryStore):
        def head(self, key: str) -> ObjectInfo | None:
            raise InfrastructureError("the bucket does not answer")

    with serving(Down(tmp_path)) as url:
        answer = requests.get(f"{url}/channels.json", timeout=9)
        assert (answer.status_code, answer.text) == (503, "the bucket does not answer\n")


def test_only_reading_is_allowed(url: str) -> None:
    assert requests.post(f"{url}/channels.json", data=b"x", timeout=9).status_code == 405


def test_a_folder_shows_its_page(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    for key in ("index.html", "cdimage/a/index.html"):
        store.put_bytes(key, f"the page of {key}".encode(), media_type="text/html")
    with serving(store) as url:
        for path, key in (("", "index.html"), ("index.html", "index.html"), ("cdimage/a/", "cdimage/a/index.html")):
            found = requests.get(f"{url}/{path}", timeout=9)
            assert (found.text, found.headers["Content-Type"]) == (f"the page of {key}", "text/html")
        assert "a/" in requests.get(f"{url}/cdimage/", timeout=9).text
