"""What the pages show. Plain values: `read.py` makes them of a store, the templates turn them into HTML.

`key` and `page` are keys of the store; the templates make links of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from coreimage.changes import PackageChange


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
    """What is known of booting it. `good` is None where nothing was tested."""

    good: bool | None
    text: str


@dataclass(frozen=True)
class Changes:
    """What changed in packages since `since`, a version or a build id; None: there is nothing to compare with."""

    since: str
    packages: tuple[PackageChange, ...] | None

    @property
    def summary(self) -> str:
        """`2 upgraded, 1 added`."""
        if self.packages is None:
            return ""
        kinds = [change.kind for change in self.packages]
        counts = [(kinds.count(kind), kind) for kind in ("upgraded", "downgraded", "added", "removed")]
        return ", ".join(f"{count} {kind}" for count, kind in counts if count) or "no package changed"


@dataclass(frozen=True)
class Delta:
    base: int
    size_bytes: int


@dataclass(frozen=True)
class Version:
    """One version of a channel for a device. `size_bytes` is what a device without any version downloads."""

    number: int
    made: date | None
    build_id: str
    build_page: str
    """Empty when the build is no longer there; so is `builds_page`, of all builds of its tree."""
    builds_page: str
    size_bytes: int
    deltas: tuple[Delta, ...]
    phase: int | None
    """Percent of the devices that are offered it; None: all."""
    pinned: str | None
    """Why it stays, however old it gets; None: it goes with its time."""
    verdict: Verdict
    changes: Changes
    image: Download | None
    """The disk image, where one is kept."""
    files: tuple[Download, ...]

    @property
    def smallest_delta(self) -> Delta | None:
        return min(self.deltas, key=lambda delta: delta.size_bytes, default=None)


@dataclass(frozen=True)
class Device:
    """`versions` are newest first; `older` is how many more there are than are shown."""

    channel: str
    name: str
    page: str
    versions: tuple[Version, ...]
    older: int = 0


@dataclass(frozen=True)
class Channel:
    """`target` is what an alias or a redirect leads to, `kind` says which of the two it is."""

    name: str
    page: str
    devices: tuple[Device, ...]
    hidden: bool = False
    kind: str = ""
    target: str = ""
    target_page: str = ""

    @property
    def builds_page(self) -> str:
        """Where its newest versions come from."""
        pages = (version.builds_page for device in self.devices for version in device.versions[:1])
        return next(filter(None, pages), "")


@dataclass(frozen=True)
class BuildPart:
    """What a build has for one architecture, or for all (`architecture` is empty). `carried_from` is a build id."""

    architecture: str
    verdict: Verdict
    carried_from: str
    files: tuple[Download, ...]


@dataclass(frozen=True)
class Source:
    uri: str
    suite: str
    date: str


@dataclass(frozen=True)
class Build:
    title: str
    build_id: str
    page: str
    made: date
    parts: tuple[BuildPart, ...]
    changes: Changes
    sources: tuple[Source, ...]
    pinned: str | None = None


@dataclass(frozen=True)
class BuildLine:
    """A build in the list of its tree; `size_bytes` is of its tarballs, `files` has the size of each file in bytes.

    `good` and `current` are architectures, `carried` names the build that an architecture's files are of. `pinned` is
    why it stays; None: it does not.
    """

    build_id: str
    page: str
    made: date
    size_bytes: int
    files: dict[str, int]
    good: tuple[str, ...]
    newest: bool
    current: tuple[str, ...]
    carried: dict[str, str]
    pinned: str | None

    @property
    def marks(self) -> tuple[str, ...]:
        return (*(["newest"] if self.newest else []), *(f"current for {name}" for name in self.current))


@dataclass(frozen=True)
class Builds:
    """All builds of a tree, newest first; `older` is how many more there are than are shown."""

    title: str
    page: str
    lines: tuple[BuildLine, ...]
    older: int = 0
