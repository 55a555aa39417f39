"""A real S3 server: SeaweedFS on free loopback ports."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from coreimage.host.children import Child
from coreimage.host.process import spawn

ACCESS_KEY, SECRET_KEY, BUCKET = "coreimage-test", "not-a-secret", "test"
_READY_S = 120.0
_STARTS = 5


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    bucket: str = BUCKET
    filer: str = ""
    """SeaweedFS's own way in, without signatures; a bucket is a folder of `/buckets`."""

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }


@contextmanager
def seaweedfs(folder: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """Runs until the block is left; its data is in `folder`. Up in about a second, 110 to 400 MB of memory.

    Between finding free ports and their use somebody else may take one; then it ends at once, and is started again.
    """
    with ExitStack() as running:
        for attempt in range(_STARTS):
            place = folder / str(attempt)
            place.mkdir()
            server = running.enter_context(_started(place, host))
            if server is not None:
                yield server
                return
        raise AssertionError(f"SeaweedFS does not start: {(place / 'errors').read_text()[-2000:]}")


@contextmanager
def _started(folder: Path, host: str) -> Iterator[S3Server | None]:
    """None when it ended before it was ready."""
    s3, master, volume, filer, admin = _free_ports(5)
    argv = [
        shutil.which("weed") or Path(sys.executable).with_name("weed"),
        "-logtostderr=true", "mini", f"-dir={folder}", f"-ip={host}", f"-ip.bind={host}",
        f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
        f"-admin.port={admin}", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-master.telemetry=false", "-s3.iam.readOnly=false", f"-bucket={BUCKET}",
    ]  # fmt: skip
    env = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "GOMEMLIMIT": "300MiB",
        "GOGC": "50",
        "HOME": str(folder),
    }
    with (folder / "log").open("wb") as log, spawn(argv, env=env, cwd=folder, stdout=log) as child:
        _drain(child, folder / "errors")
        server = S3Server(f"http://{host}:{s3}", filer=f"http://{host}:{filer}")
        try:
            yield server if _ready(server, child) else None
        finally:
            # SIGTERM takes it up to half a minute, and nothing here is worth keeping.
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            for left in Path("/tmp").glob(f"seaweedfs-*-{s3}.sock"):
                left.unlink(missing_ok=True)


def _drain(child: Child, path: Path) -> None:
    import threading  # noqa: PLC0415

    def copy() -> None:
        with path.open("w") as target:
            try:
                target.writelines(f"{line}\n" for line in child.lines())
            except ValueError:
                return

    threading.Thread(target=copy, daemon=True).start()


def trees(server: S3Server) -> Iterator[Callable[[str], bytes | None]]:
    """Yields what fetches the files of each tree of channels in a bucket of the server: content by path, or None."""
    client = _client(server)
    for bucket in client.list_buckets()["Buckets"]:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
            for listed in page.get("Contents", []):
                root, name, rest = listed["Key"].rpartition("system-image/channels.json")
                if name and not rest:
                    yield partial(_fetch, client, bucket["Name"], f"{root}system-image")


def _fetch(client: Any, bucket: str, root: str, path: str) -> bytes | None:
    try:
        return bytes(client.get_object(Bucket=bucket, Key=f"{root}/{path}")["Body"].read())
    except client.exceptions.NoSuchKey:
        return None


def _client(server: S3Server) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )


def _ready(server: S3Server, child: Child) -> bool:
    """Waits until a signed put is read back (bucket and credentials come some time after the port), or it has ended."""
    client = _client(server)
    probe: Any = {"Bucket": server.bucket, "Key": "ready"}
    last: Exception | None = None
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and child.running():
        try:
            if server.bucket in [bucket.get("Name") for bucket in client.list_buckets()["Buckets"]]:
                client.put_object(**probe, Body=b"ready")
                assert client.get_object(**probe)["Body"].read() == b"ready"
                client.delete_object(**probe)
                return True
        except (BotoCoreError, ClientError) as error:
            last = error
        time.sleep(0.05)
    if child.running():
        raise AssertionError(f"SeaweedFS was not ready after {_READY_S:.0f} s: {last}")
    return False


def _free_ports(count: int) -> list[int]:
    """Below 55000, since each port's gRPC twin is 10000 higher."""
    with ExitStack() as held:
        ports: list[int] = []
        candidate = random.randrange(20_000, 40_000)  # noqa: S311
        while len(ports) < count:
            candidate += 1
            listener = held.enter_context(socket.socket())
            twin = held.enter_context(socket.socket())
            try:
                listener.bind(("127.0.0.1", candidate))
                twin.bind(("127.0.0.1", candidate + 10000))
            except OSError:
                continue
            ports.append(candidate)
        return ports
