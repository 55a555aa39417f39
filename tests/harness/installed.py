"""An installation made by `coreimage up`, and what people do with it, through the API that the UI uses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness.product import Product
from tests.harness.workshop import family, wait_until

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_RUN_WITHIN_S = 600.0
_HOOK_S = 4711


@dataclass
class Installed:
    folder: Path
    product: Product
    urls: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def up(self) -> Iterator[dict[str, str]]:
        """Running for as long as the block."""
        self.urls = json.loads(self.coreimage("--json", "--project", str(self.product.project_file), "up"))
        try:
            yield self.urls
        finally:
            self.coreimage("down")

    def coreimage(self, *words: str) -> str:
        """What the command prints. Raises AssertionError with all it said when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "coreimage.cli", *words],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}\n{self.said()}"
        return done.stdout

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

    def said(self) -> str:
        logs = sorted((self.folder / "var/up/log").glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in logs)

    def api(self, path: str, document: Any = None, *, method: str = "") -> Any:
        """One request to Prefect's API. Raises urllib.error.HTTPError."""
        request = urllib.request.Request(  # noqa: S310
            f"{self.urls['api']}{path}",
            data=None if document is None else json.dumps(document).encode(),
            headers={"content-type": "application/json"},
            method=method or ("GET" if document is None else "POST"),
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            content = answer.read()
        return json.loads(content) if content else None

    def start(self, deployment: str, **parameters: Any) -> str:
        """The id of a new run of `flow/name`."""
        found = self.api(f"/deployments/name/{deployment}")
        run = self.api(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

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

    def _end_hook(self) -> None:
        wait_until(lambda: bool(self.hooks()), _RUN_WITHIN_S, "the hook")
        for pid in self.hooks():
            os.kill(pid, signal.SIGTERM)

    def retry(self, run: str) -> None:
        """What the button does."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
        answer = self.api(f"/flow_runs/{run}/set_state", {"state": state, "force": True})
        assert answer["status"] == "ACCEPT", answer

    def cancel(self, run: str) -> None:
        answer = self.api(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
        assert answer["status"] == "ACCEPT", answer

    def state(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api(f"/flow_runs/{run}")["state"]
        return found

    def finished(self, run: str, within_s: float = _RUN_WITHIN_S) -> dict[str, Any]:
        """The run, once it is over."""
        deadline = time.monotonic() + within_s
        while True:
            found: dict[str, Any] = self.api(f"/flow_runs/{run}")
            if found["state"]["type"] in FINAL:
                return found
            assert time.monotonic() < deadline, f"{found['state']}\n{self.logs(run)}\n{self.said()}"
            time.sleep(0.3)

    def completed(self, run: str) -> dict[str, Any]:
        found = self.finished(run)
        assert found["state"]["type"] == "COMPLETED", f"{found['state']['message']}\n{self.logs(run)}"
        return found

    def logs(self, run: str) -> str:
        """`logger: message`, line by line."""
        document = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        return "\n".join(f"{line['name']}: {line['message']}" for line in self.api("/logs/filter", document))

    def await_log(self, run: str, text: str, within_s: float = _RUN_WITHIN_S) -> None:
        def said() -> bool:
            assert self.state(run)["type"] not in FINAL or text in self.logs(run), self.logs(run)
            return text in self.logs(run)

        wait_until(said, within_s, f"{text!r} in the log of the run")

    def tasks(self, run: str) -> list[tuple[str, str]]:
        """Name and state of the run's task runs, in the order they began."""
        document = {"flow_runs": {"id": {"any_": [run]}}, "limit": 200, "sort": "EXPECTED_START_TIME_ASC"}
        found = self.api("/task_runs/filter", document)
        return [(task["task_key"].rpartition("-")[0].replace("_", "-"), task["state"]["name"]) for task in found]

    def artifacts(self, run: str) -> list[dict[str, Any]]:
        document = {"artifacts": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        found: list[dict[str, Any]] = self.api("/artifacts/filter", document)
        return found


def _is_hook(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes() == f"sleep\0{_HOOK_S}\0".encode()
    return False
