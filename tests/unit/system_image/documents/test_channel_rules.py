"""What may be done to channels, and what follows from it (system-image §2.2, §4.8)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coreimage.client.documents import Channel, Channels, DeviceEntry, KeyringPaths
from coreimage.errors import ConflictError, NotFoundError, UsageError
from coreimage.system_image.documents import channel_rules as rules

PI, PC = DeviceEntry("/edge/pi/index-1.json", "1" * 64), DeviceEntry("/edge/pc/index-2.json", "2" * 64)
EDGE = Channel({"pi": PI, "pc": PC})
STABLE = Channel({"pi": DeviceEntry("/stable/pi/index-3.json", "3" * 64)})
START = Channels(
    {
        "edge": EDGE,
        "stable": STABLE,
        "alias": Channel({}, alias="edge"),
        "old": Channel({"pi": PI, "pc": PC}, hidden=True, redirect="edge"),
    }
)


def test_a_channel_is_added_once() -> None:
    more = rules.with_channel(START, "new")
    assert more == Channels({**START, "new": Channel()})
    assert rules.with_channel(more, "new") is more


@pytest.mark.parametrize("name", ["alias", "old"])
def test_a_name_that_has_other_content_is_no_new_channel(name: str) -> None:
    with pytest.raises(UsageError, match="edge"):
        rules.with_channel(START, name)


@pytest.mark.parametrize(
    "name", ["", "/edge", "edge/", "a//b", "a/../b", "a b", "a%b", "a?b", "a#b", "a:b", "a\\b", "a\nb", "pool/x", "gpg"]
)
def test_names_that_clients_would_stumble_over(name: str) -> None:
    with pytest.raises(UsageError):
        rules.check_name(Channels(), name)


@pytest.mark.parametrize("name", ["edge/13", "edge/13/14"])
def test_no_channel_lies_inside_another(name: str) -> None:
    with pytest.raises(UsageError, match="inside"):
        rules.with_channel(START, name)
    with pytest.raises(UsageError, match="inside"):
        rules.with_channel(Channels({"edge/13/14": Channel(), "x": Channel()}), "edge/13")
    rules.check_name(START, "edge-13")


def test_a_channel_goes_with_the_redirects_to_it() -> None:
    assert rules.without_channel(START, "nothing") is START
    left = rules.resolve_references(rules.without_channel(rules.without_channel(START, "alias"), "edge"))
    assert left == Channels({"stable": STABLE})


def test_a_channel_that_an_alias_follows_stays() -> None:
    with pytest.raises(ConflictError, match="alias"):
        rules.without_channel(START, "edge")


def test_channels_are_hidden_and_shown() -> None:
    hidden = rules.with_hidden(START, "edge", hidden=True)
    assert hidden["edge"].hidden
    assert rules.with_hidden(hidden, "edge", hidden=False) == START
    assert rules.with_hidden(START, "old", hidden=True) == START
    with pytest.raises(UsageError, match="always hidden"):
        rules.with_hidden(START, "old", hidden=False)


def test_an_alias_may_change_its_target_and_nothing_else_becomes_one() -> None:
    assert rules.with_alias(START, "new", "stable")["new"] == Channel(alias="stable")
    assert rules.with_alias(START, "alias", "stable")["alias"].alias == "stable"
    with pytest.raises(ConflictError, match="of its own"):
        rules.with_alias(START, "stable", "edge")
    for target in ("alias", "old"):
        with pytest.raises(UsageError):
            rules.with_alias(START, "new", target)
    with pytest.raises(UsageError, match="inside"):
        rules.with_alias(START, "edge/alias", "edge")


def test_a_redirect_is_a_hidden_copy_of_what_it_leads_to() -> None:
    channels = rules.resolve_references(rules.with_redirect(START, "new", "stable"))
    assert channels["new"] == Channel(STABLE.devices, hidden=True, redirect="stable")
    moved = rules.resolve_references(rules.with_redirect(channels, "new", "edge"))
    assert moved["new"].devices == EDGE.devices
    with pytest.raises(ConflictError, match="of its own"):
        rules.with_redirect(START, "stable", "edge")
    with pytest.raises(UsageError, match="folder of the tree"):
        rules.with_redirect(START, "pool", "edge")


def test_one_device_is_redirected() -> None:
    channels = rules.resolve_references(rules.with_device_redirect(START, "edge", "pi", "stable"))
    assert channels["edge"].devices["pi"] == DeviceEntry("/stable/pi/index-3.json", "3" * 64, redirect="stable")
    assert channels["edge"].devices["pc"] == PC
    assert rules.followed_devices(channels, channels["alias"]) == channels["edge"].devices, "also to where it leads"
    with pytest.raises(NotFoundError, match="pc"):
        rules.with_device_redirect(START, "edge", "pc", "stable")
    with pytest.raises(UsageError, match="own device"):
        rules.with_device_redirect(channels, "stable", "pi", "edge")
    with pytest.raises(UsageError, match="own device"):
        rules.with_device_redirect(START, "edge", "pi", "edge")


def test_a_device_redirect_follows_its_target_and_goes_with_it() -> None:
    channels = rules.resolve_references(rules.with_device_redirect(START, "edge", "pi", "stable"))
    moved = rules.resolve_references(rules.with_index(channels, "stable", "pi", "4" * 64))
    assert moved["edge"].devices["pi"].index_sha256 == "4" * 64
    assert moved["edge"].devices["pi"].redirect == "stable"
    gone = rules.resolve_references(rules.without_device(channels, "stable", "pi"))
    assert set(gone["edge"].devices) == {"pc"}
    assert set(gone["old"].devices) == {"pc"}


def test_an_alias_loses_what_its_target_has_no_more() -> None:
    entry = DeviceEntry("/alias/pi/index-5.json", "5" * 64, alias_of_sha256="1" * 64)
    channels = Channels({**START, "alias": Channel({"pi": entry, "gone": entry}, alias="edge")})
    assert rules.resolve_references(channels)["alias"].devices == {"pi": entry}


def test_devices_are_removed() -> None:
    assert set(rules.without_device(START, "edge", "pi")["edge"].devices) == {"pc"}
    assert rules.without_device(START, "edge", "nothing") is START
    with pytest.raises(UsageError):
        rules.without_device(START, "old", "pi")
    with pytest.raises(NotFoundError, match="did you mean 'edge'"):
        rules.without_device(START, "edg", "pi")


def test_a_device_gets_a_keyring_of_its_own() -> None:
    keyring = KeyringPaths("/k.tar.xz", "/k.tar.xz.asc")
    channels = rules.with_keyring(START, "edge", "pi", keyring)
    assert channels["edge"].devices["pi"].keyring == keyring
    assert rules.with_index(channels, "edge", "pi", "6" * 64)["edge"].devices["pi"].keyring == keyring
    assert rules.with_keyring(channels, "edge", "pi", None) == START
    with pytest.raises(NotFoundError, match="did you mean 'pi'"):
        rules.with_keyring(START, "edge", "pii", keyring)
    with pytest.raises(UsageError):
        rules.with_keyring(START, "alias", "pi", keyring)


def test_moving_one_device_leaves_the_others() -> None:
    channels = rules.with_index(rules.with_index(START, "edge", "pi", "7" * 64), "new", "pc", "8" * 64)
    assert channels["edge"].devices["pi"] == DeviceEntry(f"/edge/pi/index-{'7' * 64}.json", "7" * 64)
    assert channels["edge"].devices["pc"] == PC
    assert channels["new"] == Channel({"pc": DeviceEntry(f"/new/pc/index-{'8' * 64}.json", "8" * 64)})
    assert channels["stable"] == STABLE


def test_a_renamed_channel_takes_its_followers_with_it() -> None:
    start = rules.with_device_redirect(START, "stable", "pi", "edge")
    channels = rules.renamed(start, "edge", "daily", leave_redirect=True)
    assert channels["daily"] == EDGE
    assert channels["edge"] == Channel(hidden=True, redirect="daily")
    assert channels["alias"].alias == channels["old"].redirect == "daily"
    assert channels["stable"].devices["pi"].redirect == "daily"
    assert "edge" not in rules.renamed(START, "edge", "daily", leave_redirect=False)
    assert "edge/13" in rules.renamed(START, "edge", "edge/13", leave_redirect=False)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("edge", "stable", ConflictError),
        ("edge", "gpg/x", UsageError),
        ("alias", "new", UsageError),
        ("old", "new", UsageError),
        ("nothing", "new", NotFoundError),
    ],
)
def test_what_cannot_be_renamed(old: str, new: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        rules.renamed(START, old, new, leave_redirect=True)


def test_images_go_only_where_content_is_ones_own() -> None:
    rules.require_writable(START, "edge", "pi")
    rules.require_writable(START, "edge", "new-device")
    rules.require_writable(START, "new", "pi")
    redirected = rules.with_device_redirect(START, "edge", "pi", "stable")
    refusals: list[Callable[[], None]] = [
        lambda: rules.require_writable(START, "alias", "pi"),
        lambda: rules.require_writable(START, "old", "pi"),
        lambda: rules.require_writable(START, "edge/inside", "pi"),
        lambda: rules.require_writable(redirected, "edge", "pi"),
    ]
    for refusal in refusals:
        with pytest.raises(UsageError):
            refusal()


@pytest.mark.parametrize("name", ["", "-pi", "p/i", "pi%", "pi a"])
def test_names_that_no_device_has(name: str) -> None:
    rules.check_device("pi-4.b+_arm64")
    with pytest.raises(UsageError):
        rules.check_device(name)
