"""An installation made by `coreimage up`, and what people do with it, through the API that the UI uses."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coreimage.services.ports import free_seaweed_port
from coreimage.storage import Store, open_store
from tests.harness.api import RUN_WITHIN_S, Api
from tests.harness.product import Product
from tests.harness.workshop import family, wait_until

_HOOK_S = 4711


@dataclass
class Installed(Api):
    folder: Path
    product: Product
    urls: dict[str, str] = field(default_factory=dict)
    password: str = ""

    @property
    def api_url(self) -> str:
        return self.urls["api"]

    @contextmanager
    def up(self) -> Iterator[dict[str, str]]:
        """Running for as long as the block."""
        self.start_all()
        try:
            yield self.urls
        finally:
            self.coreimage("down")

    def start_all(self) -> None:
        self._choose_ports()
        self.urls = json.loads(self.coreimage("--json", "--project", str(self.product.project_file), "up"))

    def _choose_ports(self) -> None:
        """Others than the usual ones: several installations may be tested at a time."""
        state = self.folder / "var/up/state.json"
        if not state.exists():
            state.parent.mkdir(parents=True, exist_ok=True)
            state.write_text(json.dumps({name: free_seaweed_port() for name in ("prefect", "s3", "web")}))

    def environment(self) -> dict[str, str]:
        """What somebody at a terminal beside it has set: where the API and the store are."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_"))}
        secret = self.folder / "var/up/secret.json"
        if not self.urls or not secret.exists():
            return kept
        ports = json.loads((self.folder / "var/up/state.json").read_text())
        return {
            **kept,
            **json.loads(secret.read_text()),
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ports['s3']}",
            "AWS_REGION": "us-east-1",
            "PREFECT_API_URL": self.urls["api"],
            "COREIMAGE_STORE": "s3://coreimage",
        }

    def store(self) -> Store:
        """Its store, for whoever has its environment."""
        return open_store("s3://coreimage")

    @contextmanager
    def as_client(self) -> Iterator[None]:
        """This process sees the server and the store for the block."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment().items():
                patch.setenv(name, value)
            yield

    def objects(self, prefix: str = "") -> list[str]:
        """Keys of the store."""
        with self.as_client():
            return [info.key for info in self.store().list(prefix)]

    def build_ids(self) -> set[str]:
        return {key.split("/")[4] for key in self.objects("cdimage/") if key.endswith("/SHA256SUMS")}

    def versions(self, channel: str) -> set[str]:
        """Of the images that the channel has, `device/version`."""
        prefix = f"images/{channel}/"
        return {"/".join(key.removeprefix(prefix).split("/")[:2]) for key in self.objects(prefix)}

    def said(self) -> str:
        logs = sorted((self.folder / "var/up/log").glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in logs)

    @contextmanager
    def waiting_hook(self) -> Iterator[Callable[[], None]]:
        """Deploys a project whose chroot of the rootfs waits in a hook, until what it gives is called; then without."""
        (self.product.folder / "wait.sh").write_text(f"#!/bin/sh\nsleep {_HOOK_S} || true\n")
        with self.deployed_with(hooks=["wait.sh"]):
            yield self._end_hook

    @contextmanager
    def deployed_with(self, **rootfs: object) -> Iterator[None]:
        """Other settings of the series' rootfs for the block."""
        settings: dict[str, object] = self.product.config["series"]["1"]["rootfs"]  # type: ignore[index]
        before = dict(settings)
        settings |= rootfs
        self.deploy()
        try:
            yield
        finally:
            settings.clear()
            settings |= before
            self.deploy()

    def deploy(self) -> None:
        self.product.write()
        self.coreimage("--project", str(self.product.project_file), "deploy")

    def hooks(self) -> list[int]:
        """Processes in which a hook waits."""
        return [pid for pid in family(self.supervisor()) if _is_hook(pid)]

    def supervisor(self) -> int:
        return int((self.folder / "var/up/lock").read_text())

    def lose_worker(self) -> None:
        """The worker and all that it runs are gone from one moment to the next; the supervisor starts another."""
        for pid in family(self.worker()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def worker(self) -> int:
        return next(pid for pid in family(self.supervisor()) if b"worker\0start" in _command(pid))

    def _end_hook(self) -> None:
        wait_until(lambda: bool(self.hooks()), RUN_WITHIN_S, "the hook")
        for pid in self.hooks():
            os.kill(pid, signal.SIGTERM)


def _is_hook(pid: int) -> bool:
    return _command(pid) == f"sleep\0{_HOOK_S}\0".encode()


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
