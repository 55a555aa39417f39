"""New versions of what is published already: exactly its content, under a new number."""

from __future__ import annotations

import pytest

from coreimage.client.documents import ImageSource
from coreimage.errors import ConflictError, NotFoundError, UsageError
from coreimage.model import TAR_XZ
from coreimage.storage import read_bytes
from coreimage.system_image.channels.annotations import pin_version, set_phase, unpin_version
from coreimage.system_image.channels.changes import alias_channel, create_channel, redirect_channel
from coreimage.system_image.channels.promotion import promote, roll_back, tag_image
from coreimage.system_image.documents import layout
from coreimage.system_image.payloads.version_tarball import read_identity
from coreimage.system_image.server import ChannelTree
from tests.unit.system_image.published import (
    DEVICE,
    EDGE,
    STABLE,
    Clock,
    channels_of,
    contents,
    index_of,
    make_tree,
    payload_key,
    release,
    versions,
)


@pytest.fixture
def tree(tree: ChannelTree) -> ChannelTree:
    release(tree, b"one")
    release(tree, b"two")
    create_channel(tree, STABLE)
    return tree


def test_the_newest_version_is_promoted_or_the_one_that_is_named(tree: ChannelTree) -> None:
    assert promote(tree, EDGE, STABLE, DEVICE, version=1).version == 1
    change = promote(tree, EDGE, STABLE, DEVICE, delta_bases=0)
    assert (change.changed, change.version, change.channel) == (True, 2, STABLE)
    assert contents(tree, STABLE) == [b"one", b"two"]
    first, second = index_of(tree, STABLE).fulls
    assert (first.source, second.source) == (ImageSource(EDGE, 1), ImageSource(EDGE, 2))
    assert second.version_detail == "ubuntu=20261123,version=2"
    assert second.description == second.version_detail
    assert second.payloads == index_of(tree).fulls[-1].payloads, "payloads are shared"
    assert second.version_file is not None
    with tree.store.open(layout.key(second.version_file.path)) as file:
        values, _ = read_identity(file, "")
    assert (values["channel"], values["build_number"]) == (STABLE, "2")


def test_the_same_content_is_not_published_again(tree: ChannelTree) -> None:
    promote(tree, EDGE, STABLE, DEVICE)
    before = channels_of(tree)
    assert not promote(tree, EDGE, STABLE, DEVICE).changed
    assert channels_of(tree) == before
    change = promote(tree, EDGE, STABLE, DEVICE, phase=30)
    assert (change.changed, change.version) == (True, 1)
    assert index_of(tree, STABLE).images[0].phased_percentage == 30


def test_of_what_was_said_of_a_version_only_the_tag_is_said_of_its_copy(tree: ChannelTree) -> None:
    set_phase(tree, EDGE, DEVICE, 20)
    pin_version(tree, EDGE, DEVICE, 2, "kept")
    tag_image(tree, EDGE, DEVICE, "rc", delta_bases=0)
    promote(tree, EDGE, STABLE, DEVICE)
    (image,) = index_of(tree, STABLE).fulls
    detail = "ubuntu=20261123,tag=rc,version=1"
    assert (image.phased_percentage, image.pinned, image.version_detail) == (100, None, detail)
    tag_image(tree, STABLE, DEVICE, "13.1", delta_bases=0)
    assert not promote(tree, EDGE, STABLE, DEVICE).changed, "the same version got another tag since"
    tag_image(tree, EDGE, DEVICE, "rc2", delta_bases=0)
    assert promote(tree, EDGE, STABLE, DEVICE).changed
    set_phase(tree, STABLE, DEVICE, 7)
    tag_image(tree, EDGE, DEVICE, "rc3", delta_bases=0)
    promote(tree, EDGE, STABLE, DEVICE)
    assert index_of(tree, STABLE).fulls[-1].phased_percentage == 100, "only a tag keeps the phase"


def test_a_promoted_version_may_begin_with_some_devices(tree: ChannelTree) -> None:
    promote(tree, EDGE, STABLE, DEVICE, version=1, phase=5)
    assert index_of(tree, STABLE).images[0].phased_percentage == 5
    promote(tree, EDGE, STABLE, DEVICE, phase=10, delta_bases=0)
    assert [image.phased_percentage for image in index_of(tree, STABLE).images] == [100, 10], "only the newest has one"
    for phase in (-1, 101):
        with pytest.raises(UsageError, match="percentage"):
            promote(tree, EDGE, STABLE, DEVICE, phase=phase)


@pytest.mark.parametrize("suffix", ["", ".asc"])
def test_a_version_whose_files_are_gone_is_not_promoted(tree: ChannelTree, suffix: str) -> None:
    before = channels_of(tree)
    tree.store.delete([payload_key(index_of(tree).fulls[-1]) + suffix])
    with pytest.raises(NotFoundError, match="no longer there"):
        promote(tree, EDGE, STABLE, DEVICE)
    assert channels_of(tree) == before


def test_a_killed_promotion_takes_the_number_that_it_claimed(tree: ChannelTree) -> None:
    gone = payload_key(index_of(tree).fulls[-1])
    content = read_bytes(tree.store, gone) or b""
    tree.store.delete([gone])
    with pytest.raises(NotFoundError):
        promote(tree, EDGE, STABLE, DEVICE)
    tree.store.put_bytes(gone, content, media_type=TAR_XZ)
    assert promote(tree, EDGE, STABLE, DEVICE).version == 1
    assert release(tree, b"three", STABLE) == 2


