"""Sending to S3, against nothing but boto3; retention of many builds, against listing them. SeaweedFS on loopback."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.measure import Measured, measured
from tests.benchmarks.page import Row, ratios
from tests.benchmarks.place import ROOT, Place
from tests.harness.s3 import S3Server, seaweedfs

SIZE_BYTES = 500_000_000
BUILDS = 10_000
_TURNS = 3
_PAGE = """# Publication

{megabytes} MB go into SeaweedFS on loopback as one artifact; the peer is `boto3.client("s3").upload_file` of the same
file. Of {turns} turns of both, the fastest of each counts. Peak memory is that of the sending process. Retention looks
at {builds} published builds of ten objects each, in a dry run; the peer is one listing of the same keys.

{figures}
"""

_PEER = """
import sys, time, boto3
client = boto3.client("s3")
start = time.monotonic()
client.upload_file(sys.argv[1], sys.argv[2], "peer-" + sys.argv[3])
print(time.monotonic() - start)
"""

_OURS = """
import sys, time
from pathlib import Path
from coreimage.model import TAR_GZ
from coreimage.storage import open_store
store = open_store(f"s3://{sys.argv[2]}/bench-{sys.argv[3]}")
start = time.monotonic()
store.put_file("blob", Path(sys.argv[1]), media_type=TAR_GZ, if_absent=True)
print(time.monotonic() - start)
"""

_AGAIN = """
import json, sys, time
from pathlib import Path
from coreimage.model import TAR_GZ
from coreimage.storage import open_store, put_blob_file
store = open_store(f"s3://{sys.argv[2]}/again")
sent = []
def count(request, **_):
    sent.append(int(request.headers.get("Content-Length", 0)))
for client in (store._client, store._once):
    client.meta.events.register("before-send.s3", count)
ref = put_blob_file(store, Path(sys.argv[1]), TAR_GZ)
first = sum(sent); sent.clear()
assert put_blob_file(store, Path(sys.argv[1]), TAR_GZ) == ref
print(json.dumps([first, sum(sent)]))
"""

_RETENTION = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from coreimage.publication import BuildTree, expire_builds
from coreimage.storage import open_store
store = open_store(f"s3://{sys.argv[1]}/many")
tree = BuildTree(project="p", series="1", image_type="daily-preinstalled")
first, count = date(1990, 1, 1), int(sys.argv[2])
names = ["SHA256SUMS", "SHA256SUMS.gpg", "build.json", *(f"x-preinstalled-core-amd64.{n}" for n in range(7))]
keys = [f"{tree.prefix}/{first + timedelta(days=n):%Y%m%d}/{name}" for n in range(count) for name in names]
with ThreadPoolExecutor(16) as pool:
    list(pool.map(lambda key: store.put_bytes(key, b"x", media_type="text/plain"), keys))
client, times = store._client, {"bare": [], "ours": []}
for _ in range(3):
    start = time.monotonic()
    found = sum(
        len(page.get("Contents", []))
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=sys.argv[1], Prefix=f"many/{tree.prefix}/")
    )
    times["bare"].append(time.monotonic() - start)
    assert found == len(keys)
    start = time.monotonic()
    gone = expire_builds(tree, keep_count=10, keep_days=14, store=store, now=datetime.now(UTC), dry_run=True)
    times["ours"].append(time.monotonic() - start)
    assert len(gone) == count - 10
print(json.dumps({name: min(taken) for name, taken in times.items()}))
"""


def section(place: Place) -> str:
    folder = place.folder("publication")
    file = folder / "artifact"
    with file.open("wb") as target:
        for _ in range(SIZE_BYTES // 1_000_000):
            target.write(os.urandom(1_000_000))
    (folder / "s3").mkdir()
    with ExitStack() as running:
        server = running.enter_context(seaweedfs(folder / "s3"))
        rows = [*_sending(server, file), _again(server, file), _retention(server, folder)]
    return _PAGE.format(megabytes=SIZE_BYTES // 1_000_000, turns=_TURNS, builds=f"{BUILDS:,}", figures=ratios(rows))


def _sending(server: S3Server, file: Path) -> list[Row]:
    ours, peer = list[Measured](), list[Measured]()
    for turn in range(_TURNS):
        peer.append(_run(server, _PEER, str(file), server.bucket, str(turn)))
        ours.append(_run(server, _OURS, str(file), server.bucket, str(turn)))
    ours_s, peer_s = (min(float(_last(each)) for each in runs) for runs in (ours, peer))
    peak = max(each.peak_bytes() for each in ours)
    return [
        Row("rate of sending / boto3's `upload_file`", peer_s / ours_s, f"{ours_s:.1f} s, {peer_s:.1f} s", "≥ 0.7"),
        Row("peak memory / 100 MB", peak / 100e6, f"{peak / 1e6:.0f} MB", "≤ 1"),
    ]


def _again(server: S3Server, file: Path) -> Row:
    first, again = json.loads(_last(_run(server, _AGAIN, str(file), server.bucket)))
    return Row("bytes sent for an unchanged artifact / its size", again / first, f"{again} of {first} bytes", "0")


def _retention(server: S3Server, folder: Path) -> Row:
    taken = json.loads(_last(_run(server, _RETENTION, server.bucket, str(BUILDS))))
    measured_ = f"{taken['ours']:.1f} s / {taken['bare']:.1f} s"
    return Row("listing and retention / bare listing", taken["ours"] / taken["bare"], measured_, "≤ 2")


def _run(server: S3Server, script: str, *arguments: str) -> Measured:
    environment = {"PYTHONPATH": str(ROOT), **server.environment()}
    return measured([sys.executable, "-c", script, *arguments], cwd=ROOT, env=environment)


def _last(run: Measured) -> str:
    """The result; log lines may come before it."""
    return run.output.strip().splitlines()[-1]
