"""Runs tasks one after the other in the flow's own thread, tells what they do, and keeps the account of it.

The own thread: a run that is cancelled then ends its child processes; a pool's threads would let them go on.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

from prefect import Task
from prefect.cache_policies import NO_CACHE

from coreimage.logs import story
from flows.progress import Progress
from flows.result import Step
from flows.story import beginning, end

P = ParamSpec("P")
R = TypeVar("R")

_CACHED = "Cached"


@dataclass(frozen=True)
class Planned(Generic[R]):
    """A step that is to be taken; `step` makes one with its arguments checked."""

    title: str
    task: Task[..., R]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


def step(title: str, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> Planned[R]:
    return Planned(title, task, args, kwargs)


class Taking(Protocol):
    """How a build takes its steps."""

    @property
    def taken(self) -> tuple[Step, ...]: ...

    def take(self, title: str, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...

    def ahead(self, *planned: Planned[Any]) -> None:
        """Says which steps are taken next and do not wait for each other."""
        ...

    def do(self, planned: Planned[R]) -> R: ...

    def finish(self, news: str) -> None:
        """All steps have been taken."""
        ...


class Steps:
    """`refresh` does every step anew, whatever is remembered."""

    def __init__(self, *, refresh: bool, expected: int = 0) -> None:
        self._refresh = refresh
        self._taken: list[Step] = []
        self._progress = Progress(expected)

    @property
    def taken(self) -> tuple[Step, ...]:
        return tuple(self._taken)

    def take(self, title: str, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The task's result. Raises what the task raised. Without a title nothing is told."""
        return self._take(Planned(title, task, args, kwargs))

    def _take(self, planned: Planned[R], elsewhere_s: float | None = None) -> R:
        """`elsewhere_s` is what it took for this run on another machine: here it is remembered by now."""
        title, task = planned.title, planned.task
        chosen = task.with_options(refresh_cache=True) if self._anew(task) else task.with_options()
        chosen.task_run_name = title or task.name
        if title:
            chosen.fn = _announced(chosen.fn, title, self._progress)
        start_s = time.monotonic()
        state = cast("Any", chosen)(*planned.arguments, **planned.keywords, return_state=True)
        own_s, here = round(time.monotonic() - start_s, 1), elsewhere_s is None
        cached, duration_s = state.name == _CACHED and here, own_s if elsewhere_s is None else elsewhere_s
        taken = Step(name=task.name, title=title, cached=cached, duration_s=duration_s)
        if task.cache_policy is not NO_CACHE:
            self._taken.append(taken)
        self._progress.advance()
        result = cast("R", state.result())
        if title:
            story.info(end(title, result, cached=cached, duration_s=duration_s, begun=here))
        return result

    def do(self, planned: Planned[R]) -> R:
        return self.take(planned.title, planned.task, *planned.arguments, **planned.keywords)

    def ahead(self, *planned: Planned[Any]) -> None:
        """Here they come one after the other."""

    def finish(self, news: str) -> None:
        self._progress.finish(news)

    def _anew(self, task: Task[..., Any]) -> bool:
        return self._refresh


def _announced(function: Callable[P, R], title: str, progress: Progress) -> Callable[P, R]:
    """Whether a task is remembered is known only to Prefect: the one that really runs says so itself."""

    @functools.wraps(function)
    def announced(*args: P.args, **kwargs: P.kwargs) -> R:
        story.info(beginning(title))
        progress.show(title)
        return function(*args, **kwargs)

    return announced
