"""What a look over a published tree found: values to print, and one collector of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from coreimage.client import ClientError, DownloadError, NotPresentError
from coreimage.errors import CoreimageError, InfrastructureError
from coreimage.model import Value

REPAIR = "run `coreimage verify --repair`"
RESTORE = "restore it from a backup, or publish what it belongs to again"


class Finding(Value):
    """`error`: some client refuses the tree or part of it. `warning`: it works now, and wants attention."""

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
    """`findings` is in the order of the walk. `checked` counts the objects read. `orphans` are sorted: objects that
    nothing names, such as what failed candidates left; they do no harm but take space."""

    findings: tuple[Finding, ...] = ()
    checked: int = 0
    candidates: tuple[WaitingCandidate, ...] = ()
    orphans: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            findings=self.findings + other.findings,
            checked=self.checked + other.checked,
            candidates=self.candidates + other.candidates,
            orphans=self.orphans + other.orphans,
        )


class Collector:
    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def error(self, where: str, problem: str, resolution: str = RESTORE) -> None:
        self._add("error", where, problem, resolution)

    def warning(self, where: str, problem: str, resolution: str) -> None:
        self._add("warning", where, problem, resolution)

    @contextmanager
    def noting(self, where: str, resolution: str = RESTORE) -> Iterator[None]:
        """What is wrong inside becomes an error, and the walk goes on after the block. Trouble of the network or of
        this machine is no finding and passes through."""
        try:
            yield
        except (DownloadError, InfrastructureError):
            raise
        except NotPresentError as error:
            self.error(error.where or where, "it is missing", resolution)
        except ClientError as error:
            self.error(error.where or where, error.problem, resolution)
        except CoreimageError as error:
            if error.exit_status != 3:  # noqa: PLR2004
                raise
            self.error(error.where or where, error.problem, resolution)

    def _add(self, severity: Literal["error", "warning"], where: str, problem: str, resolution: str) -> None:
        finding = Finding(severity=severity, where=where.lstrip("/"), problem=problem, resolution=resolution)
        if finding not in self.findings:
            self.findings.append(finding)
