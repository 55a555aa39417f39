"""The result of a build: every artifact by its digest, and which tasks really ran."""

from __future__ import annotations

from coreimage.model import Architecture, ArtifactRef, BootReport, Candidate, DiskImage, PublishedBuild, Release, Value
from tasks.progress import FinishedTask


class DeviceResult(Value):
    """One device of a build. `boots` has one report for each firmware of the boot test; `image` is what booted."""

    device: str
    candidate: Candidate
    image: DiskImage
    boots: tuple[BootReport, ...]
    release: Release


class ArchitectureResult(Value):
    """The outcome of one architecture: why it failed, or "", and its log, which is None when nothing was done."""

    architecture: Architecture
    log: ArtifactRef | None = None
    failure: str = ""


class BuildResult(Value):
    """The result of one run.

    `devices` is in the order of the channel, without those of failed architectures; `tasks` is in the order in which
    they ended; `architectures` is sorted.
    """

    channel: str
    published: PublishedBuild
    devices: tuple[DeviceResult, ...]
    tasks: tuple[FinishedTask, ...]
    architectures: tuple[ArchitectureResult, ...] = ()

    @property
    def failed(self) -> tuple[ArchitectureResult, ...]:
        """The architectures that failed, which were not required."""
        return tuple(result for result in self.architectures if result.failure)

    @property
    def unchanged(self) -> bool:
        """Whether the result of every task was remembered."""
        return all(task.cached for task in self.tasks)
