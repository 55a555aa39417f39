"""Deltas between two versions of a channel, as entries of its index.

Made of the payloads in the store, kept in the pool, and remembered by the content they lead from and to: a promotion
of what was imported finds them made.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from coreimage.client import RepositoryError
from coreimage.client.compact import PatchedTree
from coreimage.client.layers import LayeredTree
from coreimage.errors import NotFoundError, VerificationError
from coreimage.model import COMPACT_DELTA, JSON, TAR_XZ, ArtifactRef
from coreimage.process import Run
from coreimage.signing import Role, Signer
from coreimage.storage import Store, fetch_blob
from coreimage.system_image import layout, legacy_delta
from coreimage.system_image.base_tools import BaseTools
from coreimage.system_image.compact_delta import make_compact
from coreimage.system_image.documents import (
    COMPACT,
    TREE,
    Document,
    file_entry,
    is_ours,
    is_version_file,
    json_bytes,
    payloads,
)
from coreimage.system_image.payload import code_filter, put_pool_file, put_sidecar, put_signature
from coreimage.tarball import compress_xz, decompress
from coreimage.workspace import workspace

log = structlog.get_logger("coreimage.system_image")

DELTA_VERSION = 6
"""Raise it when the same pair of images gives other bytes: it is part of the cache key."""
_LZMA = "preset=2,dict=8MiB,nice=64,depth=4"


def with_deltas(
    image: Document, bases: Sequence[Document], *, store: Store, signer: Signer, run: Run
) -> list[Document]:
    """`image`, a full entry of an index whose files are in the store, and after it its delta entries.

    `bases` are full entries of the same channel and device, older than `image`; each gives a delta in each form where
    that is smaller than the full image, and a compact one where it is smaller than that of 2015 too. Each entry says
    the digest of the tree that it leads to. The same for the same arguments; what was made before is found.
    """
    entries = [image]
    for base in sorted(bases, key=lambda base: int(base["version"]), reverse=True):
        made = _made(image, base, store=store, signer=signer, run=run)
        least_bytes = _size_bytes(payloads(image))
        for form, files in made.items():
            if files is None or (files and _size_bytes(files) >= least_bytes):
                log.info("no delta", form=form, base=base["version"], version=image["version"])
                continue
            least_bytes = _size_bytes(files)
            entries.append(_delta_entry(image, base, files, form))
    tree = _tree_sha256(payloads(image), store=store, run=run)
    return [{**entry, TREE: tree} for entry in entries]


def _size_bytes(files: Sequence[Document]) -> int:
    return sum(int(file["size"]) for file in files)


def _delta_entry(image: Document, base: Document, files: Sequence[Document], form: str) -> Document:
    own = [file for file in image["files"] if is_version_file(file)]
    ordered = [{**file, "order": order} for order, file in enumerate([*files, *own])]
    entry = {**image, "type": "delta", "base": base["version"], "files": ordered}
    return {**entry, "form": COMPACT} if form == COMPACT else entry


Made = dict[str, list[Document] | None]
"""The pool files of each form, the form of 2015 first; None where there is none."""


def _made(image: Document, base: Document, *, store: Store, signer: Signer, run: Run) -> Made:
    sources, targets = payloads(base), payloads(image)
    if _digests(sources) == _digests(targets):
        return {"legacy": []}
    recipe: Document = {"delta": DELTA_VERSION, "lzma": _LZMA}
    recipe |= {"source": _digests(sources), "target": _digests(targets)}
    key = f"{layout.DELTA_CACHE}{hashlib.sha256(json_bytes(recipe)).hexdigest()}.json"
    made = _remembered(store, key)
    if made is None:
        with _unpacked(sources, targets, store=store, run=run) as pair:
            _remember_tree(targets, pair.target, store)
            old_clients = not is_ours(image) and not is_ours(base)
            legacy = _make_legacy(pair, recipe, targets, store=store, signer=signer, run=run) if old_clients else None
            limit_bytes = min(_size_bytes(files) for files in (legacy, targets) if files)
            made = {"legacy": legacy, COMPACT: _make_compact(pair, limit_bytes, store=store, signer=signer, run=run)}
        store.put_bytes(key, json_bytes(made), media_type=JSON)
    return made


def _tree_sha256(files: Sequence[Document], *, store: Store, run: Run) -> str:
    try:
        with store.open(_tree_record(files)) as file:
            return str(json.loads(file.read())[TREE])
    except NotFoundError:
        with _unpacked((), files, store=store, run=run) as pair:
            return _remember_tree(files, pair.target, store)


def _remember_tree(files: Sequence[Document], tree: LayeredTree, store: Store) -> str:
    sha256 = tree.sha256()
    store.put_bytes(_tree_record(files), json_bytes({TREE: sha256}), media_type=JSON)
    return sha256


def _tree_record(files: Sequence[Document]) -> str:
    return f"{layout.DELTA_CACHE}{hashlib.sha256(json_bytes({'tree': _digests(files)})).hexdigest()}.json"


def _make_legacy(
    pair: _Pair, recipe: Document, targets: Sequence[Document], *, store: Store, signer: Signer, run: Run
) -> list[Document] | None:
    """None when `removed` cannot name what must be deleted, or the full image is no larger: nothing is put into the
    pool that no index will name. A last tarball that changed nearly whole is the target's."""
    try:
        layers = legacy_delta.plan(pair.base, pair.target, len(pair.kinds))
    except legacy_delta.NotExpressibleError as error:
        log.warning("no delta in the form of 2015", reason=str(error))
        return None
    whole = legacy_delta.whole_last(layers, pair.base, pair.target)
    taken = [_ordered(targets)[-1]] if whole else []
    made: dict[str, Path] = {}
    for kind, layer in zip(pair.kinds, whole or layers, strict=not whole):
        if layer.removed:
            produce, target = partial(legacy_delta.write, layer, pair.target), pair.folder / f"{kind}.delta.tar.xz"
            made[kind] = compress_xz(produce, target, run=run, lzma=_LZMA, filters=code_filter(kind))
    if _size_bytes(taken) + sum(path.stat().st_size for path in made.values()) >= _size_bytes(targets):
        return None
    refs = [_to_pool(kind, path, recipe, store=store, signer=signer) for kind, path in made.items()]
    entries = [file_entry(ref, order) for order, ref in enumerate(refs)]
    return [*entries, *({**file, "order": len(entries)} for file in taken)]


