from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.config import load_project, parse_project
from coreimage.errors import ConfigError, NotFoundError, UsageError

GOOD = Path(__file__).parents[2] / "deployments" / "debian-core.yaml"


def problems(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse_project(text, "p.yaml")
    return [(p.line, p.key, p.message) for p in caught.value.problems]


def test_the_shipped_project() -> None:
    project = load_project(GOOD)
    assert project.channel("debian-core/13/edge").series == "13"
    with pytest.raises(NotFoundError, match="did you mean 'debian-core/13/edge'"):
        project.channel("debian-core/13/edg")


def test_all_problems_at_once_with_their_lines() -> None:
    text = GOOD.read_text()
    text = text.replace("codename:", "codenam:").replace("architecture: amd64", "architecture: vax")
    found = problems(text)
    lines = text.splitlines()
    assert len(found) == 3
    for line, key, _ in found:
        assert line > 0, key
    unknown = next(item for item in found if "unknown key" in item[2])
    assert lines[unknown[0] - 1].strip().startswith("codenam:")
    assert "did you mean 'codename'" in unknown[2]
    assert any("vax" in message for _, _, message in found)


@pytest.mark.parametrize("name", ["pool/x", "gpg", "a//b", "a/../b", "a%b", "'a b'"])
def test_bad_channel_names(name: str) -> None:
    ((line, _, message),) = problems(GOOD.read_text().replace("debian-core/13/edge", name))
    assert line > 0
    assert "channel name" in message


def test_dangling_references() -> None:
    text = GOOD.read_text().replace("[generic_amd64]", "[generic_amd46]").replace('series: "13"', 'series: "31"')
    messages = [message for _, _, message in problems(text)]
    assert any("generic_amd46" in message and "did you mean 'generic_amd64'" in message for message in messages)
    assert any("'31' is not defined" in message for message in messages)


@pytest.mark.parametrize("text", ["", "[]", "just words", "a: [", "a: 'b", "a: \x01"])
def test_what_is_no_project(text: str) -> None:
    assert problems(text)


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load_project(tmp_path / "none.yaml")
