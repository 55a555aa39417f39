"""The factory of all tasks: which results are remembered, which errors are retried, and what a run tells of a task.

How results are remembered and when they are used is in `tasks.cache`; the texts that a run tells are in `tasks.story`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

from prefect import Task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture
from prefect.tasks import exponential_backoff
from prefect.transactions import IsolationLevel

from coreimage.errors import CoreimageError
from coreimage.host.disk_space import explain_full_disk
from tasks.cache.lease import LeaseManager
from tasks.cache.policy import SITE, ArtifactPolicy, Outdated
from tasks.progress import tell

P = ParamSpec("P")
R = TypeVar("R")

Title: TypeAlias = str | Callable[[dict[str, Any]], str]
"""The name of a task run: a format over the task's parameters, such as `Booting {image.device}`, or a function of
them, whose only parameter is called `parameters`."""

_RETRIES = 3
_BACKOFF_S = 2.0
_JITTER = 0.5


class BuildTask(Task[P, R]):
    """A task of ours.

    Attributes:
        dry_run: Whether it also runs in a dry run: it changes nothing that others read, and later tasks depend on its
            result.
        quiet: Whether the story and the progress of a run leave it out.
    """

    dry_run: bool = False
    quiet: bool = False

    def submit(self, *args: Any, **kwargs: Any) -> PrefectFuture[R]:  # type: ignore[override]
        """Submit a run to the flow's task runner; any argument may be a future, which the type `P` cannot express."""
        future: PrefectFuture[R] = super().submit(*args, **kwargs)
        return future


def artifact_task(
    *,
    title: Title = "",
    code: Sequence[str] = (),
    exclude: Sequence[str] = (),
    once: bool = False,
    dry_run: bool = False,
    outdated: Outdated | None = None,
) -> Callable[[Callable[P, R]], BuildTask[P, R]]:
    """Make a function a task whose result is remembered by the content of its inputs.

    The cache key also changes with the code of the function's module and of everything of coreimage that it imports.
    Errors that are `retryable` are retried three times, after 2, 4 and 8 s with up to half as much jitter added.

    Args:
        title: The name of its runs; the function's name in words when empty.
        code: Packages of coreimage that count as its code besides those that its module imports.
        exclude: Parameters that are not part of the key; `site` never is.
        once: Whether a run waits when another run is just making the same result.
        dry_run: See `BuildTask`.
        outdated: Returns why a remembered result must not be used any more, or "".
    """

    def decorate(function: Callable[P, R]) -> BuildTask[P, R]:
        policy = ArtifactPolicy(
            source=Path(cast("Any", function).__code__.co_filename),
            code=tuple(code),
            excluded=frozenset({SITE, *exclude}),
            outdated=outdated,
        )
        if once:
            policy = policy.configure(isolation_level=IsolationLevel.SERIALIZABLE, lock_manager=LeaseManager())
        return _task(function, policy, title, quiet=False, dry_run=dry_run)

    return decorate


def live_task(
    *, title: Title = "", quiet: bool = False, dry_run: bool = False
) -> Callable[[Callable[P, R]], BuildTask[P, R]]:
    """Make a function a task that runs every time, with the same retries as an `artifact_task`.

    Args:
        title: The name of its runs; the function's name in words when empty.
        quiet: See `BuildTask`.
        dry_run: See `BuildTask`.
    """

    def decorate(function: Callable[P, R]) -> BuildTask[P, R]:
        return _task(function, NO_CACHE, title, quiet=quiet, dry_run=dry_run)

    return decorate


def _task(
    function: Callable[P, R], policy: CachePolicy, title: Title, *, quiet: bool, dry_run: bool
) -> BuildTask[P, R]:
    words = cast("Any", function).__name__
    name, kept = words.replace("_", "-"), policy is not NO_CACHE

    @functools.wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        run = TaskRunContext.get()
        with explain_full_disk(f"during {name}"):
            if quiet or run is None:
                return function(*args, **kwargs)
            return tell(run.task_run, name, functools.partial(function, *args, **kwargs), kept=kept)

    task: BuildTask[P, R] = BuildTask(
        told,
        name=name,
        task_run_name=cast("Any", title) or words.replace("_", " ").capitalize(),
        cache_policy=policy,
        persist_result=kept,
        result_serializer="json",
        retries=_RETRIES,
        retry_delay_seconds=exponential_backoff(_BACKOFF_S),
        retry_jitter_factor=_JITTER,
        retry_condition_fn=may_help_to_retry,
    )
    task.dry_run, task.quiet = dry_run, quiet
    return task


def title_of(task: Task[..., Any], arguments: Mapping[str, Any]) -> str:
    """Return the name that Prefect gives to a run of the task with these arguments."""
    title: Any = task.task_run_name
    return str(title(parameters=arguments) if callable(title) else title.format(**arguments))


def may_help_to_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return whether a retry of a failed task may succeed, which our errors say themselves."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, CoreimageError) and error.retryable
