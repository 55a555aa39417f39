from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.errors import NotFoundError
from coreimage.host.process import run
from coreimage.model import ArtifactRef
from coreimage.rootfs import ArchiveSpec, probe_archives
from coreimage.storage.directory import DirectoryStore
from tests.harness.archive import fetch

REF = ArtifactRef(uri="blobs/x", sha256="0" * 64, size_bytes=0, media_type="x")


def test_a_mirror_without_the_suite_is_told_with_what_to_do(tmp_path: Path) -> None:
    archive = ArchiveSpec(uri=f"file://{tmp_path}", suites=("stable",), components=("main",), key=REF)
    with pytest.raises(NotFoundError, match=r"stable/InRelease: the archive has no signed Release.*\n.*`suites`"):
        probe_archives((archive,), store=DirectoryStore(tmp_path / "store"), fetch=fetch, run=run)
