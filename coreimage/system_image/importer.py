"""From a published build to a candidate: the channel's next version, whole and signed, not yet named by it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from coreimage.errors import ConflictError, NotFoundError, VerificationError
from coreimage.model import JSON, TAR_XZ, Architecture, ArtifactRef, Candidate, PublishedBuild, PublishedFile
from coreimage.process import Run
from coreimage.process import run as run_process
from coreimage.signing import Role, Signer, verify_detached
from coreimage.storage import Store, read_blob
from coreimage.system_image import layout
from coreimage.system_image.documents import (
    VERSION_LIMIT,
    Document,
    generated_at,
    image_entry,
    index_with,
    json_bytes,
    newest_version,
)
from coreimage.system_image.payload import IMPORTER_VERSION, Compression, Kind, payload, put_signature
from coreimage.system_image.tree import put_candidate_channels, put_index, read_channels, read_images
from coreimage.system_image.version_tarball import Server, version_tarball

log = structlog.get_logger("coreimage.system_image")


def import_build(
    published: PublishedBuild,
    channel: str,
    device: str,
    *,
    store: Store,
    signer: Signer,
    run: Run = run_process,
    now: Callable[[], datetime],
    description: str = "",
    compression: Compression = "fast",
    server: Server = Server(),  # noqa: B008
) -> Candidate:
    """Makes the candidate. The same inputs give the same one, however often a run is killed in between.

    Raises VerificationError when the build's checksums are not signed by cdimage or do not list what it holds,
    NotFoundError when it lacks a file for `device`, ConflictError when the version numbers are used up.
    """
    rootfs, raw_device = select_files(published, device)
    _verify_build(published, (rootfs, raw_device), store, signer)
    recipe = {"description": description, "compression": compression, "server": server.model_dump()}
    identity = _identity(published, rootfs, raw_device, recipe)
    place = _Place(channel, device, store, signer)
    images = read_images(store, read_channels(store, signer).document, channel, device)
    reserved = _reserve(place, identity, published.build_id, newest_version(images), generated_at(now()))
    detail = reserved["channel.ini"]["version_detail"]

    def pool(kind: Kind, file: PublishedFile) -> ArtifactRef:
        architecture = architecture_of(device)
        return payload(kind, file.artifact, architecture, compression=compression, store=store, signer=signer, run=run)

    payloads = [pool("ubuntu", rootfs), pool("device", raw_device)]
    version = _put_version(place, reserved, server, _epoch(published.build_id))
    files = tuple(_named(ref) for ref in (*payloads, version))
    candidate = _put_documents(place, reserved, images, image_entry(reserved["version"], detail, description, files))
    log.info("candidate made", channel=channel, device=device, version=reserved["version"], build=published.build_id)
    return Candidate(
        channel=channel,
        device=device,
        version=reserved["version"],
        version_detail=detail,
        build_id=published.build_id,
        index=candidate[0],
        channels=candidate[1],
        files=files,
    )


def architecture_of(device: str) -> Architecture:
    """Devices are called `<name>_<architecture>`."""
    suffix = device.rpartition("_")[2]
    if suffix == "amd64":
        return "amd64"
    if suffix == "arm64":
        return "arm64"
    raise NotFoundError(
        f"device {device!r} names no known architecture", resolution="call it <name>_amd64 or <name>_arm64"
    )


def select_files(published: PublishedBuild, device: str) -> tuple[PublishedFile, PublishedFile]:
    """The rootfs and the device tarball of `device`, by the names of system-image §5."""
    name, _, architecture = device.rpartition("_")
    device_suffix = f"-{architecture}{'' if name == 'generic' else f'.{name}'}.device.tar.gz"
    return _one(published, f"-{architecture}.tar.gz"), _one(published, device_suffix)


def _one(published: PublishedBuild, suffix: str) -> PublishedFile:
    found = [file for file in published.files if file.name.endswith(suffix) and "-preinstalled-" in file.name]
    if len(found) != 1:
        raise NotFoundError(
            f"build {published.build_id} holds {len(found)} files …-preinstalled-…{suffix}, not one",
            where=published.prefix,
            resolution="build it for this device",
        )
    return found[0]


def _verify_build(published: PublishedBuild, files: Sequence[PublishedFile], store: Store, signer: Signer) -> None:
    """SHA256SUMS is signed by cdimage, and lists `files`. Their bytes are checked when they are read."""
    sums, signature = read_blob(store, published.checksums), read_blob(store, published.signature)
    verify_detached(sums, signature, [signer.public_key(Role.CDIMAGE)], where=published.checksums.uri)
    listed = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64}) [ *](.+)$", sums.decode(), re.MULTILINE)}
    for file in files:
        if listed.get(file.name) != file.artifact.sha256:
            raise VerificationError(
                f"{file.name} is not listed with its digest",
                where=published.checksums.uri,
                resolution="publish the build again",
            )


def _identity(published: PublishedBuild, rootfs: PublishedFile, raw_device: PublishedFile, recipe: Document) -> str:
    """All that a version's bytes depend on, its number and place aside."""
    inputs = {
        "importer": IMPORTER_VERSION,
        "build": published.build_id,
        "rootfs": rootfs.artifact.sha256,
        "device": raw_device.artifact.sha256,
        **recipe,
    }
    return hashlib.sha256(json_bytes(inputs)).hexdigest()


