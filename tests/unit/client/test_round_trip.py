"""Documents come back as they went out, and are written byte for byte as they always were."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreimage.client import (
    Channel,
    Channels,
    DeviceEntry,
    Image,
    ImageFile,
    Index,
    NotPresentError,
    RepositoryError,
    SignedChannels,
)
from coreimage.client.documents import ImageSource, KeyringPaths

A, B = "a" * 64, "b" * 64

_words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
_digests = st.sampled_from((A, B, "0123456789abcdef" * 4))
_versions = st.integers(0, 65535)
_paths = st.sampled_from(("/pool/ubuntu-1.tar.xz", "/a/b c/index.json", "https://cdn.example/x", "/ä/device.tar.xz"))


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


@st.composite
def images(draw: st.DrawFn) -> Image:
    is_full = draw(st.booleans())
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
    files = [
        ImageFile(f"/pool/{name}", f"/pool/{name}.asc", draw(_digests), draw(st.integers(0, 1 << 40)), order)
        for order, name in enumerate(names)
    ]
    return Image(
        version=draw(_versions),
        type="full" if is_full else "delta",
        base=None if is_full else draw(_versions),
        version_detail=draw(_words),
        description=draw(st.text(max_size=5)),
        files=tuple(files),
        minversion=draw(_versions) if is_full else 0,
        phased_percentage=draw(st.integers(0, 100)),
        form=draw(st.sampled_from(("legacy", "own") if is_full else ("legacy", "own", "compact"))),
        pinned=draw(_maybe(st.text(max_size=5))),
        tree_sha256=draw(_maybe(_digests)),
        source=draw(_maybe(st.builds(ImageSource, _words, _versions))),
    )


_indexes = st.builds(
    Index,
    st.lists(images(), max_size=4).map(
        lambda found: tuple(sorted(found, key=lambda image: (image.version, image.form != "legacy")))
    ),
    channel=_maybe(_words),
    device=_maybe(_words),
    channel_target=_maybe(_words),
    generated_at=st.text(max_size=5),
)
_devices = st.builds(
    DeviceEntry, _paths, _maybe(_digests), _maybe(st.builds(KeyringPaths, _paths, _paths)), _maybe(_words),
    _maybe(_digests),
)  # fmt: skip
_channels = st.builds(
    Channels,
    st.dictionaries(
        _words,
        st.builds(
            Channel, st.dictionaries(_words, _devices, max_size=2), st.booleans(), _maybe(_words), _maybe(_words)
        ),
        max_size=3,
    ),
)
_numbers = st.integers(1, 1 << 53)
_retired = st.dictionaries(_words, st.dictionaries(_words, _versions, max_size=2), max_size=2)
_signed = st.builds(
    SignedChannels, _channels, _numbers, expires=st.integers(1, 250_000_000_000), retired=_retired
) | st.builds(SignedChannels, _channels, _numbers, kind=st.just("candidate"))


@given(_indexes)
def test_an_index_comes_back_as_it_went_out(index: Index) -> None:
    content = index.to_bytes()
    assert Index.from_bytes(content, "x") == index
    assert Index.from_bytes(content, "x").to_bytes() == content


@given(_channels)
def test_channels_come_back_as_they_went_out(channels: Channels) -> None:
    assert Channels.from_bytes(channels.to_bytes(), "x") == channels


@given(_signed)
def test_signed_channels_come_back_as_they_went_out(document: SignedChannels) -> None:
    assert SignedChannels.from_bytes(document.to_bytes(), "x") == document


FILE = """{{
                    "checksum": "{0}",
                    "order": {1},
                    "path": "/pool/{2}",
                    "signature": "/pool/{2}.asc",
                    "size": {3}
                }}"""
INDEX = f"""{{
    "compact": [
        {{
            "base": 6,
            "description": "neue Größe",
            "files": [
                {FILE.format(B, 0, "image-1.delta", 5)},
                {FILE.format(A, 1, "version-7.tar.xz", 9)}
            ],
            "form": "compact",
            "phased-percentage": 20,
            "source": {{
                "channel": "debian-core/13/edge",
                "version": 12
            }},
            "tree_sha256": "{B}",
            "type": "delta",
            "version": 7,
            "version_detail": "ubuntu=20261123,version=7"
        }}
    ],
    "global": {{
        "channel": "debian-core/13/stable",
        "channel_target": "debian-core/13/beta",
        "device": "generic_amd64",
        "generated_at": "Mon Nov 23 18:34:20 UTC 2026"
    }},
    "images": [
        {{
            "description": "version=6",
            "files": [
                {FILE.format(A, 0, "ubuntu-1.tar.xz", 100)}
            ],
            "minversion": 6,
            "pinned": "",
            "tree_sha256": "{A}",
            "type": "full",
            "version": 6,
            "version_detail": "version=6"
        }},
        {{
            "description": "neue Größe",
            "files": [
                {FILE.format(B, 0, "ubuntu-2.tar.xz", 200)}
            ],
            "phased-percentage": 0,
            "type": "full",
            "version": 7,
            "version_detail": "ubuntu=20261123,version=7"
        }}
    ]
}}
"""
CHANNELS = f"""{{
    "debian-core/13/beta": {{
        "alias": "debian-core/13/stable",
        "devices": {{
            "generic_amd64": {{
                "alias_of_sha256": "{A}",
                "index": "/debian-core/13/beta/generic_amd64/index-{B}.json",
                "index_sha256": "{B}",
                "keyring": {{
                    "path": "/k/device.tar.xz",
                    "signature": "/k/device.tar.xz.asc"
                }}
            }},
            "pi_arm64": {{
                "index": "/x",
                "redirect": "debian-core/13/edge"
            }}
        }}
    }},
    "debian-core/13/old": {{
        "devices": {{}},
        "hidden": true,
        "redirect": "debian-core/13/stable"
    }}
}}
"""


def test_documents_are_written_as_the_server_always_wrote_them() -> None:
    assert Index.from_bytes(INDEX.encode(), "x").to_bytes().decode() == INDEX
    assert Channels.from_bytes(CHANNELS.encode(), "x").to_bytes().decode() == CHANNELS
    signed: dict[str, Any] = {
        "channels": json.loads(CHANNELS), "expires": 1_800_000_000, "kind": "channels", "number": 1_790_000_000,
        "retired": {"debian-core/12/edge": {"generic_amd64": 42}},
    }  # fmt: skip
    content = json.dumps(signed, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    document = SignedChannels.from_bytes(content, "x")
    assert document.to_bytes() == content
    assert document.retired["debian-core/12/edge"]["generic_amd64"] == 42


def test_an_index_says_its_images_by_version_whatever_their_form() -> None:
    index = Index.from_bytes(INDEX.encode(), "x")
    assert [(image.version, image.type, image.form) for image in index.images] == [
        (6, "full", "legacy"), (7, "full", "legacy"), (7, "delta", "compact"),
    ]  # fmt: skip
    assert [image.version for image in index.fulls] == [6, 7]
    assert index.newest_version == 7
    assert Index(()).newest_version == 0
    step = index.images[2]
    assert [file.name for file in step.payloads] == ["image-1.delta"]
    assert step.version_file is not None
    assert step.version_file.name == "version-7.tar.xz"
    assert step.size_bytes == 14


def test_images_that_are_out_of_order_stay_so() -> None:
    """So that who checks a tree can tell."""
    document = json.loads(INDEX)
    document["images"].reverse()
    index = Index.from_bytes(json.dumps(document).encode(), "x")
    assert [image.version for image in index.images] == [7, 6, 7]


def test_an_older_servers_channels_are_document_0() -> None:
    document = SignedChannels.from_bytes(CHANNELS.encode(), "x")
    assert (document.number, document.kind, document.expires) == (0, "channels", None)
    assert document.channels == Channels.from_bytes(CHANNELS.encode(), "x")


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "index"}, {"kind": 1}, {"number": 0}, {"number": True}, {"number": 1 << 60}, {"expires": None},
        {"expires": 0}, {"expires": "soon"}, {"channels": []}, {"retired": []}, {"retired": {"a": 1}},
        {"retired": {"a": {"b": "1"}}},
    ],
)  # fmt: skip
def test_malformed_signed_channels_are_refused(wrong: dict[str, Any]) -> None:
    right = {"kind": "channels", "number": 1, "expires": 1, "channels": {}}
    SignedChannels.from_bytes(json.dumps(right).encode(), "x")
    with pytest.raises(RepositoryError):
        SignedChannels.from_bytes(json.dumps({**right, **wrong}).encode(), "x")


def test_what_is_not_there_is_answered_with_what_is() -> None:
    channels = Channels.from_bytes(CHANNELS.encode(), "x")
    assert channels.device("debian-core/13/beta", "pi_arm64").redirect == "debian-core/13/edge"
    with pytest.raises(NotPresentError, match="no channel 'debian-core/13/bete'; did you mean 'debian-core/13/beta'"):
        channels.device("debian-core/13/bete", "generic_amd64")
    with pytest.raises(NotPresentError, match="no device 'generic_amd46'; did you mean 'generic_amd64'") as caught:
        channels.device("debian-core/13/beta", "generic_amd46")
    assert "generic_amd64, pi_arm64" in caught.value.resolution
