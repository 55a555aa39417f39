"""Deltas between two versions of a channel, as entries of its index.

Made of the payloads in the store, kept in the pool, and remembered by the content they lead from and to: a promotion
of what was imported finds them made.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from coreimage.errors import NotFoundError
from coreimage.model import JSON, TAR_XZ, ArtifactRef
from coreimage.process import Run
from coreimage.signing import Role, Signer
from coreimage.storage import Store, fetch_blob
from coreimage.system_image import layout, legacy_delta
from coreimage.system_image.delta_tree import LayeredTree
from coreimage.system_image.documents import Document, file_entry, is_version_file, json_bytes, payloads
from coreimage.system_image.payload import put_pool_file, put_sidecar, put_signature
from coreimage.tarball import XzFilter, compress_xz, decompress
from coreimage.workspace import workspace

log = structlog.get_logger("coreimage.system_image")

DELTA_VERSION = 1
"""Raise it when the same pair of images gives other bytes: it is part of the cache key."""
_PRESET = 2


def with_deltas(
    image: Document, bases: Sequence[Document], *, store: Store, signer: Signer, run: Run
) -> list[Document]:
    """`image`, a full entry of an index whose files are in the store, and after it its delta entries.

    `bases` are full entries of the same channel and device, older than `image`; each gives a delta where that is
    smaller than the full image. The same for the same arguments; what was made before is found.
    """
    entries = [image]
    for base in sorted(bases, key=lambda base: int(base["version"]), reverse=True):
        files = _legacy(image, base, store=store, signer=signer, run=run)
        if files is not None:
            entries.append(_delta_entry(image, base, files))
    return entries


def _delta_entry(image: Document, base: Document, files: Sequence[Document]) -> Document:
    own = [file for file in image["files"] if is_version_file(file)]
    ordered = [{**file, "order": order} for order, file in enumerate([*files, *own])]
    return {**image, "type": "delta", "base": base["version"], "files": ordered}


def _legacy(image: Document, base: Document, *, store: Store, signer: Signer, run: Run) -> list[Document] | None:
    """The pool files of the delta in the form of 2015; None where the full image is the better way."""
    sources, targets = payloads(base), payloads(image)
    if _digests(sources) == _digests(targets):
        return []
    recipe = {"delta": DELTA_VERSION, "form": "legacy", "preset": _PRESET}
    recipe |= {"source": _digests(sources), "target": _digests(targets)}
    key = f"{layout.IMPORT_CACHE}{hashlib.sha256(json_bytes(recipe)).hexdigest()}.json"
    files = _remembered(store, key)
    if files is None:
        with _unpacked(sources, targets, store=store, run=run) as pair:
            files = _make_legacy(pair, recipe, store=store, signer=signer, run=run)
        store.put_bytes(key, json_bytes({"files": files}), media_type=JSON)
    size_bytes, full_bytes = (sum(int(file["size"]) for file in each) for each in (files, targets))
    if not files or size_bytes >= full_bytes:
        log.info("no delta in the form of 2015", base=base["version"], version=image["version"])
        return None
    return files


def _make_legacy(pair: _Pair, recipe: Document, *, store: Store, signer: Signer, run: Run) -> list[Document]:
    """Empty when `removed` cannot name what must be deleted."""
    try:
        layers = legacy_delta.plan(pair.base, pair.target, len(pair.kinds))
    except legacy_delta.NotExpressibleError as error:
        log.warning("no delta in the form of 2015", reason=str(error))
        return []
    files: list[Document] = []
    for kind, layer in zip(pair.kinds, layers, strict=True):
        if layer.removed:
            produce = partial(legacy_delta.write, layer, pair.target)
            made = compress_xz(produce, pair.folder / "delta.tar.xz", run=run, preset=_PRESET, filters=XzFilter.X86)
            files.append(file_entry(_to_pool(kind, made, recipe, store=store, signer=signer), len(files)))
    return files


def _to_pool(kind: str, made: Path, recipe: Document, *, store: Store, signer: Signer) -> ArtifactRef:
    """The pool file, its signature and its sidecar are in the store when this returns."""
    with made.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    path = layout.delta(kind, sha256)
    ref = ArtifactRef(uri=layout.key(path), sha256=sha256, size_bytes=made.stat().st_size, media_type=TAR_XZ)
    put_signature(store, ref.uri, signer.detached_file(Role.IMAGE_SIGNING, made))
    put_pool_file(store, ref.uri, made)
    put_sidecar(store, signer, ref.uri.removesuffix(".tar.xz") + ".json", {"generator": "delta", **recipe})
    return ref


@dataclass(frozen=True)
class _Pair:
    """Both trees, unpacked to `folder`; `kinds` are the names of the target's tarballs."""

    base: LayeredTree
    target: LayeredTree
    kinds: tuple[str, ...]
    folder: Path


@contextmanager
def _unpacked(sources: Sequence[Document], targets: Sequence[Document], *, store: Store, run: Run) -> Iterator[_Pair]:
    with workspace("delta", run=run) as folder, ExitStack() as opened:

        def tree(files: Sequence[Document], side: str) -> LayeredTree:
            tars = []
            for number, file in enumerate(sorted(files, key=lambda file: int(file["order"]))):
                packed = fetch_blob(store, _ref(file), folder / f"{side}{number}.packed")
                plain = decompress(packed, folder / f"{side}{number}.tar", run=run)
                packed.unlink() if plain != packed else None
                tars.append(opened.enter_context(tarfile.open(plain, "r:")))
            return LayeredTree(tars)

        kinds = tuple(_kind(file) for file in sorted(targets, key=lambda file: int(file["order"])))
        yield _Pair(tree(sources, "base"), tree(targets, "target"), kinds, folder)


def _remembered(store: Store, key: str) -> list[Document] | None:
    """What was made before, when all of it is still there and signed."""
    try:
        with store.open(key) as file:
            files: list[Document] = json.loads(file.read())["files"]
    except NotFoundError:
        return None
    there = all(store.head(layout.key(path)) for file in files for path in (file["path"], file["signature"]))
    return files if there else None


def _ref(file: Document) -> ArtifactRef:
    uri = layout.key(file["path"])
    return ArtifactRef(uri=uri, sha256=file["checksum"], size_bytes=file["size"], media_type=TAR_XZ)


def _kind(file: Document) -> str:
    """`ubuntu` of `/pool/ubuntu-<digest>.tar.xz`."""
    name: str = file["path"].rpartition("/")[2]
    return name.rpartition("-")[0]


def _digests(files: Sequence[Document]) -> list[str]:
    return [file["checksum"] for file in sorted(files, key=lambda file: int(file["order"]))]