def _reserve(place: _Place, identity: str, build_id: str, newest: int, at: str) -> Document:
    """The first number after `newest` that is free or was taken by the same inputs.

    Released inputs keep their number: importing the newest version again makes no second one.
    """
    released = _reservation(place, newest) if newest else None
    if released is not None and released.get("identity") == identity:
        return released
    for version in range(newest + 1, VERSION_LIMIT + 1):
        held = _take(place, version, identity, build_id, at)
        if held.get("identity") == identity:
            return held
    raise ConflictError(
        f"the version numbers that clients can read end at {VERSION_LIMIT}",
        where=f"{place.channel} {place.device}",
        resolution="publish to a new channel",
    )


def _take(place: _Place, version: int, identity: str, build_id: str, at: str) -> Document:
    """What holds the number: the version's sidecar (system-image §2.8), which doubles as the claim on it."""
    detail = f"ubuntu={build_id},raw-device={build_id},version={version}"
    mine = {
        "generator": "version",
        "version": version,
        "version_detail": f"version={version}",
        "channel.ini": {
            "channel": place.channel,
            "device": place.device,
            "version": str(version),
            "version_detail": detail,
        },
        "identity": identity,
        "generated_at": at,
    }
    with suppress(ConflictError):
        place.store.put_bytes(place.sidecar(version), json_bytes(mine), media_type=JSON, if_absent=True)
        return mine
    return _reservation(place, version) or {}


def _reservation(place: _Place, version: int) -> Document | None:
    try:
        with place.store.open(place.sidecar(version)) as file:
            held: Document = json.loads(file.read())
    except NotFoundError:
        return None
    return held


def _put_version(place: _Place, reserved: Document, server: Server, mtime: int) -> ArtifactRef:
    version, detail = reserved["version"], reserved["channel.ini"]["version_detail"]
    content = version_tarball(place.channel, place.device, version, detail, server=server, mtime=mtime)
    key = layout.key(layout.version_tarball(place.channel, place.device, version))
    put_signature(place.store, key, place.signer.detached(Role.IMAGE_SIGNING, content))
    place.store.put_bytes(key, content, media_type=TAR_XZ)
    put_signature(place.store, place.sidecar(version), place.signer.detached(Role.IMAGE_SIGNING, json_bytes(reserved)))
    sha256 = hashlib.sha256(content).hexdigest()
    return ArtifactRef(uri=key, sha256=sha256, size_bytes=len(content), media_type=TAR_XZ)


def _put_documents(
    place: _Place, reserved: Document, images: list[Document], entry: Document
) -> tuple[ArtifactRef, ArtifactRef]:
    """The candidate's index, and the channels document that names nothing else."""
    before = [image for image in images if image["version"] < reserved["version"]]
    document = index_with(before, entry, place.channel, place.device, reserved["generated_at"])
    index = put_index(place.channel, place.device, document, store=place.store, signer=place.signer)
    channels = put_candidate_channels(
        place.channel, place.device, reserved["version"], index, store=place.store, signer=place.signer
    )
    return index, channels


@dataclass(frozen=True)
class _Place:
    """What is published where, and with what."""

    channel: str
    device: str
    store: Store
    signer: Signer

    def sidecar(self, version: int) -> str:
        return layout.key(layout.version_sidecar(self.channel, self.device, version))


def _epoch(build_id: str) -> int:
    """Midnight UTC of the build's day: a time that the same build always has."""
    try:
        return int(datetime.strptime(build_id[:8], "%Y%m%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return 1


def _named(ref: ArtifactRef) -> PublishedFile:
    return PublishedFile(name=ref.uri.rpartition("/")[2], artifact=ref)
