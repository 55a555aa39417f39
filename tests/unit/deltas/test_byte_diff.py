from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from coreimage.deltas.byte_diff import HDIFFPATCH_VERSION, diff, require_hdiffpatch
from coreimage.errors import HostError


@pytest.fixture(autouse=True)
def _forget_the_version() -> Iterator[None]:
    require_hdiffpatch.cache_clear()
    yield
    require_hdiffpatch.cache_clear()


def test_another_hdiffpatch_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2.7.0")
    with pytest.raises(HostError, match=r"hdiffpatch 2\.7\.0 is installed") as raised:
        diff(b"old", b"new")
    assert f"hdiffpatch=={HDIFFPATCH_VERSION}" in raised.value.resolution


def test_the_version_that_is_read_is_the_one_that_is_pinned_and_installed() -> None:
    require_hdiffpatch()
    pyproject = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert f"hdiffpatch=={HDIFFPATCH_VERSION}" in pyproject["project"]["dependencies"]
