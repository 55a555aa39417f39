"""A real S3 server: SeaweedFS on free loopback ports."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from coreimage.process import Child, spawn

ACCESS_KEY, SECRET_KEY, BUCKET = "coreimage-test", "not-a-secret", "test"
_READY_S = 30.0


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    bucket: str = BUCKET

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }


@contextmanager
def seaweedfs(folder: Path) -> Iterator[S3Server]:
    """Runs until the block is left; its data is in `folder`. Up in about a second, 110 to 400 MB of memory."""
    s3, master, volume, filer, admin = _free_ports(5)
    argv = [
        shutil.which("weed") or Path(sys.executable).with_name("weed"),
        "-logtostderr=true", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
        f"-admin.port={admin}", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-master.telemetry=false", f"-bucket={BUCKET}",
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
        _await(f"http://127.0.0.1:{s3}/{BUCKET}", child, folder / "errors")
        try:
            yield S3Server(f"http://127.0.0.1:{s3}")
        finally:
            # SIGTERM takes it up to half a minute, and nothing here is worth keeping.
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


def _await(url: str, child: Child, errors: Path) -> None:
    """Ready is when the bucket answers, even if only to say that we are not signed in."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and child.running():
        try:
            urllib.request.urlopen(url, timeout=1).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            if error.code == 403:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"SeaweedFS did not start: {errors.read_text()[-2000:]}")


def _free_ports(count: int) -> list[int]:
    """Below 55000, since each port's gRPC twin is 10000 higher."""
    with ExitStack() as held:
        ports: list[int] = []
        candidate = 20000 + os.getpid() % 20000
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
