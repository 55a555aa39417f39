"""Several machines that share nothing but the network: what one of them loses, another does, and nothing twice."""

from __future__ import annotations

import urllib.error
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from coreimage.storage import Store, open_store
from tests.harness.fleet import Fleet, Machine, fleet
from tests.harness.product import Product, small_keys
from tests.harness.server import serve
from tests.harness.tools import SharedTools
from tests.harness.workshop import running_as_root, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(not running_as_root(), reason="networks of their own are root's to make"),
]
CHANNELS = ("tiny/1/edge", "tiny/1/beta", "tiny/1/stable")
DEVICES = {f"board{number}_amd64": "amd64" for number in range(2)}
_WITHIN_S = 3600.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tools: SharedTools) -> Iterator[tuple[Fleet, Path]]:
    """The servers, with a project whose archives are reached over the network, and its keys."""
    folder = tmp_path_factory.mktemp("fleet")
    product = Product(folder / "product", channels=CHANNELS, devices=DEVICES, settings={"spread": True})
    keys = small_keys(tmp_path_factory.mktemp("keys") / "keys")
    with (
        fleet(folder) as made,
        serve(folder / "product/archive", made.address) as archive,
        serve(tools.folder / "archive", made.address) as tools_archive,
    ):
        config: Any = product.config
        config |= yaml.safe_load(tools.yaml)
        config["series"]["1"]["archives"][0]["uri"] = archive.url
        config["tools"]["archives"][0]["uri"] = tools_archive.url
        product.write()
        with pytest.MonkeyPatch.context() as environment:
            for name, value in made.s3.environment().items():
                environment.setenv(name, value)
            made.coreimage("--project", str(product.project_file), "deploy")
            yield made, keys


def test_the_api_asks_who_it_is(site: tuple[Fleet, Path]) -> None:
    made, _ = site
    stranger = Fleet(made.folder, made.address, made.s3, made.url, "", made.database_url, made.stack)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stranger.api("/flow_runs/count", {})
    assert made.api("/deployments/count", {}) > len(CHANNELS)


def test_three_machines_build_three_channels_though_one_is_lost_and_one_joins(site: tuple[Fleet, Path]) -> None:
    made, keys = site
    made.add("signing", keys, limit=3)
    builders = [made.add("build") for _ in range(2)]
    runs = [made.start(f"build-channel/{channel.replace('/', ':')}") for channel in CHANNELS]
    wait_until(lambda: bool(working_on(made, builders[0])), _WITHIN_S, "a step on the first machine")
    lost = working_on(made, builders[0])
    builders[0].lose()
    builders.append(made.add("build"))

    finished = [made.completed(run, _WITHIN_S) for run in runs]

    steps = made.api("/flow_runs/filter", {"flows": {"name": {"any_": ["take-step"]}}, "limit": 200})
    states = {run["id"]: run["state"]["name"] for run in steps}
    assert [states[run] for run in lost].count("Crashed") == len(lost), (
        "what the machine did was noticed and given away"
    )
    assert taken_by(steps, builders[1]), "both machines had work"
    assert taken_by(steps, builders[2]), "who joins gets work"
    done = Counter(run["name"] for run in steps if run["state"]["name"] == "Completed")
    assert [name for name, count in done.items() if count > 1] == [], "nothing is done twice"
    reports = [found["data"] for run in finished for found in made.artifacts(run["id"]) if found["key"][:6] == "build-"]
    anew = [report.partition("done anew: ")[2].partition("\n")[0] for report in reports]
    assert any("build-rootfs" in said for said in anew), "what was done elsewhere was done"
    store = open_store(f"s3://{made.s3.bucket}")
    build_ids = {run["name"].split()[-1] for run in finished}
    assert published(store) == {next(iter(build_ids))} or published(store) == build_ids
    for channel in CHANNELS:
        for device in DEVICES:
            assert versions(store, channel, device) == {"1"}
    made.coreimage("--store", f"s3://{made.s3.bucket}", "verify")


def working_on(made: Fleet, machine: Machine) -> list[str]:
    """Runs of steps that go on there."""
    document = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}, "flows": {"name": {"any_": ["take-step"]}}}
    return [run["id"] for run in taken_by(made.api("/flow_runs/filter", document), machine)]


def taken_by(runs: list[dict[str, Any]], machine: Machine) -> list[dict[str, Any]]:
    return [run for run in runs if machine.took(run["id"])]


def published(store: Store) -> set[str]:
    return {key.split("/")[4] for item in store.list("cdimage/") if (key := item.key).endswith("/SHA256SUMS")}


def versions(store: Store, channel: str, device: str) -> set[str]:
    prefix = f"images/{channel}/{device}/"
    return {item.key.removeprefix(prefix).split("/")[0] for item in store.list(prefix)}
