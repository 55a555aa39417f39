"""What an index says of its images (system-image §2.3)."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from coreimage.client.documents import Form, Image
from coreimage.model import TAR_XZ, ArtifactRef
from coreimage.system_image.documents.index import (
    artifact_of,
    build_index,
    detail_text,
    details_of,
    full_image,
    generated_at,
    is_same_publication,
)
from tests.harness.strict_client import candidates

FILE = ArtifactRef(uri="system-image/pool/ubuntu-1.tar.xz", sha256="1" * 64, size_bytes=7, media_type=TAR_XZ)


def full(version: int, form: Form = "legacy") -> Image:
    return replace(full_image(version, f"version={version}", "", [FILE]), form=form)


def delta(version: int, base: int, form: Form = "legacy") -> Image:
    return replace(full(version), type="delta", base=base, form=form)


def test_generated_at_is_in_the_c_locale() -> None:
    assert generated_at(datetime(2026, 11, 3, 8, 4, 20, tzinfo=UTC)) == "Tue Nov 03 08:04:20 UTC 2026"
    east = datetime(2026, 11, 3, 8, 4, 20, tzinfo=timezone(timedelta(hours=9)))
    assert generated_at(east) == "Mon Nov 02 23:04:20 UTC 2026"


def test_files_are_named_on_the_web_and_in_the_store() -> None:
    (file,) = full(1).files
    assert (file.path, file.signature) == ("/pool/ubuntu-1.tar.xz", "/pool/ubuntu-1.tar.xz.asc")
    assert artifact_of(file) == FILE


def test_only_our_own_clients_see_what_is_packed_by_zstd() -> None:
    zstd = FILE.model_copy(update={"uri": "system-image/pool/ubuntu-1.tar.zst"})
    assert full_image(1, "", "", [FILE]).form == "legacy"
    assert full_image(1, "", "", [FILE, zstd]).form == "own"


def test_a_version_without_description_is_described_by_its_detail() -> None:
    assert full_image(1, "ubuntu=1,version=1", "", []).description == "ubuntu=1,version=1"
    assert full_image(1, "ubuntu=1,version=1", "words", []).description == "words"


def test_only_the_newest_version_is_phased() -> None:
    images = [replace(image, phased_percentage=30) for image in (full(1), full(2), delta(2, 1))]
    index = build_index(images, "edge", "d", "")
    assert [image.phased_percentage for image in index.images] == [100, 30, 30]


def test_what_was_withdrawn_stays_withdrawn() -> None:
    images = [replace(full(1), phased_percentage=0), full(2)]
    assert [image.phased_percentage for image in build_index(images, "edge", "d", "").images] == [0, 100]


def closed(*images: Image) -> list[int]:
    return [image.minversion for image in build_index(images, "edge", "d", "").images]


def test_full_images_but_the_newest_are_closed_to_clients_of_2015() -> None:
    assert closed(replace(full(1), minversion=9)) == [0]
    assert closed(full(1), full(2), delta(2, 1), full(3)) == [1, 2, 0, 0]
    assert closed(full(1), delta(2, 1, "compact"), full(2, "own")) == [1, 0, 0], "for those who have a version"
    assert closed(full(3), delta(4, 3), full(4, "own")) == [3, 0, 0], "for no one: a delta leads on from there"
    assert closed(full(2, "own"), full(3), delta(3, 2, "own"), full(4)) == [0, 3, 0, 0]


def test_one_delta_leads_to_each_version_for_clients_of_2015() -> None:
    images = [full(1), full(2), full(3), delta(3, 1), delta(3, 2), delta(3, 1, "compact")]
    index = build_index(images, "edge", "d", "")
    assert [image.form for image in index.images] == [*["legacy"] * 3, "own", "legacy", "compact"]
    assert [replace(image, form="legacy", minversion=0) for image in index.images] == [
        replace(image, form="legacy") for image in images
    ], "nothing is lost to our clients"


@pytest.mark.parametrize("bases", [1, 2, 5, 20])
def test_a_client_of_2015_searches_200_versions_in_a_moment(bases: int) -> None:
    """Of which each has deltas from `bases` versions before it, as trees that were published earlier may have."""
    images = []
    for version in range(1, 201):
        images += [full(version), *(delta(version, base) for base in range(max(1, version - bases), version))]
    shown = json.loads(build_index(images, "edge", "d", "").to_bytes())["images"]
    for build in (0, 1, 57, 199, 200):
        paths = candidates(shown, build)
        assert len(paths) <= 2
        ends = {path[-1]["version"] for path in paths}
        assert ends == ({200} if build < 200 else set())


def test_an_index_is_bound_to_its_channel_and_device() -> None:
    index = build_index([full(1)], "edge", "d", "Tue", target="stable")
    assert (index.channel, index.device, index.channel_target, index.generated_at) == ("edge", "d", "stable", "Tue")
    assert build_index([], "edge", "d", "Tue").channel_target is None


def test_marks_and_time_make_no_other_publication() -> None:
    image = replace(full(1), tree_sha256="1" * 64)
    for same in (
        replace(image, phased_percentage=3),
        replace(image, pinned=""),
        replace(image, minversion=1),
        replace(image, tree_sha256=None),
    ):
        assert is_same_publication(image, same)
    for other in (full(2), delta(1, 0), replace(image, version_detail="x"), replace(image, files=())):
        assert not is_same_publication(image, other)


def test_details_are_pairs() -> None:
    assert details_of("ubuntu=20261123,tag=a=b,version=7") == {"ubuntu": "20261123", "tag": "a=b", "version": "7"}
    assert details_of("") == {}
    assert detail_text({"ubuntu": "1", "version": "7"}) == "ubuntu=1,version=7"
