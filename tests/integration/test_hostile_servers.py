"""Servers that mean harm: whatever they send, a client ends soon, in little memory, with an error of ours.

How many were tried, and what came of it, is printed; docs/security.md has the count.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from coreimage.client.apply import InstallRequest, find_upgrade
from coreimage.errors import CoreimageError, InfrastructureError
from coreimage.http import Downloader
from coreimage.http.partial import Expected
from coreimage.logs import printable
from coreimage.signing import Role, Signer, make_keyring
from coreimage.storage import open_store
from coreimage.system_image import ChannelTree, publish_keyrings, verify_web
from coreimage.system_image.web import client_errors, open_server
from tests.harness.hostile_server import Answer, hostile_answer, hostile_server
from tests.harness.trees import CHANNEL, DEVICE, NOW, now, released

ROOT = Path(__file__).parents[2]
ENDED_WITHIN_S = 20.0
MEMORY_BYTES = 300 << 20
LIMIT_BYTES = 8 << 20


def downloader() -> Downloader:
    return Downloader(attempts=2, backoff_s=0.01, timeout_s=(1.0, 0.5), total_s=2.0)


def peak_bytes() -> int:
    """The most memory that this process had so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def tried(seeds: range) -> dict[str, int]:
    """Fetch from a hostile server for each seed; give how often which kind of end came."""

    def fetch(seed: int) -> str:
        started_s = time.monotonic()
        with TemporaryDirectory() as folder:
            try:
                downloader()(f"{url}/{seed}", Path(folder, "file"), limit_bytes=LIMIT_BYTES)
                end = "whole"
            except CoreimageError as error:
                end = type(error).__name__
            left = list(Path(folder).iterdir())
        assert time.monotonic() - started_s < ENDED_WITHIN_S, f"seed {seed}"
        assert (end == "whole") == bool(left), f"seed {seed} leaves {left}"
        return end

    def answer(path: str) -> Answer:
        return hostile_answer(int(path[1:]) if path[1:].isdecimal() else 0)

    with hostile_server(answer) as url, ThreadPoolExecutor(4) as threads:
        return Counter(threads.map(fetch, seeds))


if __name__ == "__main__":
    first, count = (int(word) for word in sys.argv[1:])
    before_bytes = peak_bytes()
    ends = tried(range(first, first + count))
    sys.stdout.write(json.dumps({"ends": ends, "grown_bytes": peak_bytes() - before_bytes}))


@pytest.mark.parametrize(
    ("first", "count"), [(0, 200), pytest.param(1000, 6000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_a_download_ends_in_bounded_time_and_memory(first: int, count: int) -> None:
    argv = [sys.executable, "-m", "tests.integration.test_hostile_servers", str(first), str(count)]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    seen = json.loads(ended.stdout.splitlines()[-1])
    sys.stdout.write(f"{seen}\n")
    assert sum(seen["ends"].values()) == count
    assert seen["grown_bytes"] < MEMORY_BYTES


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> tuple[Path, bytes]:
    """A tree with two versions, and its archive-master keyring."""
    folder = tmp_path_factory.mktemp("tree")
    store = open_store(str(folder))
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer)
    released(store, signer, "20261124", b"two")
    return folder / "system-image", make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER))


@pytest.mark.parametrize(
    ("first", "count"), [(0, 60), pytest.param(1000, 1500, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])]
)
def test_a_client_and_verify_end_when_one_file_is_hostile(served: tuple[Path, bytes], first: int, count: int) -> None:
    """One of the files that a client asks for is hostile each time. Who ends well has seen that none of it counts."""
    folder, archive_master = served
    asked: list[str] = []

    def look(url: str) -> str:
        try:
            with client_errors():
                server = open_server(url, archive_master, fetch=downloader(), now=NOW.timestamp)
                assert find_upgrade(server, InstallRequest(CHANNEL, DEVICE)).version == 2
            verify_web(url, archive_master, fetch=downloader(), now=NOW.timestamp)
        except CoreimageError as error:
            return type(error).__name__
        return "whole"

    def note(path: str) -> None:
        asked.append(path)

    with hostile_server(note, folder) as url:
        look(url)
    paths = sorted(set(asked))
    assert {"/gpg/image-signing.tar.xz", "/channels.json.gpg"} < set(paths)
    assert any(path.startswith("/pool/") for path in paths)

    def attack(seed: int) -> str:
        chosen = paths[seed % len(paths)]
        content = folder.joinpath(chosen[1:])

        def answer(path: str) -> Answer | None:
            real = content.read_bytes() if content.is_file() else b"x"
            return hostile_answer(seed, real) if path == chosen else None

        started_s = time.monotonic()
        with hostile_server(answer, folder) as url:
            end = look(url)
        assert time.monotonic() - started_s < ENDED_WITHIN_S * 3, f"seed {seed}, {chosen}"
        return end

    with ThreadPoolExecutor(4) as threads:
        ends = Counter(threads.map(attack, range(first, first + count)))
    sys.stdout.write(f"{ends}\n")
    assert set(ends) != {"whole"}


def test_what_a_server_says_is_not_shown_as_it_is(tmp_path: Path) -> None:
    def answer(_: str) -> Answer:
        return iter([b"HTTP/1.1 500 \x1b[2J\x1b]0;owned\x07\r\nContent-Length: 0\r\n\r\n"])

    with hostile_server(answer) as url, pytest.raises(InfrastructureError) as refused:
        downloader()(f"{url}/file", tmp_path / "file")
    assert "answered 500 Internal Server Error" in str(refused.value)
    assert Expected("http://x/%1b%5b2J%0d").name == r"\x1b[2J\r"
    assert printable("line\n\ttab \x1b \x9b \u202e é") == "line\n\ttab \\x1b \\x9b \\u202e é"
