"""Marking a build good after its boot test: `.marked_good` in the build, `current.json` beside the builds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from coreimage.errors import NotFoundError, VerificationError
from coreimage.model import TEXT, Architecture, BootReport, PublishedBuild
from coreimage.publication.build_id import BuildId, parse_build_id
from coreimage.publication.build_info import BuildInfo
from coreimage.publication.builds import is_complete
from coreimage.publication.documents import Current, MarkedGood, read_document, swap_document
from coreimage.publication.layout import BUILD_INFO, MARKED_GOOD, TARBALLS, BuildTree, tree_of
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
    """Mark a build good, and make it the current one of an architecture unless a newer build is; idempotent.

    The evidence stays with the build, whatever `current.json` says, and `.marked_good` lists the tarballs of the
    architecture, one a line, as in 2015.

    Args:
        published: The build.
        architecture: The architecture that was tested.
        evidence: The boot reports, all passed; empty for a channel without a boot test.
        store: Where the build is published.
        now: An aware time, which is recorded.

    Raises:
        VerificationError: A report says that the image did not boot, or the architecture was carried over.
        NotFoundError: The build is not there, or has nothing for this architecture.
    """
    failed = [report for report in evidence if not report.passed]
    if failed:
        raise VerificationError(
            f"the boot test with {failed[0].firmware} failed: {failed[0].reason}",
            where=published.prefix,
            resolution="mend the build; only one that boots is marked good",
        )
    tree, build_id = tree_of(published), parse_build_id(published.build_id)
    if not is_complete(tree, build_id, store=store):
        raise NotFoundError(f"{published.prefix} is not published", where=store.url, resolution="publish it first")
    tarballs = [file for file in published.files if file.role in TARBALLS]
    names = {file.name for file in tarballs if file.architecture == architecture}
    if not names:
        raise NotFoundError(
            f"nothing in this build is for {architecture}",
            where=published.prefix,
            resolution=f"it has {', '.join(file.name for file in tarballs)}",
        )
    info = read_document(store, tree.key(build_id, BUILD_INFO), BuildInfo)
    for carried in info.carried if info else ():
        if carried.architecture == architecture:
            raise VerificationError(
                f"its files for {architecture} are those of build {carried.build_id}",
                where=published.prefix,
                resolution="test and mark that build",
            )

    def with_names(present: bytes | None) -> bytes:
        listed = names.union((present or b"").decode().splitlines())
        return "".join(f"{name}\n" for name in sorted(listed)).encode()

    def newest(current: Current | None) -> Current:
        marked = current.architectures if current else {}
        marked_good = marked.get(architecture)
        if current and marked_good and parse_build_id(marked_good.build_id) >= build_id:
            return current
        return Current(architectures=dict(sorted({**marked, architecture: good}.items())))

    good = MarkedGood(build_id=str(build_id), marked=now.astimezone(UTC).isoformat(), evidence=tuple(evidence))
    swap_document(store, tree.evidence_key(build_id, architecture), MarkedGood, lambda present: present or good)
    swap(store, tree.key(build_id, MARKED_GOOD), with_names, media_type=TEXT)
    swap_document(store, tree.current_key, Current, newest)
    log.info("build marked good", build=published.prefix, architecture=architecture)


def current_build(tree: BuildTree, architecture: Architecture, *, store: Store) -> BuildId | None:
    """Return the newest build that was marked good for an architecture, or None when there is none."""
    current = read_document(store, tree.current_key, Current)
    good = current.architectures.get(architecture) if current else None
    return parse_build_id(good.build_id) if good else None


def good_architectures(published: PublishedBuild, *, store: Store) -> frozenset[Architecture]:
    """Return the architectures that a build was marked good for: those of the tarballs that `.marked_good` lists."""
    listed = (read_bytes(store, f"{published.prefix}/{MARKED_GOOD}") or b"").decode(errors="replace").splitlines()
    return frozenset(file.architecture for file in published.files if file.name in listed)
