from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from coreimage.errors import ConfigError, NotFoundError, UsageError
from coreimage.project.config import Project, RetentionConfig
from coreimage.project.loading import load_project, parse_project
from deployments.schema import project_schema

GOOD = Path(__file__).parents[3] / "deployments" / "debian-core.yaml"


def problems(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse_project(text, "p.yaml")
    return [(p.line, p.key, p.message) for p in caught.value.problems]


def test_the_shipped_project() -> None:
    project = load_project(GOOD)
    assert project.channel("debian-core/13/edge").series == "13"
    with pytest.raises(NotFoundError, match="did you mean 'debian-core/13/edge'"):
        project.channel("debian-core/13/edg")


def test_chosen_devices_of_a_channel_are_in_its_order() -> None:
    edge, project = "debian-core/13/edge", load_project(GOOD)
    every = project.channel(edge).devices
    assert project.devices_of(edge) == every
    assert project.devices_of(edge, every[::-1]) == every
    assert project.devices_of(edge, every[-1:]) == every[-1:]
    with pytest.raises(
        NotFoundError, match=r"'generic_amd46' is not in channel .*did you mean 'generic_amd64'"
    ) as caught:
        project.devices_of(edge, ["generic_amd46"])
    assert caught.value.resolution == f"its devices: {', '.join(every)}"


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


@pytest.mark.parametrize("size", ["lots", "20 G of it", "-1", "5X"])
def test_a_pool_size_that_is_none_is_refused_at_once(size: str) -> None:
    ((line, key, _),) = problems(GOOD.read_text() + f"maintenance: {{pool_size: {size}}}\n")
    assert (line, key) == (len(GOOD.read_text().splitlines()) + 1, "maintenance.pool_size")
    config = parse_project(GOOD.read_text() + "maintenance: {pool_size: 20G}\n", "p.yaml")
    assert config.maintenance.pool_size == 20 * 10**9


def test_a_name_that_is_not_defined_is_told_together_with_what_is_misspelt() -> None:
    text = GOOD.read_text().replace("codename:", "codenam:").replace("[generic_amd64]", "[generic_amd46]")
    assert sorted(message for _, _, message in problems(text)) == [
        "'generic_amd46' is not defined; did you mean 'generic_amd64'?",
        "is missing",
        "unknown key; did you mean 'codename'?",
    ]


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


@pytest.mark.parametrize("retention", ["null", "{keep_count: 201}"])
def test_clients_of_2015_are_not_given_more_versions_than_they_can_search(retention: str) -> None:
    text = re.sub(r"    (schedule|retention|compression):.*\n", "", GOOD.read_text())
    assert parse_project(text, "p.yaml").channels["debian-core/13/edge"].retention == RetentionConfig()
    ((_, key, message),) = problems(f"{text}    retention: {retention}\n")
    assert key == "channels.debian-core/13/edge"
    assert "clients of 2015" in message
    parse_project(f"{text}    retention: {retention}\n    compression: zstd\n", "p.yaml")


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
