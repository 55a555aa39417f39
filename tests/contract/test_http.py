from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coreimage.errors import DiskFullError, HostError, InfrastructureError, NotFoundError, UsageError, VerificationError
from coreimage.http import Downloader, NoProgress
from coreimage.http.download import CancelledError
from coreimage.http.partial import Expected, PartialDownload
from coreimage.http.progress import BarProgress, LineProgress
from coreimage.http.retry import pause_s, retry_after_s
from tests.harness.proxy import (
    Fault,
    endless,
    faulty,
    ignore_range,
    reset,
    slow,
    status,
    truncate,
    wrong_bytes,
    wrong_range,
)
from tests.harness.server import serve

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()

fetch = Downloader(backoff_s=0.01, timeout_s=(5, 5))


@pytest.fixture
def served(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file").write_bytes(CONTENT)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder / "file"


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_whole_file(served: Path, target: Path) -> None:
    with serve(served) as server:
        assert fetch(f"{server.url}/file", target, sha256=SHA256, size_bytes=len(CONTENT)) == target
    assert target.read_bytes() == CONTENT
    assert left(target) == ["file"]


def test_file_url(served: Path, target: Path) -> None:
    fetch((served / "file").as_uri(), target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    with pytest.raises(NotFoundError):
        fetch((served / "none").as_uri(), target)


@pytest.mark.parametrize("cut", [truncate(100_000), reset(100_000)], ids=["truncated", "reset"])
def test_a_cut_download_goes_on_where_it_stopped(served: Path, target: Path, cut: Fault) -> None:
    with faulty(served, cut) as server:
        fetch(f"{server.url}/file", target, sha256=SHA256)
    first, second = server.requests
    assert "range" not in first.headers
    assert second.headers["range"].startswith("bytes=")
    assert second.headers["range"] != "bytes=0-"
    assert second.headers["if-range"].startswith('"')
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("fault", [ignore_range(), wrong_range()], ids=["ignored", "wrong"])
def test_a_bad_answer_to_a_range_starts_again(served: Path, target: Path, fault: Fault) -> None:
    with faulty(served, truncate(100_000), fault) as server:
        fetch(f"{server.url}/file", target)
    assert target.read_bytes() == CONTENT


def test_a_file_that_changed_in_between_is_not_mixed(served: Path, target: Path) -> None:
    new = b"new" * 100_000

    class Changing(Fault):
        pass

    def change(request):  # type: ignore[no-untyped-def]
        (served / "file").write_bytes(new)
        return request

    with faulty(served, truncate(100_000), Changing(alter=change)) as server:
        fetch(f"{server.url}/file", target)
    assert target.read_bytes() == new


@pytest.mark.parametrize("fault", [reset(), status(500), status(503, retry_after="0"), status(429, retry_after="0")])
def test_passing_trouble_is_retried(served: Path, target: Path, fault: Fault) -> None:
    with faulty(served, fault, fault) as server:
        fetch(f"{server.url}/file", target, sha256=SHA256)
    assert len(server.requests) == 3


def test_attempts_are_bounded(served: Path, target: Path) -> None:
    with faulty(served, *[status(500)] * 20) as server, pytest.raises(InfrastructureError, match="5 attempts"):
        fetch(f"{server.url}/file", target)
    assert len(server.requests) == 5
    assert left(target) == []


def test_nobody_listens(served: Path, target: Path) -> None:
    with serve(served) as server:
        pass
    with pytest.raises(InfrastructureError):
        fetch(f"{server.url}/file", target)


def test_a_silent_server_is_given_up(served: Path, target: Path) -> None:
    hasty = Downloader(attempts=2, backoff_s=0.01, timeout_s=(1, 0.1))
    with faulty(served, slow(0.5), slow(0.5)) as server, pytest.raises(InfrastructureError):
        hasty(f"{server.url}/file", target)


@pytest.mark.parametrize(("code", "error"), [(404, NotFoundError), (410, NotFoundError), (403, UsageError)])
def test_refusals_are_not_retried(served: Path, target: Path, code: int, error: type[Exception]) -> None:
    with faulty(served, status(code)) as server, pytest.raises(error, match=str(code)):
        fetch(f"{server.url}/file", target)
    assert len(server.requests) == 1
    assert left(target) == []


def test_wrong_bytes_once_are_fetched_again(served: Path, target: Path) -> None:
    with faulty(served, wrong_bytes()) as server:
        fetch(f"{server.url}/file", target, sha256=SHA256)
    assert len(server.requests) == 2


def test_wrong_bytes_twice_are_refused(served: Path, target: Path) -> None:
    target.write_bytes(b"old")
    with faulty(served, wrong_bytes(), wrong_bytes()) as server, pytest.raises(VerificationError, match="sha256"):
        fetch(f"{server.url}/file", target, sha256=SHA256)
    assert len(server.requests) == 2
    assert target.read_bytes() == b"old"
    assert left(target) == ["file"]


@pytest.mark.parametrize("size_bytes", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_wrong_size_is_refused(served: Path, target: Path, size_bytes: int) -> None:
    with serve(served) as server, pytest.raises(VerificationError, match="promised"):
        fetch(f"{server.url}/file", target, size_bytes=size_bytes)
    assert left(target) == []


def test_endless_data_is_refused(served: Path, target: Path) -> None:
    with faulty(served, endless()) as server, pytest.raises(VerificationError, match="more than the 1000000"):
        fetch(f"{server.url}/file", target, limit_bytes=1_000_000)
    assert len(server.requests) == 1
    assert left(target) == []


def test_the_limit_is_the_most_that_is_accepted(served: Path, target: Path) -> None:
    with serve(served) as server:
        with pytest.raises(VerificationError):
            fetch(f"{server.url}/file", target, limit_bytes=len(CONTENT) - 1)
        assert fetch(f"{server.url}/file", target, limit_bytes=len(CONTENT)).read_bytes() == CONTENT


def test_bad_urls(target: Path) -> None:
    for url in ("ftp://host/file", "file", "http://"):
        with pytest.raises(UsageError):
            fetch(url, target)


def test_no_such_folder(served: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError):
        fetch((served / "file").as_uri(), tmp_path / "none" / "file")


def test_a_full_disk_is_said_so(served: Path, target: Path) -> None:
    class Full(io.BytesIO):
        name = "full"

        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(DiskFullError, match="the disk is full"):
        fetch._download(Expected((served / "file").as_uri()), PartialDownload(Full()))


def test_the_environment_names_the_proxy(served: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(served) as server, faulty(server.url) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        fetch("http://archive.invalid/file", target, sha256=SHA256)
        assert len(proxy.requests) == 1


def test_a_cancelled_download_leaves_nothing(served: Path, target: Path) -> None:
    cancelled = threading.Event()

    class CancelAtFirstBytes(NoProgress):
        def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
            return lambda by_bytes: cancelled.set() if by_bytes else None

    download = Downloader(progress=CancelAtFirstBytes(), cancelled=cancelled)
    with faulty(served, slow(0)) as server, pytest.raises(CancelledError):
        download(f"{server.url}/file", target)
    assert left(target) == []


def test_plain_lines(served: Path, target: Path) -> None:
    (served / "small").write_bytes(b"small")
    (served / "cut").write_bytes(CONTENT)
    told: list[str] = []
    lines = Downloader(progress=LineProgress(told.append), attempts=1)
    with faulty(served, None, None, truncate(100_000)) as server:
        lines(f"{server.url}/file", target)
        lines(f"{server.url}/small", target)
        with pytest.raises(InfrastructureError):
            lines(f"{server.url}/cut", target)
    (line,) = told
    assert line.startswith("  file: 512.0 kB at ")


def test_bars_for_terminals(served: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    progress = BarProgress()
    with serve(served) as server:
        download = Downloader(progress=progress)
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda n: download(f"{server.url}/file?{n}", target.parent / f"{n}"), range(4)))
    assert "100%" in stream.getvalue()


def test_pauses() -> None:
    assert pause_s(1, None, backoff_s=1) <= 1.5
    assert pause_s(3, None, backoff_s=1) >= 2
    assert pause_s(20, None) == 60
    assert pause_s(1, 7.0) == 7
    assert pause_s(1, 86400.0) == 60


@pytest.mark.parametrize(
    ("header", "expected"), [(None, None), ("5", 5.0), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)]
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    assert retry_after_s(header) == expected
