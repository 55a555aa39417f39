"""A channel moves to exactly the candidate that was tested."""

from __future__ import annotations

import pytest

from coreimage.client.documents import Index, SignedChannels
from coreimage.errors import ConflictError, NotFoundError, UsageError, VerificationError
from coreimage.signing import Role
from coreimage.storage import put_blob_bytes, read_blob
from coreimage.system_image.channels.annotations import pin_version, set_phase
from coreimage.system_image.channels.changes import alias_channel, redirect_channel
from coreimage.system_image.channels.cleanup import expire_versions
from coreimage.system_image.channels.release import release_candidate
from coreimage.system_image.channels.versions import claim_key
from coreimage.system_image.documents import layout
from coreimage.system_image.server import ChannelTree
from tests.unit.system_image.published import (
    DEVICE,
    EDGE,
    change_object,
    channels_of,
    contents,
    index_of,
    make_candidate,
    versions,
)


def test_the_channel_names_the_index_that_was_tested(tree: ChannelTree) -> None:
    candidate = make_candidate(tree, b"one")
    assert not channels_of(tree), "a candidate is not named by the channel"
    release = release_candidate(tree, candidate)
    assert (release.channel, release.device, release.version) == (EDGE, DEVICE, 1)
    assert release.index == candidate.index
    assert channels_of(tree)[EDGE].devices[DEVICE].index_sha256 == candidate.index.sha256


def test_a_candidates_document_is_marked_and_names_nothing_else(tree: ChannelTree) -> None:
    """Otherwise it could be served as the channels of the server."""
    release_candidate(tree, make_candidate(tree, b"one"))
    candidate = make_candidate(tree, b"two")
    with tree.store.open(candidate.channels.uri) as file:
        content = tree.signer.open_inline(Role.IMAGE_SIGNING, file.read())
    document = SignedChannels.from_bytes(content, "")
    assert (document.kind, document.number, document.expires) == ("candidate", 2, None)
    ((name, channel),) = document.channels.items()
    ((device, entry),) = channel.devices.items()
    assert (name, device, entry.index_sha256) == (EDGE, DEVICE, candidate.index.sha256)


def test_done_again_nothing_changes(tree: ChannelTree) -> None:
    candidate = make_candidate(tree, b"one")
    first = release_candidate(tree, candidate)
    set_phase(tree, EDGE, DEVICE, 10)
    pin_version(tree, EDGE, DEVICE, 1, "kept")
    marked = index_of(tree)
    assert release_candidate(tree, candidate).version == first.version
    assert index_of(tree) == marked, "what was said of the version since stays"


def test_a_candidate_that_is_not_newer_is_refused(tree: ChannelTree) -> None:
    first, second = make_candidate(tree, b"one"), make_candidate(tree, b"two")
    release_candidate(tree, second)
    with pytest.raises(ConflictError, match="version 1 is not newer than version 2"):
        release_candidate(tree, first)
    assert versions(tree) == [2]


def test_another_candidate_of_a_number_that_is_released_is_refused(tree: ChannelTree) -> None:
    first = make_candidate(tree, b"one")
    tree.store.delete([claim_key(EDGE, DEVICE, 1)])
    second = make_candidate(tree, b"two")
    assert first.version == second.version == 1
    release_candidate(tree, first)
    with pytest.raises(ConflictError, match="version 1 is not newer than version 1"):
        release_candidate(tree, second)
    assert contents(tree) == [b"one"]


def test_where_the_channel_moved_the_index_is_made_again(tree: ChannelTree) -> None:
    first, second = make_candidate(tree, b"one"), make_candidate(tree, b"two")
    release_candidate(tree, first)
    release = release_candidate(tree, second)
    assert versions(tree) == [1, 2]
    assert release.index.sha256 == channels_of(tree)[EDGE].devices[DEVICE].index_sha256 != second.index.sha256


def test_a_delta_whose_base_went_meanwhile_is_left_out(tree: ChannelTree) -> None:
    release_candidate(tree, make_candidate(tree, b"one"))
    release_candidate(tree, make_candidate(tree, b"two"))
    candidate = make_candidate(tree, b"three", bases=[2, 1])
    expire_versions(tree, EDGE, 1)
    release_candidate(tree, candidate)
    assert [(image.type, image.base) for image in index_of(tree).images] == [
        ("full", None),
        ("full", None),
        ("delta", 2),
    ]


@pytest.mark.parametrize("suffix", ["", ".asc"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_candidate_whose_files_are_gone_is_refused(tree: ChannelTree, number: int, suffix: str) -> None:
    candidate = make_candidate(tree, b"one")
    tree.store.delete([candidate.files[number].uri + suffix])
    with pytest.raises(NotFoundError, match="no longer there"):
        release_candidate(tree, candidate)
    assert not channels_of(tree)


def test_nothing_is_released_to_what_has_other_content(tree: ChannelTree) -> None:
    release_candidate(tree, make_candidate(tree, b"one"))
    alias_channel(tree, "latest", EDGE)
    redirect_channel(tree, "old", EDGE)
    for name in ("latest", "old"):
        candidate = make_candidate(tree, b"two").model_copy(update={"channel": name})
        with pytest.raises(UsageError, match=f"use {EDGE}"):
            release_candidate(tree, candidate)


def test_an_index_that_does_not_end_with_the_candidate_is_refused(tree: ChannelTree) -> None:
    release_candidate(tree, make_candidate(tree, b"one"))
    candidate = make_candidate(tree, b"two")
    for update in ({"version": 1}, {"version": 3}):
        with pytest.raises(VerificationError, match="does not end"):
            release_candidate(tree, candidate.model_copy(update=update))
    index = Index.from_bytes(read_blob(tree.store, candidate.index), "")
    assert index.newest_version == 2
    no_index = put_blob_bytes(tree.store, b"[]", candidate.index.media_type)
    with pytest.raises(VerificationError, match="not an object"):
        release_candidate(tree, candidate.model_copy(update={"index": no_index}))


def test_a_candidates_index_that_was_changed_is_refused(tree: ChannelTree) -> None:
    candidate = make_candidate(tree, b"one")
    change_object(tree.store, candidate.index.uri, lambda content: content.replace(b"full", b"fool"))
    with pytest.raises(VerificationError):
        release_candidate(tree, candidate)
    assert layout.key(layout.CHANNELS_SIGNED) not in {info.key for info in tree.store.list()}
