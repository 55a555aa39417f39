"""Publication of a dated build: reserve an id, copy, verify the copies, sign, and commit with SHA256SUMS.

Every step goes on from what an earlier run of the same content left, so a publication that was killed anywhere is
finished by running it again. Two publishers never need to know of each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import structlog

from coreimage.errors import ConflictError, LostWriteError, NotFoundError, VerificationError
from coreimage.model import (
    JSON,
    LOG,
    OPENPGP_SIGNATURE,
    TEXT,
    Architecture,
    ArtifactRef,
    PublishedBuild,
    PublishedFile,
)
from coreimage.publication.build_id import BuildId, next_build_id, parse_build_id
from coreimage.publication.build_info import BuildInfo, Carried, build_info
from coreimage.publication.builds import Survey, read_build, reservation_of, survey_builds
from coreimage.publication.content import BuildContent, content_sha256
from coreimage.publication.documents import (
    ContentEntry,
    Pending,
    Reservation,
    decode_lock,
    encode,
    read_document,
    swap_document,
)
from coreimage.publication.layout import BUILD_INFO, BuildTree, copied_files, is_listed, tree_of
from coreimage.signing import Role, Signer, signs
from coreimage.storage import Store, read_blob, read_bytes, swap
from coreimage.storage.checksums import CHECKSUMS, CHECKSUMS_SIGNATURE, format_checksums

log = structlog.get_logger("coreimage.publication")

_ATTEMPTS = 50


def publish_build(
    content: BuildContent, *, carry: Collection[Architecture] = (), store: Store, signer: Signer, now: datetime
) -> PublishedBuild:
    """Publish a build under an id of the day, or under the id that the same content has already.

    Args:
        content: The content of the build.
        carry: Architectures that could not be built. The files of the newest build that was made for each are published
            again, and build.json says so; without such a build there are none. They are no part of the identity.
        store: Where the artifacts of `content` are, and where the build is published.
        signer: Must have the key of the role `cdimage`.
        now: An aware time; its day, in UTC, is that of a new id.

    Raises:
        HostError: The signing key is absent. Nothing was written.
        NotFoundError: An artifact is missing. Nothing was written.
        VerificationError: An artifact is damaged, or an object stands where the build's is to be.
        ConflictError: Other publishers took every id first.
    """
    signer.fingerprint(Role.CDIMAGE)
    tree, identity = tree_of(content), content_sha256(content)
    survey = survey_builds(tree, store=store)
    held = reservation_of(tree, identity, survey, store=store)
    if held is None or held[0] not in survey.complete:
        files = list(copied_files(content))
        for file in files:
            _require_artifact(file, store)
        locks = {ref.sha256: decode_lock(read_blob(store, ref), ref.uri) for ref in set(content.locks)}
        if held is None:
            missing = set(carry) - set(content.architectures)
            origins = newest_built_for(tree, missing, survey, store=store)
            held = reserve_build_id(tree, identity, origins, store=store, now=now)
        build_id, reservation = held
        carried = []
        for architecture, origin in sorted(reservation.carried.items()):
            earlier = read_build(tree, parse_build_id(origin), store=store)
            its_files = [file for file in earlier.files if file.architecture == architecture]
            names = tuple(file.name for file in its_files)
            carried.append(Carried(architecture=architecture, build_id=origin, files=names))
            files += its_files
        # Whatever entry was there belongs to a build that is being removed.
        entry = ContentEntry(build_id=str(build_id))
        swap_document(store, tree.content_key(identity), ContentEntry, lambda _: entry)
        info = build_info(content, build_id, files, locks, tuple(carried))
        _write_build(tree, build_id, files, encode(info), survey, store=store, signer=signer)
        log.info("build published", build=tree.build_prefix(build_id))
    build_id, _ = held
    move_pending(tree, build_id, content.architectures, store=store, now=now)
    return read_build(tree, build_id, store=store)


def reserve_build_id(
    tree: BuildTree, identity: str, origins: Mapping[Architecture, str], *, store: Store, now: datetime
) -> tuple[BuildId, Reservation]:
    """Return the id that a content has, or reserve the next free one for it.

    The publisher that writes `.reservations/<id>.json` first has the id. The loser looks again, and so finds out when
    the winner published the same content.

    Args:
        tree: Where the build is to be published.
        identity: The `content_sha256` of the content.
        origins: The build id of the files of each architecture that is carried over; part of a new reservation.
        store: Whose ids.
        now: An aware time; its day, in UTC, is that of a new id.

    Raises:
        ConflictError: Other publishers took the id first in every attempt.
    """
    for _ in range(_ATTEMPTS):
        survey = survey_builds(tree, store=store)
        held = reservation_of(tree, identity, survey, store=store)
        if held is not None:
            return held
        build_id = next_build_id(survey.taken, now)
        reservation = Reservation(build_id=str(build_id), content_sha256=identity, carried=dict(origins))
        with suppress(LostWriteError):
            store.put_bytes(tree.reservation_key(build_id), encode(reservation), media_type=JSON, if_absent=True)
            return build_id, reservation
    raise ConflictError("other publishers took every build id first", where=tree.prefix, resolution="run again")


def newest_built_for(
    tree: BuildTree, architectures: Collection[Architecture], survey: Survey, *, store: Store
) -> dict[Architecture, str]:
    """Return the id of the newest complete build that was made for each architecture, where there is one."""
    newest: dict[Architecture, str] = {}
    for build_id in reversed(survey.complete):
        missing = set(architectures) - newest.keys()
        if not missing:
            break
        info = read_document(store, tree.key(build_id, BUILD_INFO), BuildInfo)
        newest |= dict.fromkeys(missing.intersection(info.architectures) if info else (), str(build_id))
    return newest


def move_pending(
    tree: BuildTree, build_id: BuildId, architectures: Collection[Architecture], *, store: Store, now: datetime
) -> None:
    """Point `pending.json` at a build, as a whole and for its architectures, unless it points at a newer one."""

    def newest(pending: Pending | None) -> Pending:
        named = pending.architectures if pending else {}
        behind = [name for name in architectures if name not in named or parse_build_id(named[name]) < build_id]
        if pending and not behind and parse_build_id(pending.build_id) >= build_id:
            return pending
        return Pending(
            build_id=str(max(build_id, parse_build_id(pending.build_id)) if pending else build_id),
            moved=now.astimezone(UTC).isoformat(),
            architectures=dict(sorted({**named, **dict.fromkeys(behind, str(build_id))}.items())),
        )

    swap_document(store, tree.pending_key, Pending, newest)


def _require_artifact(file: PublishedFile, store: Store) -> None:
    artifact = file.artifact
    stored = store.head(artifact.uri)
    if stored is None:
        raise NotFoundError(
            f"{artifact.uri}, to be published as {file.name}, is not in the store",
            where=store.url,
            resolution="build it again with --refresh",
        )
    if stored.size_bytes != artifact.size_bytes:
        raise VerificationError(
            f"{file.name} has {stored.size_bytes} bytes instead of {artifact.size_bytes}",
            where=artifact.uri,
            resolution="delete this object and build it again with --refresh",
        )


def _write_build(
    tree: BuildTree,
    build_id: BuildId,
    files: Sequence[PublishedFile],
    info: bytes,
    survey: Survey,
    *,
    store: Store,
    signer: Signer,
) -> None:
    """Copy the files, write build.json, read everything back, sign, and commit.

    The signature comes before SHA256SUMS, which is last: from then on the build exists. A right signature that is there
    already stays: another publisher of the same build may have recorded it. Any other was left by a kill, perhaps made
    with a key that is no longer ours.
    """
    prefix = tree.build_prefix(build_id)
    present = {info.key.removeprefix(f"{prefix}/") for info in survey.objects.get(build_id, ())}
    foreign = sorted(filter(is_listed, present - {BUILD_INFO, *(file.name for file in files)}))
    if foreign:
        raise _unexpected(f"{prefix}/{foreign[0]}", "does not belong to this build")
    for file in files:
        if file.name not in present:
            with suppress(LostWriteError):
                store.copy(file.artifact.uri, f"{prefix}/{file.name}", if_absent=True)
    if BUILD_INFO not in present:
        with suppress(LostWriteError):
            store.put_bytes(f"{prefix}/{BUILD_INFO}", info, media_type=JSON, if_absent=True)

    digests = {file.name: _verified_copy(store, f"{prefix}/{file.name}", file.artifact) for file in files}
    digests[BUILD_INFO] = hashlib.sha256(info).hexdigest()
    if read_bytes(store, f"{prefix}/{BUILD_INFO}") != info:
        raise _unexpected(f"{prefix}/{BUILD_INFO}", "is not the one of this build")
    checksums = format_checksums(digests)

    def signature(present: bytes | None) -> bytes:
        right = present and signs(present, checksums, Role.CDIMAGE, signer)
        return present if present and right else signer.detached(Role.CDIMAGE, checksums)

    swap(store, tree.key(build_id, CHECKSUMS_SIGNATURE), signature, media_type=OPENPGP_SIGNATURE)
    key = tree.key(build_id, CHECKSUMS)
    try:
        store.put_bytes(key, checksums, media_type=TEXT, if_absent=True)
    except LostWriteError:
        if read_bytes(store, key) != checksums:
            raise _unexpected(key, "lists other files than this build has") from None


def _verified_copy(store: Store, key: str, artifact: ArtifactRef) -> str:
    """Return the SHA-256 of the object at `key`, which must be a copy of `artifact`.

    A log may differ from ours: a run of the same content that was killed left its own.

    Raises:
        VerificationError: The object is no copy of `artifact`.
    """
    with store.open(key) as file:
        digest, size_bytes = hashlib.sha256(), 0
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size_bytes += len(chunk)
    sha256 = digest.hexdigest()
    if sha256 != artifact.sha256 and artifact.media_type != LOG:
        raise _unexpected(
            key, f"has sha256 {sha256[:16]}… and {size_bytes} bytes, not the {artifact.sha256[:16]}… that was built"
        )
    return sha256


def _unexpected(key: str, problem: str) -> VerificationError:
    return VerificationError(problem, where=key, resolution="delete this object and publish again")
