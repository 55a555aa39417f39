"""A tiny product on several machines: its archives are reached over the network, its deployments are on the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from coreimage.model import Architecture
from coreimage.storage import Store, open_store
from tests.harness.fleet import Fleet, fleet
from tests.harness.product import Product, small_keys
from tests.harness.server import serve
from tests.harness.tools import SharedTools

OF_TASKS = {"flows": {"name": {"any_": ["run-task"]}}}


@dataclass(frozen=True)
class FleetProduct:
    """`keys` is a folder with all of them, which no machine has yet."""

    fleet: Fleet
    keys: Path
    devices: Mapping[str, Architecture]

    @property
    def store(self) -> Store:
        return open_store(f"s3://{self.fleet.s3.bucket}")

    def published(self) -> set[str]:
        """Ids of builds."""
        return {key.split("/")[4] for item in self.store.list("cdimage/") if (key := item.key).endswith("/SHA256SUMS")}

    def versions(self, channel: str, device: str) -> set[str]:
        prefix = f"images/{channel}/{device}/"
        return {item.key.removeprefix(prefix).split("/")[0] for item in self.store.list(prefix)}

    def remote_runs(self) -> list[dict[str, Any]]:
        """All runs of tasks that other machines were given, and how each ended."""
        return self._found_by("/flow_runs/filter")

    def done(self) -> Counter[str]:
        """How often each task really ran elsewhere, rather than being found done, by what tells tasks apart."""
        keys = {run["id"]: _key_of(run) for run in self.remote_runs()}
        tasks = self._found_by("/task_runs/filter")
        return Counter(keys[task["flow_run_id"]] for task in tasks if task["state"]["name"] == "Completed")

    def _found_by(self, path: str) -> list[dict[str, Any]]:
        """All pages of an answer."""
        found: list[dict[str, Any]] = []
        while page := self.fleet.api(path, {**OF_TASKS, "limit": 200, "offset": len(found), "sort": "ID_DESC"}):
            found += page
        return found


def _key_of(run: dict[str, Any]) -> str:
    """The one of its tags that no deployment gave it."""
    (key,) = [tag for tag in run["tags"] if tag.startswith(run["parameters"]["task"])]
    return str(key)


@contextmanager
def fleet_product(
    folder: Path, tools: SharedTools, *, channels: Sequence[str], devices: Mapping[str, Architecture]
) -> Iterator[FleetProduct]:
    """The servers, without workers yet. This process sees the store for the block."""
    product = Product(folder / "product", channels=tuple(channels), devices=devices, settings={"remote_tasks": True})
    keys = small_keys(folder / "keys")
    with (
        fleet(folder) as made,
        serve(folder / "product/archive", made.address) as archive,
        serve(tools.folder / "archive", made.address) as tools_archive,
        pytest.MonkeyPatch.context() as environment,
    ):
        config: Any = product.config
        config |= yaml.safe_load(tools.yaml)
        config["series"]["1"]["archives"][0]["uri"] = archive.url
        config["tools"]["archives"][0]["uri"] = tools_archive.url
        product.write()
        for name, value in made.s3.environment().items():
            environment.setenv(name, value)
        made.coreimage("--project", str(product.project_file), "deploy")
        yield FleetProduct(made, keys, devices)