def _make_compact(pair: _Pair, limit_bytes: int, *, store: Store, signer: Signer, run: Run) -> list[Document] | None:
    """Applied before it is published, with the tools of the base image; None should it not make the target, or not be
    smaller than `limit_bytes`."""
    work = pair.folder / "compact"
    work.mkdir()
    tools = BaseTools(pair.base, work / "tools", run=run)
    made = make_compact(pair.base, pair.target, pair.folder / "image.delta", work, tools=tools, run=run)
    if made.stat().st_size >= limit_bytes:
        return None
    try:
        PatchedTree(made, pair.base, work, tools.require)
    except RepositoryError as error:
        log.warning("no compact delta", reason=str(error))
        return None
    with made.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    uri = layout.key(layout.compact_delta(sha256))
    ref = ArtifactRef(uri=uri, sha256=sha256, size_bytes=made.stat().st_size, media_type=COMPACT_DELTA)
    put_signature(store, uri, signer.detached_file(Role.IMAGE_SIGNING, made))
    put_pool_file(store, uri, made, media_type=ref.media_type)
    return [file_entry(ref, 0)]


def _to_pool(kind: str, made: Path, recipe: Document, *, store: Store, signer: Signer) -> ArtifactRef:
    """The pool file, its signature and its sidecar are in the store when this returns."""
    with made.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    path = layout.delta(kind, sha256)
    ref = ArtifactRef(uri=layout.key(path), sha256=sha256, size_bytes=made.stat().st_size, media_type=TAR_XZ)
    put_signature(store, ref.uri, signer.detached_file(Role.IMAGE_SIGNING, made))
    put_pool_file(store, ref.uri, made)
    put_sidecar(store, signer, layout.sidecar(ref.uri), {"generator": "delta", **recipe})
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
            for number, file in enumerate(_ordered(files)):
                packed = fetch_blob(store, _ref(file), folder / f"{side}{number}.packed")
                plain = decompress(packed, folder / f"{side}{number}.tar", run=run)
                packed.unlink() if plain != packed else None
                tars.append(opened.enter_context(tarfile.open(plain, "r:")))
            return LayeredTree(tars)

        kinds = tuple(_kind(file) for file in _ordered(targets))
        try:
            with ThreadPoolExecutor(1, "base") as pool:
                base = pool.submit(copy_context().run, tree, sources, "base")
                target = tree(targets, "target")
            pair = _Pair(base.result(), target, kinds, folder)
        except RepositoryError as error:
            raise VerificationError(
                error.problem, where=error.where, resolution="no delta was made; look at what made this tarball"
            ) from error
        yield pair


def _remembered(store: Store, key: str) -> Made | None:
    """What was made before, when all of it is still there and signed."""
    try:
        with store.open(key) as file:
            made: Made = json.loads(file.read())
    except NotFoundError:
        return None
    files = [file for form in made.values() for file in form or ()]
    there = all(store.head(layout.key(path)) for file in files for path in (file["path"], file["signature"]))
    return dict(sorted(made.items(), reverse=True)) if there else None


def _ordered(files: Sequence[Document]) -> list[Document]:
    return sorted(files, key=lambda file: int(file["order"]))


def _ref(file: Document) -> ArtifactRef:
    uri = layout.key(file["path"])
    return ArtifactRef(uri=uri, sha256=file["checksum"], size_bytes=file["size"], media_type=TAR_XZ)


def _kind(file: Document) -> str:
    """`ubuntu` of `/pool/ubuntu-<digest>.tar.xz`."""
    name: str = file["path"].rpartition("/")[2]
    return name.rpartition("-")[0]


def _digests(files: Sequence[Document]) -> list[str]:
    return [file["checksum"] for file in _ordered(files)]
