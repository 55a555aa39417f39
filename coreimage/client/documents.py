"""channels.json and index.json (system-image §2.1, §2.3), read strictly where it matters; unknown keys are ignored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from coreimage.client.errors import RepositoryError
from coreimage.client.json_reader import (
    as_array,
    as_object,
    base_name,
    digest,
    integer,
    json_object,
    text,
    web_path,
)

CHANNELS_LIMIT_BYTES = 32 << 20
INDEX_LIMIT_BYTES = 32 << 20
VERSION_LIMIT = 65535
"""Image versions and bases are 16 bits wide in the original client."""
FILE_LIMIT_BYTES = 1 << 40
_ORDER_LIMIT = 10_000


@dataclass(frozen=True)
class DeviceEntry:
    """`index_sha256` is our own key: which bytes the index must have. `keyring` is (path, signature path)."""

    index: str
    index_sha256: str | None
    keyring: tuple[str, str] | None
    redirect: str | None


@dataclass(frozen=True)
class Channel:
    name: str
    devices: dict[str, DeviceEntry]
    hidden: bool
    alias: str | None
    redirect: str | None


@dataclass(frozen=True)
class ImageFile:
    """`path` and `signature` are as in the index: relative to the web root, or URLs."""

    path: str
    signature: str
    sha256: str
    size_bytes: int
    order: int

    @property
    def name(self) -> str:
        return base_name(self.path)


@dataclass(frozen=True)
class Image:
    """`files` are in the order in which they are applied. `phased_percentage` is of the devices that are offered the
    version; a full image is for devices that have `minversion` at least. `form` is of a delta: one in the form of 2015
    is tarballs, a compact one a single file before that of the version (docs/compact-delta.md). `pinned` says why
    retention keeps the version; None: it does not. `tree_sha256` is our own key: the digest of all that the
    version holds, but for the file that says its number; None where the server does not say."""

    version: int
    type: Literal["full", "delta"]
    base: int | None
    version_detail: str
    description: str
    files: tuple[ImageFile, ...]
    minversion: int = 0
    phased_percentage: int = 100
    form: Literal["legacy", "compact"] = "legacy"
    pinned: str | None = None
    tree_sha256: str | None = None


@dataclass(frozen=True)
class Index:
    """`channel` and `device` are our own keys: what the index was made for; None in trees of other servers. So is
    `channel_target`: the channel that an alias follows."""

    channel: str | None
    device: str | None
    images: tuple[Image, ...]
    channel_target: str | None = None


def parse_channels(content: bytes | dict[str, object], where: str) -> dict[str, Channel]:
    """Of the document's bytes, or of its object where that is part of another one."""
    document = json_object(content, where) if isinstance(content, bytes) else content
    return {name: _channel(name, value, where) for name, value in document.items()}


def parse_index(content: bytes, where: str) -> Index:
    document = json_object(content, where)
    about = as_object(document.get("global"), "'global'", where)
    images = as_array(document.get("images"), "'images'", where)
    compact = as_array(document.get("compact", []), "'compact'", where)
    found = [_image(as_object(value, "an image", where), where) for value in images]
    found += [_compact(_image(as_object(value, "an image", where), where), where) for value in compact]
    return Index(
        _optional_text(about, "channel", where),
        _optional_text(about, "device", where),
        tuple(sorted(found, key=lambda image: image.version)) if compact else tuple(found),
        _optional_text(about, "channel_target", where),
    )


def _channel(name: str, value: object, where: str) -> Channel:
    values = as_object(value, f"channel {name!r}", where)
    devices = as_object(values.get("devices"), f"'devices' of channel {name!r}", where)
    hidden = values.get("hidden", False)
    if not isinstance(hidden, bool | int):
        raise RepositoryError(f"'hidden' of channel {name!r} is not true or false", where=where)
    return Channel(
        name,
        {device: _device(as_object(entry, f"device {device!r}", where), where) for device, entry in devices.items()},
        bool(hidden),
        _optional_text(values, "alias", where),
        _optional_text(values, "redirect", where),
    )


def _device(values: dict[str, object], where: str) -> DeviceEntry:
    keyring = None
    if values.get("keyring") is not None:
        paths = as_object(values["keyring"], "'keyring'", where)
        keyring = (web_path(paths, "path", where), web_path(paths, "signature", where))
    return DeviceEntry(
        web_path(values, "index", where),
        digest(values, "index_sha256", where) if "index_sha256" in values else None,
        keyring,
        _optional_text(values, "redirect", where),
    )


def _image(values: dict[str, object], where: str) -> Image:
    kind = text(values, "type", where)
    if kind not in {"full", "delta"}:
        raise RepositoryError(f"an image is of the unknown type {kind!r}", where=where)
    files = [_file(as_object(f, "a file", where), where) for f in as_array(values.get("files"), "'files'", where)]
    if not files or len({file.name for file in files}) != len(files):
        raise RepositoryError("an image has no files, or two of the same name", where=where)
    return Image(
        integer(values, "version", where, high=VERSION_LIMIT),
        "full" if kind == "full" else "delta",
        integer(values, "base", where, high=VERSION_LIMIT) if kind == "delta" else None,
        text(values, "version_detail", where, default=""),
        text(values, "description", where, default=""),
        tuple(sorted(files, key=lambda file: (file.order, file.name))),
        integer(values, "minversion", where, high=VERSION_LIMIT, default=0) if kind == "full" else 0,
        _percentage(values, where),
        pinned=_optional_text(values, "pinned", where),
        tree_sha256=digest(values, "tree_sha256", where) if "tree_sha256" in values else None,
    )


def _compact(image: Image, where: str) -> Image:
    """Below `compact` there are also images whose payloads are only packed differently, and steps between those."""
    if not image.files[0].name.endswith(".delta"):
        return image
    if image.type != "delta":
        raise RepositoryError("a full image has a delta as its first file", where=where)
    return replace(image, form="compact")


def _file(values: dict[str, object], where: str) -> ImageFile:
    return ImageFile(
        web_path(values, "path", where),
        web_path(values, "signature", where),
        digest(values, "checksum", where),
        integer(values, "size", where, high=FILE_LIMIT_BYTES),
        integer(values, "order", where, high=_ORDER_LIMIT, default=0),
    )


def _percentage(values: dict[str, object], where: str) -> int:
    """A string is taken for its number, as the original client does (system-image §2.3)."""
    found = values.get("phased-percentage")
    number = int(found) if isinstance(found, str) and found.isdecimal() and len(found) <= len("100") else found
    named: dict[str, object] = {} if number is None else {"phased-percentage": number}
    return integer(named, "phased-percentage", where, high=100, default=100)


def _optional_text(values: dict[str, object], key: str, where: str) -> str | None:
    return None if values.get(key) is None else text(values, key, where)
