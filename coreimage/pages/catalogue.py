"""The list of a tree's builds for programs: what the page of all builds shows, beside it."""

from __future__ import annotations

import json

from coreimage.pages.content import BuildLine, Builds
from coreimage.publication import BuildTree, parse_build_id
from coreimage.storage.checksums import CHECKSUMS, CHECKSUMS_SIGNATURE

CATALOGUE = "index.json"


def catalogue(tree: BuildTree, builds: Builds) -> bytes:
    """Return the list of a tree's builds as JSON, the newest build first.

    The digests of a build's files are in its SHA256SUMS, which is signed; this list is not.
    """
    document = {
        "format": 1,
        "project": tree.project,
        "series": tree.series,
        "image_type": tree.image_type,
        "older": builds.older,
        "builds": [_entry(tree, line) for line in builds.lines],
    }
    return f"{json.dumps(document, indent=2)}\n".encode()


def _entry(tree: BuildTree, line: BuildLine) -> dict[str, object]:
    build_id = parse_build_id(line.build_id)
    return {
        "build_id": line.build_id,
        "checksums": tree.key(build_id, CHECKSUMS),
        "signature": tree.key(build_id, CHECKSUMS_SIGNATURE),
        "newest": line.newest,
        "current": line.current,
        "good": line.good,
        "pinned": line.pinned,
        "carried": line.carried,
        "files": line.files,
    }
