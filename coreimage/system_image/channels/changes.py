"""Changes of the channels: one compare-and-swap each, what follows from it included, then the pairs of 2015.

Each operation says whether anything changed. Done again, or after a kill, it only does what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import structlog

from coreimage.client.documents import (
    CHANNELS_LIMIT_BYTES,
    Channel,
    Channels,
    Image,
    Index,
    KeyringPaths,
)
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.errors import NotFoundError, UsageError, VerificationError
from coreimage.model import Value
from coreimage.signing import Role
from coreimage.storage import retry_lost_writes
from coreimage.system_image.channels.document import (
    CHANNELS_LIFETIME,
    CurrentChannels,
    heal_pair,
    put_channels,
    put_index,
    read_channels,
    read_index,
    read_named_index,
)
from coreimage.system_image.channels.numbers import ForeignNumbers, foreign_numbers, with_numbers
from coreimage.system_image.channels.versions import recast
from coreimage.system_image.documents import channel_rules as rules
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.index import build_index, generated_at
from coreimage.system_image.server import ChannelTree

log = structlog.get_logger("coreimage.system_image")

_RENEWED_BEFORE = CHANNELS_LIFETIME - timedelta(days=14)
"""A document is renewed once it is two weeks old."""


class Change(Value):
    """What an operation did to a channel.

    `changed` is False when all was so already. `device` is None for all devices, `version` None where none is meant.
    """

    changed: bool
    channel: str
    device: str | None = None
    version: int | None = None


def create_channel(tree: ChannelTree, name: str) -> Change:
    """Create an empty channel.

    Raises:
        UsageError: No channel can have the name, or an alias or redirect has it.
    """
    return _change(tree, name, lambda channels: rules.with_channel(channels, name))


def remove_channel(tree: ChannelTree, name: str) -> Change:
    """Remove a channel and the redirects to it. Its files are orphans from then on.

    Raises:
        ConflictError: An alias follows the channel.
    """
    return _change(tree, name, lambda channels: rules.without_channel(channels, name))


def hide_channel(tree: ChannelTree, name: str) -> Change:
    """Leave a channel out of what people are shown."""
    return _change(tree, name, lambda channels: rules.with_hidden(channels, name, hidden=True))


def show_channel(tree: ChannelTree, name: str) -> Change:
    """Show a hidden channel again."""
    return _change(tree, name, lambda channels: rules.with_hidden(channels, name, hidden=False))


def alias_channel(tree: ChannelTree, name: str, target: str) -> Change:
    """Let devices of `name` stay on it and get what `target` has; an alias that exists gets this target."""
    return _change(tree, name, lambda channels: rules.with_alias(channels, name, target))


def redirect_channel(tree: ChannelTree, name: str, target: str, *, device: str | None = None) -> Change:
    """Move the devices of `name`, or only `device`, to `target` with their next update."""
    if device is None:
        return _change(tree, name, lambda channels: rules.with_redirect(channels, name, target))
    return _change(tree, name, lambda channels: rules.with_device_redirect(channels, name, device, target), device)


def rename_channel(tree: ChannelTree, old: str, new: str, *, leave_redirect: bool = True) -> Change:
    """Give everything of `old`, its versions included, to `new`; aliases and redirects follow.

    Args:
        leave_redirect: Leave a redirect, by which devices that know `old` find the way.
    """

    def rename(channels: Channels) -> Channels:
        is_renamed = old not in channels or channels[old].redirect == new
        if new in channels and is_renamed:
            return channels
        moved = rules.renamed(channels, old, new, leave_redirect=leave_redirect)
        for device, entry in moved[new].devices.items():
            if not entry.redirect:
                images = [recast(tree, new, device, image) for image in read_named_index(tree.store, entry).images]
                index = put_index(tree, build_index(images, new, device, generated_at(tree.now())))
                moved = rules.with_index(moved, new, device, index.sha256)
        return moved

    return _change(tree, new, rename)


def create_device(tree: ChannelTree, channel: str, device: str) -> Change:
    """Add a device without versions to a channel.

    Raises:
        NotFoundError: There is no such channel.
        UsageError: The content of the channel or the device is another channel's.
    """
    rules.check_device(device)

    def create(channels: Channels) -> Channels:
        rules.require_own_content(channels, channel)
        rules.require_writable(channels, channel, device)
        if device in channels[channel].devices:
            return channels
        index = put_index(tree, build_index([], channel, device, generated_at(tree.now())))
        return rules.with_index(channels, channel, device, index.sha256)

    return _change(tree, channel, create, device)


def remove_device(tree: ChannelTree, channel: str, device: str) -> Change:
    """Remove a device from a channel. Its files are orphans from then on."""
    return _change(tree, channel, lambda channels: rules.without_device(channels, channel, device), device)


def set_device_keyring(tree: ChannelTree, channel: str, device: str, path: str | None) -> Change:
    """Give a device a keyring of its own, whose keys may sign its index and files too.

    Args:
        path: A device-signing keyring below the web root, whose signature by image-signing is beside it (`.asc`);
            None takes the device's keyring away.

    Raises:
        NotFoundError: The keyring or its signature is not there.
        VerificationError: The signature is not by image-signing.
    """
    keyring = None
    if path is not None:
        contents = []
        for name in (path, f"{path}.asc"):
            try:
                with tree.store.open(layout.key(name), stop=KEYRING_LIMIT_BYTES) as file:
                    contents.append(file.read())
            except NotFoundError as error:
                raise NotFoundError(
                    f"{name} is not below the web root",
                    where=tree.store.url,
                    resolution="put the keyring and its signature there first",
                ) from error
        tree.signer.verify(Role.IMAGE_SIGNING, contents[0], contents[1], where=path)
        keyring = KeyringPaths(f"/{path.lstrip('/')}", f"/{path.lstrip('/')}.asc")
    return _change(tree, channel, lambda channels: rules.with_keyring(channels, channel, device, keyring), device)


def renew_channels(tree: ChannelTree) -> Change:
    """Sign the channels document anew once it is two weeks old, changing nothing else.

    Without that, clients stop believing the document when it expires.
    """
    current = read_channels(tree)
    is_due = (current.signed.expires or 0) < (tree.now() + _RENEWED_BEFORE).timestamp()
    if current.etag is not None and is_due:
        change_channels(tree, lambda current: current.channels, anew=True)
        return Change(changed=True, channel="")
    heal_pair(tree, thorough=False)
    return Change(changed=False, channel="")


def renew_indexes(tree: ChannelTree) -> Change:
    """Make each index anew that shows clients of 2015 more than `build_index` does, as earlier versions made them.

    An index that cannot be read stays as it is.
    """

    def renew(channels: Channels) -> Channels:
        renewed = channels
        for name, channel in channels.items():
            for device, entry in channel.devices.items():
                if channel.redirect or channel.alias or entry.redirect:
                    continue
                with suppress(VerificationError):
                    images = read_named_index(tree.store, entry).images
                    index = build_index(images, name, device, generated_at(tree.now()))
                    if index.images != images:
                        renewed = rules.with_index(renewed, name, device, put_index(tree, index).sha256)
        return renewed

    return _change(tree, "", renew)


def change_images(
    tree: ChannelTree,
    channel: str,
    device: str,
    edit: Callable[[CurrentChannels, Index], Sequence[Image]],
) -> Change:
    """Replace the images of one device by what `edit` makes of them.

    Args:
        edit: Gets the channels and the device's index, an empty one for a new device, and returns the images that are
            wanted. It may be called again when another writer was faster.

    Returns:
        The change; its version is the device's newest one then.

    Raises:
        UsageError: The content of the channel or the device is another channel's.
    """

    def edit_channels(current: CurrentChannels) -> Channels:
        rules.require_writable(current.channels, channel, device)
        index = read_index(tree.store, current.channels, channel, device)
        images = edit(current, index)
        if tuple(images) == index.images:
            return current.channels
        put = put_index(tree, build_index(images, channel, device, generated_at(tree.now())))
        return rules.with_index(current.channels, channel, device, put.sha256)

    before, after = change_channels(tree, edit_channels)
    version = read_index(tree.store, after.channels, channel, device).newest_version
    is_changed = after.channels != before.channels
    if is_changed:
        log.info("channel changed", channel=channel, device=device, version=version)
    return Change(changed=is_changed, channel=channel, device=device, version=version)


def change_channels(
    tree: ChannelTree, edit: Callable[[CurrentChannels], Channels], *, anew: bool = False
) -> tuple[CurrentChannels, CurrentChannels]:
    """Move the channels document to what `edit` makes of it, and let redirects and aliases follow.

    Args:
        edit: Returns the channels that are wanted. It may be called again when another writer was faster.
        anew: Sign the document anew though nothing changed.

    Returns:
        The channels that `edit` got in the end, and those that there are now.

    Raises:
        ConflictError: Other writers were faster all the time.
        UsageError: The document would be larger than clients accept.
    """

    def attempt() -> tuple[CurrentChannels, CurrentChannels]:
        before = read_channels(tree)
        channels = rules.resolve_references(edit(before))
        moves = foreign_numbers(before, channels, _retired(tree, before, channels))
        channels = rules.resolve_references(_without_foreign_deltas(tree, channels, moves))
        channels = rules.resolve_references(_follow_aliases(tree, channels))
        after = before
        if channels != before.channels or anew:
            size_bytes = len(replace(before.signed, channels=channels).to_bytes())
            if size_bytes > CHANNELS_LIMIT_BYTES // 2:
                raise UsageError(
                    f"the channels document would have {size_bytes} bytes, which clients refuse",
                    resolution="remove channels that nobody uses, or publish some of them below another web root",
                )
            retired = with_numbers(_retired(tree, before, channels), moves)
            after = put_channels(tree, before, replace(before.signed, channels=channels, retired=retired))
            for move in moves:
                _warn_of_waiting(tree, channels, move)
        heal_pair(tree, thorough=False)
        return before, after

    return retry_lost_writes(attempt, where=f"{tree.store.url}/{layout.key(layout.CHANNELS_SIGNED)}")


def _change(tree: ChannelTree, channel: str, edit: Callable[[Channels], Channels], device: str | None = None) -> Change:
    before, after = change_channels(tree, lambda current: edit(current.channels))
    is_changed = after.channels != before.channels
    if is_changed:
        log.info("channels changed", channel=channel, device=device, number=after.signed.number)
    return Change(changed=is_changed, channel=channel, device=device)


def _follow_aliases(tree: ChannelTree, channels: Channels) -> Channels:
    """Give each alias the images of its target: an index is made anew where the target's is another one than before.

    The images of an alias have version files of their own, which name the alias.
    """
    followed = channels
    for name, channel in channels.items():
        if channel.alias is None or not rules.is_alias(channel):
            continue
        for device, target in rules.followed_devices(channels, channel).items():
            entry = channel.devices.get(device)
            if entry is not None and entry.alias_of_sha256 == target.index_sha256:
                continue
            images = [
                recast(tree, name, device, image, channel.alias)
                for image in read_named_index(tree.store, target).images
            ]
            index = build_index(images, name, device, generated_at(tree.now()), target=channel.alias)
            sha256 = put_index(tree, index).sha256
            followed = rules.with_index(followed, name, device, sha256, alias_of_sha256=target.index_sha256)
    return followed


def _retired(tree: ChannelTree, before: CurrentChannels, channels: Channels) -> dict[str, dict[str, int]]:
    """Return the newest number of each device that is there no more, or whose versions are now another channel's."""
    retired = {channel: dict(devices) for channel, devices in before.retired.items()}
    for name, channel in before.channels.items():
        if channel.redirect:
            continue
        remaining = channels.get(name, Channel())
        for device, entry in channel.devices.items():
            now = remaining.devices.get(device)
            if not entry.redirect and (now is None or now.redirect or remaining.redirect):
                newest = read_named_index(tree.store, entry).newest_version
                numbers = retired.setdefault(name, {})
                numbers[device] = max(newest, numbers.get(device, 0))
    return retired


