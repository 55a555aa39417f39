"""The one tree of errors: each says what happened, where, and what to do next.

CoreimageError
├── UsageError            the command line or a configuration file is wrong     exit 2
│   └── ConfigError         all problems of one project file at once
├── VerificationError     a signature, digest, size or path was refused         exit 3
├── NotFoundError         a channel, device, version, object or package is absent
├── ConflictError         somebody else changed it first (compare-and-swap lost)
├── HostError             this machine lacks a tool, a permission or space
├── AttentionError        nothing broke yet, but somebody must act
├── InfrastructureError   network, 5xx, a mirror in flux: trying again may help
└── BuildError            the build's own inputs do not work (package, hook, size)
    ├── ProcessError        a child process failed
    └── BootError           the image did not boot
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CoreimageError(Exception):
    """Root of the tree. `str()` gives the whole message for a person: problem, where, what to do next."""

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
    exit_status = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a file: `line` counts from 1, 0 when unknown; `key` is dotted."""

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
    pass


class ConflictError(CoreimageError):
    """A conditional write lost: the object was there already, or changed in between."""


class HostError(CoreimageError):
    pass


class AttentionError(CoreimageError):
    pass


class InfrastructureError(CoreimageError):
    retryable = True


class BuildError(CoreimageError):
    pass


class ProcessError(BuildError):
    """A child process ended with a status that its caller does not accept."""

    def __init__(self, argv: Sequence[str], status: int, last_lines: Sequence[str], resolution: str = "") -> None:
        self.argv, self.status, self.last_lines = tuple(argv), status, tuple(last_lines)
        output = "".join(f"\n  | {line}" for line in last_lines)
        super().__init__(f"{argv[0]} ended with status {status}{output}", resolution=resolution)


class BootError(BuildError):
    pass
