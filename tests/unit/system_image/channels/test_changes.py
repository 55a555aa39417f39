"""Operations on channels: each one change, done once, and what follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from coreimage.client.documents import Channel, Channels, DeviceEntry, KeyringPaths
from coreimage.errors import ConflictError, HostError, NotFoundError, UsageError, VerificationError
from coreimage.model import TEXT
from coreimage.signing import Role
from coreimage.storage import read_bytes
from coreimage.system_image.channels import changes
from coreimage.system_image.channels.changes import (
    Change,
    alias_channel,
    create_channel,
    create_device,
    hide_channel,
    redirect_channel,
    remove_channel,
    remove_device,
    rename_channel,
    renew_channels,
    set_device_keyring,
    show_channel,
)
from coreimage.system_image.channels.cleanup import expire_versions
from coreimage.system_image.channels.document import heal_pair, read_channels
from coreimage.system_image.channels.release import release_candidate
from coreimage.system_image.channels.versions import server_of
from coreimage.system_image.documents import layout
from coreimage.system_image.payloads.version_tarball import read_identity
from coreimage.system_image.server import ChannelTree
from tests.harness.memory_signer import MemorySigner
from tests.unit.publication.stores import WatchedStore
from tests.unit.system_image.published import (
    DEVICE,
    EDGE,
    STABLE,
    Clock,
    change_object,
    channels_of,
    contents,
    index_of,
    keys,
    make_candidate,
    make_tree,
    release,
    versions,
)

OPERATIONS: list[Callable[[ChannelTree], Change]] = [
    lambda tree: create_channel(tree, "new"),
    lambda tree: remove_channel(tree, "beta"),
    lambda tree: hide_channel(tree, EDGE),
    lambda tree: alias_channel(tree, "latest", EDGE),
    lambda tree: redirect_channel(tree, "old", EDGE),
    lambda tree: redirect_channel(tree, "beta", EDGE, device=DEVICE),
    lambda tree: rename_channel(tree, EDGE, "daily"),
    lambda tree: rename_channel(tree, EDGE, "daily", leave_redirect=False),
    lambda tree: create_device(tree, EDGE, "pi_arm64"),
    lambda tree: remove_device(tree, EDGE, DEVICE),
]


@pytest.fixture
def tree(tree: ChannelTree) -> ChannelTree:
    release(tree, b"one")
    release(tree, b"two")
    create_channel(tree, "beta")
    return tree


@pytest.mark.parametrize("operation", OPERATIONS)
def test_done_again_nothing_changes(tree: ChannelTree, operation: Callable[[ChannelTree], Change]) -> None:
    assert operation(tree).changed
    before = read_channels(tree)
    assert not operation(tree).changed
    assert read_channels(tree) == before


@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_keys_nothing_changes(tree: ChannelTree, operation: Callable[[ChannelTree], Change]) -> None:
    before = read_channels(tree)
    with pytest.raises(HostError, match="not on this machine"):
        operation(replace(tree, signer=MemorySigner(held=())))
    assert read_channels(tree) == before
    assert not heal_pair(tree)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_pair_of_2015_says_the_same(tree: ChannelTree, operation: Callable[[ChannelTree], Change]) -> None:
    operation(tree)
    with tree.store.open(layout.key(layout.CHANNELS)) as file:
        assert Channels.from_bytes(file.read(), "") == channels_of(tree)
    assert not heal_pair(tree)


def overtaken(tree: ChannelTree, times: int) -> ChannelTree:
    """The same tree, where somebody else makes a channel just before so many of the writes to the channels."""
    left = iter(range(times))

    def make_another(operation: str, key: str) -> None:
        if (operation, key) == ("put_bytes", layout.key(layout.CHANNELS_SIGNED)):
            for number in left:
                create_channel(tree, f"other-{number}")
                break

    return replace(tree, store=WatchedStore(tree.store, before=make_another))


def test_a_change_of_somebody_else_in_between_is_kept(tree: ChannelTree) -> None:
    assert create_channel(overtaken(tree, 2), "mine").changed
    assert {"mine", "other-0", "other-1"} <= channels_of(tree).keys()


def test_numbers_grow_and_the_end_moves(tree: ChannelTree, clock: Clock) -> None:
    first = read_channels(tree).signed
    clock.pass_(days=-400)
    create_channel(tree, "a")
    second = read_channels(tree).signed
    assert second.number == first.number + 1, "with a clock that went back, too"
    clock.pass_(days=500)
    create_channel(tree, "b")
    third = read_channels(tree).signed
    assert third.number == int(clock.at.timestamp())
    assert third.expires == third.number + 90 * 86400


def test_channels_are_renewed_after_two_weeks_and_not_before(tree: ChannelTree, clock: Clock) -> None:
    before = read_channels(tree)
    clock.pass_(days=14)
    assert not renew_channels(tree).changed
    clock.pass_(seconds=1)
    assert renew_channels(tree) == Change(changed=True, channel="")
    assert renew_channels(tree) == Change(changed=False, channel="")
    assert read_channels(tree).signed.number > before.signed.number
    assert channels_of(tree) == before.channels


def test_nothing_is_renewed_where_there_is_nothing() -> None:
    empty = make_tree()
    assert not renew_channels(empty).changed
    assert keys(empty.store) == set()


def test_an_alias_has_what_its_target_has_under_its_own_name(tree: ChannelTree) -> None:
    alias_channel(tree, "latest", EDGE)
    assert contents(tree, "latest") == [b"one", b"two"]
    release(tree, b"three")
    assert contents(tree, "latest") == [b"one", b"two", b"three"]
    newest = index_of(tree, "latest").fulls[-1].version_file
    assert newest is not None
    with tree.store.open(layout.key(newest.path)) as file:
        values, mtime = read_identity(file, newest.path)
    assert (values["channel"], values["channel_target"], values["build_number"]) == ("latest", EDGE, "3")
    assert mtime == server_of(tree.store, newest)[1]
    assert (index_of(tree, "latest").channel, index_of(tree, "latest").channel_target) == ("latest", EDGE)


def test_an_alias_that_gets_another_target_has_that_ones_content(tree: ChannelTree) -> None:
    release(tree, b"other", STABLE)
    alias_channel(tree, "latest", EDGE)
    alias_channel(tree, "latest", STABLE)
    assert contents(tree, "latest") == [b"other"]
    remove_device(tree, STABLE, DEVICE)
    assert channels_of(tree)["latest"].devices == {}


def test_a_renamed_channel_has_its_versions(tree: ChannelTree) -> None:
    alias_channel(tree, "latest", EDGE)
    rename_channel(tree, EDGE, "daily")
    assert contents(tree, "daily") == contents(tree, "latest") == [b"one", b"two"]
    assert index_of(tree, "daily").channel == "daily"
    assert index_of(tree, "latest").channel_target == "daily"
    assert channels_of(tree)[EDGE] == Channel(channels_of(tree)["daily"].devices, hidden=True, redirect="daily")
    assert release(tree, b"three", "daily") == 3


def test_a_name_that_comes_back_gives_no_number_twice(tree: ChannelTree) -> None:
    remove_channel(tree, EDGE)
    assert read_channels(tree).retired == {EDGE: {DEVICE: 2}}
    assert release(tree, b"three") == 3
    remove_device(tree, EDGE, DEVICE)
    assert read_channels(tree).retired == {EDGE: {DEVICE: 3}}
    create_device(tree, EDGE, DEVICE)
    remove_channel(tree, EDGE)
    assert read_channels(tree).retired == {EDGE: {DEVICE: 3}}, "an empty one does not make it less"


def test_a_channel_that_becomes_a_redirect_remembers_its_numbers(tree: ChannelTree) -> None:
    rename_channel(tree, EDGE, "daily")
    assert read_channels(tree).retired == {EDGE: {DEVICE: 2}}


def test_a_redirect_leaves_no_number(tree: ChannelTree) -> None:
    redirect_channel(tree, "old", EDGE)
    remove_channel(tree, "old")
    assert read_channels(tree).retired == {}


def test_an_alias_follows_a_device_to_where_it_is_redirected(tree: ChannelTree) -> None:
    for text in (b"other", b"more", b"newest"):
        release(tree, text, STABLE)
    alias_channel(tree, "latest", EDGE)
    redirect_channel(tree, EDGE, STABLE, device=DEVICE)
    assert contents(tree, "latest") == [b"other", b"more", b"newest"]
    assert index_of(tree, "latest").channel_target == EDGE, "devices know it by what they follow"
    release(tree, b"four", STABLE)
    assert contents(tree, "latest")[-1] == b"four"


def test_a_redirect_may_lead_to_an_alias(tree: ChannelTree) -> None:
    alias_channel(tree, "latest", EDGE)
    redirect_channel(tree, "old", "latest")
    release(tree, b"three")
    channels = channels_of(tree)
    assert channels["old"] == replace(channels["latest"], redirect="latest", hidden=True)
    assert contents(tree, "old")[-1] == b"three"
    with pytest.raises(ConflictError, match="a redirect"):
        alias_channel(tree, "old", EDGE)
    remove_channel(tree, "latest")
    assert set(channels_of(tree)) == {EDGE, "beta"}


def test_a_device_is_redirected_to_where_its_target_is(tree: ChannelTree) -> None:
    for channel in (STABLE, "last"):
        release(tree, channel.encode(), channel)
    redirect_channel(tree, EDGE, STABLE, device=DEVICE)
    redirect_channel(tree, STABLE, "last", device=DEVICE)
    assert contents(tree, EDGE) == contents(tree, STABLE) == [b"last"]


def test_numbers_go_on_where_devices_come_from_higher_ones(tree: ChannelTree) -> None:
    """They would look for a higher number for ever; those who know the same numbers for other content get no delta."""
    release(tree, b"other", STABLE)
    release_candidate(tree, make_candidate(tree, b"more", STABLE, bases=[1]))
    release(tree, b"three")
    remove_channel(tree, EDGE)
    with capture_logs() as logs:
        redirect_channel(tree, EDGE, STABLE)
    (warning,) = [str(line["event"]) for line in logs if line["log_level"] == "warning"]
    assert warning.startswith(f"devices wait for version 4 of {STABLE}: publish one")
    assert [(image.type, image.form) for image in index_of(tree, STABLE).images] == [
        ("full", "legacy"),
        ("full", "legacy"),
        ("delta", "own"),
    ]
    assert release(tree, b"four", STABLE) == 4
    assert contents(tree, EDGE)[-1] == b"four"


def test_a_rename_keeps_deltas_and_numbers(tree: ChannelTree) -> None:
    release_candidate(tree, make_candidate(tree, b"three", bases=[2]))
    rename_channel(tree, EDGE, "daily")
    assert [image.base for image in index_of(tree, "daily").images if image.form == "legacy"] == [None, None, None, 2]
    assert read_channels(tree).retired == {EDGE: {DEVICE: 3}}


def test_a_hidden_channel_is_shown_again(tree: ChannelTree) -> None:
    hide_channel(tree, EDGE)
    assert channels_of(tree)[EDGE].hidden
    assert show_channel(tree, EDGE).changed
    assert channels_of(tree)[EDGE].hidden is False


def test_a_new_device_has_no_versions(tree: ChannelTree) -> None:
    create_device(tree, EDGE, "pi_arm64")
    assert versions(tree, EDGE, "pi_arm64") == []
    assert release(tree, b"pi", EDGE, "pi_arm64") == 1
    with pytest.raises(NotFoundError, match="did you mean"):
        create_device(tree, "debian-core/13/edg", "pi_arm64")
    with pytest.raises(UsageError):
        create_device(tree, EDGE, "pi arm64")
    redirect_channel(tree, "beta", EDGE, device=DEVICE)
    with pytest.raises(UsageError, match=f"redirected to '{EDGE}'"):
        create_device(tree, "beta", DEVICE)


def put_keyring(tree: ChannelTree, role: Role = Role.IMAGE_SIGNING, content: bytes = b"keyring") -> None:
    tree.store.put_bytes("system-image/k.tar.xz", b"keyring", media_type=TEXT)
    tree.store.put_bytes("system-image/k.tar.xz.asc", tree.signer.detached(role, content), media_type=TEXT)


def test_a_device_gets_a_keyring_that_image_signing_signed(tree: ChannelTree) -> None:
    put_keyring(tree)
    assert set_device_keyring(tree, EDGE, DEVICE, "k.tar.xz").changed
    keyring = KeyringPaths("/k.tar.xz", "/k.tar.xz.asc")
    assert channels_of(tree)[EDGE].devices[DEVICE].keyring == keyring
    assert not set_device_keyring(tree, EDGE, DEVICE, "/k.tar.xz").changed
    release(tree, b"three")
    assert channels_of(tree)[EDGE].devices[DEVICE].keyring == keyring
    assert set_device_keyring(tree, EDGE, DEVICE, None).changed
    assert channels_of(tree)[EDGE].devices[DEVICE].keyring is None


@pytest.mark.parametrize(("role", "content"), [(Role.CDIMAGE, b"keyring"), (Role.IMAGE_SIGNING, b"another")])
def test_a_keyring_whose_signature_is_not_right_is_refused(tree: ChannelTree, role: Role, content: bytes) -> None:
    put_keyring(tree, role, content)
    with pytest.raises(VerificationError) as refused:
        set_device_keyring(tree, EDGE, DEVICE, "k.tar.xz")
    assert refused.value.where == "k.tar.xz"
    tree.store.delete(["system-image/k.tar.xz.asc"])
    with pytest.raises(NotFoundError, match=r"k.tar.xz.asc is not below the web root"):
        set_device_keyring(tree, EDGE, DEVICE, "k.tar.xz")


def test_a_keyring_that_clients_would_not_read_is_refused(tree: ChannelTree, monkeypatch: pytest.MonkeyPatch) -> None:
    put_keyring(tree)
    monkeypatch.setattr(changes, "KEYRING_LIMIT_BYTES", len(b"keyring") - 1)
    with pytest.raises(VerificationError):
        set_device_keyring(tree, EDGE, DEVICE, "k.tar.xz")


def test_more_channels_than_clients_read_are_refused(tree: ChannelTree, monkeypatch: pytest.MonkeyPatch) -> None:
    size_bytes = len(read_channels(tree).signed.to_bytes())
    monkeypatch.setattr(changes, "CHANNELS_LIMIT_BYTES", 2 * size_bytes)
    with pytest.raises(UsageError, match="clients refuse"):
        create_channel(tree, "one-more")
    assert renew_channels(tree).changed is False


def test_what_an_operation_did_is_said(tree: ChannelTree) -> None:
    assert create_device(tree, EDGE, "pi_arm64") == Change(changed=True, channel=EDGE, device="pi_arm64")
    assert hide_channel(tree, EDGE) == Change(changed=True, channel=EDGE)
    assert rename_channel(tree, EDGE, "daily") == Change(changed=True, channel="daily")
    assert redirect_channel(tree, "beta", "daily", device=DEVICE) == Change(changed=True, channel="beta", device=DEVICE)
    assert set_device_keyring(tree, "daily", DEVICE, None) == Change(changed=False, channel="daily", device=DEVICE)
    assert remove_device(tree, "daily", DEVICE) == Change(changed=True, channel="daily", device=DEVICE)


@pytest.mark.parametrize(
    "command",
    [renew_channels, lambda tree: create_channel(tree, "new"), lambda tree: expire_versions(tree, EDGE, 9)],
    ids=["renew", "create", "expire"],
)
def test_a_command_looks_at_no_pair_that_nobody_changed(
    tree: ChannelTree, command: Callable[[ChannelTree], object]
) -> None:
    """A tree has hundreds of devices, and each look is a request."""
    opened: list[str] = []
    command(replace(tree, store=WatchedStore(tree.store, before=lambda _, key: opened.append(key))))
    assert layout.key(layout.CHANNELS) in opened
    assert not [key for key in opened if key.endswith("/index.json")]


def test_channels_that_somebody_else_signed_are_not_read(tree: ChannelTree) -> None:
    with pytest.raises(VerificationError):
        read_channels(replace(tree, signer=MemorySigner(generation="second")))


def test_an_index_that_was_changed_is_not_read(tree: ChannelTree) -> None:
    entry: DeviceEntry = channels_of(tree)[EDGE].devices[DEVICE]
    change_object(tree.store, layout.key(entry.index), lambda content: content + b" ")
    with pytest.raises(VerificationError, match="not the one"):
        index_of(tree)
    tree.store.delete([layout.key(entry.index)])
    with pytest.raises(VerificationError, match="not the one"):
        index_of(tree)


def test_a_torn_pair_is_healed(tree: ChannelTree) -> None:
    pair = [key for key in keys(tree.store) if key.endswith(("channels.json", "/index.json"))]
    whole = {key: read_bytes(tree.store, key) for key in pair}
    assert len(whole) == 2
    for key in whole:
        change_object(tree.store, key, lambda _: b"torn")
    assert heal_pair(tree)
    assert {key: read_bytes(tree.store, key) for key in whole} == whole
    tree.store.delete(["system-image/channels.json.asc"])
    assert heal_pair(tree, thorough=False)
    assert not heal_pair(tree)


def test_an_index_stands_under_its_digest(tree: ChannelTree) -> None:
    entry = channels_of(tree)[EDGE].devices[DEVICE]
    with tree.store.open(layout.key(entry.index)) as file:
        assert hashlib.sha256(file.read()).hexdigest() == entry.index_sha256
    assert f"{layout.key(entry.index)}.asc" in keys(tree.store)


def test_others_who_are_always_faster_end_in_a_conflict(tree: ChannelTree) -> None:
    with pytest.raises(ConflictError, match="run"):
        create_channel(overtaken(tree, 1000), "mine")
