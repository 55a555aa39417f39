"""What may be done to a channels document. Pure: each takes the document as it is and gives the one that is wanted.

The rules are those of system-image §2.2 and §4.8. Doing again what is done already changes nothing.
"""

from __future__ import annotations

from copy import deepcopy

from coreimage.config import did_you_mean
from coreimage.errors import ConflictError, NotFoundError, UsageError
from coreimage.system_image import layout
from coreimage.system_image.documents import Document

_RESERVED = {"pool", "gpg"}


def with_channel(channels: Document, name: str) -> Document:
    """An empty channel more. Raises UsageError for a name that clients or other channels would stumble over."""
    if name in channels:
        require_plain(channels, name)
        return channels
    check_name(channels, name)
    return {**channels, name: {"devices": {}}}


def without_channel(channels: Document, name: str) -> Document:
    """Redirects to it go with it. Raises ConflictError while an alias follows it: its devices would be left alone."""
    if name not in channels:
        return channels
    followers = aliases_of(channels, name)
    if followers:
        raise ConflictError(
            f"alias {followers[0]!r} follows it",
            where=name,
            resolution=f"give the alias another target, or remove it: `coreimage channel remove {followers[0]}`",
        )
    return {other: entry for other, entry in channels.items() if other != name}


def with_hidden(channels: Document, name: str, *, hidden: bool) -> Document:
    """`hidden` is there only where it is true (system-image §2.1)."""
    entry = channel_entry(channels, name)
    if entry.get("redirect") and not hidden:
        raise UsageError("a redirect is always hidden", where=name, resolution="remove it, or leave it as it is")
    changed = {key: value for key, value in entry.items() if key != "hidden"}
    return {**channels, name: {**changed, **({"hidden": True} if hidden else {})}}


def with_alias(channels: Document, name: str, target: str) -> Document:
    """`name` follows `target` from now on, whatever it followed before; its devices come by themselves."""
    require_plain(channels, target)
    if name not in channels:
        check_name(channels, name)
        return {**channels, name: {"alias": target, "devices": {}}}
    entry = channel_entry(channels, name)
    if not entry.get("alias"):
        raise ConflictError(
            "it is a channel of its own", where=name, resolution="choose another name, or remove the channel first"
        )
    return {**channels, name: {**entry, "alias": target}}


def with_redirect(channels: Document, name: str, target: str) -> Document:
    """Devices of `name` move to `target` with their next update."""
    require_plain(channels, target)
    if name not in channels:
        check_name(channels, name)
    elif not channels[name].get("redirect"):
        raise ConflictError(
            "it is a channel of its own",
            where=name,
            resolution=f"`coreimage channel rename {name} NEW` leaves a redirect; or remove the channel first",
        )
    return {**channels, name: {"devices": {}, "hidden": True, "redirect": target}}


def with_device_redirect(channels: Document, name: str, device: str, target: str) -> Document:
    """One device of `name` moves to `target` with its next update."""
    require_plain(channels, name)
    require_plain(channels, target)
    if device not in channels[target]["devices"]:
        raise unknown_device(channels, target, device)
    if name == target or channels[target]["devices"][device].get("redirect"):
        raise UsageError("a redirect leads to a channel's own device", where=f"{target} {device}")
    changed = deepcopy(channels)
    changed[name]["devices"][device] = {"redirect": target}
    return changed


def without_device(channels: Document, name: str, device: str) -> Document:
    if device not in channel_entry(channels, name)["devices"]:
        return channels
    require_plain(channels, name)
    changed = deepcopy(channels)
    del changed[name]["devices"][device]
    return changed


def with_keyring(channels: Document, name: str, device: str, paths: tuple[str, str] | None) -> Document:
    """The device's own keyring and its signature, by their paths; None takes them away."""
    require_writable(channels, name, device)
    if device not in channel_entry(channels, name)["devices"]:
        raise unknown_device(channels, name, device)
    changed = deepcopy(channels)
    entry = changed[name]["devices"][device]
    entry.pop("keyring", None)
    if paths is not None:
        entry["keyring"] = {"path": paths[0], "signature": paths[1]}
    return changed


