"""From a published build to a candidate: the channel's next version, whole and signed, not yet named by it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from coreimage.errors import NotFoundError, UsageError, VerificationError
from coreimage.model import Architecture, ArtifactRef, Candidate, Compression, PublishedBuild, PublishedFile, Server
from coreimage.process import Run
from coreimage.process import run as run_process
from coreimage.signing import Role, Signer, verify_detached
from coreimage.storage import Store, read_blob
from coreimage.system_image.components import Component, require_fit
from coreimage.system_image.deltas import with_deltas
from coreimage.system_image.documents import (
    Document,
    fulls,
    generated_at,
    image_entry,
    index_with,
    json_bytes,
    newest_version,
)
from coreimage.system_image.edits import require_writable
from coreimage.system_image.payload import IMPORTER_VERSION, payload
from coreimage.system_image.tree import put_candidate_channels, put_index, read_channels, read_images
from coreimage.system_image.versions import Place, epoch, last_number, put_version, reserve

log = structlog.get_logger("coreimage.system_image")

CUSTOM = "custom"
_DETAILS = {"ubuntu": "ubuntu", "device": "raw-device", CUSTOM: CUSTOM}
"""What version_detail calls each part (system-image §5)."""


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
    delta_bases: int = 1,
    server: Server = Server(),  # noqa: B008
    components: Sequence[Component] = (),
) -> Candidate:
    """Makes the candidate, with deltas from the `delta_bases` newest versions of the channel.

    The same inputs give the same one, however often a run is killed in between.

    Raises VerificationError when the build's checksums are not signed by cdimage or do not list what it holds,
    NotFoundError when it lacks a file for `device`, ConflictError when the version numbers are used up.
    """
    rootfs, raw_device = select_files(published, device)
    custom = custom_file(published, device)
    if custom is not None and any(component.name == CUSTOM for component in components):
        raise UsageError(
            "the build has a custom tarball, and the channel a component of that name",
            where=f"{channel} {device}",
            resolution="give the component another name",
        )
    sources = [("ubuntu", rootfs), ("device", raw_device), *([(CUSTOM, custom)] if custom else [])]
    _verify_build(published, [file for _, file in sources], store, signer)
    recipe: Document = {"description": description, "compression": compression, "server": server.model_dump()}
    recipe |= {"components": [component.model_dump() for component in components]} if components else {}
    recipe |= {CUSTOM: custom.artifact.sha256} if custom else {}
    identity = _identity(published, rootfs, raw_device, recipe)
    place = Place(channel, device, store, signer)
    channels = read_channels(store, signer)
    require_writable(channels.document, channel, device)
    images = read_images(store, channels.document, channel, device)
    details = [f"{_DETAILS[kind]}={published.build_id}" for kind, _ in sources]
    detail = ",".join([*details, *(component.detail for component in components)])
    numbers = {"newest": newest_version(images), "last": last_number(channels, images, channel, device)}
    reserved = reserve(place, identity, detail, generated_at(now()), **numbers)
    detail = reserved["channel.ini"]["version_detail"]

    def make(kind: str, file: PublishedFile) -> ArtifactRef:
        architecture = architecture_of(device)
        return payload(kind, file.artifact, architecture, compression=compression, store=store, signer=signer, run=run)

    payloads = [make(kind, file) for kind, file in sources]
    if components or custom:
        require_fit([*payloads, *(component.file for component in components)], store=store, run=run)
    version = put_version(place, reserved, server, epoch(published.build_id))
    files = tuple(_named(ref) for ref in (*payloads, *(component.file for component in components), version))
    before = [image for image in images if image["version"] < reserved["version"]]
    entry = image_entry(reserved["version"], detail, description, files)
    bases = fulls(before)[-delta_bases:] if delta_bases else []
    entries = with_deltas(entry, bases, store=store, signer=signer, run=run)
    candidate = _put_documents(place, reserved, before, entries)
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


def custom_file(published: PublishedBuild, device: str) -> PublishedFile | None:
    """The custom tarball of the device's architecture, which not every build has."""
    suffix = f"-{architecture_of(device)}.custom.tar.gz"
    return next((file for file in published.files if file.name.endswith(suffix)), None)


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


def _put_documents(
    place: Place, reserved: Document, before: Sequence[Document], entries: Sequence[Document]
) -> tuple[ArtifactRef, ArtifactRef]:
    """The candidate's index, and the channels document that names nothing else."""
    document = index_with(before, entries, place.channel, place.device, reserved["generated_at"])
    index = put_index(place.channel, place.device, document, store=place.store, signer=place.signer)
    channels = put_candidate_channels(
        place.channel, place.device, reserved["version"], index, store=place.store, signer=place.signer
    )
    return index, channels


def _named(ref: ArtifactRef) -> PublishedFile:
    return PublishedFile(name=ref.uri.rpartition("/")[2], artifact=ref)
