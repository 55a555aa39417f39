"""A build that is not run as a whole: its plan with reasons, or only some of its stages.

The story of both is `build_channel`; they hand it another task runner.
"""

from __future__ import annotations

from coreimage.model import Value
from coreimage.operations.stages import Stages
from flows.build import build_channel
from flows.running.dry_run import Action, DryRunTaskRunner
from flows.running.stages import Output, StageTaskRunner
from tasks.progress import FinishedTask


def plan_build(
    channel: str, project_file: str, store_url: str, keys_folder: str, devices: tuple[str, ...] = (), *, offline: bool
) -> tuple[Action, ...]:
    """Say which tasks a build would run anew and why, in their order, without running them; see `dry_run`.

    The arguments are those of `build_channel`. Raises what loading the project and planning raise.
    """
    with DryRunTaskRunner().in_charge() as runner:
        build_channel.fn(channel, project_file, store_url, keys_folder, devices, offline=offline)
    return tuple(runner.actions)


class StagesResult(Value):
    """What some stages of a build gave: `outputs` in the order in which the tasks began, remembered results too."""

    channel: str
    outputs: tuple[Output, ...]
    tasks: tuple[FinishedTask, ...]


def build_stages(
    channel: str,
    stages: Stages,
    project_file: str = "",
    store_url: str = "",
    keys_folder: str = "",
    devices: tuple[str, ...] = (),
    offline: bool = False,
) -> StagesResult:
    """Run only some stages of a build, as a flow run of its own; the other arguments are those of `build_channel`.

    Going on from a later stage, the packages are those that were chosen, not newer ones.

    Raises:
        BuildError: A stage before the first was not done yet, as things stand.
    """
    runner = StageTaskRunner(stages, channel)
    run = build_channel.with_options(name="build-stages", task_runner=runner)
    run(channel, project_file, store_url, keys_folder, devices, offline=offline, keep_locks=stages.before_first("plan"))
    return StagesResult(channel=channel, outputs=runner.outputs(), tasks=runner.finished())
