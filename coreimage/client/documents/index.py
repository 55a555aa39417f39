"""index.json: the images of one device of a channel, and the files of each."""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass
from typing import Literal, Self

from coreimage.client.errors import RepositoryError
from coreimage.client.json_codec import (
    JsonObject,
    as_array,
    as_object,
    base_name,
    digest,
    integer,
    json_bytes,
    json_object,
    optional_digest,
    optional_text,
    text,
    web_path,
)

INDEX_LIMIT_BYTES = 32 << 20
VERSION_LIMIT = 65535
"""Image versions and bases are 16 bits wide in the original client (system-image §2.3)."""
FILE_LIMIT_BYTES = 1 << 40
_ORDER_LIMIT = 10_000
_VERSION_FILE = re.compile(r"version-\d+\.tar\.xz")
_ALL_DEVICES = 100

Form = Literal["legacy", "own", "compact"]
"""How an image is packed. `legacy`: tarballs that the appliers of 2015 unpack. `own`: tarballs of which one is zstd, or
a delta from or to such an image. `compact`: one compact delta (docs/compact-delta.md) and the version file."""


@dataclass(frozen=True)
class ImageFile:
    """A file of an image. `path` and `signature` are web paths; files are applied by rising `order`."""

    path: str
    signature: str
    sha256: str
    size_bytes: int
    order: int

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return base_name(self.path)

    @property
    def is_version_file(self) -> bool:
        """Whether the file only says channel, device and version (system-image §2.6), and holds no content."""
        return _VERSION_FILE.fullmatch(self.name) is not None

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read a file. Raises RepositoryError."""
        values = as_object(value, "a file", where)
        return cls(
            path=web_path(values, "path", where),
            signature=web_path(values, "signature", where),
            sha256=digest(values, "checksum", where),
            size_bytes=integer(values, "size", where, high=FILE_LIMIT_BYTES),
            order=integer(values, "order", where, high=_ORDER_LIMIT, default=0),
        )

    def to_json(self) -> JsonObject:
        """Write the file."""
        return {
            "path": self.path,
            "signature": self.signature,
            "checksum": self.sha256,
            "size": self.size_bytes,
            "order": self.order,
        }


@dataclass(frozen=True)
class ImageSource:
    """The channel and version that a promoted or rolled-back image was copied from."""

    channel: str
    version: int

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read a source. Raises RepositoryError."""
        values = as_object(value, "'source'", where)
        return cls(text(values, "channel", where), integer(values, "version", where, high=VERSION_LIMIT))

    def to_json(self) -> JsonObject:
        """Write the source."""
        return {"channel": self.channel, "version": self.version}


