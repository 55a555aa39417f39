"""Runs tasks one after the other in the flow's own thread, and keeps the account of which were remembered.

The own thread: a run that is cancelled then ends its child processes; a pool's threads would let them go on.
"""

from __future__ import annotations

from typing import Any, ParamSpec, Protocol, TypeVar, cast

from prefect import Task
from prefect.cache_policies import NO_CACHE

from flows.result import Step

P = ParamSpec("P")
R = TypeVar("R")

_CACHED = "Cached"


class Taking(Protocol):
    """How a build takes its steps."""

    @property
    def taken(self) -> tuple[Step, ...]: ...

    def take(self, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...


class Steps:
    """`refresh` does every step anew, whatever is remembered."""

    def __init__(self, *, refresh: bool) -> None:
        self._refresh = refresh
        self._taken: list[Step] = []

    @property
    def taken(self) -> tuple[Step, ...]:
        return tuple(self._taken)

    def take(self, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The task's result. Raises what the task raised."""
        chosen = task.with_options(refresh_cache=True) if self._refresh else task
        state = cast("Any", chosen)(*args, **kwargs, return_state=True)
        if task.cache_policy is not NO_CACHE:
            self._taken.append(Step(name=task.name, cached=state.name == _CACHED))
        return cast("R", state.result())
