"""The stages of a build in their order, and the choice of stages to run by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Stage = Literal["plan", "rootfs", "device", "publish", "import", "image", "boot", "release"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class Stages:
    """The stages of a build to run.

    The stages from `first` to `last` are run anew, with the remembered results of the stages before them. Without
    `first`, all stages up to `last` are run, and remembered results are used.
    """

    first: Stage | None = None
    last: Stage = "release"

    @property
    def in_order(self) -> bool:
        return self.first is None or not self.after_last(self.first)

    def before_first(self, stage: Stage) -> bool:
        """Return whether `stage` is before the first one, so that its results must be remembered."""
        return self.first is not None and STAGES.index(stage) < STAGES.index(self.first)

    def anew(self, stage: Stage) -> bool:
        """Return whether `stage` is run anew, even where its results are remembered."""
        return self.first is not None and not self.before_first(stage)

    def after_last(self, stage: Stage) -> bool:
        """Return whether `stage` is after the last one, so that it is not run."""
        return STAGES.index(stage) > STAGES.index(self.last)
