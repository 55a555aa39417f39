"""One factory for all cached tasks: the key, the belief in a record, and what is tried again.

A record in the result storage is believed only while every artifact it names is in the store with its recorded size;
otherwise the step runs again. Key and result are one object (no key storage), so neither can outlive the other.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import structlog
from prefect import Task, task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.results import ResultStore
from prefect.tasks import exponential_backoff
from prefect.transactions import IsolationLevel
from prefect.types._datetime import now

from coreimage.errors import CoreimageError
from coreimage.full_disk import telling_full_disk
from coreimage.storage import Store
from tasks.code import code_digests
from tasks.identity import references
from tasks.inputs import Inputs, inputs_of, remember, why
from tasks.lease import LeaseManager
from tasks.site import Site

P = ParamSpec("P")
R = TypeVar("R")
log = structlog.get_logger("coreimage.cache")

SITE = "site"
"""The parameter of every task that says where it works: never part of a key."""

_PYTHON = f"Python {sys.version_info.major}.{sys.version_info.minor}"
"""What our own code runs with is the machine's, and writes tar headers and JSON: the one tool that no tree holds."""
_RETRIES = 3
_BACKOFF_S = 2.0
_JITTER = 0.5


def artifact_task(
    *,
    code: Sequence[str] = (),
    recipe: str = "1",
    exclude: Sequence[str] = (),
    name: str | None = None,
    once: bool = False,
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Makes a function a task whose result is remembered by the content of its inputs.

    A change of what its module does, or anything of coreimage that it imports, makes new keys; `code` names packages
    besides, and another `recipe` does the same for a change elsewhere. The parameter `site` and those in `exclude` are
    not part of the key. With `once`, whoever wants a result that another run is just making waits for it.
    Only errors that say `retryable` are tried again: three times, 2, 4 and 8 s apart, up to half as much jitter added.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        source = Path(cast("Any", function).__code__.co_filename)
        policy = ArtifactPolicy(source=source, code=tuple(code), recipe=recipe, excluded=frozenset({SITE, *exclude}))
        if once:
            policy = policy.configure(isolation_level=IsolationLevel.SERIALIZABLE, lock_manager=LeaseManager())
        return _task(policy, name)(function)

    return decorate


def live_task(*, name: str | None = None) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Makes a function a task that runs every time, with the same retries as an `artifact_task`."""
    return _task(NO_CACHE, name)


def _task(policy: CachePolicy, name: str | None) -> Callable[[Callable[P, R]], Task[P, R]]:
    def decorate(function: Callable[P, R]) -> Task[P, R]:
        title = name or cast("Any", function).__name__.replace("_", "-")
        made = task(
            name=title,
            cache_policy=policy,
            persist_result=policy is not NO_CACHE,
            result_serializer="json",
            retries=_RETRIES,
            retry_delay_seconds=exponential_backoff(_BACKOFF_S),
            retry_jitter_factor=_JITTER,
            retry_condition_fn=may_help_to_retry,
        )
        return cast("Task[P, R]", made(_told(function, title)))

    return decorate


def _told(function: Callable[P, R], title: str) -> Callable[P, R]:
    """Whichever of its writes a full disk ends, the message says so, and what to do."""

    @functools.wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        with telling_full_disk(f"during {title}"):
            return function(*args, **kwargs)

    return told


def may_help_to_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, CoreimageError) and error.retryable


@dataclass
class ArtifactPolicy(CachePolicy):
    """Prefect's question "what is the key?", answered from content; a record that lost its blobs is expired first."""

    source: Path = Path()
    code: tuple[str, ...] = ()
    recipe: str = "1"
    excluded: frozenset[str] = frozenset({SITE})

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        site = inputs[SITE]
        assert isinstance(site, Site)  # noqa: S101
        store, found = site.store(), self.inputs(task_ctx.task.name, inputs)
        gone = expire_unless_whole(task_ctx.result_store, found.key, store)
        if gone or task_ctx.task.refresh_cache or not task_ctx.result_store.exists(found.key):
            reasons = ("asked to be done anew",) if task_ctx.task.refresh_cache else why(found, gone, store=store)
            log.info(f"{found.task} runs: {', '.join(reasons)}", key=found.key)
        remember(found, store)
        if isinstance(self.lock_manager, LeaseManager):
            refresh, results = task_ctx.task.refresh_cache, task_ctx.result_store
            self.lock_manager.announce(found.key, store, lambda: not refresh and results.exists(found.key))
        return found.key

    def inputs(self, task_name: str, arguments: Mapping[str, Any]) -> Inputs:
        """What a run of the task with these arguments would depend on; the arguments' names are the parameters'."""
        kept = {name: value for name, value in arguments.items() if name not in self.excluded}
        code = {**_code(self.source, self.code), "recipe": self.recipe, _PYTHON: ""}
        return inputs_of(task_name, arguments[SITE].channel, code, kept)


@functools.cache
def _code(source: Path, packages: tuple[str, ...]) -> Mapping[str, str]:
    """Looked at once: a process does what it loaded, whatever becomes of the files. A run asks for it at every step."""
    return code_digests(source, packages)


def expire_unless_whole(results: ResultStore, key: str, store: Store) -> str:
    """Expires the record of `key` if the store lacks an artifact that it names; gives that artifact's place, or ""."""
    if not results.exists(key):
        return ""
    try:
        remembered = results.read(key).result
    except Exception:
        # A record that cannot be read is no hit: the engine would say so too late, as a failure of the task.
        log.warning("unreadable record", key=key)
        remembered, gone = None, key
    else:
        gone = missing_artifact(remembered, store)
    if gone:
        results.write(remembered, key=key, expiration=cast("Any", now("UTC") - timedelta(seconds=1)))
    return gone


def missing_artifact(result: object, store: Store) -> str:
    """The place of the first artifact of a result that is not in the store with its size, or ""."""
    return next((ref.uri for ref in references(result) if not _is_whole(store, ref.uri, ref.size_bytes)), "")


def _is_whole(store: Store, uri: str, size_bytes: int) -> bool:
    found = store.head(uri)
    return found is not None and found.size_bytes == size_bytes