def renamed(channels: Document, old: str, new: str, *, redirect: bool) -> Document:
    """What names `old` names `new` afterwards. The indexes stay those of `old`: they are to be made anew."""
    entry = channel_entry(channels, old)
    require_plain(channels, old)
    remaining = {name: value for name, value in channels.items() if name != old}
    if new in channels:
        raise ConflictError("it exists already", where=new, resolution="choose another name")
    check_name(remaining, new)
    changed = {name: _renamed_in(value, old, new) for name, value in remaining.items()} | {new: entry}
    return with_redirect(changed, old, new) if redirect else changed


def _renamed_in(entry: Document, old: str, new: str) -> Document:
    changed = deepcopy(entry)
    for named in (changed, *changed["devices"].values()):
        for key in ("alias", "redirect"):
            if named.get(key) == old:
                named[key] = new
    return changed


def settled(channels: Document) -> Document:
    """Redirects are copies of what they lead to; those that lead nowhere go. An alias has its target's devices."""
    own = {name: _own(entry, channels) for name, entry in channels.items() if not entry.get("redirect")}
    redirects = {
        name: {**deepcopy(own[entry["redirect"]]), "redirect": entry["redirect"], "hidden": True}
        for name, entry in channels.items()
        if entry.get("redirect") in own
    }
    return own | redirects


def _own(entry: Document, channels: Document) -> Document:
    devices = {}
    for device, described in entry["devices"].items():
        target = described.get("redirect")
        led = channels.get(target, {"devices": {}})["devices"].get(device) if target else described
        if led is not None and not (target and led.get("redirect")):
            devices[device] = {**led, "redirect": target} if target else described
    if entry.get("alias"):
        followed = channels.get(entry["alias"], {"devices": {}})["devices"]
        devices = {device: devices.get(device, {}) for device, led in followed.items() if not led.get("redirect")}
    return {**entry, "devices": devices}


def aliases_of(channels: Document, name: str) -> list[str]:
    return sorted(other for other, entry in channels.items() if entry.get("alias") == name)


def check_name(channels: Document, name: str) -> None:
    """Raises UsageError for a name that cannot be a channel's beside `channels` (system-image §1.1, §2.6)."""
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
    if not layout.DEVICE.fullmatch(device):
        raise UsageError(
            f"{device!r} cannot be a device's name", resolution="call it <name>_<architecture>, such as generic_amd64"
        )


def channel_entry(channels: Document, name: str) -> Document:
    """Raises NotFoundError with the near miss."""
    if name not in channels:
        raise NotFoundError(
            f"channel {name!r} is not there{did_you_mean(name, channels)}",
            resolution=f"see `coreimage channel list`, or make it: `coreimage channel create {name}`",
        )
    entry: Document = channels[name]
    return entry


def require_plain(channels: Document, name: str) -> None:
    """Raises NotFoundError for an unknown channel, UsageError for one whose content is another channel's."""
    entry = channel_entry(channels, name)
    for kind in ("alias", "redirect"):
        if entry.get(kind):
            raise UsageError(
                f"it is {'an' if kind == 'alias' else 'a'} {kind} of {entry[kind]!r}, which is what has content",
                where=name,
                resolution=f"use {entry[kind]}",
            )


def require_writable(channels: Document, name: str, device: str) -> None:
    """Raises UsageError where images would be those of another channel. A channel or device that is new is writable."""
    if name not in channels:
        check_name(channels, name)
        return
    require_plain(channels, name)
    target = channels[name]["devices"].get(device, {}).get("redirect")
    if target:
        raise UsageError(f"it is redirected to {target!r}", where=f"{name} {device}", resolution=f"use {target}")


def unknown_device(channels: Document, name: str, device: str) -> NotFoundError:
    known = channel_entry(channels, name)["devices"]
    return NotFoundError(
        f"channel {name!r} has no device {device!r}{did_you_mean(device, known)}",
        resolution=f"its devices: {', '.join(known) or 'none'}",
    )
