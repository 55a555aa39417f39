"""`--until` and `--from`: which steps a build by hand takes, with the stand-ins of test_build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coreimage import rootfs
from coreimage.errors import BootError, BuildError
from coreimage.operations.stages import STAGES, Stage, Stages
from coreimage.storage import put_blob_bytes
from flows.build import build_channel
from flows.plan import StagesResult, build_stages
from tests.flows.test_build import CHANNEL, WHOLE, Rooms, rooms

__all__ = ["rooms"]

Take = Callable[..., StagesResult]
AFTER: dict[Stage, int] = {
    "plan": 5, "rootfs": 6, "device": 7, "publish": 7, "import": 8, "image": 9, "boot": 11, "release": 13
}  # fmt: skip
"""How much of `WHOLE` has been done after a stage."""


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Any]:
    names = {"project_file": "tiny.yaml", "store_url": "store", "keys_folder": "keys"}
    return {name: str(tmp_path / path) for name, path in names.items()}


@pytest.fixture
def take(rooms: Rooms, places: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Take:
    def current(lock: Any, *_: Any) -> Any:
        assert lock, "there is a current lock"
        return lock

    monkeypatch.setattr(rootfs, "offline_lock", current)
    monkeypatch.setattr(rootfs, "tool_versions", lambda *_: {})
    monkeypatch.setattr(
        rootfs,
        "store_lock",
        lambda store, lock: put_blob_bytes(store, lock.model_dump_json().encode(), "application/json"),
    )

    def run(first: Stage | None = None, last: Stage = "release") -> StagesResult:
        rooms.calls.clear()
        result: StagesResult = build_stages(CHANNEL, Stages(first=first, last=last), **places)
        return result

    return run


def test_up_to_each_stage_one_by_one(take: Take, rooms: Rooms) -> None:
    done = 0
    for stage in STAGES:
        result = take(last=stage)
        anew = [call for call in rooms.calls if call != "probe"]
        assert anew == [call for call in WHOLE[done : AFTER[stage]] if call != "probe"], stage
        assert result.outputs[-1].stage in STAGES[: STAGES.index(stage) + 1]
        done = AFTER[stage]
    assert take().tasks[-1].cached


@pytest.mark.parametrize("stage", STAGES)
def test_from_each_stage_what_follows_is_done_anew(
    take: Take,
    rooms: Rooms,
    places: dict[str, Any],
    stage: Stage,
) -> None:
    build_channel(CHANNEL, **places)
    # The archives move on: from a later stage on, that changes nothing.
    rooms.suite = "2" * 64
    take(first=stage)
    before = 0 if stage == "plan" else AFTER[STAGES[STAGES.index(stage) - 1]]
    assert [call.removesuffix(" first").removesuffix(" after another") for call in rooms.calls] == [
        call.removesuffix(" first") for call in WHOLE[before:]
    ]


def test_between_two_stages(take: Take, rooms: Rooms, places: dict[str, Any]) -> None:
    build_channel(CHANNEL, **places)
    result = take(first="rootfs", last="device")
    assert rooms.calls == ["rootfs", "device"]
    assert {made.stage for made in result.outputs} == {"plan", "rootfs", "device"}
    assert [made.subject for made in result.outputs if made.stage == "device"] == [f"{CHANNEL}-board-amd64"]
    tarball = next(made for made in result.outputs if made.task == "build-device").artifacts["tarball"]
    assert Path(places["store_url"], tarball.uri).is_file()


def test_what_comes_before_must_have_been_done(take: Take, rooms: Rooms) -> None:
    take(last="rootfs")
    with pytest.raises(BuildError, match="no result of the stage device is remembered") as refused:
        take(first="publish")
    assert "--until device" in refused.value.resolution
    assert rooms.calls == []


def test_a_failed_boot_releases_nothing(take: Take, rooms: Rooms) -> None:
    rooms.boots = False
    with pytest.raises(BootError):
        take(last="boot")
    assert "release" not in rooms.calls
