"""channels.json, and the signed document that carries the same channels with a number and an end."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from coreimage.client.documents.index import VERSION_LIMIT
from coreimage.client.errors import NotPresentError, RepositoryError
from coreimage.client.json_codec import (
    JsonObject,
    as_object,
    compact_json_bytes,
    integer,
    json_bytes,
    json_object,
    optional_digest,
    optional_text,
    text,
    web_path,
)

CHANNELS_LIMIT_BYTES = 32 << 20
_NUMBER_LIMIT = 1 << 53
_YEAR_9999 = 253_370_764_800


@dataclass(frozen=True)
class KeyringPaths:
    """Where a device's own keyring and its detached signature are, as web paths."""

    path: str
    signature: str

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read the paths. Raises RepositoryError."""
        values = as_object(value, "'keyring'", where)
        return cls(web_path(values, "path", where), web_path(values, "signature", where))

    def to_json(self) -> JsonObject:
        """Write the paths."""
        return {"path": self.path, "signature": self.signature}


@dataclass(frozen=True)
class DeviceEntry:
    """One device of a channel.

    Attributes:
        index: The web path of the device's index.
        index_sha256: The digest that the index must have. Trees of other servers do not have it.
        keyring: The device's own keyring, whose keys may sign its index and files too.
        redirect: The channel that this device moves to; `index` is then that channel's.
        alias_of_sha256: The digest of the target's index that an alias's index was made of.
    """

    index: str
    index_sha256: str | None = None
    keyring: KeyringPaths | None = None
    redirect: str | None = None
    alias_of_sha256: str | None = None

    @classmethod
    def from_json(cls, value: object, name: str, where: str) -> Self:
        """Read the entry of device `name`. Raises RepositoryError."""
        values = as_object(value, f"device {name!r}", where)
        return cls(
            index=web_path(values, "index", where),
            index_sha256=optional_digest(values, "index_sha256", where),
            keyring=None if values.get("keyring") is None else KeyringPaths.from_json(values["keyring"], where),
            redirect=optional_text(values, "redirect", where),
            alias_of_sha256=optional_digest(values, "alias_of_sha256", where),
        )

    def to_json(self) -> JsonObject:
        """Write the entry, without the keys that say nothing."""
        values: JsonObject = {"index": self.index}
        if self.index_sha256 is not None:
            values["index_sha256"] = self.index_sha256
        if self.keyring is not None:
            values["keyring"] = self.keyring.to_json()
        if self.redirect is not None:
            values["redirect"] = self.redirect
        if self.alias_of_sha256 is not None:
            values["alias_of_sha256"] = self.alias_of_sha256
        return values


@dataclass(frozen=True)
class Channel:
    """A named stream of versions, by device; an alias of another channel, or a redirect to one (system-image §2.2)."""

    devices: Mapping[str, DeviceEntry] = field(default_factory=dict)
    hidden: bool = False
    alias: str | None = None
    redirect: str | None = None

    @classmethod
    def from_json(cls, value: object, name: str, where: str) -> Self:
        """Read channel `name`. Raises RepositoryError."""
        values = as_object(value, f"channel {name!r}", where)
        devices = as_object(values.get("devices"), f"'devices' of channel {name!r}", where)
        hidden = values.get("hidden", False)
        if not isinstance(hidden, bool | int):
            raise RepositoryError(f"'hidden' of channel {name!r} is not true or false", where=where)
        return cls(
            devices={device: DeviceEntry.from_json(entry, device, where) for device, entry in devices.items()},
            hidden=bool(hidden),
            alias=optional_text(values, "alias", where),
            redirect=optional_text(values, "redirect", where),
        )

    def to_json(self) -> JsonObject:
        """Write the channel, without the keys that say nothing."""
        values: JsonObject = {"devices": {device: entry.to_json() for device, entry in self.devices.items()}}
        if self.hidden:
            values["hidden"] = True
        if self.alias is not None:
            values["alias"] = self.alias
        if self.redirect is not None:
            values["redirect"] = self.redirect
        return values


@dataclass(frozen=True)
class Channels(Mapping[str, Channel]):
    """All channels of a tree, by name: what channels.json says."""

    by_name: Mapping[str, Channel] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Channel:
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    def channel(self, name: str) -> Channel:
        """Return channel `name`. Raises NotPresentError with the nearest name and the names that there are."""
        if name not in self.by_name:
            raise NotPresentError(
                f"there is no channel {name!r}{_did_you_mean(name, self.by_name)}",
                resolution="list the channels: `coreimage channel list`",
            )
        return self.by_name[name]

    def device(self, channel: str, device: str) -> DeviceEntry:
        """Return the entry of a channel's device. Raises NotPresentError with the nearest name and those there are."""
        devices = self.channel(channel).devices
        if device not in devices:
            raise NotPresentError(
                f"channel {channel!r} has no device {device!r}{_did_you_mean(device, devices)}",
                resolution=f"choose one of its devices: {', '.join(sorted(devices)) or 'it has none'}",
            )
        return devices[device]

    @classmethod
    def from_json(cls, values: JsonObject, where: str) -> Self:
        """Read channels that are a document, or a part of one. Raises RepositoryError."""
        return cls({name: Channel.from_json(value, name, where) for name, value in values.items()})

    def to_json(self) -> JsonObject:
        """Write the channels as a part of a document."""
        return {name: channel.to_json() for name, channel in self.by_name.items()}

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Self:
        """Read channels.json. Raises RepositoryError."""
        return cls.from_json(json_object(content, where), where)

    def to_bytes(self) -> bytes:
        """Write channels.json as the original server does."""
        return json_bytes(self.to_json())


