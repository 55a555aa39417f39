"""Checks the published builds below `cdimage/`: SHA256SUMS, its signature, and every file that it lists."""

from __future__ import annotations

import hashlib
import re

from coreimage.errors import VerificationError
from coreimage.host.process import Run
from coreimage.host.process import run as run_process
from coreimage.signing import verify_detached
from coreimage.storage import Store, read_bytes
from coreimage.storage.checksums import CHECKSUMS, CHECKSUMS_SIGNATURE, parse_checksums
from coreimage.system_image.verify.findings import Collector, Findings

ROOT = "cdimage/"
_UNLISTED = re.compile(r"SHA256SUMS(\.gpg)?|\.marked_good|pinned\.json|index\.html|evidence/[^/]+\.json")
"""Files of a build that SHA256SUMS does not list: itself, its signature, and what came after it."""
_PUBLISH_AGAIN = "publish the build again, or remove it"
_CHUNK_BYTES = 1 << 20


def verify_builds(store: Store, cdimage_key: bytes, *, run: Run = run_process) -> Findings:
    """Check every complete build of every tree: the signature of its SHA256SUMS, and each file that this lists.

    Args:
        store: The store; builds are below `cdimage/`, and a folder without SHA256SUMS is none.
        cdimage_key: The public key of cdimage, a binary export.
        run: Starts gpgv.
    """
    collector, checked = Collector(), 0
    keys = {info.key for info in store.list(ROOT)}
    orphans: list[str] = []
    for checksums_key in sorted(key for key in keys if key.endswith(f"/{CHECKSUMS}")):
        folder = checksums_key.removesuffix(CHECKSUMS)
        names = {key.removeprefix(folder) for key in keys if key.startswith(folder)}
        with collector.noting(checksums_key, _PUBLISH_AGAIN):
            content, signature = (_read(store, folder + name) for name in (CHECKSUMS, CHECKSUMS_SIGNATURE))
            verify_detached(content, signature, [cdimage_key], where=checksums_key, run=run)
            digests = parse_checksums(content, checksums_key)
            for name, sha256 in sorted(digests.items()):
                if name not in names:
                    collector.error(folder + name, "it is missing", _PUBLISH_AGAIN)
                elif _sha256(store, folder + name) != sha256:
                    problem = "it does not have the digest that SHA256SUMS lists"
                    collector.error(folder + name, problem, _PUBLISH_AGAIN)
            unlisted = sorted(names - digests.keys())
            orphans += [folder + name for name in unlisted if not _UNLISTED.fullmatch(name)]
            checked += len(digests) + 2
    return Findings(findings=tuple(collector.findings), checked=checked, orphans=tuple(orphans))


def _sha256(store: Store, key: str) -> str:
    digest = hashlib.sha256()
    with store.open(key) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _read(store: Store, key: str) -> bytes:
    content = read_bytes(store, key)
    if content is None:
        raise VerificationError("it is missing", where=key, resolution=_PUBLISH_AGAIN)
    return content
