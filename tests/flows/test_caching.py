"""The cached-task factory, on a real Prefect server with a real store."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.schemas.objects import State

from coreimage.errors import BuildError, InfrastructureError
from coreimage.model import TEXT, ArtifactRef
from coreimage.storage import put_blob_bytes, read_blob
from tasks.cache.policy import ArtifactPolicy
from tasks.factory import artifact_task, live_task
from tasks.site import Site
from tests.harness.workshop import wait_until

CALLS: list[str] = []
FAILURES: list[Exception] = []


@artifact_task(code=["coreimage.errors"])
def shout(text: str, *, site: Site) -> ArtifactRef:
    CALLS.append(f"shout {text}")
    return put_blob_bytes(site.store(), text.upper().encode(), TEXT)


@artifact_task(code=["coreimage.errors"])
def whisper(text: str, *, site: Site) -> ArtifactRef:
    CALLS.append(f"whisper {text}")
    return put_blob_bytes(site.store(), text.lower().encode(), TEXT)


@artifact_task(code=["coreimage.errors"])
def join(parts: tuple[ArtifactRef, ...], *, site: Site) -> ArtifactRef:
    CALLS.append("join")
    return put_blob_bytes(site.store(), b"+".join(read_blob(site.store(), part) for part in parts), TEXT)


@artifact_task(code=["coreimage.errors"])
def fails(*, site: Site) -> ArtifactRef:
    CALLS.append("fails")
    if FAILURES:
        raise FAILURES.pop(0)
    return put_blob_bytes(site.store(), b"at last", TEXT)


@live_task()
def look(*, site: Site) -> int:
    CALLS.append("look")
    return len(CALLS)


@flow
def chain(site: Site) -> list[State[ArtifactRef]]:
    """shout and whisper the same text, join both."""
    loud = shout("Hello", site=site, return_state=True)
    soft = whisper("Hello", site=site, return_state=True)
    both = join((loud.result(), soft.result()), site=site, return_state=True)
    return [loud, soft, both]


@flow
def failing(site: Site) -> ArtifactRef:
    """One task that fails as told."""
    return fails.with_options(retry_delay_seconds=0.01, retry_jitter_factor=0.1)(site=site)


@flow
def looking(site: Site) -> tuple[int, int]:
    """The same live task, twice."""
    return look(site=site), look(site=site)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    CALLS.clear()
    FAILURES.clear()
    return Site(store_url=str(tmp_path / "store"), keys_folder=str(tmp_path / "keys"))


def names(states: list[State[ArtifactRef]]) -> list[str]:
    return [state.name or "" for state in states]


def test_equal_arguments_of_two_tasks_do_not_collide(site: Site) -> None:
    loud, soft, both = (state.result() for state in chain(site))
    store = site.store()
    assert (read_blob(store, loud), read_blob(store, soft), read_blob(store, both)) == (
        b"HELLO",
        b"hello",
        b"HELLO+hello",
    )


def test_second_run_is_remembered_and_its_records_exist(site: Site, records: Path) -> None:
    first = chain(site)
    assert names(first) == ["Completed"] * 3
    assert sorted(path.name.rpartition("-")[0] for path in records.iterdir()) == ["join", "shout", "whisper"]
    CALLS.clear()
    second = chain(site)
    assert names(second) == ["Cached"] * 3
    assert CALLS == []
    assert [state.result() for state in second] == [state.result() for state in first]


def test_only_the_step_whose_blob_is_gone_runs_again(site: Site) -> None:
    loud, _, _ = chain(site)
    site.store().delete([loud.result().uri])
    CALLS.clear()
    assert names(chain(site)) == ["Completed", "Cached", "Cached"]
    assert CALLS == ["shout Hello"]
    assert names(chain(site)) == ["Cached"] * 3


def test_a_blob_of_another_size_is_as_good_as_gone(site: Site) -> None:
    _, soft, _ = chain(site)
    key = soft.result().uri
    site.store().put_bytes(key, b"hell", media_type=TEXT)
    assert names(chain(site)) == ["Cached", "Completed", "Cached"]


def test_an_unreadable_record_is_no_hit(site: Site, records: Path) -> None:
    chain(site)
    next(records.glob("whisper-*")).write_text("{}")
    assert names(chain(site)) == ["Cached", "Completed", "Cached"]


def test_another_store_has_nothing_to_remember(site: Site, tmp_path: Path) -> None:
    chain(site)
    other = Site(store_url=str(tmp_path / "other"), keys_folder=site.keys_folder)
    assert names(chain(other)) == ["Completed"] * 3


def test_the_machine_s_python_is_an_input(site: Site) -> None:
    policy = shout.cache_policy
    assert isinstance(policy, ArtifactPolicy)
    assert (
        f"Python {sys.version_info.major}.{sys.version_info.minor}"
        in policy.inputs("shout", {"text": "Hello", "site": site}).code
    )


def test_a_live_task_runs_every_time(site: Site) -> None:
    assert looking(site) == (1, 2)


def test_an_error_that_may_pass_is_tried_again(site: Site) -> None:
    FAILURES.extend([InfrastructureError("503"), InfrastructureError("503")])
    failing(site)
    assert CALLS == ["fails"] * 3


def test_an_error_that_stays_is_not(site: Site) -> None:
    FAILURES.extend([BuildError("no such package", resolution="mend the list"), BuildError("again")])
    with pytest.raises(BuildError, match="mend the list"):
        failing(site)
    assert CALLS == ["fails"]


def test_retries_end(site: Site) -> None:
    FAILURES.extend(InfrastructureError("503") for _ in range(9))
    with pytest.raises(InfrastructureError):
        failing(site)
    assert CALLS == ["fails"] * 4


@artifact_task(code=["coreimage.errors"], once=True)
def slow(gate: str, *, site: Site) -> ArtifactRef:
    CALLS.append("slow")
    STARTED.set()
    assert GO_ON.wait(60)
    return put_blob_bytes(site.store(), b"slow", TEXT)


STARTED, GO_ON = threading.Event(), threading.Event()


@flow
def wants_slow(site: Site) -> State[ArtifactRef]:
    """One of two channels that want the same."""
    return slow("same", site=site, return_state=True)


def test_what_two_runs_want_at_once_is_made_once(site: Site) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(copy_context().run, wants_slow, site)
        assert STARTED.wait(60)
        second = pool.submit(copy_context().run, wants_slow, site)
        wait_until(lambda: bool(list(site.store().list("leases/"))), 30, "the lease")
        assert not second.done()
        GO_ON.set()
        names = {first.result().name, second.result().name}
    assert names == {"Completed", "Cached"}
    assert CALLS.count("slow") == 1
    assert list(site.store().list("leases/")) == []
