"""When a remembered result is believed, with Prefect's own records and no server. tests/flows has it in whole runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from prefect.serializers import JSONSerializer
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from structlog.testing import capture_logs

from coreimage.model import TEXT, ArtifactRef
from coreimage.storage import put_blob_bytes
from tasks.cache import policy as policy_module
from tasks.cache.lease import LeaseManager
from tasks.cache.policy import ArtifactPolicy, missing_artifact
from tasks.cache.reasons import recall
from tasks.factory import BuildTask, artifact_task
from tasks.progress import FinishedTask, Progress
from tasks.site import Site


@artifact_task(code=["coreimage.errors"], exclude=["note"])
def shout(text: str, *, note: str = "", site: Site) -> ArtifactRef:
    return put_blob_bytes(site.store(), text.upper().encode(), TEXT)


POLICY = cast("ArtifactPolicy", shout.cache_policy)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(store_url=str(tmp_path / "store"), keys_folder=str(tmp_path / "keys"), channel="core/13/edge")


@pytest.fixture
def results(tmp_path: Path) -> ResultStore:
    return ResultStore(
        result_storage=LocalFileSystem(basepath=str(tmp_path / "records")),
        serializer=JSONSerializer(),
        cache_result_in_memory=False,
    )


def arguments(site: Site, text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"text": text, "site": site, **more}


def key_of(site: Site, policy: ArtifactPolicy = POLICY, **more: Any) -> str:
    return policy.inputs("shout", arguments(site, **more)).key


def have_run(site: Site, results: ResultStore) -> ArtifactRef:
    """Leave what a run leaves."""
    made = shout.fn("hello", site=site)
    results.write(made, key=key_of(site))
    return made


def compute(
    site: Site,
    results: ResultStore,
    policy: ArtifactPolicy = POLICY,
    task: BuildTask[..., Any] = shout,
) -> tuple[str, tuple[FinishedTask, ...]]:
    """Ask for the key as Prefect does; return it, and the tasks that are told to be remembered."""
    run = TaskRun(name="Shout", task_key="shout", dynamic_key="0")
    context: TaskRunContext = cast("Any", TaskRunContext).model_construct(task=task, result_store=results, task_run=run)
    with Progress(0).shown() as progress:
        return policy.compute_key(context, arguments(site), {}), progress.finished


def reasons_of(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a log says of why the task runs."""
    return [line["event"].removeprefix("shout runs: ") for line in log if line["event"].startswith("shout runs")]


REMEMBERED = (FinishedTask(name="shout", title="Shout", cached=True),)


# What the key is of


def test_all_arguments_count_but_the_place_and_those_left_out(site: Site) -> None:
    other = Site(store_url=f"{site.store_url}-2", keys_folder="elsewhere", channel="core/13/stable", offline=True)
    assert key_of(site).startswith("shout-")
    assert key_of(site) == key_of(other) == key_of(site, note="later")
    assert key_of(site) != key_of(site, text="Hello")
    assert POLICY.inputs("whisper", arguments(site)).key != key_of(site)


def test_the_code_counts(site: Site, tmp_path: Path) -> None:
    source = tmp_path / "step.py"
    source.write_text("x = 1\n")
    of_step = replace(POLICY, source=source, code=("coreimage.http",))
    assert key_of(site, of_step) != key_of(site)
    assert key_of(site, of_step) != key_of(site, replace(of_step, code=()))
    assert POLICY.source == Path(__file__)


def test_a_process_does_what_it_loaded(site: Site, tmp_path: Path) -> None:
    source = tmp_path / "loaded.py"
    source.write_text("x = 1\n")
    before = key_of(site, replace(POLICY, source=source))
    source.write_text("x = 2\n")
    assert key_of(site, replace(POLICY, source=source)) == before
    policy_module._code.cache_clear()
    assert key_of(site, replace(POLICY, source=source)) != before


def test_the_machines_python_counts(site: Site) -> None:
    code = POLICY.inputs("shout", arguments(site)).code
    assert code[f"Python {sys.version_info.major}.{sys.version_info.minor}"] == ""
    assert "coreimage.storage.blobs" in code


def test_what_a_run_depends_on_is_of_its_channel(site: Site) -> None:
    assert POLICY.inputs("shout", arguments(site)).subject == "core/13/edge"
    assert POLICY.inputs("shout", arguments(site, device="pi")).values == {"text": '"hello"', "device": '"pi"'}


def test_a_task_without_a_site_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        POLICY.inputs("shout", {"text": "hello", "site": "var/store"})


# When it is believed


