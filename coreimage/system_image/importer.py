"""From a published build to a candidate: the channel's next version, whole and signed, not yet named by it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from coreimage.client.json_codec import JsonObject, json_sha256
from coreimage.errors import NotFoundError, UsageError, VerificationError
from coreimage.host.process import Run
from coreimage.host.process import run as run_process
from coreimage.model import Candidate, Compression, FileRole, PublishedBuild, PublishedFile, Server
from coreimage.signing import Role
from coreimage.storage import read_blob
from coreimage.storage.checksums import parse_checksums
from coreimage.system_image.channels.document import put_candidate_channels, put_index, read_channels, read_index
from coreimage.system_image.channels.versions import claim_version, last_number, put_version, retired_number
from coreimage.system_image.documents.channel_rules import require_writable
from coreimage.system_image.documents.index import build_index, full_image, generated_at
from coreimage.system_image.payloads.components import Component, require_fit
from coreimage.system_image.payloads.deltas import with_deltas
from coreimage.system_image.payloads.pool import IMPORTER_VERSION, pack_payload, read_detail
from coreimage.system_image.server import ChannelTree

log = structlog.get_logger("coreimage.system_image")

_PARTS: dict[FileRole, tuple[str, str]] = {
    "rootfs": ("ubuntu", "ubuntu"),
    "device": ("device", "raw-device"),
    "custom": ("custom", "custom"),
}
"""What the pool and version_detail call each part of a version (system-image §5)."""


def import_build(
    tree: ChannelTree,
    published: PublishedBuild,
    channel: str,
    device: str,
    *,
    run: Run = run_process,
    description: str = "",
    compression: Compression = "fast",
    delta_bases: int = 1,
    server: Server = Server(),  # noqa: B008
    components: Sequence[Component] = (),
) -> Candidate:
    """Make a candidate of a build. The same inputs give the same one, however often a run is killed in between.

    Args:
        description: What people read of the version; empty: its version_detail.
        delta_bases: From how many of the channel's newest versions deltas are made.
        server: Where devices look for updates.
        components: Further tarballs, laid over those of the build.

    Raises:
        VerificationError: The build's checksums are not signed by cdimage, or do not list what the build holds.
        NotFoundError: The build lacks a file for `device`.
        UsageError: The content of the channel or the device is another channel's.
        ConflictError: The version numbers are used up.
    """
    rootfs, raw_device, custom = select_files(published, device)
    if custom is not None and any(component.name == "custom" for component in components):
        raise UsageError(
            "the build has a custom tarball, and the channel a component of that name",
            where=f"{channel} {device}",
            resolution="give the component another name",
        )
    sources = (rootfs, raw_device, *((custom,) if custom else ()))
    _verify_build(tree, published, sources)
    current = read_channels(tree)
    require_writable(current.channels, channel, device)
    index = read_index(tree.store, current.channels, channel, device)
    inputs: JsonObject = {
        "importer": IMPORTER_VERSION,
        "build": published.build_id,
        **{source.role: source.artifact.sha256 for source in sources},
        "description": description,
        "compression": compression,
        "server": server.model_dump(),
    }
    if components:
        inputs["components"] = [component.model_dump() for component in components]
    parts, details = [], []
    for source in sources:
        name, detail_name = _PARTS[source.role]
        detail = f"{detail_name}={published.build_id}"
        part = pack_payload(
            tree, name, source.artifact, source.architecture, detail=detail, compression=compression, run=run
        )
        parts.append(part)
        # A rootfs is of its build; the others, unchanged, are still what they were called first.
        details.append(detail if source.role == "rootfs" else read_detail(tree.store, part) or detail)
    claim = claim_version(
        tree.store,
        channel,
        device,
        identity=json_sha256(inputs),
        detail=",".join([*details, *(component.detail for component in components)]),
        generated_at=generated_at(tree.now()),
        newest=index.newest_version,
        last=last_number(current, index, channel, device),
    )
    parts += [component.file for component in components]
    if custom is not None or components:
        require_fit(tree.store, parts, run=run)
    files = (*parts, put_version(tree, claim, server, epoch(published.build_id)))
    before = [image for image in index.images if image.version < claim.version]
    bases = [image for image in before if image.type == "full"][-delta_bases:] if delta_bases else []
    image = full_image(claim.version, claim.version_detail, description, files)
    retired = retired_number(current, channel, device)
    images = [*before, *with_deltas(tree, image, bases, legacy_above=retired, run=run)]
    candidate_index = put_index(tree, build_index(images, channel, device, claim.generated_at))
    candidate_channels = put_candidate_channels(tree, channel, device, claim.version, candidate_index)
    log.info("candidate made", channel=channel, device=device, version=claim.version, build=published.build_id)
    return Candidate(
        channel=channel,
        device=device,
        version=claim.version,
        version_detail=claim.version_detail,
        build_id=published.build_id,
        index=candidate_index,
        channels=candidate_channels,
        files=files,
    )


def select_files(published: PublishedBuild, device: str) -> tuple[PublishedFile, PublishedFile, PublishedFile | None]:
    """Choose what a version for `device` is made of.

    Returns:
        The rootfs tarball of the device's architecture, the device's own tarball, and the custom tarball of the
        architecture, which not every build has.

    Raises:
        NotFoundError: The build has no rootfs or no device tarball for `device`.
    """
    raw_device = _one(published, "device", [file for file in published.files if file.device == device], device)
    shared = [file for file in published.files if file.device is None and file.architecture == raw_device.architecture]
    custom = next((file for file in shared if file.role == "custom"), None)
    return _one(published, "rootfs", shared, device), raw_device, custom


def _one(published: PublishedBuild, role: FileRole, files: Sequence[PublishedFile], device: str) -> PublishedFile:
    tarballs = [file for file in files if file.role == role]
    if len(tarballs) != 1:
        raise NotFoundError(
            f"build {published.build_id} holds {len(tarballs)} {role} tarballs for {device}, not one",
            where=published.prefix,
            resolution="build it for this device",
        )
    return tarballs[0]


def _verify_build(tree: ChannelTree, published: PublishedBuild, files: Sequence[PublishedFile]) -> None:
    """Refuse files that the build's SHA256SUMS, signed by cdimage, does not list.

    The bytes of the files are checked when they are read.
    """
    sums, signature = read_blob(tree.store, published.checksums), read_blob(tree.store, published.signature)
    tree.signer.verify(Role.CDIMAGE, sums, signature, where=published.checksums.uri)
    listed = parse_checksums(sums, published.checksums.uri)
    for file in files:
        if listed.get(file.name) != file.artifact.sha256:
            raise VerificationError(
                f"{file.name} is not listed with its digest",
                where=published.checksums.uri,
                resolution="publish the build again",
            )


def epoch(build_id: str) -> int:
    """Return midnight UTC of the build's day, in UNIX seconds: a time that the same build always has; 1 for an id that
    is no date."""
    day = re.match(r"\d{8}", build_id)
    try:
        return int(datetime.strptime(day[0], "%Y%m%d").replace(tzinfo=UTC).timestamp()) if day else 1
    except ValueError:
        return 1
