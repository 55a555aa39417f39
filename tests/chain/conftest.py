"""One real run of `make image`'s command, as an ordinary user, for all tests that look at what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.workshop import Workshop, project, running_as_root

CHANNEL = "debian-core/13/edge"


@dataclass(frozen=True)
class Chain:
    workshop: Workshop
    image: Path
    output: str
    """What the run said on standard output and error."""
    password: str


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    workshop = Workshop(tmp_path_factory.mktemp("chain"))
    run = workshop.coreimage("build", CHANNEL, "--output", "x86.img")
    password = run.stdout.partition("password ")[2].partition(" ")[0]
    return Chain(workshop, workshop.folder / "x86.img", f"{run.stdout}\n{run.stderr}", password)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The small project, released once, by the very user who runs the tests."""
    workshop = Workshop(tmp_path_factory.mktemp("small"), ordinary=not running_as_root())
    workshop.coreimage("--project", project("small.yaml"), "build", "small/13/edge")
    return workshop
