"""What people do with Prefect's server, through the API that its UI uses."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.harness.workshop import wait_until

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
RUN_WITHIN_S = 1500.0
LIVE = {
    "announce-build",
    "probe-archives",
    "current-lock",
    "record-lock",
    "build-custom",
    "name-run",
    "publish-keyrings",
    "offer-tools",
    "gather-components",
    "pack-gadget",
    "publish-gadget",
    "report-build",
    "record-release",
}
"""Tasks of a build that are never remembered: they look, tell, or write again what must be there."""
LAST = "record-release"
"""The last task of a build."""
_GOING_ON = {"Pending", "Running", "AwaitingRetry", "Retrying"}
_HEARD_WITHIN_S = 300.0
_ANSWERS_WITHIN_S = 300.0
"""A server on SQLite may wait a minute for its own database."""


class Api:
    """`password` is `user:password` where the server asks for one; commands run in `folder`."""

    password: str
    folder: Path

    @property
    def api_url(self) -> str:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What somebody at a terminal beside it has set: where the API and the store are."""
        raise NotImplementedError

    def coreimage(self, *words: str) -> str:
        """What the command prints. Raises AssertionError with all it said when it fails."""
        argv = [sys.executable, "-m", "coreimage.cli", *words]
        done = subprocess.run(
            argv, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}\n{self.said()}"
        return done.stdout

    def said(self) -> str:
        """What the services have said, for whoever looks for the cause of a failure."""
        return ""

    def api(self, path: str, document: Any = None, *, method: str = "") -> Any:
        """One request, made again while the server says that it is busy, as Prefect's own clients do. Raises
        urllib.error.HTTPError."""
        headers = {"content-type": "application/json"}
        if self.password:
            headers["authorization"] = f"Basic {b64encode(self.password.encode()).decode()}"
        request = urllib.request.Request(  # noqa: S310
            f"{self.api_url}{path}",
            data=None if document is None else json.dumps(document).encode(),
            headers=headers,
            method=method or ("GET" if document is None else "POST"),
        )
        deadline = time.monotonic() + _ANSWERS_WITHIN_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=_ANSWERS_WITHIN_S) as answer:  # noqa: S310
                    content = answer.read()
                return json.loads(content) if content else None
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                    raise
            time.sleep(0.3)

    def start(self, deployment: str, *, environment: Mapping[str, str] | None = None, **parameters: Any) -> str:
        """The id of a new run of `flow/name`; `environment` is added to that of its process."""
        found = self.api(f"/deployments/name/{deployment}")
        document = {"parameters": parameters, "job_variables": {"env": dict(environment or {})}}
        run = self.api(f"/deployments/{found['id']}/create_flow_run", document)
        return str(run["id"])

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

    def finished(self, run: str, within_s: float = RUN_WITHIN_S) -> dict[str, Any]:
        """The run, once it is over."""
        deadline = time.monotonic() + within_s
        while True:
            found: dict[str, Any] = self.api(f"/flow_runs/{run}")
            if found["state"]["type"] in FINAL:
                return found
            assert time.monotonic() < deadline, f"{found['state']}\n{self.logs(run)}\n{self.said()}"
            time.sleep(0.3)

    def completed(self, run: str, within_s: float = RUN_WITHIN_S) -> dict[str, Any]:
        found = self.finished(run, within_s)
        assert found["state"]["type"] == "COMPLETED", f"{found['state']['message']}\n{self.logs(run)}"
        return found

    def logs(self, run: str) -> str:
        """`logger: message`, line by line."""
        document = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        return "\n".join(f"{line['name']}: {line['message']}" for line in self.api("/logs/filter", document))

    def whole_log(self, run: str) -> str:
        """The same, of a run with more than 200 lines."""
        lines: list[str] = []
        while True:
            document = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "offset": len(lines)}
            found = self.api("/logs/filter", {**document, "sort": "TIMESTAMP_ASC"})
            lines += [f"{line['name']}: {line['message']}" for line in found]
            if not found:
                return "\n".join(lines)

    def await_log(self, run: str, text: str, within_s: float = RUN_WITHIN_S) -> None:
        def said() -> bool:
            assert self.state(run)["type"] not in FINAL or text in self.logs(run), self.logs(run)
            return text in self.logs(run)

        wait_until(said, within_s, f"{text!r} in the log of the run")

    def tasks(self, run: str) -> list[tuple[str, str]]:
        """Name and state of the run's task runs, in the order they began; one whose state the server has not heard of
        yet is pending."""
        document = {"flow_runs": {"id": {"any_": [run]}}, "limit": 200, "sort": "EXPECTED_START_TIME_ASC"}
        found = self.api("/task_runs/filter", document)
        names = [task["task_key"].rpartition("-")[0].replace("_", "-") for task in found]
        states = [(task["state"] or {"name": "Pending"})["name"] for task in found]
        return list(zip(names, states, strict=True))

    def tasks_to(self, run: str, last: str, *, after: int = 0) -> list[tuple[str, str]]:
        """The same but the first `after`, once the newest is `last` and all are over.

        The server hears of a task's state by an event, some time after the run itself may have ended.
        """

        def heard() -> bool:
            found = self.tasks(run)[after:]
            return bool(found) and found[-1][0] == last and not {state for _, state in found} & _GOING_ON

        wait_until(heard, _HEARD_WITHIN_S, f"the end of {last}")
        return self.tasks(run)[after:]

    def artifacts(self, run: str) -> list[dict[str, Any]]:
        document = {"artifacts": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        found: list[dict[str, Any]] = self.api("/artifacts/filter", document)
        return found
