"""Where documents stop being believed: every limit from both sides, and every wrong shape, named with its document."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from coreimage.client import Channels, Index, RepositoryError, SignedChannels
from coreimage.client.json_codec import base_name, compact_json_bytes, json_bytes, json_sha256

WHERE = "the document"
FILE: dict[str, Any] = {
    "path": "/pool/a.tar.xz",
    "signature": "/pool/a.tar.xz.asc",
    "checksum": "0" * 64,
    "size": 1,
    "order": 0,
}
IMAGE: dict[str, Any] = {"type": "full", "version": 1, "files": [FILE], "source": {"channel": "c", "version": 1}}
DELTA: dict[str, Any] = {"type": "delta", "version": 2, "base": 1, "files": [FILE], "form": "compact"}
INDEX: dict[str, Any] = {"global": {"generated_at": "then", "channel": "c"}, "images": [IMAGE], "compact": [DELTA]}
ENTRY: dict[str, Any] = {
    "index": "/c/d/index.json",
    "index_sha256": "0" * 64,
    "alias_of_sha256": "1" * 64,
    "redirect": "other",
    "keyring": {"path": "/k.tar.xz", "signature": "/k.tar.xz.asc"},
}
CHANNELS: dict[str, Any] = {"c": {"devices": {"d": ENTRY}, "hidden": True, "alias": "b", "redirect": "e"}}
SIGNED: dict[str, Any] = {
    "kind": "channels",
    "number": 5,
    "expires": 9,
    "channels": CHANNELS,
    "retired": {"c": {"d": 3}},
}
ABSENT: Any = object()
Read = Callable[[bytes, str], object]


def changed(document: dict[str, Any], path: str, value: Any) -> bytes:
    """Return the document with `value` at a path such as `images.0.version`."""
    document = copy.deepcopy(document)
    *parents, last = [int(word) if word.isdecimal() else word for word in path.split(".")]
    place: Any = document
    for word in parents:
        place = place[word]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document).encode()


def test_the_documents_are_right_as_they_are() -> None:
    index = Index.from_bytes(json.dumps(INDEX).encode(), WHERE)
    assert [(image.type, image.version, image.base) for image in index.images] == [("full", 1, None), ("delta", 2, 1)]
    signed = SignedChannels.from_bytes(json.dumps(SIGNED).encode(), WHERE)
    assert (signed.number, signed.expires, signed.retired) == (5, 9, {"c": {"d": 3}})
    channel = Channels.from_bytes(json.dumps(CHANNELS).encode(), WHERE)["c"]
    assert (channel.hidden, channel.alias, channel.redirect) == (True, "b", "e")
    entry = channel.devices["d"]
    assert entry.to_json() == ENTRY
    assert (entry.index_sha256, entry.alias_of_sha256) == ("0" * 64, "1" * 64)


@pytest.mark.parametrize(
    ("path", "least", "most"),
    [
        ("images.0.files.0.size", 0, 1 << 40),
        ("images.0.files.0.order", 0, 10_000),
        ("images.0.version", 0, 65535),
        ("images.0.minversion", 0, 65535),
        ("images.0.phased-percentage", 0, 100),
        ("images.0.source.version", 0, 65535),
        ("compact.0.base", 0, 65535),
        ("compact.0.version", 0, 65535),
    ],
)
def test_numbers_of_an_index_end_where_clients_end(path: str, least: int, most: int) -> None:
    _check_ends(Index.from_bytes, INDEX, path, least, most)


@pytest.mark.parametrize(
    ("path", "least", "most"),
    [("number", 1, 1 << 53), ("expires", 1, 253_370_764_800), ("retired.c.d", 0, 65535)],
)
def test_numbers_of_signed_channels_end_where_clients_end(path: str, least: int, most: int) -> None:
    _check_ends(SignedChannels.from_bytes, SIGNED, path, least, most)


def _check_ends(read: Read, document: dict[str, Any], path: str, least: int, most: int) -> None:
    for accepted in (least, most):
        read(changed(document, path, accepted), WHERE)
    for value in (least - 1, most + 1, True, *([] if path == "number" else [str(most + 1), 1.0])):
        with pytest.raises(RepositoryError, match=f"whole number from {least} to {most}") as refused:
            read(changed(document, path, value), WHERE)
        assert refused.value.where == WHERE


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("global", ABSENT, "'global' is not an object"),
        ("global", [], "'global' is not an object"),
        ("global.generated_at", None, "'generated_at' is missing or not a string"),
        ("global.channel", 1, "'channel' is missing or not a string"),
        ("global.device", 1, "'device' is missing or not a string"),
        ("global.channel_target", 1, "'channel_target' is missing or not a string"),
        ("images", ABSENT, "'images' is not an array"),
        ("images", {}, "'images' is not an array"),
        ("compact", {}, "'compact' is not an array"),
        ("images.0", [], "an image is not an object"),
        ("images.0.type", ABSENT, "'type' is missing or not a string"),
        ("images.0.type", "half", "unknown type 'half'"),
        ("images.0.form", 1, "'form' is missing or not a string"),
        ("images.0.form", "new", "a full image has the form 'new'"),
        ("images.0.form", "compact", "a full image has the form 'compact'"),
        ("images.0.version", ABSENT, "'version' is not a whole number"),
        ("images.0.files", ABSENT, "'files' is not an array"),
        ("images.0.files", [], "no files, or two of the same name"),
        ("images.0.files", [FILE, {**FILE, "path": "/other/a.tar.xz"}], "no files, or two of the same name"),
        ("images.0.files.0", 1, "a file is not an object"),
        ("images.0.files.0.path", ABSENT, "'path' is missing or not a string"),
        ("images.0.files.0.signature", ABSENT, "'signature' is missing or not a string"),
        ("images.0.files.0.checksum", ABSENT, "'checksum' is missing or not a string"),
        ("images.0.files.0.checksum", "0" * 63, "'checksum' is not a SHA-256 digest"),
        ("images.0.files.0.checksum", "0" * 65, "'checksum' is not a SHA-256 digest"),
        ("images.0.files.0.checksum", "G" * 64, "'checksum' is not a SHA-256 digest"),
        ("images.0.files.0.size", ABSENT, "'size' is not a whole number"),
        ("images.0.version_detail", None, "'version_detail' is missing or not a string"),
        ("images.0.description", 1, "'description' is missing or not a string"),
        ("images.0.pinned", 1, "'pinned' is missing or not a string"),
        ("images.0.tree_sha256", None, "'tree_sha256' is missing or not a string"),
        ("images.0.tree_sha256", "x", "'tree_sha256' is not a SHA-256 digest"),
        ("images.0.source", 1, "'source' is not an object"),
        ("images.0.source.channel", ABSENT, "'channel' is missing or not a string"),
        ("images.0.source.version", ABSENT, "'version' is not a whole number"),
        ("compact.0.base", ABSENT, "'base' is not a whole number"),
        ("images.0.phased-percentage", "0100", "'phased-percentage' is not a whole number"),
        ("images.0.phased-percentage", "-1", "'phased-percentage' is not a whole number"),
        ("images.0.phased-percentage", "²", "'phased-percentage' is not a whole number"),
    ],
)
def test_an_index_of_a_wrong_shape_is_refused(path: str, value: Any, problem: str) -> None:
    _check_refused(Index.from_bytes, INDEX, path, value, problem)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("c", [], "channel 'c' is not an object"),
        ("c.devices", ABSENT, "'devices' of channel 'c' is not an object"),
        ("c.hidden", "no", "'hidden' of channel 'c' is not true or false"),
        ("c.alias", 1, "'alias' is missing or not a string"),
        ("c.redirect", 1, "'redirect' is missing or not a string"),
        ("c.devices.d", 1, "device 'd' is not an object"),
        ("c.devices.d.index", ABSENT, "'index' is missing or not a string"),
        ("c.devices.d.index_sha256", None, "'index_sha256' is missing or not a string"),
        ("c.devices.d.index_sha256", "x", "'index_sha256' is not a SHA-256 digest"),
        ("c.devices.d.alias_of_sha256", "x", "'alias_of_sha256' is not a SHA-256 digest"),
        ("c.devices.d.redirect", 1, "'redirect' is missing or not a string"),
        ("c.devices.d.keyring", 1, "'keyring' is not an object"),
        ("c.devices.d.keyring.path", ABSENT, "'path' is missing or not a string"),
        ("c.devices.d.keyring.signature", "/a/../b", "'signature' leaves its folder"),
    ],
)
def test_channels_of_a_wrong_shape_are_refused(path: str, value: Any, problem: str) -> None:
    _check_refused(Channels.from_bytes, CHANNELS, path, value, problem)
    _check_refused(SignedChannels.from_bytes, SIGNED, f"channels.{path}", value, problem)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("kind", ABSENT, "'kind' is missing or not a string"),
        ("kind", "candidates", "unknown kind 'candidates'"),
        ("channels", ABSENT, "'channels' is not an object"),
        ("expires", ABSENT, "'expires' is not a whole number"),
        ("retired", [], "'retired' is not an object"),
        ("retired.c", 1, "retired devices of a channel is not an object"),
    ],
)
def test_signed_channels_of_a_wrong_shape_are_refused(path: str, value: Any, problem: str) -> None:
    _check_refused(SignedChannels.from_bytes, SIGNED, path, value, problem)


def _check_refused(read: Read, document: dict[str, Any], path: str, value: Any, problem: str) -> None:
    with pytest.raises(RepositoryError) as refused:
        read(changed(document, path, value), WHERE)
    assert problem in refused.value.problem
    assert refused.value.where == WHERE


def test_what_a_document_may_leave_out() -> None:
    bare = {"global": {}, "images": [{"type": "full", "version": 1, "files": [{**FILE, "order": 0}]}]}
    del bare["images"][0]["files"][0]["order"]  # type: ignore[index]
    index = Index.from_bytes(json.dumps(bare).encode(), WHERE)
    (image,) = index.images
    assert (index.channel, index.device, index.channel_target, index.generated_at) == (None, None, None, "")
    assert (image.version_detail, image.description, image.minversion, image.phased_percentage) == ("", "", 0, 100)
    assert (image.form, image.pinned, image.tree_sha256, image.source) == ("legacy", None, None, None)
    assert image.files[0].order == 0
    channels = Channels.from_bytes(b'{"c": {"devices": {"d": {"index": "/i", "keyring": null}}}}', WHERE)
    assert channels["c"].devices["d"].keyring is None
    assert (channels["c"].hidden, channels["c"].alias, channels["c"].redirect) == (False, None, None)
    signed = SignedChannels.from_bytes(b'{"kind": "candidate", "number": 1, "expires": 5, "channels": {}}', WHERE)
    assert (signed.kind, signed.expires, signed.retired) == ("candidate", None, {})


def test_a_delta_has_no_minversion_and_a_percentage_may_be_text() -> None:
    index = Index.from_bytes(changed(INDEX, "compact.0.minversion", 7), WHERE)
    assert index.images[1].minversion == 0
    for value, percentage in (("7", 7), ("100", 100), (None, 100)):
        read = Index.from_bytes(changed(INDEX, "images.0.phased-percentage", value), WHERE)
        assert read.images[0].phased_percentage == percentage


def test_files_are_sorted_by_order_and_then_by_name() -> None:
    files = [{**FILE, "path": f"/pool/{name}", "order": order} for name, order in (("c", 0), ("a", 1), ("b", 0))]
    index = Index.from_bytes(changed(INDEX, "images.0.files", files), WHERE)
    assert [file.name for file in index.images[0].files] == ["b", "c", "a"]


def test_plain_channels_may_have_a_channel_called_number() -> None:
    plain = {**CHANNELS, "number": CHANNELS["c"]}
    signed = SignedChannels.from_bytes(json.dumps(plain).encode(), WHERE)
    assert (signed.number, signed.kind, signed.expires, set(signed.channels)) == (0, "channels", None, {"c", "number"})


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/" + "a" * 255, None),
        ("/" + "a" * 256, "names no file"),
        ("/" + "ä" * 128, "names no file"),
        ("/" + "b/" * 2046 + "xyz", None),
        ("/" + "b/" * 2046 + "xyzw", "is no path on a server"),
        ("ftp://host/x", "is no path on a server"),
        ("//host/x", "is no path on a server"),
        ("http://host/x", None),
        ("https://host/x", None),
        ("http://host/", "names no file"),
        ("/a/./b", "leaves its folder"),
        ("/../b", "leaves its folder"),
        ("/a\\b", "leaves its folder"),
        ("/a%5cb", None),
        ("/a%00", "names no file"),
        ("/a\x00", "is no path on a server"),
        ("http://[bad/x", "is no path on a server"),
    ],
)
def test_what_is_a_path_on_a_server(path: str, problem: str | None) -> None:
    if problem is None:
        index = Index.from_bytes(changed(INDEX, "images.0.files.0.path", path), WHERE)
        assert index.images[0].files[0].path == path
    else:
        _check_refused(Index.from_bytes, INDEX, "images.0.files.0.path", path, f"'path' {problem}")


def test_a_file_is_called_by_the_end_of_its_path() -> None:
    assert base_name("https://host/a/b%20c.tar.xz?x=/y") == "b c.tar.xz"
    assert base_name("a.tar.xz") == "a.tar.xz"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"{", "not JSON"), (b"\xff", "not JSON"), (b"[" * 100_000, "not JSON"), (b"[]", "not an object")],
)
def test_what_is_no_json_object_is_refused(content: bytes, problem: str) -> None:
    for read in (Index.from_bytes, Channels.from_bytes, SignedChannels.from_bytes):
        with pytest.raises(RepositoryError, match=f"the document is {problem}") as refused:
            read(content, WHERE)
        assert refused.value.where == WHERE


def test_the_two_ways_of_writing() -> None:
    document = {"b": "ä", "a": [1]}
    assert json_bytes(document) == '{\n    "a": [\n        1\n    ],\n    "b": "ä"\n}\n'.encode()
    assert compact_json_bytes(document) == '{"a":[1],"b":"ä"}'.encode()
    assert json_sha256(document) == hashlib.sha256(json_bytes(document)).hexdigest()
