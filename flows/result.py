"""What a run of a channel leaves: every artifact by its digest, and which steps were done anew."""

from __future__ import annotations

from coreimage.model import Architecture, ArtifactRef, BootReport, Candidate, DiskImage, PublishedBuild, Release, Value


class Step(Value):
    """One step of the run; `cached` when its result was remembered. `title` says what of, for people."""

    name: str
    title: str = ""
    cached: bool
    duration_s: float = 0.0


class DeviceResult(Value):
    """One device of the channel. `boots` has one report per firmware of the gate; `image` is what booted."""

    device: str
    candidate: Candidate
    image: DiskImage
    boots: tuple[BootReport, ...]
    release: Release


class ArchitectureResult(Value):
    """How one architecture of a run went: why it failed, if it did, and its own log, unless nothing was to be done."""

    architecture: Architecture
    log: ArtifactRef | None = None
    failure: str = ""


class BuildResult(Value):
    """`devices` is in the order of the channel, those of failed architectures left out; `steps` in the order they were
    taken, `architectures` sorted."""

    channel: str
    published: PublishedBuild
    devices: tuple[DeviceResult, ...]
    steps: tuple[Step, ...]
    architectures: tuple[ArchitectureResult, ...] = ()

    @property
    def failed(self) -> tuple[ArchitectureResult, ...]:
        """Those that were not required and were not built, or not released."""
        return tuple(result for result in self.architectures if result.failure)

    @property
    def unchanged(self) -> bool:
        """Whether every step that could be remembered was."""
        return all(step.cached for step in self.steps)
