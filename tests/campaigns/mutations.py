"""Mutation runs with mutmut: how many one-place changes of the code does `make check` not notice?

A change that mypy refuses needs no test: it is counted as noticed before any test runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

REPOSITORY = Path(__file__).parents[2]
MUTANTS = REPOSITORY / "mutants"
GOAL_PERCENT = 5
"""More survivors than this fail the campaign."""
_VERDICT = re.compile(r"^\s+(?P<mutant>\S+): (?P<verdict>.+)$", re.MULTILINE)
_UNNOTICED = {"survived", "no tests"}
_MUTMUT = (sys.executable, "-W", "ignore", "-m", "mutmut")
_ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
"""mutmut starts mypy by its name."""


def run_mutations(patterns: Sequence[str], code: str, log: TextIO) -> str:
    """Try every mutant whose name matches one of `patterns`, and return what came of it in one line.

    mutmut keeps its verdicts in `mutants/`. Those of the same code stand, so that a killed run goes on where it was;
    those of other code, tests included, count for nothing. The log gets the survivors.

    Args:
        code: The commit of the code, as the record names it.
    """
    tried = MUTANTS / "code"
    if MUTANTS.is_dir() and (not tried.is_file() or tried.read_text() != code):
        shutil.rmtree(MUTANTS)
    MUTANTS.mkdir(exist_ok=True)
    tried.write_text(code)
    verdicts = _verdicts(patterns)
    wanted = [mutant for mutant, verdict in verdicts.items() if verdict == "not checked"] if verdicts else patterns
    if wanted:
        run = _mutmut("run", "--max-children", "2", *wanted)
        if run.returncode:
            log.write(run.stdout[-20_000:])
            return "failed: mutmut ended with an error"
        verdicts = _verdicts(patterns)
    unnoticed = sorted(mutant for mutant, verdict in verdicts.items() if verdict in _UNNOTICED)
    log.write("".join(f"{verdicts[mutant]}: {mutant}\n" for mutant in unnoticed))
    percent = 100 * len(unnoticed) / max(len(verdicts), 1)
    word = "passed" if verdicts and percent <= GOAL_PERCENT else "failed"
    return f"{word}: {len(unnoticed)} of {len(verdicts)} changes survive ({percent:.1f} %)"


def _verdicts(patterns: Sequence[str]) -> dict[str, str]:
    """Return what mutmut says of each mutant so far; nothing before it has made any."""
    listed = _mutmut("results", "--all", "true")
    listed.check_returncode()
    return {
        match["mutant"]: match["verdict"]
        for match in _VERDICT.finditer(listed.stdout)
        if any(_matches(match["mutant"], pattern) for pattern in patterns)
    }


def _mutmut(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_MUTMUT, *arguments],
        cwd=REPOSITORY,
        env=_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _matches(mutant: str, pattern: str) -> bool:
    return mutant.startswith(pattern.removesuffix("*"))