def _without_foreign_deltas(tree: ChannelTree, channels: Channels, moves: Sequence[ForeignNumbers]) -> Channels:
    """Hide from clients of 2015 the deltas from numbers that devices of another channel have with other content.

    Our clients compare their content with the base's; those only know its number.
    """
    for move in moves:
        entry = channels.get(move.home, Channel()).devices.get(move.device)
        if entry is None or not move.is_other_content:
            continue
        index = read_named_index(tree.store, entry)
        images = [
            replace(image, form="own")
            if image.form == "legacy" and image.base is not None and image.base <= move.number
            else image
            for image in index.images
        ]
        if images != list(index.images):
            put = put_index(tree, build_index(images, move.home, move.device, generated_at(tree.now())))
            channels = rules.with_index(channels, move.home, move.device, put.sha256)
    return channels


def _warn_of_waiting(tree: ChannelTree, channels: Channels, move: ForeignNumbers) -> None:
    """Say that devices stay where they are until the channel that they move to has a version above theirs."""
    entry = channels.get(move.home, Channel()).devices.get(move.device)
    newest = 0 if entry is None else read_named_index(tree.store, entry).newest_version
    if newest <= move.number:
        log.warning(
            f"devices wait for version {move.number + 1} of {move.home}: "
            "publish one, for example by `coreimage promote` or `coreimage roll-back`; it gets this number",
            channel=move.channel,
            device=move.device,
            newest=newest,
        )
