"""Reading a tree of published builds: its ids, its complete builds, and the files of one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from coreimage.errors import NotFoundError, VerificationError
from coreimage.model import JSON, OPENPGP_SIGNATURE, TEXT, ArtifactRef, PublishedBuild, PublishedFile
from coreimage.publication.build_id import BuildId, build_ids
from coreimage.publication.build_info import BuildInfo, described_files
from coreimage.publication.documents import ContentEntry, Reservation, decode, read_document
from coreimage.publication.layout import BUILD_INFO, PINNED, BuildTree
from coreimage.storage import ObjectInfo, Store, read_bytes
from coreimage.storage.checksums import CHECKSUMS, CHECKSUMS_SIGNATURE, parse_checksums


@dataclass(frozen=True)
class Survey:
    """The result of one listing of a tree. `taken` are all ids that are reserved or have an object, oldest first."""

    taken: tuple[BuildId, ...]
    complete: tuple[BuildId, ...]
    """The builds that have a SHA256SUMS, oldest first: readers may take them."""
    objects: Mapping[BuildId, tuple[ObjectInfo, ...]]
    contents: frozenset[str]
    """The keys of the content entries."""
    pinned: frozenset[BuildId] = frozenset()

    @property
    def incomplete(self) -> tuple[BuildId, ...]:
        """The ids whose build is absent or not complete, oldest first."""
        complete = set(self.complete)
        return tuple(build_id for build_id in self.taken if build_id not in complete)


def survey_builds(tree: BuildTree, *, store: Store) -> Survey:
    """List all objects of a tree once, and sort them by build."""
    folders: dict[str, list[ObjectInfo]] = {}
    for info in store.list(f"{tree.prefix}/"):
        folder, _, name = info.key.removeprefix(f"{tree.prefix}/").partition("/")
        folders.setdefault(folder if name else "", []).append(info)
    by_id = {build_id: tuple(folders[str(build_id)]) for build_id in build_ids(folders)}
    reservations = [info.key.rpartition("/")[2] for info in folders.get(tree.RESERVATIONS, ())]
    reserved = build_ids(name.removesuffix(".json") for name in reservations)

    def holding(name: str) -> Iterator[BuildId]:
        for build_id, infos in by_id.items():
            if any(info.key == tree.key(build_id, name) for info in infos):
                yield build_id

    return Survey(
        taken=tuple(sorted({*by_id, *reserved})),
        complete=tuple(holding(CHECKSUMS)),
        objects=by_id,
        contents=frozenset(info.key for info in folders.get(tree.CONTENTS, ())),
        pinned=frozenset(holding(PINNED)),
    )


def is_complete(tree: BuildTree, build_id: BuildId, *, store: Store) -> bool:
    """Return whether a build is completely published, so that readers may take it."""
    return store.head(tree.key(build_id, CHECKSUMS)) is not None


def complete_builds(tree: BuildTree, *, store: Store) -> tuple[BuildId, ...]:
    """Return the builds that readers may take, oldest first."""
    return survey_builds(tree, store=store).complete


def reservation_of(
    tree: BuildTree, content_sha256: str, survey: Survey, *, store: Store
) -> tuple[BuildId, Reservation] | None:
    """Return the build id that a content has, and its reservation, if it has one.

    The content's entry names the id. A publication that was killed before it wrote the entry left the reservation only,
    so the reservations of incomplete builds are looked at, too.
    """
    key = tree.content_key(content_sha256)
    entry = read_document(store, key, ContentEntry) if key in survey.contents else None
    entered = [build_id for build_id in survey.taken if entry and str(build_id) == entry.build_id]
    for build_id in (*entered, *reversed(survey.incomplete), *survey.complete[-1:]):
        reservation = read_document(store, tree.reservation_key(build_id), Reservation)
        if reservation and reservation.content_sha256 == content_sha256:
            return build_id, reservation
    return None


def read_build(tree: BuildTree, build_id: BuildId, *, store: Store) -> PublishedBuild:
    """Read a complete build as it stands, with what build.json says about its files.

    The digest of build.json is compared with SHA256SUMS; the signature and the other digests are not verified here.

    Raises:
        NotFoundError: SHA256SUMS, its signature or a listed file is absent.
        VerificationError: SHA256SUMS or build.json is malformed, or build.json does not fit SHA256SUMS.
    """
    prefix, info_key = tree.build_prefix(build_id), tree.key(build_id, BUILD_INFO)
    checksums = _stored(store, tree.key(build_id, CHECKSUMS))
    signature = _stored(store, tree.key(build_id, CHECKSUMS_SIGNATURE))
    digests = parse_checksums(checksums, tree.key(build_id, CHECKSUMS))
    sizes = {info.key.removeprefix(f"{prefix}/"): info.size_bytes for info in store.list(f"{prefix}/")}
    missing = sorted(digests.keys() - sizes.keys())
    if missing:
        raise _not_found(f"{prefix}/{missing[0]}")
    info_bytes = _stored(store, info_key)
    if hashlib.sha256(info_bytes).hexdigest() != digests.get(BUILD_INFO):
        raise _damaged(info_key, "does not have the digest that SHA256SUMS lists")
    described = described_files(decode(info_bytes, info_key, BuildInfo), digests)
    listed_once = sorted(digests.keys() ^ {BUILD_INFO, *(file.name for file in described)})
    if listed_once:
        raise _damaged(info_key, f"only one of build.json and SHA256SUMS lists {listed_once[0]}")

    def listed(name: str, media_type: str) -> ArtifactRef:
        return ArtifactRef(uri=f"{prefix}/{name}", sha256=digests[name], size_bytes=sizes[name], media_type=media_type)

    def unlisted(name: str, content: bytes, media_type: str) -> ArtifactRef:
        sha256 = hashlib.sha256(content).hexdigest()
        return ArtifactRef(uri=f"{prefix}/{name}", sha256=sha256, size_bytes=len(content), media_type=media_type)

    files = [
        PublishedFile(
            name=file.name,
            role=file.role,
            architecture=file.architecture,
            device=file.device,
            artifact=listed(file.name, file.media_type),
        )
        for file in described
    ]
    return PublishedBuild(
        project=tree.project,
        series=tree.series,
        image_type=tree.image_type,
        build_id=str(build_id),
        prefix=prefix,
        files=tuple(sorted(files, key=lambda file: file.name)),
        info=listed(BUILD_INFO, JSON),
        checksums=unlisted(CHECKSUMS, checksums, TEXT),
        signature=unlisted(CHECKSUMS_SIGNATURE, signature, OPENPGP_SIGNATURE),
    )


def _stored(store: Store, key: str) -> bytes:
    content = read_bytes(store, key)
    if content is None:
        raise _not_found(key)
    return content


def _not_found(key: str) -> NotFoundError:
    return NotFoundError(f"{key} is not in the store", resolution="publish the build again: the same id is continued")


def _damaged(key: str, problem: str) -> VerificationError:
    return VerificationError(problem, where=key, resolution="publish the build again under a new id")
