from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from coreimage.operations.health import low_disks

_Usage = namedtuple("_Usage", ["total", "used", "free"])


@pytest.mark.parametrize(("free_bytes", "is_low"), [(5 * 10**9 - 1, True), (5 * 10**9, False)])
def test_a_disk_is_low_below_its_limit(free_bytes: int, is_low: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(10**12, 0, free_bytes))
    problems = low_disks(5, [Path("/tmp")])
    assert bool(problems) == is_low
    assert all("less than 5 GB" in problem for problem in problems)


def test_each_file_system_is_named_once_and_a_folder_may_be_missing_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(10**12, 0, 1))
    folders = [tmp_path, tmp_path / "not/yet", Path("/proc")]
    assert [problem.split(" at ")[1].split(",")[0] for problem in low_disks(5, folders)] == [str(tmp_path), "/proc"]
