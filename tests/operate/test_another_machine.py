"""A retry goes on wherever there is a worker: on a machine that has nothing of what the first one made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.harness.api import LAST, LIVE
from tests.harness.fleet_product import FleetProduct, fleet_product
from tests.harness.tools import SharedTools
from tests.harness.workshop import running_as_root

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not running_as_root(), reason="networks of their own are root's to make"),
]
CHANNEL, DEVICE = "tiny/1/edge", "board_amd64"


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory, tools: SharedTools) -> Iterator[FleetProduct]:
    folder = tmp_path_factory.mktemp("fleet")
    with fleet_product(folder, tools, channels=[CHANNEL], devices={DEVICE: "amd64"}) as made:
        yield made


def test_what_a_machine_without_the_key_could_not_do_another_does(place: FleetProduct) -> None:
    made, without_key = place.fleet, place.keys.with_name("keys-without-cdimage")
    shutil.copytree(place.keys, without_key)
    shutil.rmtree(without_key / "cdimage")
    lacking, builder = made.add("signing", without_key), made.add("build")
    run = made.start(f"build-channel/{CHANNEL.replace('/', ':')}")
    state = made.finished(run)["state"]
    assert state["type"] == "FAILED", state
    assert "cdimage key is not on this machine" in state["message"]
    first, built = made.tasks_to(run, "publish-build"), place.done()
    assert [key for key in built if key.startswith("build-rootfs")]
    for machine in (lacking, builder):
        machine.lose()

    another = made.add("signing", place.keys)
    made.add("build")
    made.retry(run)
    done = made.completed(run)

    assert another.took(run)
    assert done["run_count"] == 2
    again = made.tasks_to(run, LAST, after=len(first))
    anew = [name for name, state in again if state != "Cached" and name not in LIVE]
    assert anew[0] == "publish-build"
    finished = {name for name, state in first if state == "Completed"} - LIVE
    assert not finished & set(anew), "nothing is done twice"
    assert place.done() & built == built, "nor by those who build"
    assert set(place.done().values()) == {1}
    assert place.published() == {done["name"].split()[-1]}
    assert place.versions(CHANNEL, DEVICE) == {"1"}
    made.coreimage("--store", place.store.url, "verify")
