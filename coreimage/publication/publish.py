"""Publishes a dated build: reserve an id, copy, verify what stands there, sign, and commit with SHA256SUMS.

Every step finds what an earlier run of the same content left and goes on from there, so a publication that was killed
anywhere is finished by running it again. Two publishers never need to know of each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import BinaryIO

import structlog

from coreimage.errors import ConflictError, NotFoundError, VerificationError
from coreimage.model import (
    JSON,
    LOG,
    OPENPGP_SIGNATURE,
    TEXT,
    Architecture,
    ArtifactRef,
    PackageLock,
    PublishedBuild,
    PublishedFile,
)
from coreimage.publication.build_id import BuildId, next_build_id, parse_build_id
from coreimage.publication.builds import Survey, read_build, reservation_of, survey
from coreimage.publication.content import BuildContent, content_sha256
from coreimage.publication.documents import (
    BuildInfo,
    Carried,
    ContentEntry,
    Pending,
    Reservation,
    build_info,
    decode_lock,
    encode,
    encode_checksums,
)
from coreimage.publication.layout import (
    BUILD_INFO,
    CHECKSUMS,
    SIGNATURE,
    BuildTree,
    copied_files,
    is_for,
    is_listed,
    media_type,
    tree_of,
)
from coreimage.publication.pointers import read_document, swap_document
from coreimage.signing import Role, Signer, signs
from coreimage.storage import Store, read_blob, read_bytes, swap

log = structlog.get_logger("coreimage.publication")

_ATTEMPTS = 50


def publish_build(
    content: BuildContent, *, carry: Collection[Architecture] = (), store: Store, signer: Signer, now: datetime
) -> PublishedBuild:
    """Publishes `content` under an id of the day of `now` (aware; counted in UTC), or under the id that it has already.

    For the architectures of `carry`, which could not be built, the files of the newest build that was made for them are
    published again, and build.json says so; where there is none, nothing is. They are no part of the identity.

    Raises HostError when the signing key is absent, NotFoundError or VerificationError when an artifact is missing or
    damaged, all before anything is written; ConflictError when others take every id first.
    """
    signer.fingerprint(Role.CDIMAGE)
    tree, identity = tree_of(content), content_sha256(content)
    found = survey(tree, store=store)
    held = reservation_of(tree, identity, found, store=store)
    if held is None or held[0] not in found.complete:
        files, locks = _sources(content, store), _locks(content, store)
        missing = set(carry) - set(content.architectures)
        build_id, reservation = held or reserve_build_id(
            tree, identity, origins_of(tree, missing, found, store=store), store=store, now=now
        )
        carried = tuple(_carried(tree, *origin, store) for origin in sorted(reservation.carried.items()))
        files |= {file.name: file.artifact for _, its_files in carried for file in its_files}
        files[BUILD_INFO] = encode(build_info(content, build_id, locks, tuple(named for named, _ in carried)))
        _enter(tree, identity, build_id, store=store)
        _write(tree, build_id, files, found, store=store, signer=signer)
        log.info("published", build=tree.build_prefix(build_id))
    else:
        build_id, _ = held
    move_pending(tree, build_id, content.architectures, store=store, now=now)
    return read_build(tree, build_id, store=store)


def reserve_build_id(
    tree: BuildTree, identity: str, origins: dict[Architecture, str], *, store: Store, now: datetime
) -> tuple[BuildId, Reservation]:
    """The id of this content: the one it holds, else the next free one. Raises ConflictError when others win always.

    Whoever writes `.reservations/<id>.json` first has the id. A loser looks again, and so also sees when the
    winner was publishing the same content.
    """
    for _ in range(_ATTEMPTS):
        found = survey(tree, store=store)
        held = reservation_of(tree, identity, found, store=store)
        if held is not None:
            return held
        build_id = next_build_id(found.taken, now)
        reservation = Reservation(build_id=str(build_id), content_sha256=identity, carried=origins)
        with suppress(ConflictError):
            store.put_bytes(tree.reservation_key(build_id), encode(reservation), media_type=JSON, if_absent=True)
            return build_id, reservation
    raise ConflictError("others took every build id first", where=tree.prefix, resolution="run again")


def origins_of(
    tree: BuildTree, architectures: Collection[Architecture], found: Survey, *, store: Store
) -> dict[Architecture, str]:
    """The newest complete build that was made for each architecture; one that no build was made for is left out."""
    origins: dict[Architecture, str] = {}
    for build_id in reversed(found.complete):
        missing = set(architectures) - origins.keys()
        if not missing:
            break
        info = read_document(store, tree.key(build_id, BUILD_INFO), BuildInfo)
        origins |= dict.fromkeys(missing.intersection(info.architectures) if info else (), str(build_id))
    return origins


def move_pending(
    tree: BuildTree, build_id: BuildId, architectures: Collection[Architecture], *, store: Store, now: datetime
) -> None:
    """Points `pending.json` at this build, as a whole and for its architectures, unless it points at a newer one."""

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


def _carried(
    tree: BuildTree, architecture: Architecture, origin: str, store: Store
) -> tuple[Carried, tuple[PublishedFile, ...]]:
    """Raises NotFoundError when that build was removed meanwhile."""
    build = read_build(tree, parse_build_id(origin), store=store)
    files = tuple(file for file in build.files if is_for(file.name, architecture))
    return Carried(architecture=architecture, build_id=origin, files=tuple(file.name for file in files)), files


def _enter(tree: BuildTree, identity: str, build_id: BuildId, *, store: Store) -> None:
    """Says which id this content has. An entry that was there belongs to a build that is being removed."""
    entry = ContentEntry(build_id=str(build_id))
    swap_document(store, tree.content_key(identity), ContentEntry, lambda _: entry)


Files = dict[str, ArtifactRef | bytes]
"""What a build is made of, by published name: a blob to copy, or the bytes of a document."""


def _sources(content: BuildContent, store: Store) -> Files:
    files: Files = {}
    for file in copied_files(content):
        _check_source(store, file.artifact, file.name)
        files[file.name] = file.artifact
    return files


def _check_source(store: Store, artifact: ArtifactRef, name: str) -> None:
    found = store.head(artifact.uri)
    if found is None:
        raise NotFoundError(
            f"{artifact.uri}, to be published as {name}, is not in the store",
            where=store.url,
            resolution="build it again with --refresh",
        )
    if found.size_bytes != artifact.size_bytes:
        raise VerificationError(
            f"{name} has {found.size_bytes} bytes instead of {artifact.size_bytes}",
            where=artifact.uri,
            resolution="delete this object and build it again with --refresh",
        )


def _locks(content: BuildContent, store: Store) -> dict[str, PackageLock]:
    return {ref.sha256: decode_lock(read_blob(store, ref), ref.uri) for ref in set(content.locks)}


def _write(tree: BuildTree, build_id: BuildId, files: Files, found: Survey, *, store: Store, signer: Signer) -> None:
    prefix = tree.build_prefix(build_id)
    present = {info.key.removeprefix(f"{prefix}/") for info in found.objects.get(build_id, ())}
    unknown = sorted(filter(is_listed, present - files.keys()))
    if unknown:
        raise _foreign(f"{prefix}/{unknown[0]}", "does not belong to this build")
    for name in sorted(files.keys() - present):
        _place(store, f"{prefix}/{name}", files[name])
    digests = {name: _verified(store, f"{prefix}/{name}", files[name]) for name in sorted(files)}
    _commit(tree, build_id, encode_checksums(digests), store=store, signer=signer)


def _place(store: Store, key: str, source: ArtifactRef | bytes) -> None:
    with suppress(ConflictError):
        if isinstance(source, bytes):
            store.put_bytes(key, source, media_type=media_type(key), if_absent=True)
        else:
            store.copy(source.uri, key, if_absent=True)


def _verified(store: Store, key: str, source: ArtifactRef | bytes) -> str:
    """The sha256 of what really stands at `key`. Raises VerificationError when it is not `source`.

    A log may be another one than ours: a run of the same content that was killed left its own.
    """
    with store.open(key) as file:
        sha256, size_bytes = _digest(file)
    expected = hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else source.sha256
    is_log = isinstance(source, ArtifactRef) and source.media_type == LOG
    if sha256 != expected and not is_log:
        raise _foreign(
            key, f"has sha256 {sha256[:16]}… and {size_bytes} bytes, not the {expected[:16]}… that was built"
        )
    return sha256


def _digest(file: BinaryIO) -> tuple[str, int]:
    digest, size_bytes = hashlib.sha256(), 0
    while chunk := file.read(1 << 20):
        digest.update(chunk)
        size_bytes += len(chunk)
    return digest.hexdigest(), size_bytes


def _commit(tree: BuildTree, build_id: BuildId, checksums: bytes, *, store: Store, signer: Signer) -> None:
    """Signature first, SHA256SUMS last: from then on the build exists.

    A right signature that is there stays: another publisher of the same build may have recorded it. Any other was left
    by a kill, perhaps made with a key that is no longer ours.
    """

    def signature(found: bytes | None) -> bytes:
        right = found and signs(found, checksums, Role.CDIMAGE, signer)
        return found if found and right else signer.detached(Role.CDIMAGE, checksums)

    swap(store, tree.key(build_id, SIGNATURE), signature, media_type=OPENPGP_SIGNATURE)
    key = tree.key(build_id, CHECKSUMS)
    try:
        store.put_bytes(key, checksums, media_type=TEXT, if_absent=True)
    except ConflictError:
        if read_bytes(store, key) != checksums:
            raise _foreign(key, "lists other files than this build has") from None


def _foreign(key: str, problem: str) -> VerificationError:
    return VerificationError(problem, where=key, resolution="delete this object and publish again")