def test_a_task_that_never_ran_runs(site: Site, results: ResultStore) -> None:
    lookup = POLICY.look_up("shout", arguments(site), results)
    assert (lookup.reasons, lookup.refused, lookup.remembered) == (("no earlier run is recorded",), False, False)
    key, told = compute(site, results)
    assert (key, told) == (key_of(site), ())
    assert recall(lookup.inputs, site.store()) == lookup.inputs, "the next run can say what changed"
    assert POLICY.look_up("shout", arguments(site), results).reasons == (
        "its last run did not finish, or its result was removed",
    )


def test_a_result_whose_artifacts_are_there_is_remembered(site: Site, results: ResultStore) -> None:
    made = have_run(site, results)
    lookup = POLICY.look_up("shout", arguments(site), results)
    assert (lookup.result, lookup.remembered, lookup.refused) == (made, True, False)
    assert compute(site, results) == (key_of(site), REMEMBERED)
    assert results.exists(key_of(site))


@pytest.mark.parametrize("damage", ["gone", "shorter", "longer"])
def test_a_result_that_lost_an_artifact_is_not(damage: str, site: Site, results: ResultStore) -> None:
    made = have_run(site, results)
    if damage == "gone":
        site.store().delete([made.uri])
    else:
        site.store().put_bytes(made.uri, b"x" * (3 if damage == "shorter" else 99), media_type=TEXT)
    lookup = POLICY.look_up("shout", arguments(site), results)
    assert (lookup.reasons, lookup.refused) == ((f"{made.uri} is gone from the store",), True)
    assert compute(site, results) == (key_of(site), ())
    assert not results.exists(key_of(site)), "Prefect would believe it"


def test_a_record_that_cannot_be_read_is_no_hit(site: Site, results: ResultStore) -> None:
    class Unreadable(ResultStore):
        def read(self, key: str, holder: str | None = None) -> Any:
            raise ValueError("no such type any more")

    have_run(site, results)
    unreadable = Unreadable(result_storage=results.result_storage, serializer=JSONSerializer())
    lookup = POLICY.look_up("shout", arguments(site), unreadable)
    assert (lookup.result, lookup.refused) == (None, True)
    assert lookup.reasons == (f"{key_of(site)} is gone from the store",)
    compute(site, unreadable)
    assert not results.exists(key_of(site))


def test_a_result_that_does_not_hold_any_more_is_not(site: Site, results: ResultStore) -> None:
    asked: list[tuple[Any, Mapping[str, Any]]] = []

    def outdated(result: Any, given: Mapping[str, Any]) -> str:
        asked.append((result, given))
        return reason

    policy, made, reason = replace(POLICY, outdated=outdated), have_run(site, results), ""
    assert policy.look_up("shout", arguments(site), results).remembered
    assert asked == [(made, arguments(site))]
    reason = "the archive has moved on"
    lookup = policy.look_up("shout", arguments(site), results)
    assert (lookup.reasons, lookup.result, lookup.refused) == ((reason,), made, True)
    assert compute(site, results, policy)[1] == ()
    assert not results.exists(key_of(site))


@pytest.mark.parametrize(
    ("of_task", "of_run", "anew"), [(None, True, True), (None, False, False), (True, False, True), (False, True, False)]
)
def test_a_result_is_made_anew_where_that_is_asked_for(
    of_task: bool | None, of_run: bool, anew: bool, site: Site, results: ResultStore
) -> None:
    have_run(site, results)
    task = cast("BuildTask[..., Any]", cast("Any", shout).with_options(refresh_cache=of_task))
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: of_run}), capture_logs() as told:
        assert compute(site, results, task=task)[1] == (() if anew else REMEMBERED)
    assert reasons_of(told) == (["asked to be done anew"] if anew else [])


def test_why_a_task_runs_is_told(site: Site, results: ResultStore) -> None:
    with capture_logs() as told:
        compute(site, results)
    assert reasons_of(told) == ["no earlier run is recorded"]


@pytest.mark.parametrize("refresh", [False, True])
def test_who_holds_the_lease_makes_it_and_who_waited_is_told(refresh: bool, site: Site, results: ResultStore) -> None:
    leases = LeaseManager()
    policy = POLICY.configure(lock_manager=leases)
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: refresh}), Progress(0).shown() as progress:
        key, told = compute(site, results, policy)
        assert told == ()
        leases.acquire_lock(key, "us")
        assert [info.key for info in site.store().list("leases/")] == [f"leases/{key}.json"]
        have_run(site, results)
        leases.release_lock(key, "us")
        leases.acquire_lock(key, "another")
        leases.release_lock(key, "another")
        assert progress.finished == (() if refresh else REMEMBERED)


def test_every_artifact_of_a_result_is_looked_for(site: Site) -> None:
    store = site.store()
    first, second = (put_blob_bytes(store, content, TEXT) for content in (b"first", b"second"))
    assert missing_artifact({"a": (first, [second])}, store) == ""
    store.delete([second.uri])
    assert missing_artifact({"a": (first, [second])}, store) == second.uri
    assert missing_artifact("no artifact", store) == ""
