"""The one tree of errors: each says what happened, where, and what to do next.

CoreimageError
├── UsageError            the command line or a configuration file is wrong     exit 2
│   └── ConfigError         all problems of one project file at once
├── VerificationError     a signature, digest, size or path was refused         exit 3
├── NotFoundError         a channel, device, version, object or package is absent
├── ConflictError         what is asked for does not go with what is there
│   └── LostWriteError      another writer was faster (compare-and-swap lost)
├── HostError             this machine lacks a tool, a permission or space
│   └── DiskFullError       a disk, a quota or an object storage is full
├── AttentionError        nothing broke yet, but somebody must act
├── InfrastructureError   network, 5xx, a mirror in flux: trying again may help
└── BuildError            the build's own inputs do not work (package, hook, size)
    ├── ProcessError        a child process failed
    └── BootError           the image did not boot
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class CoreimageError(Exception):
    """Root of the tree. `str()` gives the whole message for a person.

    Attributes:
        problem: What happened.
        where: To what: a file, a key of the store, a channel, an address.
        resolution: What to do about it, if possible as the next command to type.
    """

    exit_status = 1
    retryable = False

    def __init__(self, problem: str, *, where: str = "", resolution: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.resolution = resolution

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f"\n  → {self.resolution}" if self.resolution else ""
        return f"{place}{self.problem}{hint}"


class UsageError(CoreimageError):
    """The command line, an environment variable or a configuration file is wrong."""

    exit_status = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a file. `key` is dotted; `line` counts from 1 and is 0 when it is not known."""

    key: str
    message: str
    line: int = 0


class ConfigError(UsageError):
    """Everything that is wrong with one configuration file, in the order of its lines."""

    def __init__(
        self,
        path: str,
        problems: Sequence[Problem],
        *,
        resolution: str = "mend the lines above; docs/project-file.md describes every key",
    ) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        lines = [f"{path}:{p.line}: {p.key}: {p.message}" for p in self.problems]
        count = f"{len(lines)} problem{'s' if len(lines) > 1 else ''}"
        super().__init__(
            "\n".join([f"{path} has {count}:", *lines]),
            resolution=resolution,
        )


class VerificationError(CoreimageError):
    """Something is not what its signature, digest or size says. Never retried, never used."""

    exit_status = 3


class NotFoundError(CoreimageError):
    """A channel, device, version, object or package that was asked for is not there."""


class ConflictError(CoreimageError):
    """What is asked for does not go with what is there."""


class LostWriteError(ConflictError):
    """A conditional write lost: the object was there already, or changed in between. Trying again is the answer."""


class HostError(CoreimageError):
    """This machine lacks a tool, a permission, a kernel feature or room."""


class DiskFullError(HostError):
    """A disk, a quota or an object storage is full."""


class AttentionError(CoreimageError):
    """Nothing broke yet, but somebody must act."""


class InfrastructureError(CoreimageError):
    """The network, a server or a mirror did not do its part. Trying again may help."""

    retryable = True


class BuildError(CoreimageError):
    """The inputs of a build do not work: a package, a hook, a size."""


class ProcessError(BuildError):
    """A child process ended with a status that its caller does not accept."""

    def __init__(self, argv: Sequence[str], status: int, last_lines: Sequence[str], resolution: str = "") -> None:
        self.argv, self.status, self.last_lines = tuple(argv), status, tuple(last_lines)
        output = "".join(f"\n  | {line}" for line in last_lines)
        super().__init__(f"{argv[0]} ended with status {status}{output}", resolution=resolution)


class BootError(BuildError):
    """An image did not boot."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'core'?` for the nearest of `known` words, or nothing when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
