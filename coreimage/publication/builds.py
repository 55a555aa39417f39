"""Reads a tree of published builds: which ids there are, which are complete, what a build holds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from coreimage.errors import NotFoundError
from coreimage.model import OPENPGP_SIGNATURE, TEXT, ArtifactRef, PublishedBuild, PublishedFile
from coreimage.publication.build_id import BuildId, build_ids
from coreimage.publication.documents import Reservation, decode_checksums
from coreimage.publication.layout import CHECKSUMS, SIGNATURE, BuildTree, media_type
from coreimage.publication.pointers import read_bytes, read_document
from coreimage.storage import Store


def is_complete(tree: BuildTree, build_id: BuildId, *, store: Store) -> bool:
    return store.head(tree.key(build_id, CHECKSUMS)) is not None


def complete_builds(tree: BuildTree, *, store: Store) -> tuple[BuildId, ...]:
    """The builds that readers may take, oldest first."""
    paths = [info.key.removeprefix(f"{tree.prefix}/").split("/") for info in store.list(f"{tree.prefix}/")]
    return build_ids(path[0] for path in paths if path[1:] == [CHECKSUMS])


def taken_ids(tree: BuildTree, *, store: Store) -> tuple[BuildId, ...]:
    """Every id that is reserved or has an object, complete or not, oldest first."""
    paths = [info.key.removeprefix(f"{tree.prefix}/").split("/") for info in store.list(f"{tree.prefix}/")]
    return build_ids(path[-1].removesuffix(".json") if path[0] == ".reservations" else path[0] for path in paths)


def reserved_id(tree: BuildTree, content_sha256: str, taken: Sequence[BuildId], *, store: Store) -> BuildId | None:
    """Which of the `taken` ids (oldest first) this content holds. Reruns mostly find theirs at the newest."""
    for build_id in reversed(taken):
        reservation = read_document(store, tree.reservation_key(build_id), Reservation)
        if reservation and reservation.content_sha256 == content_sha256:
            return build_id
    return None


def read_build(tree: BuildTree, build_id: BuildId, *, store: Store) -> PublishedBuild:
    """A complete build as it stands. Its signature and its files' digests are not verified here.

    Raises NotFoundError when SHA256SUMS, its signature or a listed file is absent, VerificationError when SHA256SUMS
    is malformed.
    """
    prefix = tree.build_prefix(build_id)
    checksums = _stored(store, tree.key(build_id, CHECKSUMS))
    signature = _stored(store, tree.key(build_id, SIGNATURE))
    digests = decode_checksums(checksums, tree.key(build_id, CHECKSUMS))
    sizes = {info.key.removeprefix(f"{prefix}/"): info.size_bytes for info in store.list(f"{prefix}/")}
    missing = sorted(digests.keys() - sizes.keys())
    if missing:
        raise _not_found(f"{prefix}/{missing[0]}")
    return PublishedBuild(
        project=tree.project,
        series=tree.series,
        image_type=tree.image_type,
        build_id=str(build_id),
        prefix=prefix,
        files=tuple(
            PublishedFile(name=name, artifact=_ref(f"{prefix}/{name}", digests[name], sizes[name], media_type(name)))
            for name in sorted(digests)
        ),
        checksums=_ref_of(tree.key(build_id, CHECKSUMS), checksums, TEXT),
        signature=_ref_of(tree.key(build_id, SIGNATURE), signature, OPENPGP_SIGNATURE),
    )


def _stored(store: Store, key: str) -> bytes:
    content = read_bytes(store, key)
    if content is None:
        raise _not_found(key)
    return content


def _not_found(key: str) -> NotFoundError:
    return NotFoundError(f"{key} is not in the store", resolution="publish the build again: the same id is continued")


def _ref_of(key: str, content: bytes, kind: str) -> ArtifactRef:
    return _ref(key, hashlib.sha256(content).hexdigest(), len(content), kind)


def _ref(key: str, sha256: str, size_bytes: int, kind: str) -> ArtifactRef:
    return ArtifactRef(uri=key, sha256=sha256, size_bytes=size_bytes, media_type=kind)
