"""Checks the published builds below `cdimage/`: SHA256SUMS, its signature, and every file that it lists."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection

from coreimage.errors import VerificationError
from coreimage.process import Run
from coreimage.process import run as run_process
from coreimage.signing import verify_detached
from coreimage.storage import Store
from coreimage.system_image.findings import Collector, Findings

ROOT = "cdimage/"
_SUMS, _SIGNATURE = "SHA256SUMS", "SHA256SUMS.gpg"
_UNLISTED = re.compile(r"SHA256SUMS(\.gpg)?|\.marked_good|pinned\.json|index\.html|evidence/[^/]+\.json")
"""What stands in a build and came after its SHA256SUMS, or is it."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\0\n]+)")
_AGAIN = "publish the build again, or remove it"


def verify_builds(store: Store, cdimage_key: bytes, *, run: Run = run_process) -> Findings:
    """Every complete build of every tree; a folder without SHA256SUMS is none. `cdimage_key` is a binary export."""
    found, checked = Collector(), 0
    keys = {info.key for info in store.list(ROOT)}
    orphans: list[str] = []
    for sums in sorted(key for key in keys if key.endswith(f"/{_SUMS}")):
        folder = sums.removesuffix(_SUMS)
        inside = {key.removeprefix(folder) for key in keys if key.startswith(folder)}
        with found.noting(sums, _AGAIN):
            listed = _signed_sums(store, folder, cdimage_key, run)
            _check_files(store, folder, listed, inside, found)
            orphans += [folder + name for name in sorted(inside - listed.keys()) if not _UNLISTED.fullmatch(name)]
            checked += len(listed) + 2
    return Findings(findings=tuple(found.findings), checked=checked, orphans=tuple(orphans))


def parse_sums(text: str, where: str) -> dict[str, str]:
    """Digests by file name. Raises VerificationError for a line of another form, or a name listed twice."""
    listed: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if found is None or found[2] in listed:
            raise VerificationError(f"line {number} is malformed or a repetition", where=where, resolution=_AGAIN)
        listed[found[2]] = found[1]
    return listed


def _signed_sums(store: Store, folder: str, cdimage_key: bytes, run: Run) -> dict[str, str]:
    sums, signature = (_read(store, folder + name) for name in (_SUMS, _SIGNATURE))
    verify_detached(sums, signature, [cdimage_key], where=folder + _SUMS, run=run)
    return parse_sums(sums.decode(errors="replace"), folder + _SUMS)


def _check_files(store: Store, folder: str, listed: dict[str, str], inside: Collection[str], found: Collector) -> None:
    for name, sha256 in sorted(listed.items()):
        if name not in inside:
            found.error(folder + name, "it is missing", _AGAIN)
        elif _sha256(store, folder + name) != sha256:
            found.error(folder + name, "it does not have the digest that SHA256SUMS lists", _AGAIN)


def _sha256(store: Store, key: str) -> str:
    digest = hashlib.sha256()
    with store.open(key) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read(store: Store, key: str) -> bytes:
    if store.head(key) is None:
        raise VerificationError("it is missing", where=key, resolution=_AGAIN)
    with store.open(key) as file:
        return file.read()
