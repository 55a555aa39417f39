"""The documents that publication writes: SHA256SUMS, build.json, pointers, reservations. Pure codecs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field, ValidationError

from coreimage.errors import VerificationError
from coreimage.model import Architecture, BootReport, DeviceBuild, PackageLock, RootfsBuild, Sha256, Value
from coreimage.publication.build_id import BuildId
from coreimage.publication.content import BuildContent, content_sha256
from coreimage.publication.layout import device_stem, image_stem

_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64}) \*([^/\0\n]+)")


class Source(Value):
    """One suite of one archive that packages came from, as it stood."""

    uri: str
    suite: str
    date: str
    release_sha256: Sha256


class RootfsInfo(Value):
    architecture: Architecture
    tarball: str
    tarball_sha256: Sha256
    lock_sha256: Sha256


class DeviceInfo(Value):
    device: str
    architecture: Architecture
    tarball: str
    tarball_sha256: Sha256
    lock_sha256: Sha256


class Carried(Value):
    """The files of an architecture that this build could not make anew: those of `build_id`, unchanged."""

    architecture: Architecture
    build_id: str
    files: tuple[str, ...]


class BuildInfo(Value):
    """build.json. `epoch` (seconds, UTC) is that of the newest lock; `sources` is sorted by URI and suite.

    `architectures` are those built; what was `carried` over from an earlier build is no news to anybody.
    """

    format: Literal[1] = 1
    build_id: str
    project: str
    series: str
    codename: str
    product: str
    image_type: str
    content_sha256: Sha256
    epoch: int
    architectures: tuple[Architecture, ...]
    rootfs: tuple[RootfsInfo, ...]
    devices: tuple[DeviceInfo, ...]
    sources: tuple[Source, ...]
    carried: tuple[Carried, ...] = ()


class Reservation(Value):
    """Says that a build id belongs to this content, and to no other; and which builds it carries files over from."""

    format: Literal[1] = 1
    build_id: str
    content_sha256: Sha256
    carried: dict[Architecture, str] = Field(default_factory=dict)


class ContentEntry(Value):
    """Which build id a content has."""

    format: Literal[1] = 1
    build_id: str


class Pending(Value):
    """The newest published build, tested or not, and the newest that was built for each architecture.

    `moved` is RFC 3339, UTC.
    """

    format: Literal[1] = 1
    build_id: str
    moved: str
    architectures: dict[Architecture, str] = Field(default_factory=dict)


class MarkedGood(Value):
    """Why and when an architecture of a build was found good. `marked` is RFC 3339, UTC."""

    build_id: str
    marked: str
    evidence: tuple[BootReport, ...]


class Pin(Value):
    """Says that a build stays, whatever retention says, and why. `pinned` is RFC 3339, UTC."""

    format: Literal[1] = 1
    build_id: str
    pinned: str
    note: str = ""


class Current(Value):
    """The newest good build of each architecture."""

    format: Literal[1] = 1
    architectures: dict[Architecture, MarkedGood]


def encode(document: Value) -> bytes:
    return f"{document.model_dump_json(indent=2)}\n".encode()


def decode_lock(content: bytes, where: str) -> PackageLock:
    """Raises VerificationError when `content` is no package lock."""
    try:
        return PackageLock.model_validate_json(content)
    except ValidationError as error:
        raise VerificationError(
            f"this is not a package lock: {error.error_count()} fields are wrong",
            where=where,
            resolution="plan the build again with --refresh",
        ) from error


def build_info(
    content: BuildContent, build_id: BuildId, locks: Mapping[str, PackageLock], carried: tuple[Carried, ...] = ()
) -> BuildInfo:
    """`locks` is by sha256 and holds every lock that `content` names."""
    return BuildInfo(
        build_id=str(build_id),
        **content.model_dump(exclude={"rootfs", "devices", "custom"}),
        content_sha256=content_sha256(content),
        epoch=max(lock.epoch for lock in locks.values()),
        architectures=content.architectures,
        rootfs=tuple(_rootfs_info(content, build) for build in content.rootfs),
        devices=tuple(_device_info(content, build) for build in content.devices),
        sources=_sources(locks.values()),
        carried=carried,
    )


def encode_checksums(digests: Mapping[str, str]) -> bytes:
    """`<hex> *<name>` lines sorted by name (cdimage `checksums.py`); `digests` is by name."""
    return "".join(f"{digests[name]} *{name}\n" for name in sorted(digests)).encode()


def decode_checksums(content: bytes, where: str) -> dict[str, str]:
    """Digests by name. Raises VerificationError for a line of another form or a name listed twice."""
    digests: dict[str, str] = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        found = _CHECKSUM_LINE.fullmatch(line)
        if not found or found[2] in digests:
            raise VerificationError(
                f"line {number} is not `<sha256> *<name>` with a new name: {line[:100]!r}",
                where=where,
                resolution="publish the build again under a new id",
            )
        digests[found[2]] = found[1]
    return digests


def _rootfs_info(content: BuildContent, build: RootfsBuild) -> RootfsInfo:
    return RootfsInfo(
        architecture=build.architecture,
        tarball=f"{image_stem(content.codename, content.product, build.architecture)}.tar.gz",
        tarball_sha256=build.rootfs.sha256,
        lock_sha256=build.lock.sha256,
    )


def _device_info(content: BuildContent, build: DeviceBuild) -> DeviceInfo:
    return DeviceInfo(
        device=build.device,
        architecture=build.architecture,
        tarball=f"{device_stem(content.codename, content.product, build)}.tar.gz",
        tarball_sha256=build.tarball.sha256,
        lock_sha256=build.lock.sha256,
    )


def _sources(locks: Iterable[PackageLock]) -> tuple[Source, ...]:
    found = {
        Source(uri=release.uri, suite=release.suite, date=release.date, release_sha256=release.release_sha256)
        for lock in locks
        for release in lock.releases
    }
    return tuple(sorted(found, key=lambda source: (source.uri, source.suite, source.date, source.release_sha256)))
