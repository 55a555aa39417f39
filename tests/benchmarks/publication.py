"""Sending to S3, against nothing but boto3; retention of many builds, against listing them. SeaweedFS on loopback."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path

from tests.benchmarks.measure import Measured, measured
from tests.benchmarks.page import Row, ratios
from tests.benchmarks.place import ROOT, Place
from tests.harness.s3 import S3Server, seaweedfs

SIZE_BYTES = 500_000_000
BUILDS = 10_000
_TURNS = 3
_PAGE = """# Publication

{megabytes} MB go into SeaweedFS on loopback as one artifact, and are then published as a build: copied on the server,
read back, verified and signed. The peer is `boto3.client("s3").upload_file` of the same file, which is neither checked
by a SHA-256 nor read again. Of {turns} turns of all, the fastest of each counts. Peak memory is that of the publishing
process. Retention looks at {builds} published builds of ten objects each, in a dry run; the peer is one listing of the
same keys.

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
import json, sys, time
from datetime import UTC, datetime
from pathlib import Path
from coreimage.model import TAR_GZ
from coreimage.publication import publish_build
from coreimage.storage import open_store, put_blob_file
from tests.unit.publication.builds import DigestSigner, content
store = open_store(f"s3://{sys.argv[2]}/bench-{sys.argv[3]}")
built = content(store)
times = [time.monotonic()]
ref = put_blob_file(store, Path(sys.argv[1]), TAR_GZ)
times.append(time.monotonic())
rootfs = built.rootfs[0].model_copy(update={"rootfs": ref})
publish_build(
    built.model_copy(update={"rootfs": (rootfs,)}), store=store, signer=DigestSigner(), now=datetime.now(UTC)
)
times.append(time.monotonic())
print(json.dumps([times[1] - times[0], times[2] - times[1]]))
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
from http.client import HTTPConnection
from coreimage.publication import BuildTree, expire_builds
from coreimage.storage import open_store
store = open_store(f"s3://{sys.argv[1]}/many")
tree = BuildTree(project="p", series="1", image_type="daily-preinstalled")
first, count, filer = date(1990, 1, 1), int(sys.argv[2]), sys.argv[3].removeprefix("http://")
names = ["SHA256SUMS", "SHA256SUMS.gpg", "build.json", *(f"x-preinstalled-core-amd64.{n}" for n in range(7))]
keys = [f"{tree.prefix}/{first + timedelta(days=n):%Y%m%d}/{name}" for n in range(count) for name in names]
def seed(some):
    connection = HTTPConnection(filer)
    for key in some:
        connection.request("PUT", f"/buckets/{sys.argv[1]}/many/{key}", b"x", {"Content-Type": "text/plain"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status < 300, answer.status
with ThreadPoolExecutor(8) as pool:
    list(pool.map(seed, (keys[n::8] for n in range(8))))
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
    peer_s, steps_s = min(float(_last(each)) for each in peer), [json.loads(_last(each)) for each in ours]
    send_s, publish_s, both_s = (min(map(take, steps_s)) for take in (itemgetter(0), itemgetter(1), sum))
    peak = max(each.peak_bytes() for each in ours)

    def rate(what: str, ours_s: float, reach: str = "") -> Row:
        return Row(f"rate of {what} / boto3's `upload_file`", peer_s / ours_s, f"{ours_s:.1f} s, {peer_s:.1f} s", reach)

    return [
        rate("sending the artifact", send_s, "≥ 0.7"),
        rate("publishing it", publish_s, "≥ 0.7"),
        rate("both, one after the other", both_s),
        Row("peak memory / 100 MB", peak / 100e6, f"{peak / 1e6:.0f} MB", "≤ 1"),
    ]


def _again(server: S3Server, file: Path) -> Row:
    first, again = json.loads(_last(_run(server, _AGAIN, str(file), server.bucket)))
    return Row("bytes sent for an unchanged artifact / its size", again / first, f"{again} of {first} bytes", "0")


def _retention(server: S3Server, folder: Path) -> Row:
    taken = json.loads(_last(_run(server, _RETENTION, server.bucket, str(BUILDS), server.filer)))
    measured_ = f"{taken['ours']:.1f} s / {taken['bare']:.1f} s"
    return Row("listing and retention / bare listing", taken["ours"] / taken["bare"], measured_, "≤ 2")


def _run(server: S3Server, script: str, *arguments: str) -> Measured:
    environment = {"PYTHONPATH": str(ROOT), **server.environment()}
    return measured([sys.executable, "-c", script, *arguments], cwd=ROOT, env=environment)


def _last(run: Measured) -> str:
    """The result; log lines may come before it."""
    return run.output.strip().splitlines()[-1]
