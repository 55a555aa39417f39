"""From a published build to a candidate: the channel's next version, whole and signed, not yet named by it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
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
    Document,
    check_version,
    generated_at,
    image_entry,
    index_with,
    json_bytes,
    newest_version,
)
from coreimage.system_image.payload import IMPORTER_VERSION, Compression, payload, put_signature
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
    architecture = architecture_of(device)
    rootfs, raw_device = select_files(published, device)
    _verify_build(published, (rootfs, raw_device), store, signer)
    images = read_images(store, read_channels(store, signer).document, channel, device)
    reserved = _reserve(
        _identity(published, rootfs, raw_device, description, compression, server),
        channel,
        device,
        published.build_id,
        newest_version(images),
        generated_at(now()),
        store,
    )
    version, detail = reserved["version"], reserved["channel.ini"]["version_detail"]
    pool = {
        kind: payload(kind, file.artifact, architecture, compression=compression, store=store, signer=signer, run=run)
        for kind, file in (("ubuntu", rootfs), ("device", raw_device))
    }
    tarball = _put_version(channel, device, version, detail, _epoch(published.build_id), server, store, signer)
    _sign_reservation(reserved, channel, device, store, signer)
    files = tuple(_named(ref) for ref in (pool["ubuntu"], pool["device"], tarball))
    before = [image for image in images if image["version"] < version]
    entry = image_entry(version, detail, description, files)
    index = put_index(
        store, signer, channel, device, index_with(before, entry, channel, device, reserved["generated_at"])
    )
    channels = put_candidate_channels(store, signer, channel, device, version, index)
    log.info("candidate made", channel=channel, device=device, version=version, build_id=published.build_id)
    return Candidate(
        channel=channel,
        device=device,
        version=version,
        version_detail=detail,
        build_id=published.build_id,
        index=index,
        channels=channels,
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


def _identity(
    published: PublishedBuild,
    rootfs: PublishedFile,
    raw_device: PublishedFile,
    description: str,
    compression: Compression,
    server: Server,
) -> str:
    """All that a version's bytes depend on, its number and place aside."""
    inputs = {
        "importer": IMPORTER_VERSION,
        "build": published.build_id,
        "rootfs": rootfs.artifact.sha256,
        "device": raw_device.artifact.sha256,
        "description": description,
        "compression": compression,
        "server": server.model_dump(),
    }
    return hashlib.sha256(json_bytes(inputs)).hexdigest()


def _reserve(identity: str, channel: str, device: str, build_id: str, newest: int, at: str, store: Store) -> Document:
    """Takes the first number from `newest` on that is free or was taken by the same inputs.

    The newest released number is tried too, so that importing what is released already makes no second version.
    """
    version = max(newest, 1)
    while True:
        check_version(version, f"{channel} {device}")
        mine = _reservation(identity, channel, device, version, build_id, at)
        held = _take(store, layout.key(layout.version_sidecar(channel, device, version)), mine)
        if held["identity"] == identity:
            return held
        version += 1


def _reservation(identity: str, channel: str, device: str, version: int, build_id: str, at: str) -> Document:
    """The version's sidecar (system-image §2.8), which doubles as the claim on its number."""
    detail = f"ubuntu={build_id},raw-device={build_id},version={version}"
    return {
        "generator": "version",
        "version": version,
        "version_detail": f"version={version}",
        "channel.ini": {"channel": channel, "device": device, "version": str(version), "version_detail": detail},
        "identity": identity,
        "generated_at": at,
    }


def _take(store: Store, key: str, mine: Document) -> Document:
    with suppress(ConflictError):
        store.put_bytes(key, json_bytes(mine), media_type=JSON, if_absent=True)
        return mine
    with store.open(key) as file:
        held: Document = json.loads(file.read())
    return held


def _sign_reservation(reserved: Document, channel: str, device: str, store: Store, signer: Signer) -> None:
    key = layout.key(layout.version_sidecar(channel, device, reserved["version"]))
    put_signature(store, key, signer.detached(Role.IMAGE_SIGNING, json_bytes(reserved)))


def _put_version(
    channel: str, device: str, version: int, detail: str, mtime: int, server: Server, store: Store, signer: Signer
) -> ArtifactRef:
    content = version_tarball(channel, device, version, detail, server=server, mtime=mtime)
    key = layout.key(layout.version_tarball(channel, device, version))
    put_signature(store, key, signer.detached(Role.IMAGE_SIGNING, content))
    store.put_bytes(key, content, media_type=TAR_XZ)
    return ArtifactRef(uri=key, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content), media_type=TAR_XZ)


def _epoch(build_id: str) -> int:
    """Midnight UTC of the build's day: a time that the same build always has."""
    try:
        return int(datetime.strptime(build_id[:8], "%Y%m%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return 1


def _named(ref: ArtifactRef) -> PublishedFile:
    return PublishedFile(name=ref.uri.rpartition("/")[2], artifact=ref)
