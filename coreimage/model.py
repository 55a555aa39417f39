"""The values that cross rooms: frozen, typed, JSON in and out.

Data goes from stage to stage as these values; bytes go through the store, named by `ArtifactRef`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from coreimage.errors import UsageError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Architecture = Literal["amd64", "arm64"]
"""The names of `architecture.facts.FACTS`, which has all that is known of each."""
Firmware = Literal["bios", "uefi"]
Compression = Literal["fast", "default", "smallest", "zstd"]
"""Of a channel's full images. The first three are xz, which clients of 2015 read; zstd is for our own only."""

TAR_GZ = "application/gzip"
TAR_XZ = "application/x-xz"
TAR_ZSTD = "application/zstd"
COMPACT_DELTA = "application/vnd.coreimage.delta"
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
LOG = "text/x-log; charset=utf-8"
"""How something was made, not what was made: artifacts of this type stay out of every identity."""
OPENPGP_SIGNATURE = "application/pgp-signature"
OPENPGP_MESSAGE = "application/pgp"
DISK_IMAGE_ZSTD = "application/x-raw-disk-image+zstd"
PNG = "image/png"


class Value(BaseModel):
    """Base of all values: immutable, unknown keys refused, equal when their fields are equal."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _one_size(value: Any) -> Any:
    """ByteSize alone reads `1.G` as one byte, and passes over what follows the unit."""
    if isinstance(value, str) and not re.fullmatch(r"\s*\d+(\.\d+)?\s*[A-Za-z]*\s*", value):
        raise ValueError("a size is a number with a unit behind it, such as 20G or 500M")
    return value


Size = Annotated[ByteSize, BeforeValidator(_one_size)]
"""A number of bytes, written as `20G` (decimal), `20GiB` (binary) or a plain number."""


def size_bytes(text: str, where: str) -> int:
    """Return how many bytes a size such as `20G` is. Raises UsageError, which names `where` it was written."""
    try:
        return TypeAdapter(Size).validate_python(text)
    except ValidationError as error:
        raise UsageError(f"{text!r} is not a size", where=where, resolution="write it like 20G or 500M") from error


Port = Annotated[
    Annotated[int, Field(ge=1, le=65535)] | None,
    BeforeValidator(
        lambda port: None if port == "disabled" else port, json_schema_input_type=int | Literal["disabled"] | None
    ),
]


class Server(Value):
    """Where devices look for updates: it is written into every version (system-image §2.6).

    A port is None when that protocol is disabled: `disabled` in files, as in 2015. Then the other serves everything.
    """

    base: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(/[A-Za-z0-9._~/-]*)?$")] = "localhost"
    http_port: Port = 80
    https_port: Port = 443

    @model_validator(mode="after")
    def _one_protocol(self) -> Server:
        if self.http_port is None and self.https_port is None:
            raise ValueError("one of `http_port` and `https_port` must serve")
        return self


class ArtifactRef(Value):
    """Names bytes in the store. `uri` is relative to the store's URL, so that a store can be moved whole."""

    uri: str
    sha256: Sha256
    size_bytes: int = Field(ge=0)
    media_type: str


class ArchiveRelease(Value):
    """One suite of one archive as it stood when probed; `release_sha256` is the digest of its signed Release."""

    uri: str
    suite: str
    origin: str = ""
    label: str = ""
    codename: str = ""
    date: str
    """RFC 3339, UTC."""
    release_sha256: Sha256
    release: ArtifactRef
    """The InRelease file, whose signature was verified before it was stored."""


class LockedPackage(Value):
    name: str
    version: str
    architecture: str
    sha256: Sha256
    size_bytes: int
    filename: str
    """Path below the archive's URI."""
    archive: str
    """`<uri> <suite>` of the archive that it came from."""


class PackageLock(Value):
    """Exactly what a chroot is made of. `packages` is sorted by name and architecture.

    `epoch` (seconds, UTC) is SOURCE_DATE_EPOCH of everything built from this lock. `tools` has the tools that shape
    bytes, version by name, and the digest of their tree; `configuration` the parts of the project's configuration,
    SHA-256 by name.
    """

    architecture: Architecture
    epoch: int
    tools: dict[str, str] = {}
    configuration: dict[str, Sha256] = {}
    releases: tuple[ArchiveRelease, ...]
    packages: tuple[LockedPackage, ...]


