"""The stages of a build, in their order, and the part of them that somebody wants taken by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Stage = Literal["plan", "rootfs", "device", "publish", "import", "image", "boot", "release"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class Stages:
    """From `first` on everything is done anew, and what comes before must have been done; None: whatever is remembered
    is used. Nothing is done after `last`."""

    first: Stage | None = None
    last: Stage = "release"

    @property
    def in_order(self) -> bool:
        return self.first is None or not self.after_last(self.first)

    def before_first(self, stage: Stage) -> bool:
        return self.first is not None and STAGES.index(stage) < STAGES.index(self.first)

    def anew(self, stage: Stage) -> bool:
        return self.first is not None and not self.before_first(stage)

    def after_last(self, stage: Stage) -> bool:
        return STAGES.index(stage) > STAGES.index(self.last)
