from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.model import LOG, TAR_GZ, ArtifactRef, RootfsBuild, Value, canonical
from tasks.cache.identity import cache_key, references


def ref(digit: str, media_type: str = TAR_GZ, uri: str = "somewhere", size_bytes: int = 1) -> ArtifactRef:
    return ArtifactRef(uri=uri, sha256=digit * 64, size_bytes=size_bytes, media_type=media_type)


def rootfs(log: ArtifactRef, lock: ArtifactRef) -> RootfsBuild:
    parts = {"rootfs": ref("1"), "manifest": ref("2"), "filelist": ref("3")}
    return RootfsBuild(architecture="amd64", lock=lock, log=log, **parts)


class One(Value):
    name: str


class Two(Value):
    name: str


def test_a_blob_counts_by_digest_and_media_type_only() -> None:
    assert canonical(ref("a", uri="x", size_bytes=1)) == canonical(ref("a", uri="y", size_bytes=2))
    assert canonical(ref("a")) != canonical(ref("b"))
    assert canonical(ref("a")) != canonical(ref("a", media_type="text/plain"))


def test_logs_count_for_nothing_wherever_they_are() -> None:
    lock = ref("9")
    assert canonical(rootfs(ref("5", LOG), lock)) == canonical(rootfs(ref("6", LOG), lock))
    assert canonical((rootfs(ref("5", LOG), lock), ref("7", LOG))) == canonical([rootfs(ref("6", LOG), lock)])
    assert canonical(rootfs(ref("5", LOG), lock)) != canonical(rootfs(ref("5", LOG), ref("8")))


def test_values_count_by_their_fields_not_by_their_names() -> None:
    assert canonical(One(name="a")) == canonical(Two(name="a")) == {"name": "a"}


def test_order_counts_for_sequences_and_not_for_mappings_and_sets() -> None:
    assert cache_key("t", "r", {"a": 1, "b": 2}) == cache_key("t", "r", {"b": 2, "a": 1})
    assert canonical({"x", "y", "z"}) == canonical(frozenset({"z", "y", "x"})) == ["x", "y", "z"]
    assert canonical((1, 2)) != canonical((2, 1))


def test_the_key_is_of_task_and_recipe_and_inputs() -> None:
    keys = {cache_key("t", "r", {"a": 1}), cache_key("u", "r", {"a": 1}), cache_key("t", "s", {"a": 1})}
    assert len(keys | {cache_key("t", "r", {"a": 2}), cache_key("t", "r", {"b": 1})}) == 5


@pytest.mark.parametrize("value", [Path("/tmp/x"), b"bytes", object(), {"deep": [Path("x")]}])
def test_what_names_a_place_or_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no canonical form"):
        canonical(value)


def test_references_are_found_at_any_depth() -> None:
    found = list(references({"a": [rootfs(ref("5", LOG), ref("9"))], "b": ref("8")}))
    assert [item.sha256[0] for item in found] == ["1", "2", "3", "9", "5", "8"]