class ToolsTree(Value):
    """The programs that shape bytes, as a tar (gzip) of `usr` and `etc`, and the lock that it was made from."""

    tree: ArtifactRef
    lock: ArtifactRef


class RootfsBuild(Value):
    """One rootfs of one architecture: names in the tarball carry no `./`, gzip as in 2015."""

    architecture: Architecture
    rootfs: ArtifactRef
    manifest: ArtifactRef
    filelist: ArtifactRef
    lock: ArtifactRef
    log: ArtifactRef


class DeviceBuild(Value):
    """Kernel, initrd, modules, firmware and hardware.yaml of one device."""

    device: str
    architecture: Architecture
    tarball: ArtifactRef
    manifest: ArtifactRef
    lock: ArtifactRef
    log: ArtifactRef


class CustomBuild(Value):
    """Files of one's own for all devices of an architecture: names in the tarball begin with `system/`."""

    architecture: Architecture
    tarball: ArtifactRef


FileRole = Literal["rootfs", "device", "custom", "manifest", "filelist", "lock", "log"]
"""What a published file is: one of the three tarballs, or what describes a rootfs or device tarball."""


class PublishedFile(Value):
    """One file of a dated build, and what it is; `device` is None for what all devices of the architecture share."""

    name: str
    role: FileRole
    architecture: Architecture
    device: str | None = None
    artifact: ArtifactRef


class PublishedBuild(Value):
    """A dated build below `prefix`. `files`, sorted by name, and `info`, its build.json, are what SHA256SUMS lists."""

    project: str
    series: str
    image_type: str
    build_id: str
    prefix: str
    files: tuple[PublishedFile, ...]
    info: ArtifactRef
    checksums: ArtifactRef
    signature: ArtifactRef


class Candidate(Value):
    """The next version of a channel for a device: whole and signed, but not yet named by the channel.

    `channels` is a signed channels document that names nothing but this candidate, so that the ordinary client
    can be pointed at it. `files` are the files of the full image, in the order in which they are applied.
    """

    channel: str
    device: str
    version: int
    version_detail: str
    build_id: str
    index: ArtifactRef
    channels: ArtifactRef
    files: tuple[ArtifactRef, ...]


class DiskImage(Value):
    """An assembled image. `image` is stored compressed; `raw_sha256` and `raw_size_bytes` are of what it unpacks to."""

    channel: str
    device: str
    version: int
    architecture: Architecture
    image: ArtifactRef
    raw_sha256: Sha256
    raw_size_bytes: int


class BootReport(Value):
    image_sha256: Sha256
    firmware: Firmware
    accelerator: str
    passed: bool
    reason: str
    duration_s: float
    serial_log: ArtifactRef
    last_lines: tuple[str, ...]
    screenshot: ArtifactRef | None = None
    """The display as PNG when the verdict fell; None where the machine had ended already."""


class Release(Value):
    channel: str
    device: str
    version: int
    index: ArtifactRef


def canonical(value: Any) -> Any:
    """Reduce a value to JSON values that are equal exactly when the contents are.

    An artifact counts by digest and media type, wherever it is stored. A log does not count: it says how something was
    made. A path is refused: it names a place, not a content.

    Raises:
        TypeError: The value, or something in it, has no canonical form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, ArtifactRef):
        return {"sha256": value.sha256, "media_type": value.media_type}
    if isinstance(value, BaseModel):
        return canonical({name: getattr(value, name) for name in type(value).model_fields})
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items() if not _is_log(item)}
    if isinstance(value, set | frozenset):
        return sorted((canonical(item) for item in value), key=canonical_json)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [canonical(item) for item in value if not _is_log(item)]
    raise TypeError(f"{type(value).__name__} has no canonical form, so it cannot be part of an identity")


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: of its canonical form, sorted by key, without blanks, in ASCII."""
    plain = canonical(value)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def canonical_sha256(value: Any) -> str:
    """Return the identity of a value: the SHA-256, in hex, of its canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _is_log(value: Any) -> bool:
    return isinstance(value, ArtifactRef) and value.media_type == LOG