@dataclass(frozen=True)
class SignedChannels:
    """The document inside channels.json.gpg: channels, and what keeps clients from believing an old or foreign one.

    Attributes:
        channels: The channels of a server; of a candidate, nothing but its own channel and device.
        number: Grows with every document of a server; a candidate's is its version. 0 for documents of servers that
            know no numbers: they are plain channels.
        kind: Keeps a candidate's document from being served as the server's own.
        expires: UNIX seconds after which no client believes the document. None for a candidate's, which nobody is
            served unasked.
        retired: The newest number that devices may know of something else than a version in the index, by channel and
            device: of versions that were removed, or of a channel that they were moved from. Numbers go on after it.
    """

    channels: Channels
    number: int
    kind: Literal["channels", "candidate"] = "channels"
    expires: int | None = None
    retired: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Self:
        """Read the content of channels.json.gpg, or of a channels.json. Raises RepositoryError."""
        return cls.from_json(json_object(content, where), where)

    def to_bytes(self) -> bytes:
        """Write what is signed; nobody looks at it, so it has no blanks."""
        return compact_json_bytes(self.to_json())

    @classmethod
    def from_json(cls, values: JsonObject, where: str) -> Self:
        """Read the document, or plain channels as document 0. Raises RepositoryError."""
        if not isinstance(values.get("number"), int):
            return cls(Channels.from_json(values, where), number=0)
        kind = text(values, "kind", where)
        if kind not in {"channels", "candidate"}:
            raise RepositoryError(f"the document is of the unknown kind {kind!r}", where=where)
        is_candidate = kind == "candidate"
        retired = as_object(values.get("retired", {}), "'retired'", where)
        return cls(
            channels=Channels.from_json(as_object(values.get("channels"), "'channels'", where), where),
            number=integer(values, "number", where, low=1, high=_NUMBER_LIMIT),
            kind="candidate" if is_candidate else "channels",
            expires=None if is_candidate else integer(values, "expires", where, low=1, high=_YEAR_9999),
            retired={channel: _versions(devices, where) for channel, devices in retired.items()},
        )

    def to_json(self) -> JsonObject:
        """Write the document, without the keys that say nothing."""
        values: JsonObject = {"kind": self.kind, "number": self.number, "channels": self.channels.to_json()}
        if self.expires is not None:
            values["expires"] = self.expires
        if self.retired:
            values["retired"] = {channel: dict(devices) for channel, devices in self.retired.items()}
        return values


def _versions(value: object, where: str) -> dict[str, int]:
    devices = as_object(value, "the retired devices of a channel", where)
    return {device: integer(devices, device, where, high=VERSION_LIMIT) for device in devices}


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
