"""Several machines that share nothing but the network: what one of them loses, another does, and nothing twice."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from coreimage.model import Architecture
from tests.harness.fleet import Fleet, Machine
from tests.harness.fleet_product import OF_TASKS, FleetProduct, fleet_product
from tests.harness.tools import SharedTools
from tests.harness.workshop import running_as_root, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not running_as_root(), reason="networks of their own are root's to make"),
]
CHANNELS = ("tiny/1/edge", "tiny/1/beta", "tiny/1/stable")
FEW: Mapping[str, Architecture] = {f"board{number}_amd64": "amd64" for number in range(12)}
"""Enough that a machine that joins finds work left."""
ARCHITECTURES: tuple[Architecture, ...] = ("amd64", "arm64")
FORTY = {f"board{number}_{architecture}": architecture for architecture in ARCHITECTURES for number in range(20)}
_WITHIN_S = 3600.0


@pytest.fixture(scope="module", params=[FEW, FORTY], ids=["few", "forty"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tools: SharedTools
) -> Iterator[FleetProduct]:
    folder = tmp_path_factory.mktemp("fleet")
    with fleet_product(folder, tools, channels=CHANNELS, devices=request.param) as made:
        yield made


def test_the_api_asks_who_it_is(place: FleetProduct) -> None:
    made = place.fleet
    stranger = Fleet(made.folder, made.address, made.s3, made.url, "", made.database_url, made.stack)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stranger.api("/flow_runs/count", {})
    assert made.api("/deployments/count", {}) > len(CHANNELS)


def test_three_machines_build_three_channels_though_one_is_lost_and_one_joins(place: FleetProduct) -> None:
    made = place.fleet
    made.add("signing", place.keys, limit=3)
    builders = [made.add("build") for _ in range(2)]
    runs = [made.start(f"build-channel/{channel.replace('/', ':')}") for channel in CHANNELS]
    wait_until(lambda: bool(working_on(made, builders[0])), _WITHIN_S, "a task on the first machine")
    lost = working_on(made, builders[0])
    builders[0].lose()
    builders.append(made.add("build"))

    finished = [made.completed(run, _WITHIN_S) for run in runs]

    remote = place.remote_runs()
    states = {run["id"]: run["state"]["name"] for run in remote}
    assert [states[run] for run in lost].count("Crashed") == len(lost), (
        "what the machine did was noticed and given away"
    )
    assert taken_by(remote, builders[1]), "both machines had work"
    assert taken_by(remote, builders[2]), "who joins gets work"
    assert set(place.done().values()) == {1}, "what several channels want is made once"
    reports = [report(made, run["id"]) for run in finished]
    anew = [said.partition("done anew: ")[2].partition("\n")[0] for said in reports]
    assert any("build-rootfs" in said for said in anew), "what ran on another machine did run"
    assert_released_once(place, finished)


def assert_released_once(place: FleetProduct, finished: list[dict[str, Any]]) -> None:
    """One build or one for each channel, and the first version of every device: right, as clients see it."""
    assert place.published() == {run["name"].split()[-1] for run in finished}
    for channel in CHANNELS:
        for device in place.devices:
            assert place.versions(channel, device) == {"1"}
    place.fleet.coreimage("--store", place.store.url, "verify")


def report(made: Fleet, run: str) -> str:
    """What the run says that it built."""
    (found,) = [each for each in made.artifacts(run) if (each["key"] or "").startswith("build-")]
    return str(found["data"])


def working_on(made: Fleet, machine: Machine) -> list[str]:
    """Runs of tasks that go on there."""
    document = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}, **OF_TASKS}
    return [run["id"] for run in taken_by(made.api("/flow_runs/filter", document), machine)]


def taken_by(runs: list[dict[str, Any]], machine: Machine) -> list[dict[str, Any]]:
    return [run for run in runs if machine.took(run["id"])]
