"""Runs tasks one after the other in the flow's own thread, tells what they do, and keeps the account of it.

The own thread: a run that is cancelled then ends its child processes; a pool's threads would let them go on.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from prefect import Task
from prefect.cache_policies import NO_CACHE

from coreimage.logs import story
from flows.result import Step
from flows.story import beginning, end

P = ParamSpec("P")
R = TypeVar("R")

_CACHED = "Cached"


class Taking(Protocol):
    """How a build takes its steps."""

    @property
    def taken(self) -> tuple[Step, ...]: ...

    def take(self, title: str, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...


class Steps:
    """`refresh` does every step anew, whatever is remembered."""

    def __init__(self, *, refresh: bool) -> None:
        self._refresh = refresh
        self._taken: list[Step] = []

    @property
    def taken(self) -> tuple[Step, ...]:
        return tuple(self._taken)

    def take(self, title: str, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The task's result. Raises what the task raised. Without a title nothing is told."""
        chosen = task.with_options(refresh_cache=True) if self._refresh else task.with_options()
        if title:
            chosen.fn = _announced(chosen.fn, title)
        start_s = time.monotonic()
        state = cast("Any", chosen)(*args, **kwargs, return_state=True)
        taken = Step(name=task.name, cached=state.name == _CACHED, duration_s=round(time.monotonic() - start_s, 1))
        if task.cache_policy is not NO_CACHE:
            self._taken.append(taken)
        result = cast("R", state.result())
        if title:
            story.info(end(title, result, cached=taken.cached, duration_s=taken.duration_s))
        return result


def _announced(function: Callable[P, R], title: str) -> Callable[P, R]:
    """Whether a task is remembered is known only to Prefect: the one that really runs says so itself."""

    @functools.wraps(function)
    def announced(*args: P.args, **kwargs: P.kwargs) -> R:
        story.info(beginning(title))
        return function(*args, **kwargs)

    return announced
