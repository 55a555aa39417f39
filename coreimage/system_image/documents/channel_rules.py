"""What may be done to channels (system-image §2.2, §4.8). Pure: each function takes the channels as they are and
returns them as they are wanted. Doing again what is done already changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from coreimage.client import NotPresentError
from coreimage.client.documents import Channel, Channels, DeviceEntry, KeyringPaths
from coreimage.errors import ConflictError, NotFoundError, UsageError
from coreimage.system_image.documents import layout

_RESERVED = {"pool", "gpg"}


def with_channel(channels: Channels, name: str) -> Channels:
    """Add an empty channel.

    Raises:
        UsageError: Clients or other channels would stumble over the name, or an alias or redirect has it.
    """
    if name in channels:
        require_own_content(channels, name)
        return channels
    check_name(channels, name)
    return _with(channels, name, Channel())


def without_channel(channels: Channels, name: str) -> Channels:
    """Remove a channel, and with it the redirects to it.

    Raises:
        ConflictError: An alias follows the channel: its devices would be left alone.
    """
    if name not in channels:
        return channels
    followers = aliases_of(channels, name)
    if followers:
        raise ConflictError(
            f"the alias {followers[0]!r} follows the channel",
            where=name,
            resolution=f"give the alias another target, or remove it: `coreimage channel remove {followers[0]}`",
        )
    return Channels({other: channel for other, channel in channels.items() if other != name})


def with_hidden(channels: Channels, name: str, *, hidden: bool) -> Channels:
    """Hide a channel, or show it again. Raises UsageError for a redirect, which is always hidden."""
    channel = find_channel(channels, name)
    if channel.redirect and not hidden:
        raise UsageError("a redirect is always hidden", where=name, resolution="remove it, or leave it as it is")
    return _with(channels, name, replace(channel, hidden=hidden))


def with_alias(channels: Channels, name: str, target: str) -> Channels:
    """Let `name` follow `target` from now on, whatever it followed before. Its devices come with `resolve_references`.

    Raises:
        ConflictError: `name` is a channel with content of its own, or a redirect.
    """
    require_own_content(channels, target)
    if name not in channels:
        check_name(channels, name)
        return _with(channels, name, Channel(alias=target))
    channel = channels[name]
    if channel.redirect or not channel.alias:
        raise ConflictError(
            "the channel is a redirect" if channel.redirect else "the channel has content of its own",
            where=name,
            resolution="choose another name, or remove the channel first",
        )
    return _with(channels, name, replace(channel, alias=target))


def with_redirect(channels: Channels, name: str, target: str) -> Channels:
    """Let devices of `name` move to `target`, a channel or an alias, with their next update.

    Raises:
        ConflictError: `name` is a channel with content of its own.
    """
    if not is_alias(find_channel(channels, target)):
        require_own_content(channels, target)
    if name not in channels:
        check_name(channels, name)
    elif not channels[name].redirect:
        raise ConflictError(
            "the channel has content of its own",
            where=name,
            resolution=f"`coreimage channel rename {name} NEW` leaves a redirect; or remove the channel first",
        )
    return _with(channels, name, Channel(hidden=True, redirect=target))


def with_device_redirect(channels: Channels, name: str, device: str, target: str) -> Channels:
    """Let one device of `name` move to `target` with its next update.

    Raises:
        UsageError: `target` is the same channel, or only redirects the device itself.
    """
    require_own_content(channels, name)
    require_own_content(channels, target)
    entry = find_device(channels, target, device)
    if name == target or entry.redirect:
        raise UsageError("a redirect leads to a channel's own device", where=f"{target} {device}")
    return _with_device(channels, name, device, replace(entry, redirect=target))


def without_device(channels: Channels, name: str, device: str) -> Channels:
    """Remove a device from a channel."""
    channel = find_channel(channels, name)
    if device not in channel.devices:
        return channels
    require_own_content(channels, name)
    devices = {other: entry for other, entry in channel.devices.items() if other != device}
    return _with(channels, name, replace(channel, devices=devices))


def with_keyring(channels: Channels, name: str, device: str, keyring: KeyringPaths | None) -> Channels:
    """Give a device a keyring of its own; None takes it away."""
    require_writable(channels, name, device)
    return _with_device(channels, name, device, replace(find_device(channels, name, device), keyring=keyring))


def with_index(
    channels: Channels, name: str, device: str, index_sha256: str, *, alias_of_sha256: str | None = None
) -> Channels:
    """Let a device's entry name this index; a channel or device that is not there is added.

    Args:
        alias_of_sha256: The digest of the target's index that an alias's index was made of.
    """
    channel = channels.get(name, Channel())
    path = layout.index(name, device, index_sha256)
    entry = replace(
        channel.devices.get(device, DeviceEntry(index=path)),
        index=path,
        index_sha256=index_sha256,
        alias_of_sha256=alias_of_sha256,
    )
    return _with_device(_with(channels, name, channel), name, device, entry)


def renamed(channels: Channels, old: str, new: str, *, leave_redirect: bool) -> Channels:
    """Rename a channel; aliases and redirects follow. Its indexes still name `old`: they are to be made anew.

    Raises:
        ConflictError: There is a channel `new`.
    """
    require_own_content(channels, old)
    if new in channels:
        raise ConflictError("the channel exists already", where=new, resolution="choose another name")

    def follow(name: str | None) -> str | None:
        return new if name == old else name

    others = Channels(
        {
            name: replace(
                channel,
                alias=follow(channel.alias),
                redirect=follow(channel.redirect),
                devices={
                    device: replace(entry, redirect=follow(entry.redirect)) for device, entry in channel.devices.items()
                },
            )
            for name, channel in channels.items()
            if name != old
        }
    )
    check_name(others, new)
    moved = _with(others, new, channels[old])
    return with_redirect(moved, old, new) if leave_redirect else moved


def resolve_references(channels: Channels) -> Channels:
    """Bring redirects and aliases up to what they name now.

    A redirect is a copy of what it leads to in the end; one that leads nowhere goes. An alias loses the devices that
    its target does not have; the others are made by those who can make indexes.
    """
    own: dict[str, Channel] = {}
    for name, channel in channels.items():
        if is_alias(channel):
            followed = followed_devices(channels, channel)
            own[name] = replace(channel, devices={d: entry for d, entry in channel.devices.items() if d in followed})
        elif not channel.redirect:
            entries = {device: _resolve_device(channels, name, device) for device in channel.devices}
            own[name] = replace(channel, devices={device: entry for device, entry in entries.items() if entry})
    redirects = {
        name: replace(own[channel.redirect], redirect=channel.redirect, hidden=True)
        for name, channel in channels.items()
        if channel.redirect and channel.redirect in own
    }
    return Channels(own | redirects)


def _resolve_device(channels: Channels, name: str, device: str) -> DeviceEntry | None:
    home = home_of(channels, name, device)
    entry = channels.get(home, Channel()).devices.get(device)
    return entry if entry is None or home == name else replace(entry, redirect=home)


def followed_devices(channels: Channels, alias: Channel) -> Mapping[str, DeviceEntry]:
    """Return the devices that an alias has: all of its target, those included that the target redirects."""
    return channels.get(alias.alias or "", Channel()).devices


def home_of(channels: Channels, name: str, device: str) -> str:
    """Return the channel whose versions a device of channel `name` gets: redirects and aliases are followed."""
    passed = {name}
    while True:
        channel = channels.get(name, Channel())
        entry = channel.devices.get(device)
        following = channel.redirect or channel.alias or (entry.redirect if entry else None)
        if following is None or following in passed:
            return name
        name = following
        passed.add(name)


def is_alias(channel: Channel) -> bool:
    """Return whether a channel is an alias itself, and not only a redirect to one, which is a copy of it."""
    return channel.alias is not None and channel.redirect is None


def aliases_of(channels: Channels, name: str) -> list[str]:
    """Return the names of the aliases that follow a channel, sorted."""
    return sorted(other for other, channel in channels.items() if is_alias(channel) and channel.alias == name)


def check_name(channels: Channels, name: str) -> None:
    """Raise UsageError for a name that no channel beside `channels` can have (system-image §1.1, §2.6)."""
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts) or not name.isprintable() or set("% \\?#:") & set(name):
        raise UsageError(
            f"{name!r} cannot be a channel's name",
            resolution="it is `/`-separated words without blanks and `%`, such as debian-core/13/stable",
        )
    if parts[0] in _RESERVED:
        raise UsageError(f"{parts[0]!r} is a folder of the tree", where=name, resolution="choose another name")
    for other in channels:
        if f"{other}/".startswith(f"{name}/") or f"{name}/".startswith(f"{other}/"):
            raise UsageError(
                f"one of the channels {name!r} and {other!r} would lie inside the other",
                resolution="choose another name",
            )


def check_device(device: str) -> None:
    """Raise UsageError for a name that no device can have."""
    if not layout.DEVICE.fullmatch(device):
        raise UsageError(
            f"{device!r} cannot be a device's name", resolution="call it <name>_<architecture>, such as generic_amd64"
        )


def find_channel(channels: Channels, name: str) -> Channel:
    """Return a channel. Raises NotFoundError with the nearest name."""
    try:
        return channels.channel(name)
    except NotPresentError as error:
        raise NotFoundError(error.problem, resolution=error.resolution) from error


def find_device(channels: Channels, name: str, device: str) -> DeviceEntry:
    """Return a channel's device. Raises NotFoundError with the nearest name and the names that there are."""
    try:
        return channels.device(name, device)
    except NotPresentError as error:
        raise NotFoundError(error.problem, resolution=error.resolution) from error


def require_own_content(channels: Channels, name: str) -> None:
    """Raise NotFoundError for an unknown channel, UsageError for one whose content is another channel's."""
    channel = find_channel(channels, name)
    for kind, target in (("a redirect", channel.redirect), ("an alias", channel.alias)):
        if target:
            raise UsageError(
                f"the channel is {kind} of {target!r}, which is what has content",
                where=name,
                resolution=f"use {target}",
            )


def require_writable(channels: Channels, name: str, device: str) -> None:
    """Raise UsageError where images would be those of another channel. A new channel or device is writable."""
    if name not in channels:
        check_name(channels, name)
        return
    require_own_content(channels, name)
    entry = channels[name].devices.get(device)
    if entry is not None and entry.redirect:
        raise UsageError(
            f"the device is redirected to {entry.redirect!r}",
            where=f"{name} {device}",
            resolution=f"use {entry.redirect}",
        )


def _with(channels: Channels, name: str, channel: Channel) -> Channels:
    return Channels({**channels, name: channel})


def _with_device(channels: Channels, name: str, device: str, entry: DeviceEntry) -> Channels:
    channel = channels[name]
    return _with(channels, name, replace(channel, devices={**channel.devices, device: entry}))
