"""The cache policy of our tasks: the key of a result, and whether the record of that key may be used.

A record in the result storage is used only while every artifact that it names is in the store with its recorded size;
otherwise the task runs again. Key and result are one object (no key storage), so neither can outlive the other.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias, cast

import structlog
from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.results import ResultStore
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE
from prefect.types._datetime import now

from coreimage.storage import Store, is_stored
from tasks.cache.code import code_digests
from tasks.cache.identity import references
from tasks.cache.lease import LeaseManager
from tasks.cache.reasons import Inputs, inputs_of, remember, why
from tasks.progress import tell_remembered
from tasks.site import Site

log = structlog.get_logger("coreimage.cache")

SITE = "site"
"""The parameter with the site of every task, which is never part of a key."""

Outdated: TypeAlias = Callable[[Any, Mapping[str, Any]], str]
"""Returns why a remembered result must not be used for the task's arguments, or ""."""

_PYTHON = f"Python {sys.version_info.major}.{sys.version_info.minor}"
"""The machine's interpreter runs our own code, which writes tar headers and JSON: the one tool outside tools trees."""


@dataclass(frozen=True)
class Lookup:
    """The remembered result of a task with certain inputs or, when the task must run, the reasons.

    `refused` says that there is a record, which must not be used.
    """

    inputs: Inputs
    result: Any = None
    reasons: tuple[str, ...] = ()
    refused: bool = False

    @property
    def remembered(self) -> bool:
        return not self.reasons


def look_up(task: Task[..., Any], arguments: Mapping[str, Any]) -> Lookup:
    """Look up what is remembered of a task that `artifact_task` made, without running it.

    Args:
        task: The task.
        arguments: Its arguments by the names of its parameters.
    """
    policy = task.cache_policy
    assert isinstance(policy, ArtifactPolicy)  # noqa: S101
    results = cast("ResultStore", ResultStore().update_for_task(task, _sync=True))  # type: ignore[call-arg]
    return policy.look_up(task.name, arguments, results)


@dataclass
class ArtifactPolicy(CachePolicy):
    """Prefect's question "what is the key?", answered from content; a record that must not be used is expired first."""

    source: Path = Path()
    code: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset({SITE})
    outdated: Outdated | None = None

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        """Return the key of the task's result, and tell either why the task runs or which result is remembered."""
        task, results, store = task_ctx.task, task_ctx.result_store, _site(inputs).store()
        refresh = task.refresh_cache if task.refresh_cache is not None else PREFECT_TASKS_REFRESH_CACHE.value()
        lookup = self.look_up(task.name, inputs, results)
        key = lookup.inputs.key
        if lookup.refused:
            results.write(lookup.result, key=key, expiration=cast("Any", now("UTC") - timedelta(seconds=1)))
        remember(lookup.inputs, store)
        if refresh or not lookup.remembered:
            reasons = ("asked to be done anew",) if refresh else lookup.reasons
            log.info(f"{task.name} runs: {', '.join(reasons)}", key=key)

        def tell_result() -> None:
            tell_remembered(task_ctx.task_run, task.name, results.read(key).result)

        if isinstance(self.lock_manager, LeaseManager):
            self.lock_manager.announce(key, store, lambda: not refresh and results.exists(key), tell_result)
        elif lookup.remembered and not refresh:
            tell_result()
        return key

    def look_up(self, task_name: str, arguments: Mapping[str, Any], results: ResultStore) -> Lookup:
        """Look up the result of a task that is called with `arguments` in `results`."""
        inputs, store = self.inputs(task_name, arguments), _site(arguments).store()
        if not results.exists(inputs.key):
            return Lookup(inputs, reasons=why(inputs, store=store))
        try:
            result = results.read(inputs.key).result
        except Exception:
            # A record that cannot be read is no hit: the engine would notice too late, and fail the task.
            log.warning("the record of a result cannot be read; the task runs again", key=inputs.key)
            return Lookup(inputs, reasons=why(inputs, inputs.key, store=store), refused=True)
        if missing := missing_artifact(result, store):
            return Lookup(inputs, result, why(inputs, missing, store=store), refused=True)
        if self.outdated and (reason := self.outdated(result, arguments)):
            return Lookup(inputs, result, (reason,), refused=True)
        return Lookup(inputs, result)

    def inputs(self, task_name: str, arguments: Mapping[str, Any]) -> Inputs:
        """Return the inputs of a task that is called with `arguments`, which are named as its parameters."""
        kept = {name: value for name, value in arguments.items() if name not in self.excluded}
        return inputs_of(task_name, _site(arguments).channel, {**_code(self.source, self.code), _PYTHON: ""}, kept)


def _site(arguments: Mapping[str, Any]) -> Site:
    site = arguments[SITE]
    assert isinstance(site, Site)  # noqa: S101
    return site


@functools.cache
def _code(source: Path, packages: tuple[str, ...]) -> Mapping[str, str]:
    """Return the digests of a task's code, read once: a process runs the code that it loaded."""
    return code_digests(source, packages)


def missing_artifact(result: object, store: Store) -> str:
    """Return the URI of the first artifact of a result that is not in the store with its size, or ""."""
    return next((ref.uri for ref in references(result) if not is_stored(store, ref)), "")
