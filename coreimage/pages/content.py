"""The content of the pages as plain values. `builds` and `channels` read them, templates turn them into HTML.

Fields called `key` and `page` are keys of the store; `render` makes links of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from coreimage.model import BootReport
from coreimage.packages import PackageChange


@dataclass(frozen=True)
class Download:
    """A file that people may want; `note` says what it is."""

    name: str
    key: str
    size_bytes: int
    sha256: str
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """The result of the boot tests. `good` is None where nothing was tested."""

    good: bool | None
    text: str

    @classmethod
    def of(cls, reports: Sequence[BootReport]) -> Verdict:
        """Sum up the boot reports of a build that was marked good."""
        if not reports:
            return cls(None, "released without a boot test")
        failed = next((report for report in reports if not report.passed), None)
        if failed:
            return cls(False, f"failed with {failed.firmware.upper()}: {failed.reason}")
        return cls(True, f"boots with {' and '.join(sorted({report.firmware.upper() for report in reports}))}")


@dataclass(frozen=True)
class Changes:
    """The packages that changed since `since`, a version or build id; `packages` is None where that is not known."""

    since: str
    packages: tuple[PackageChange, ...] | None

    @property
    def summary(self) -> str:
        """How many packages changed in which way, such as `2 upgraded, 1 added`."""
        if self.packages is None:
            return ""
        kinds = [change.kind for change in self.packages]
        counts = [(kinds.count(kind), kind) for kind in ("upgraded", "downgraded", "added", "removed")]
        return ", ".join(f"{count} {kind}" for count, kind in counts if count) or "no package changed"


@dataclass(frozen=True)
class Delta:
    """The download of a device that has version `base`."""

    base: int
    size_bytes: int


@dataclass(frozen=True)
class Version:
    """One version of a channel for a device.

    Attributes:
        created: None where the tree does not say it.
        build_page: Empty when the build is no longer there; so is `builds_page`, of all builds of its tree.
        size_bytes: What a device without any version downloads.
        deltas: The smallest from each base, the newest base first.
        phased_percentage: How many percent of the devices are offered the version; None where all are.
        pinned: Why retention keeps the version; None where it does not.
        image: The disk image, where one is kept.
        files: What devices download.
    """

    number: int
    created: date | None
    build_id: str
    build_page: str
    builds_page: str
    size_bytes: int
    deltas: tuple[Delta, ...]
    phased_percentage: int | None
    pinned: str | None
    verdict: Verdict
    changes: Changes
    image: Download | None
    files: tuple[Download, ...]

    @property
    def smallest_delta(self) -> Delta | None:
        """The smallest download for a device that is up to date but for this version; None where all need it whole."""
        return min(self.deltas, key=lambda delta: delta.size_bytes, default=None)


@dataclass(frozen=True)
class Device:
    """A device of a channel. `versions` are newest first; `older` is how many more there are than are shown."""

    channel: str
    name: str
    page: str
    versions: tuple[Version, ...]
    older: int = 0


@dataclass(frozen=True)
class Channel:
    """A channel. `target` is what an alias or a redirect leads to, and `kind` says which of the two the channel is."""

    name: str
    page: str
    devices: tuple[Device, ...]
    hidden: bool = False
    kind: Literal["", "alias", "redirect"] = ""
    target: str = ""
    target_page: str = ""

    @property
    def builds_page(self) -> str:
        """The page of the builds that the channel's newest versions come from; empty where none is known."""
        pages = (version.builds_page for device in self.devices for version in device.versions[:1])
        return next(filter(None, pages), "")


@dataclass(frozen=True)
class BuildPart:
    """The files of a build for one architecture, or for all (`architecture` is empty). `carried_from` is a build id."""

    architecture: str
    verdict: Verdict
    carried_from: str
    files: tuple[Download, ...]


@dataclass(frozen=True)
class ArchiveState:
    """A suite of an archive, and the date of the state that a build was made from."""

    uri: str
    suite: str
    date: str


@dataclass(frozen=True)
class Build:
    """One published build, with all its files."""

    title: str
    build_id: str
    page: str
    day: date
    parts: tuple[BuildPart, ...]
    changes: Changes
    archives: tuple[ArchiveState, ...]
    pinned: str | None = None


@dataclass(frozen=True)
class BuildLine:
    """A build in the list of its tree.

    Attributes:
        size_bytes: The size of its tarballs together.
        files: The size of each file, in bytes.
        good: The architectures that the build was marked good for.
        newest: Whether the build is the tree's newest.
        current: The architectures that it is the current build of.
        carried: For an architecture that could not be built, the build whose files stand in.
        pinned: Why retention keeps the build; None where it does not.
    """

    build_id: str
    page: str
    day: date
    size_bytes: int
    files: Mapping[str, int]
    good: tuple[str, ...]
    newest: bool
    current: tuple[str, ...]
    carried: Mapping[str, str]
    pinned: str | None

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks of the build in words: newest, current for an architecture."""
        return (*(["newest"] if self.newest else []), *(f"current for {name}" for name in self.current))


@dataclass(frozen=True)
class Builds:
    """All builds of a tree, newest first; `older` is how many more there are than are shown."""

    title: str
    page: str
    lines: tuple[BuildLine, ...]
    older: int = 0