@pytest.mark.parametrize(
    ("source", "device", "version", "problem"),
    [
        ("debian-core/13/edg", DEVICE, None, "did you mean 'debian-core/13/edge'"),
        (EDGE, "generic_amd65", None, "did you mean 'generic_amd64'"),
        (EDGE, DEVICE, 3, "has no version 3"),
        (STABLE, DEVICE, None, "has no device"),
    ],
)
def test_what_is_not_there_is_not_promoted(
    tree: ChannelTree, source: str, device: str, version: int | None, problem: str
) -> None:
    create_channel(tree, "target")
    with pytest.raises(NotFoundError, match=problem):
        promote(tree, source, "target", device, version=version)


def test_nothing_is_promoted_to_what_has_other_content(tree: ChannelTree) -> None:
    alias_channel(tree, "latest", EDGE)
    redirect_channel(tree, "old", EDGE)
    release(tree, b"one", STABLE)
    redirect_channel(tree, STABLE, EDGE, device=DEVICE)
    for target in ("latest", "old", STABLE):
        with pytest.raises(UsageError, match=f"use {EDGE}"):
            promote(tree, EDGE, target, DEVICE)
    with pytest.raises(NotFoundError):
        promote(tree, EDGE, "nothing", DEVICE)


def test_an_alias_may_be_promoted_from(tree: ChannelTree) -> None:
    alias_channel(tree, "latest", EDGE)
    promote(tree, "latest", STABLE, DEVICE)
    assert contents(tree, STABLE) == [b"two"]


def test_a_version_is_rolled_back_under_a_higher_number(tree: ChannelTree) -> None:
    change = roll_back(tree, EDGE, DEVICE, 1, delta_bases=0, phase=50)
    assert (change.changed, change.version) == (True, 3)
    assert contents(tree) == [b"one", b"two", b"one"]
    newest = index_of(tree).fulls[-1]
    assert (newest.source, newest.phased_percentage) == (ImageSource(EDGE, 1), 50)
    assert not roll_back(tree, EDGE, DEVICE, 1, delta_bases=0).changed
    with pytest.raises(NotFoundError, match="its versions: 1, 2, 3"):
        roll_back(tree, EDGE, DEVICE, 9)


def test_between_versions_of_one_content_the_delta_is_the_version_file(tree: ChannelTree) -> None:
    tag_image(tree, EDGE, DEVICE, "rc1")
    (delta,) = [image for image in index_of(tree).images if image.type == "delta"]
    assert (delta.base, delta.version, delta.payloads) == (2, 3, ())
    assert delta.tree_sha256 == index_of(tree).fulls[-1].tree_sha256 is not None


def test_a_tag_comes_changes_and_goes(tree: ChannelTree) -> None:
    set_phase(tree, EDGE, DEVICE, 40)
    assert tag_image(tree, EDGE, DEVICE, "rc1", delta_bases=0).version == 3
    newest = index_of(tree).fulls[-1]
    assert newest.version_detail == "ubuntu=20261123,tag=rc1,version=3"
    assert newest.phased_percentage == 40, "phasing stays"
    assert not tag_image(tree, EDGE, DEVICE, "rc1", delta_bases=0).changed
    assert tag_image(tree, EDGE, DEVICE, "rc2", delta_bases=0).version == 4
    assert tag_image(tree, EDGE, DEVICE, "", delta_bases=0).version == 5
    assert index_of(tree).fulls[-1].version_detail == "ubuntu=20261123,version=5"
    assert not tag_image(tree, EDGE, DEVICE, "", delta_bases=0).changed
    assert contents(tree)[2:] == [b"two"] * 3


@pytest.mark.parametrize("tag", ["a,b", "a=b", "50%", "a\nb", "\x1b[31m"])
def test_tags_that_version_detail_cannot_hold(tree: ChannelTree, tag: str) -> None:
    with pytest.raises(UsageError, match="tag"):
        tag_image(tree, EDGE, DEVICE, tag)


def test_only_the_newest_version_is_phased(tree: ChannelTree, clock: Clock) -> None:
    assert set_phase(tree, EDGE, DEVICE, 10, version=2).version == 2
    clock.pass_(hours=1)
    assert [image.phased_percentage for image in index_of(tree).images] == [100, 10]
    assert not set_phase(tree, EDGE, DEVICE, 10).changed
    with pytest.raises(ConflictError, match="version 1 is not the newest, which is 2"):
        set_phase(tree, EDGE, DEVICE, 10, version=1)
    assert set_phase(tree, EDGE, DEVICE, 100).changed
    for percentage in (-1, 101):
        with pytest.raises(UsageError, match="percentage"):
            set_phase(tree, EDGE, DEVICE, percentage)
    with pytest.raises(NotFoundError):
        set_phase(tree, STABLE, DEVICE, 10)


def test_versions_are_pinned_and_unpinned(tree: ChannelTree) -> None:
    change = pin_version(tree, EDGE, DEVICE, 1, "for the fair")
    assert (change.changed, change.version) == (True, 1)
    assert [image.pinned for image in index_of(tree).images] == ["for the fair", None]
    assert not pin_version(tree, EDGE, DEVICE, 1, "for the fair").changed
    assert pin_version(tree, EDGE, DEVICE, 1).changed
    assert index_of(tree).images[0].pinned == "", "without a note it is pinned, too"
    assert unpin_version(tree, EDGE, DEVICE, 1).changed
    assert not unpin_version(tree, EDGE, DEVICE, 1).changed
    with pytest.raises(NotFoundError):
        pin_version(tree, EDGE, DEVICE, 3)


def test_the_same_promotion_elsewhere_gives_the_same_bytes(tree: ChannelTree) -> None:
    other = make_tree()
    release(other, b"one")
    release(other, b"two")
    create_channel(other, STABLE)
    for each in (tree, other):
        promote(each, EDGE, STABLE, DEVICE)
    assert channels_of(other) == channels_of(tree)
    assert versions(other, STABLE) == [1]
