from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from coreimage.config import Project, load_project, parse_project
from coreimage.errors import ConfigError, NotFoundError, UsageError
from deployments.schema import project_schema

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


OPERATION = """
    schedule: {cron: "17 3 * * *", timezone: Europe/Berlin}
    retention: {keep_count: 3}
notifications:
  webhook: {url_env: HOOK}
"""


def test_what_is_said_of_operation() -> None:
    text = re.sub(r"    (schedule|retention):.*\n", "", GOOD.read_text())
    config = parse_project(text + OPERATION, "p.yaml")
    schedule = config.channels["debian-core/13/edge"].schedule
    assert schedule is not None
    assert (schedule.cron, schedule.timezone) == ("17 3 * * *", "Europe/Berlin")
    bad = OPERATION.replace("17 3", "77 3").replace("Berlin", "Berln").replace("keep_count", "keep_cont")
    found = problems(text + bad.replace("{url_env: HOOK}", "{}"))
    assert [key.rpartition(".")[2] for _, key, _ in found] == ["cron", "timezone", "keep_cont", "webhook"]
    messages = [message for _, _, message in found]
    assert "cron expression of five fields" in messages[0]
    assert "Europe/Berlin" in messages[1]
    assert "did you mean 'keep_count'" in messages[2]


def test_a_channel_cannot_take_over_from_one_that_is_not_there() -> None:
    text = GOOD.read_text() + "    promotion: {source: debian-core/13/edg, schedule: {cron: '0 6 * * *'}}\n"
    ((line, key, message),) = problems(text)
    assert key == "channels.debian-core/13/edge.promotion.source"
    assert line == len(text.splitlines())
    assert "did you mean 'debian-core/13/edge'" in message


def test_where_devices_look_for_updates() -> None:
    text = GOOD.read_text()
    assert load_project(GOOD).server("debian-core/13/edge").base == "localhost"
    own = text + "    server: {base: edge.example.com, https_port: disabled}\nserver: {base: images.example.com/si}\n"
    config = parse_project(own, "p.yaml")
    project = Project(config=config, folder=GOOD.parent)
    server = project.server("debian-core/13/edge")
    assert (server.base, server.http_port, server.https_port) == ("edge.example.com", 80, None)
    assert config.server.base == "images.example.com/si"
    bad = "server: {base: 'https://x', http_port: 0, https_prt: 1}\n"
    assert [key for _, key, _ in problems(text + bad)] == ["server.base", "server.http_port", "server.https_prt"]
    ((_, _, message),) = problems(text + "server: {http_port: disabled, https_port: disabled}\n")
    assert "must serve" in message


def test_the_published_schema_is_that_of_the_code() -> None:
    published = (GOOD.parent / "project.schema.json").read_text()
    assert published == project_schema(), "run `python -m deployments.schema > deployments/project.schema.json`"
    for project in ("debian-core.yaml", "ubuntu-core.yaml"):
        jsonschema.validate(yaml.safe_load((GOOD.parent / project).read_text()), json.loads(published))
        assert "$schema=project.schema.json" in (GOOD.parent / project).read_text().splitlines()[0]
