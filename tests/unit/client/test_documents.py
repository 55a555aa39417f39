from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreimage.client import (
    Channels,
    Index,
    NotPresentError,
    RepositoryError,
    SignedChannels,
    primary_fingerprints,
    read_keyring,
    select_full,
)
from coreimage.signing import make_keyring

FILE: dict[str, Any] = {
    "path": "/pool/ubuntu-1.tar.xz",
    "signature": "/pool/ubuntu-1.tar.xz.asc",
    "checksum": "0" * 64,
    "size": 1,
    "order": 0,
}
IMAGE: dict[str, Any] = {"type": "full", "version": 1, "files": [FILE]}
INDEX: dict[str, Any] = {"global": {"generated_at": "Mon Nov 23 18:34:20 UTC 2026"}, "images": [IMAGE]}


def index_of(**changes: Any) -> bytes:
    document = copy.deepcopy(INDEX)
    for key, value in changes.items():
        target = document["images"][0]["files"][0] if key in FILE else document["images"][0]
        target[key] = value
    return json.dumps(document).encode()


def images(*versions: int) -> bytes:
    return json.dumps({**INDEX, "images": [{**IMAGE, "version": version} for version in versions]}).encode()


@pytest.mark.parametrize(("revision", "version"), [(0, 9), (-1, 7), (-2, 3), (3, 3), (9, 9)])
def test_revision_is_relative_or_absolute(revision: int, version: int) -> None:
    assert select_full(Index.from_bytes(images(3, 9, 7), "x").images, revision).version == version


@pytest.mark.parametrize("revision", [-3, 4, -(10**30), 10**30])
def test_unknown_revision_names_what_there_is(revision: int) -> None:
    with pytest.raises(NotPresentError, match="9, 7, 3"):
        select_full(Index.from_bytes(images(3, 9, 7), "x").images, revision)


def test_a_delta_alone_cannot_be_installed() -> None:
    delta = {**IMAGE, "type": "delta", "base": 150, "version": 166}
    full = {**IMAGE, "version": 150}
    both = Index.from_bytes(json.dumps({**INDEX, "images": [delta, full]}).encode(), "x").images
    assert select_full(both).version == 150
    for revision in (166, -1):
        with pytest.raises(NotPresentError, match="versions there are: 150"):
            select_full(both, revision)
    with pytest.raises(NotPresentError):
        select_full(Index.from_bytes(json.dumps({**INDEX, "images": [delta]}).encode(), "x").images)


def test_files_are_in_the_order_in_which_they_are_applied() -> None:
    files = [{**FILE, "path": f"/pool/{name}", "order": order} for name, order in (("c", 2), ("b", 0), ("a", 1))]
    (image,) = Index.from_bytes(index_of(files=files), "x").images
    assert [file.name for file in image.files] == ["b", "a", "c"]


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/pool/../../etc/passwd"},
        {"path": "/pool/%2e%2e/x"},
        {"path": "/pool/.."},
        {"path": "/pool/"},
        {"path": ""},
        {"path": "file:///etc/passwd"},
        {"path": "//host/x"},
        {"path": "/pool/a\nb"},
        {"path": "/pool/a\\b"},
        {"path": "/pool/a%2f"},
        {"path": "http://[bad/x"},
        {"path": 1},
        {"signature": None},
        {"checksum": ""},
        {"checksum": "A" * 64},
        {"size": True},
        {"size": -1},
        {"size": 10**40},
        {"size": 1.5},
        {"size": "1"},
        {"order": -1},
        {"version": 65536},
        {"version": True},
        {"version": -1},
        {"type": "half"},
        {"type": "delta"},
        {"type": ["full"]},
        {"files": []},
        {"files": {}},
        {"files": [FILE, FILE]},
        {"version_detail": 1},
    ],
)
def test_hostile_index_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RepositoryError):
        Index.from_bytes(index_of(**changes), "x")


@pytest.mark.parametrize("path", ["https://cdn.example/pool/x.tar.xz", "/pool/x.tar.xz", "pool/x.tar.xz"])
def test_urls_and_paths_are_accepted(path: str) -> None:
    (image,) = Index.from_bytes(index_of(path=path, extra=1), "x").images
    assert image.files[0].name == "x.tar.xz"


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"[" * 100_000, b"\xff", b"1" * 5000, b'{"a": 1}', b'{"a": {"devices": []}}',
     b'{"a": {"devices": {"d": {"index": "../x"}}}}', b'{"a": {"devices": {}, "hidden": "yes"}}'],
)  # fmt: skip
def test_hostile_channels_are_refused(content: bytes) -> None:
    with pytest.raises(RepositoryError):
        Channels.from_bytes(content, "x")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*FILE, *IMAGE, *INDEX, "devices", "index"]), inner)
    ),
    max_leaves=12,
)


@given(_JSON)
def test_any_json_is_read_or_refused(document: Any) -> None:
    for parsed in (Index, Channels, SignedChannels):
        try:
            parsed.from_bytes(json.dumps(document).encode(), "x")
        except RepositoryError:
            continue


@pytest.mark.parametrize(
    ("kind", "options", "problem"),
    [
        ("image-signing", {}, "is of type"),
        ("image-master", {"expiry": 100}, "expired"),
        ("image-master", {"expiry": True}, "not a number"),
        ("image-master", {"expiry": float("inf")}, "not a number"),
        ("image-master", {"model": "other"}, "is for"),
    ],
)
def test_unfit_keyring_is_refused(kind: str, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(RepositoryError, match=problem):
        read_keyring(make_keyring(kind, b"", **options), "image-master", now=100, device="generic_amd64")


@pytest.mark.parametrize(
    "tarball", [b"", b"nonsense", make_keyring("x", b"")[:-30], make_keyring("x", b"\0" * (8 << 20))]
)
def test_broken_keyring_is_refused(tarball: bytes) -> None:
    with pytest.raises(RepositoryError):
        read_keyring(tarball, "x", now=0)


def test_keyring_says_what_was_put_in() -> None:
    keyring = read_keyring(make_keyring("blacklist", b"keys", expiry=200, model="m"), "blacklist", now=100, device="m")
    assert (keyring.keys, keyring.expiry, keyring.model) == (b"keys", 200, "m")
    assert make_keyring("blacklist", b"keys") == make_keyring("blacklist", b"keys")


@given(st.binary(max_size=60))
def test_any_bytes_are_keys_or_refused(content: bytes) -> None:
    try:
        primary_fingerprints(content)
    except RepositoryError:
        return
