"""What a check of a published tree found: values to print, and the collector of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from coreimage.client import ClientError, DownloadError, NotPresentError
from coreimage.errors import InfrastructureError, VerificationError
from coreimage.model import Value

REPAIR = "run `coreimage verify --repair`"
RESTORE = "restore it from a backup, or publish what it belongs to again"


class Finding(Value):
    """One thing that is wrong: an `error` where some client refuses the tree or a part of it, a `warning` where all is
    well now but somebody must act in time."""

    severity: Literal["error", "warning"]
    where: str
    problem: str
    resolution: str


class WaitingCandidate(Value):
    """A candidate that is whole and newer than everything released of its channel."""

    channel: str
    device: str
    version: int


class Findings(Value):
    """The result of a check.

    Attributes:
        findings: In the order of the check.
        checked: How many objects were read.
        candidates: Candidates that can be released.
        orphans: Objects that nothing names, such as what failed candidates left, sorted. They only take space.
    """

    findings: tuple[Finding, ...] = ()
    checked: int = 0
    candidates: tuple[WaitingCandidate, ...] = ()
    orphans: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings without the warnings."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            findings=self.findings + other.findings,
            checked=self.checked + other.checked,
            candidates=self.candidates + other.candidates,
            orphans=self.orphans + other.orphans,
        )


class Collector:
    """Collects findings, each once, while a check goes on."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def error(self, where: str, problem: str, resolution: str = RESTORE) -> None:
        """Add an error."""
        self._add("error", where, problem, resolution)

    def warning(self, where: str, problem: str, resolution: str) -> None:
        """Add a warning."""
        self._add("warning", where, problem, resolution)

    @contextmanager
    def noting(self, where: str, resolution: str = RESTORE) -> Iterator[None]:
        """Add what is wrong in the block as an error, and go on after the block.

        Errors of the network or of this machine are no findings: they pass through.

        Args:
            where: What the finding is about, where the error does not say it.
            resolution: What to do about it.
        """
        try:
            yield
        except (DownloadError, InfrastructureError):
            raise
        except NotPresentError as error:
            self.error(error.where or where, "it is missing", resolution)
        except ClientError as error:
            self.error(error.where or where, error.problem, resolution)
        except VerificationError as error:
            self.error(error.where or where, error.problem, resolution)

    def _add(self, severity: Literal["error", "warning"], where: str, problem: str, resolution: str) -> None:
        finding = Finding(severity=severity, where=where.lstrip("/"), problem=problem, resolution=resolution)
        if finding not in self.findings:
            self.findings.append(finding)