@dataclass(frozen=True)
class Image:
    """One entry of an index: a whole version, or the way to it from version `base`.

    Attributes:
        files: In the order in which they are applied.
        minversion: A full image is for devices that have this version at least (system-image §3.3).
        phased_percentage: How many percent of the devices are offered the version.
        form: How the image is packed; in the index, others than `legacy` stand where clients of 2015 do not look.
        pinned: Why retention keeps the version; None where it may go. Our own key.
        tree_sha256: The digest of all that the version holds, its version file aside (`coreimage.client.tree`). Our own
            key; None where the server does not say.
        source: What the image was copied from. Our own key.
    """

    version: int
    type: Literal["full", "delta"]
    base: int | None
    version_detail: str
    description: str
    files: tuple[ImageFile, ...]
    minversion: int = 0
    phased_percentage: int = _ALL_DEVICES
    form: Form = "legacy"
    pinned: str | None = None
    tree_sha256: str | None = None
    source: ImageSource | None = None

    @property
    def size_bytes(self) -> int:
        """What a device downloads."""
        return sum(file.size_bytes for file in self.files)

    @property
    def payloads(self) -> tuple[ImageFile, ...]:
        """The files that make the content: all but the version file."""
        return tuple(file for file in self.files if not file.is_version_file)

    @property
    def version_file(self) -> ImageFile | None:
        """The file that says channel, device and version; None in images of some other servers."""
        return next((file for file in self.files if file.is_version_file), None)

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read an image. Raises RepositoryError."""
        values = as_object(value, "an image", where)
        kind, form = text(values, "type", where), text(values, "form", where, default="legacy")
        if kind not in {"full", "delta"}:
            raise RepositoryError(f"an image is of the unknown type {kind!r}", where=where)
        if form not in {"legacy", "own", "compact"} or (kind, form) == ("full", "compact"):
            raise RepositoryError(f"a {kind} image has the form {form!r}, which cannot be", where=where)
        is_full = kind == "full"
        files = [ImageFile.from_json(file, where) for file in as_array(values.get("files"), "'files'", where)]
        if not files or len({file.name for file in files}) != len(files):
            raise RepositoryError("an image has no files, or two of the same name", where=where)
        return cls(
            version=integer(values, "version", where, high=VERSION_LIMIT),
            type="full" if is_full else "delta",
            base=None if is_full else integer(values, "base", where, high=VERSION_LIMIT),
            version_detail=text(values, "version_detail", where, default=""),
            description=text(values, "description", where, default=""),
            files=tuple(sorted(files, key=lambda file: (file.order, file.name))),
            minversion=integer(values, "minversion", where, high=VERSION_LIMIT, default=0) if is_full else 0,
            phased_percentage=_percentage(values, where),
            form="compact" if form == "compact" else "own" if form == "own" else "legacy",
            pinned=optional_text(values, "pinned", where),
            tree_sha256=optional_digest(values, "tree_sha256", where),
            source=None if values.get("source") is None else ImageSource.from_json(values["source"], where),
        )

    def to_json(self) -> JsonObject:
        """Write the image, without the keys that say nothing; so is a phased percentage of 100 (system-image §4.8)."""
        values: JsonObject = {
            "type": self.type,
            "version": self.version,
            "version_detail": self.version_detail,
            "description": self.description,
            "files": [file.to_json() for file in self.files],
        }
        if self.base is not None:
            values["base"] = self.base
        if self.minversion:
            values["minversion"] = self.minversion
        if self.phased_percentage != _ALL_DEVICES:
            values["phased-percentage"] = self.phased_percentage
        if self.form != "legacy":
            values["form"] = self.form
        if self.pinned is not None:
            values["pinned"] = self.pinned
        if self.tree_sha256 is not None:
            values["tree_sha256"] = self.tree_sha256
        if self.source is not None:
            values["source"] = self.source.to_json()
        return values


@dataclass(frozen=True)
class Index:
    """The images of one device of a channel.

    Attributes:
        images: Oldest version first; of one version the full image, then its deltas, those of other forms last.
        channel: What the index was made for. Our own key; None in trees of other servers.
        device: Likewise.
        channel_target: The channel that an alias follows. Our own key.
        generated_at: When the index was made, as system-image §2.3 has it; no client compares it.
    """

    images: tuple[Image, ...]
    channel: str | None = None
    device: str | None = None
    channel_target: str | None = None
    generated_at: str = ""

    @property
    def fulls(self) -> tuple[Image, ...]:
        """The full images, oldest first."""
        return tuple(sorted((image for image in self.images if image.type == "full"), key=_version))

    @property
    def newest_version(self) -> int:
        """The newest version of any image; 0 where there is none."""
        return max(map(_version, self.images), default=0)

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Self:
        """Read index.json. Raises RepositoryError."""
        return cls.from_json(json_object(content, where), where)

    def to_bytes(self) -> bytes:
        """Write index.json as the original server does."""
        return json_bytes(self.to_json())

    @classmethod
    def from_json(cls, values: JsonObject, where: str) -> Self:
        """Read the document. Raises RepositoryError."""
        about = as_object(values.get("global"), "'global'", where)
        plain = _images(values.get("images"), "'images'", where)
        ours = _images(values.get("compact", []), "'compact'", where)
        return cls(
            images=tuple(heapq.merge(plain, ours, key=_version)),
            channel=optional_text(about, "channel", where),
            device=optional_text(about, "device", where),
            channel_target=optional_text(about, "channel_target", where),
            generated_at=text(about, "generated_at", where, default=""),
        )

    def to_json(self) -> JsonObject:
        """Write the document; those that clients of 2015 cannot apply stand below `compact`, out of their sight."""
        about: JsonObject = {"generated_at": self.generated_at}
        if self.channel is not None:
            about["channel"] = self.channel
        if self.device is not None:
            about["device"] = self.device
        if self.channel_target is not None:
            about["channel_target"] = self.channel_target
        values: JsonObject = {
            "global": about,
            "images": [image.to_json() for image in self.images if image.form == "legacy"],
        }
        if ours := [image.to_json() for image in self.images if image.form != "legacy"]:
            values["compact"] = ours
        return values


def _images(value: object, name: str, where: str) -> list[Image]:
    return [Image.from_json(image, where) for image in as_array(value, name, where)]


def _version(image: Image) -> int:
    return image.version


def _percentage(values: JsonObject, where: str) -> int:
    """A string is taken for its number, as the original client does (system-image §2.3)."""
    value = values.get("phased-percentage")
    if isinstance(value, str) and value.isdecimal() and len(value) <= len("100"):
        value = int(value)
    present: JsonObject = {} if value is None else {"phased-percentage": value}
    return integer(present, "phased-percentage", where, high=100, default=_ALL_DEVICES)
