"""The long campaigns: none is forgotten, and what is recorded can be read back."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.campaigns import mutations
from tests.campaigns.mutations import run_mutations
from tests.campaigns.plan import campaigns
from tests.campaigns.record import Outcome, page_of, read_outcomes

TESTS = Path(__file__).parents[1]


def test_every_file_with_slow_tests_is_in_a_campaign() -> None:
    slow = {
        path.relative_to(TESTS.parent).as_posix()
        for path in TESTS.rglob("test_*.py")
        if "mark.slow" in path.read_text("utf-8") and "unit" not in path.parts
    }
    in_campaigns = {argument for campaign in campaigns() for argument in campaign.argv if argument.endswith(".py")}
    assert len(slow) > 10
    # Its text names the mark, to see that no test of its own bears it.
    assert slow - in_campaigns == {"tests/integration/test_defects_of_2015.py"}
    assert in_campaigns <= slow


def test_a_page_is_read_back_as_it_was_written() -> None:
    plan = campaigns()
    outcomes = [
        Outcome(plan[0].name, plan[0].tries, "1a2b3c4", "2026-11-30", "31 min", "passed: 1790 passed in 1820.44s"),
        Outcome(plan[1].name, plan[1].tries, "1a2b3c4", "2026-11-30", "9 min", "failed: 12 of 100 changes survive"),
    ]
    read = read_outcomes(page_of(outcomes, plan))
    assert [read[outcome.name] for outcome in outcomes] == outcomes
    assert [read[outcome.name].passed for outcome in outcomes] == [True, False]
    assert read[plan[2].name].result == "never ran"
    assert list(read) == [campaign.name for campaign in plan]


class Mutmut:
    """Plays mutmut for two mutants: `verdicts` are what it keeps, `runs` what it was asked to try."""

    def __init__(self) -> None:
        self.verdicts: dict[str, str] = {}
        self.runs: list[list[str]] = []
        self.status = 0

    def __call__(self, argv: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        command, *names = argv[argv.index("mutmut") + 1 :]
        if command == "results":
            listed = "".join(f"    {mutant}: {verdict}\n" for mutant, verdict in self.verdicts.items())
            return subprocess.CompletedProcess(argv, 0, stdout=listed)
        self.runs.append(names[2:])
        self.verdicts |= {"part.one": "survived", "part.two": "killed", "other.three": "survived"}
        return subprocess.CompletedProcess(argv, self.status, stdout="what mutmut says")


def test_a_killed_mutation_run_goes_on_and_other_code_is_tried_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutmut, log = Mutmut(), io.StringIO()
    monkeypatch.setattr(mutations, "MUTANTS", tmp_path / "mutants")
    monkeypatch.setattr(subprocess, "run", mutmut)

    def run(code: str) -> str:
        if mutations.MUTANTS.is_dir() and (mutations.MUTANTS / "code").read_text() != code:
            mutmut.verdicts.clear()
        return run_mutations(["part.*"], code, log)

    assert run("1a2b3c4") == "failed: 1 of 2 changes survive (50.0 %)"
    assert log.getvalue() == "survived: part.one\n"
    assert run("1a2b3c4") == "failed: 1 of 2 changes survive (50.0 %)"
    assert mutmut.runs == [["part.*"]], "all are tried already"
    mutmut.verdicts["part.two"] = "not checked"
    run("1a2b3c4")
    assert mutmut.runs[1:] == [["part.two"]]
    (tmp_path / "mutants" / "kept").write_text("")
    run("5d6e7f8")
    assert mutmut.runs[2:] == [["part.*"]]
    assert not (tmp_path / "mutants" / "kept").exists()


def test_a_mutation_run_that_breaks_off_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutmut, log = Mutmut(), io.StringIO()
    mutmut.status = 1
    monkeypatch.setattr(mutations, "MUTANTS", tmp_path / "mutants")
    monkeypatch.setattr(subprocess, "run", mutmut)
    assert run_mutations(["part.*"], "1a2b3c4", log) == "failed: mutmut ended with an error"
    assert log.getvalue() == "what mutmut says"
