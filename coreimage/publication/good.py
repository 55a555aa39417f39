"""Marks a build good after its boot test: `.marked_good` in the build, `current.json` beside the builds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from coreimage.errors import NotFoundError, VerificationError
from coreimage.model import TEXT, Architecture, BootReport, PublishedBuild
from coreimage.publication.build_id import BuildId, parse_build_id
from coreimage.publication.builds import is_complete
from coreimage.publication.documents import BuildInfo, Current, MarkedGood
from coreimage.publication.layout import BUILD_INFO, MARKED_GOOD, BuildTree, is_for
from coreimage.publication.pointers import read_document, swap_document
from coreimage.storage import Store, read_bytes, swap

log = structlog.get_logger("coreimage.publication")


def mark_good(
    published: PublishedBuild,
    architecture: Architecture,
    evidence: Sequence[BootReport],
    *,
    store: Store,
    now: datetime,
) -> None:
    """Makes this the current build of `architecture`, unless a newer one is already.

    `evidence` is the boot reports, all passed; empty where a channel has no gate. It stays with the build, whatever
    `current.json` says, and `.marked_good` lists the files found good, one a line, sorted. Marking again changes
    nothing. Raises VerificationError for a failed report and for an architecture that was carried over,
    NotFoundError when the build is not there or has nothing for this architecture.
    """
    failed = [report for report in evidence if not report.passed]
    if failed:
        raise VerificationError(
            f"the boot test with {failed[0].firmware} failed: {failed[0].reason}",
            where=published.prefix,
            resolution="mend the build; only one that boots is marked good",
        )
    tree = BuildTree(project=published.project, series=published.series, image_type=published.image_type)
    build_id = parse_build_id(published.build_id)
    _check_published(tree, build_id, store)
    files = _files_of(published, architecture)
    _check_not_carried(tree, build_id, architecture, store)
    good = MarkedGood(build_id=str(build_id), marked=now.astimezone(UTC).isoformat(), evidence=tuple(evidence))
    swap_document(store, tree.evidence_key(build_id, architecture), MarkedGood, lambda kept: kept or good)
    _list_files(tree, build_id, files, store)
    _move_current(tree, architecture, good, store)
    log.info("marked good", build=published.prefix, architecture=architecture)


def current_build(tree: BuildTree, architecture: Architecture, *, store: Store) -> BuildId | None:
    """The newest build that was marked good for an architecture."""
    current = read_document(store, tree.current_key, Current)
    found = current.architectures.get(architecture) if current else None
    return parse_build_id(found.build_id) if found else None


def good_architectures(tree: BuildTree, build_id: BuildId, *, store: Store) -> frozenset[str]:
    """For which architectures a build was marked good, by the tarballs that `.marked_good` lists."""
    listed = (read_bytes(store, tree.key(build_id, MARKED_GOOD)) or b"").decode(errors="replace").splitlines()
    names = [re.search(r"-preinstalled-[^.]*-([a-z0-9]+)\.", name) for name in listed]
    return frozenset(found[1] for found in names if found)


def _check_published(tree: BuildTree, build_id: BuildId, store: Store) -> None:
    if not is_complete(tree, build_id, store=store):
        raise NotFoundError(
            f"{tree.build_prefix(build_id)} is not a published build", where=store.url, resolution="publish it first"
        )


def _check_not_carried(tree: BuildTree, build_id: BuildId, architecture: str, store: Store) -> None:
    info = read_document(store, tree.key(build_id, BUILD_INFO), BuildInfo)
    for carried in info.carried if info else ():
        if carried.architecture == architecture:
            raise VerificationError(
                f"its files for {architecture} are those of build {carried.build_id}",
                where=tree.build_prefix(build_id),
                resolution="test and mark that build",
            )


def _files_of(published: PublishedBuild, architecture: str) -> tuple[str, ...]:
    """The tarballs of an architecture, as the original lists them: the rootfs and every device."""
    names = [file.name for file in published.files if file.name.endswith(".tar.gz")]
    found = tuple(name for name in names if is_for(name, architecture))
    if not found:
        raise NotFoundError(
            f"nothing in this build is for {architecture}",
            where=published.prefix,
            resolution=f"it has {', '.join(names)}",
        )
    return found


def _list_files(tree: BuildTree, build_id: BuildId, names: tuple[str, ...], store: Store) -> None:
    def with_names(found: bytes | None) -> bytes:
        listed = set((found or b"").decode().splitlines()) | set(names)
        return "".join(f"{name}\n" for name in sorted(listed)).encode()

    swap(store, tree.key(build_id, MARKED_GOOD), with_names, media_type=TEXT)


def _move_current(tree: BuildTree, architecture: Architecture, good: MarkedGood, store: Store) -> None:
    def newest(current: Current | None) -> Current:
        marked = current.architectures if current else {}
        held = marked.get(architecture)
        if current and held and parse_build_id(held.build_id) >= parse_build_id(good.build_id):
            return current
        return Current(architectures=dict(sorted({**marked, architecture: good}.items())))

    swap_document(store, tree.current_key, Current, newest)
