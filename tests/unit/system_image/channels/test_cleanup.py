"""What a tree no longer needs: old versions, and objects that nothing names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreimage.client.documents import Image
from coreimage.errors import UsageError
from coreimage.model import TEXT
from coreimage.system_image.channels.annotations import pin_version
from coreimage.system_image.channels.changes import (
    alias_channel,
    create_device,
    redirect_channel,
    remove_channel,
    remove_device,
    rename_channel,
    set_device_keyring,
)
from coreimage.system_image.channels.cleanup import (
    Expired,
    collect_orphans,
    expire_versions,
    kept_images,
    named_versions,
    orphans,
)
from coreimage.system_image.channels.document import heal_pair
from coreimage.system_image.channels.promotion import tag_image
from coreimage.system_image.channels.release import release_candidate
from coreimage.system_image.server import ChannelTree
from tests.unit.system_image.published import (
    DEVICE,
    EDGE,
    STABLE,
    channels_of,
    contents,
    index_of,
    keys,
    make_candidate,
    release,
    versions,
)


def image(version: int, base: int | None = None, pinned: str | None = None) -> Image:
    return Image(
        version=version,
        type="full" if base is None else "delta",
        base=base,
        version_detail="",
        description="",
        files=(),
        pinned=pinned,
    )


def fulls(images: Sequence[Image]) -> set[int]:
    return {each.version for each in images if each.type == "full"}


@given(
    st.sets(st.integers(1, 30)),
    st.sets(st.tuples(st.integers(1, 30), st.integers(1, 30))),
    st.sets(st.integers(1, 30)),
    st.integers(1, 8),
)
def test_the_newest_and_the_pinned_stay_with_the_deltas_between_them(
    numbers: set[int], deltas: set[tuple[int, int]], pins: set[int], keep_count: int
) -> None:
    images = [image(number, pinned="" if number in pins else None) for number in sorted(numbers)]
    images += [image(version, base) for base, version in sorted(deltas)]
    kept = kept_images(images, keep_count)
    assert fulls(kept) == set(sorted(numbers)[-keep_count:]) | (numbers & pins)
    left = fulls(kept)
    assert {(each.base, each.version) for each in kept if each.type == "delta"} == {
        (base, version) for base, version in deltas if {base, version} <= left
    }
    assert kept == [each for each in images if each in kept], "the order stays"


@pytest.fixture
def tree(tree: ChannelTree) -> ChannelTree:
    for content in (b"one", b"two", b"three"):
        release(tree, content)
    return tree


def test_older_versions_go_and_pinned_ones_stay(tree: ChannelTree) -> None:
    pin_version(tree, EDGE, DEVICE, 1)
    gone = (Expired(channel=EDGE, device=DEVICE, versions=(2,)),)
    assert expire_versions(tree, EDGE, 1, dry_run=True) == gone
    assert versions(tree) == [1, 2, 3]
    assert expire_versions(tree, EDGE, 1) == gone
    assert contents(tree) == [b"one", b"three"]
    assert expire_versions(tree, EDGE, 1) == ()


def test_zero_keeps_all_and_less_is_refused(tree: ChannelTree) -> None:
    assert expire_versions(tree, EDGE, 0) == ()
    assert versions(tree) == [1, 2, 3]
    with pytest.raises(UsageError, match="-1"):
        expire_versions(tree, EDGE, -1)


def test_a_device_that_is_redirected_keeps_what_it_leads_to(tree: ChannelTree) -> None:
    release(tree, b"own", STABLE)
    redirect_channel(tree, STABLE, EDGE, device=DEVICE)
    assert expire_versions(tree, STABLE, 1) == ()
    assert versions(tree, STABLE) == [1, 2, 3]
    alias_channel(tree, "latest", EDGE)
    with pytest.raises(UsageError, match=f"use {EDGE}"):
        expire_versions(tree, "latest", 1)


def test_a_command_that_expires_nothing_heals_the_pair(tree: ChannelTree) -> None:
    tree.store.delete(["system-image/channels.json"])
    expire_versions(tree, EDGE, 5)
    assert not heal_pair(tree)


def test_the_versions_of_a_channel_by_device(tree: ChannelTree) -> None:
    create_device(tree, EDGE, "pi_arm64")
    assert named_versions(tree, EDGE) == {DEVICE: {1, 2, 3}, "pi_arm64": set()}
    assert named_versions(tree, "nothing") == {}


def late(tree: ChannelTree) -> ChannelTree:
    """The same tree when every object in it is older than the grace."""
    return after(tree, hours=49)


def after(tree: ChannelTree, *, hours: float) -> ChannelTree:
    return replace(tree, now=lambda: datetime.now(UTC) + timedelta(hours=hours))


def test_files_of_versions_that_went_are_orphans_once_they_are_old(tree: ChannelTree) -> None:
    first = index_of(tree).fulls[0]
    expire_versions(tree, EDGE, 2)
    assert orphans(after(tree, hours=47)) == (), "somebody may be about to name or to fetch them"
    found = {orphan.key for orphan in orphans(late(tree))}
    wanted = {f"system-image{file.path}{suffix}" for file in first.files for suffix in ("", ".asc")}
    assert wanted <= found
    before = keys(tree.store)
    assert {orphan.key for orphan in collect_orphans(late(tree))} == found
    assert before - keys(tree.store) == found
    assert collect_orphans(late(tree)) == ()
    assert contents(tree) == [b"two", b"three"]


def test_what_people_and_others_put_there_stays(tree: ChannelTree) -> None:
    names = ["robots.txt", "gpg/image-master.tar.xz", "index.html", ".well-known/x", "debian-core/style.css"]
    for name in [*names, "pool/left.tar.xz"]:
        tree.store.put_bytes(f"system-image/{name}", b"x", media_type=TEXT)
    left = {orphan.key for orphan in orphans(late(tree))}
    assert "system-image/pool/left.tar.xz" in left
    assert not left & {f"system-image/{name}" for name in names}


def test_where_the_channels_were_lost_nothing_is_an_orphan(tree: ChannelTree) -> None:
    tree.store.delete(["system-image/channels.json.gpg"])
    assert orphans(late(tree)) == ()


def test_a_waiting_candidate_keeps_its_files_until_it_is_passed_by(tree: ChannelTree) -> None:
    collect_orphans(late(tree))
    waiting = make_candidate(tree, b"four")
    assert not {orphan.key for orphan in orphans(late(tree))} & {
        each.uri for each in (waiting.index, waiting.channels, *waiting.files)
    }
    tag_image(tree, EDGE, DEVICE, "passed", delta_bases=0)
    assert release_candidate(tree, make_candidate(tree, b"five")).version == 6
    assert waiting.channels.uri in {orphan.key for orphan in orphans(late(tree))}


def test_a_candidate_that_names_nothing_that_is_there_keeps_only_itself(tree: ChannelTree) -> None:
    waiting, no_candidate = (
        make_candidate(tree, b"four"),
        f"system-image/{EDGE}/{DEVICE}/candidates/9/channels.json.gpg",
    )
    tree.store.delete([waiting.index.uri])
    tree.store.put_bytes(no_candidate, b"no document", media_type=TEXT)
    found = {orphan.key for orphan in orphans(late(tree))}
    assert {file.uri for file in waiting.files} & found
    assert not {no_candidate, waiting.channels.uri} & found


def test_a_number_that_may_be_claimed_is_kept_for_a_channel_that_was_removed(tree: ChannelTree) -> None:
    waiting = make_candidate(tree, b"four")
    remove_channel(tree, EDGE)
    found = {orphan.key for orphan in orphans(late(tree))}
    assert waiting.channels.uri not in found, "it may still be released"
    assert not {file.uri for file in waiting.files} & found
    assert f"system-image/{EDGE}/{DEVICE}/candidates/3/channels.json.gpg" in found, "its number was given"


def test_a_device_that_came_back_empty_keeps_candidates_of_new_numbers_alone(tree: ChannelTree) -> None:
    remove_device(tree, EDGE, DEVICE)
    create_device(tree, EDGE, DEVICE)
    create_device(tree, EDGE, "pi_arm64")
    first, fourth = make_candidate(tree, b"first", EDGE, "pi_arm64"), make_candidate(tree, b"fourth")
    assert (first.version, fourth.version) == (1, 4)
    found = {orphan.key for orphan in orphans(late(tree))}
    assert not {first.channels.uri, fourth.channels.uri} & found
    assert f"system-image/{EDGE}/{DEVICE}/candidates/3/channels.json.gpg" in found


def test_the_pairs_of_2015_are_named_where_a_channel_has_its_own(tree: ChannelTree) -> None:
    release(tree, b"own", STABLE)
    redirect_channel(tree, STABLE, EDGE, device=DEVICE)
    release(tree, b"moved", "daily")
    rename_channel(tree, "daily", "nightly")
    redirect_channel(tree, "old", EDGE)
    alias_channel(tree, "latest", EDGE)
    found = {orphan.key for orphan in collect_orphans(late(tree))}
    for channel in (STABLE, "daily"):
        pair = {f"system-image/{channel}/{DEVICE}/index.json{suffix}" for suffix in ("", ".asc")}
        assert pair <= found, "its devices are sent elsewhere"
    assert not heal_pair(tree)
    assert orphans(late(tree)) == ()


def test_the_grace_may_be_shorter(tree: ChannelTree) -> None:
    expire_versions(tree, EDGE, 1)
    assert collect_orphans(after(tree, hours=1)) == ()
    assert collect_orphans(after(tree, hours=1), grace=timedelta(minutes=59))


def test_a_number_is_not_given_again_when_its_claim_was_collected(tree: ChannelTree) -> None:
    remove_channel(tree, EDGE)
    collect_orphans(late(tree))
    assert not [key for key in keys(tree.store) if EDGE in key]
    assert release(tree, b"four") == 4


def test_a_devices_own_keyring_is_named(tree: ChannelTree) -> None:
    from coreimage.signing import Role  # noqa: PLC0415

    tree.store.put_bytes("system-image/k/maker.tar.xz", b"k", media_type=TEXT)
    signature = tree.signer.detached(Role.IMAGE_SIGNING, b"k")
    tree.store.put_bytes("system-image/k/maker.tar.xz.asc", signature, media_type=TEXT)
    assert "system-image/k/maker.tar.xz" in {orphan.key for orphan in orphans(late(tree))}
    set_device_keyring(tree, EDGE, DEVICE, "k/maker.tar.xz")
    assert not {"system-image/k/maker.tar.xz", "system-image/k/maker.tar.xz.asc"} & {
        orphan.key for orphan in orphans(late(tree))
    }


def test_an_aliass_files_are_named(tree: ChannelTree) -> None:
    alias_channel(tree, "latest", EDGE)
    collect_orphans(late(tree))
    assert contents(tree, "latest") == [b"one", b"two", b"three"]
    assert channels_of(tree)["latest"].alias == EDGE
