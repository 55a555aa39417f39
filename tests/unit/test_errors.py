from __future__ import annotations

from coreimage.errors import ConfigError, HostError, Problem, ProcessError


def test_problem_place_and_resolution() -> None:
    assert str(HostError("no space", where="/srv", resolution="free some")) == "/srv: no space\n  → free some"
    assert str(HostError("no space")) == "no space"


def test_configuration_problems_in_order_of_lines() -> None:
    error = ConfigError("p.yaml", [Problem("b", "bad", 9), Problem("a", "worse", 2)])
    assert str(error).splitlines()[:3] == ["p.yaml has 2 problems:", "p.yaml:2: a: worse", "p.yaml:9: b: bad"]
    assert error.exit_status == 2


def test_a_failed_process_shows_its_last_lines() -> None:
    assert str(ProcessError(["tar"], 2, ["cannot open"])) == "tar ended with status 2\n  | cannot open"
