"""Reads a tree of published builds: which ids there are, which are complete, what a build holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from coreimage.errors import NotFoundError
from coreimage.model import OPENPGP_SIGNATURE, TEXT, ArtifactRef, PublishedBuild, PublishedFile
from coreimage.publication.build_id import BuildId, build_ids
from coreimage.publication.documents import ContentEntry, Reservation, decode_checksums
from coreimage.publication.layout import CHECKSUMS, PINNED, SIGNATURE, BuildTree, media_type
from coreimage.publication.pointers import read_document
from coreimage.storage import ObjectInfo, Store, read_bytes


@dataclass(frozen=True)
class Survey:
    """What one listing of a tree says. `taken` are all ids that are reserved or have an object, oldest first."""

    taken: tuple[BuildId, ...]
    complete: tuple[BuildId, ...]
    objects: Mapping[BuildId, tuple[ObjectInfo, ...]]
    contents: frozenset[str]
    """The keys that say which content has which id."""
    pinned: frozenset[BuildId] = frozenset()

    @property
    def incomplete(self) -> tuple[BuildId, ...]:
        complete = set(self.complete)
        return tuple(build_id for build_id in self.taken if build_id not in complete)


def survey(tree: BuildTree, *, store: Store) -> Survey:
    folders: dict[str, list[ObjectInfo]] = {}
    for info in store.list(f"{tree.prefix}/"):
        folder, _, name = info.key.removeprefix(f"{tree.prefix}/").partition("/")
        folders.setdefault(folder if name else "", []).append(info)
    by_id = {build_id: tuple(folders[str(build_id)]) for build_id in build_ids(folders)}
    reserved = build_ids(_stem(info.key) for info in folders.get(tree.RESERVATIONS, ()))
    return Survey(
        taken=tuple(sorted({*by_id, *reserved})),
        complete=tuple(_holding(CHECKSUMS, by_id)),
        objects=by_id,
        contents=frozenset(info.key for info in folders.get(tree.CONTENTS, ())),
        pinned=frozenset(_holding(PINNED, by_id)),
    )


def _holding(name: str, objects: Mapping[BuildId, tuple[ObjectInfo, ...]]) -> Iterator[BuildId]:
    """The builds whose folder itself has an object of this name."""
    for build_id, infos in objects.items():
        end = f"/{build_id}/{name}"
        if any(info.key.endswith(end) for info in infos):
            yield build_id


def is_complete(tree: BuildTree, build_id: BuildId, *, store: Store) -> bool:
    return store.head(tree.key(build_id, CHECKSUMS)) is not None


def complete_builds(tree: BuildTree, *, store: Store) -> tuple[BuildId, ...]:
    """The builds that readers may take, oldest first."""
    return survey(tree, store=store).complete


def reservation_of(
    tree: BuildTree, content_sha256: str, found: Survey, *, store: Store
) -> tuple[BuildId, Reservation] | None:
    """The id that this content holds, and its reservation.

    Its entry says so; of a publication that was killed before it wrote one, the reservation does.
    """
    key = tree.content_key(content_sha256)
    entry = read_document(store, key, ContentEntry) if key in found.contents else None
    likely = [build_id for build_id in found.taken if entry and str(build_id) == entry.build_id]
    for build_id in (*likely, *reversed(found.incomplete), *found.complete[-1:]):
        reservation = read_document(store, tree.reservation_key(build_id), Reservation)
        if reservation and reservation.content_sha256 == content_sha256:
            return build_id, reservation
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


def _stem(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")


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
