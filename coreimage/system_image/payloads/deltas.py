"""Deltas between two versions of a channel, as entries of its index.

Made of the payloads in the store, kept in the pool, and remembered by the content they lead from and to: a promotion
of what was imported finds them made.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from coreimage.client import RepositoryError
from coreimage.client.compact import PatchedTree
from coreimage.client.documents import Form, Image, ImageFile
from coreimage.client.json_codec import JsonObject, json_bytes, json_sha256
from coreimage.client.layers import LayeredTree
from coreimage.deltas import legacy as legacy_delta
from coreimage.deltas.base_tools import BaseTools
from coreimage.deltas.compact import make_compact
from coreimage.errors import VerificationError
from coreimage.host.process import Run
from coreimage.host.workspace import workspace
from coreimage.model import COMPACT_DELTA, JSON, TAR_XZ
from coreimage.storage import Store, fetch_blob, read_bytes
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.index import artifact_of, image_file
from coreimage.system_image.payloads.pool import about, has_linked_code, put_sidecar, put_signed_file, read_detail
from coreimage.system_image.server import ChannelTree
from coreimage.tarball import compress_xz, decompress

log = structlog.get_logger("coreimage.system_image")

DELTA_VERSION = 7
"""Raise it when the same pair of images gives other bytes: it is part of the cache key."""
_LZMA = "preset=2,dict=8MiB,nice=64,depth=4"
_TREE = "tree_sha256"

DeltaFiles = Mapping[Form, tuple[ImageFile, ...] | None]
"""The pool files of a delta in each form, the form of 2015 first; None where there is none in that form."""


def with_deltas(
    tree: ChannelTree, image: Image, bases: Sequence[Image], *, legacy_above: int = 0, run: Run
) -> list[Image]:
    """Make the deltas to a full image.

    A delta is made where it is smaller than the full image. One base gives a delta in the form of 2015, the newest that
    can: clients of 2015 try every chain of deltas, and two that lead to each version are too many to try (system-image
    §3.3). Each base gives a compact one where that is smaller than the one of 2015, too. Deltas that were made before
    are found.

    Args:
        image: The full image; its files are in the store.
        bases: Older full images of the same channel and device.
        legacy_above: No delta in the form of 2015 leads from this version or older ones: devices may have these numbers
            with other content (`CurrentChannels.retired`).

    Returns:
        The full image and then its deltas, from the newest base on. Each gives the digest of the tree that it makes.
        The same for the same arguments.
    """
    entries = [image]
    has_legacy = image.form != "legacy"
    for base in sorted(bases, key=lambda base: base.version, reverse=True):
        with_legacy = not has_legacy and base.form == "legacy" and base.version > legacy_above
        least_bytes = _size_bytes(image.payloads)
        for form, files in _make_delta(tree, image, base, with_legacy=with_legacy, run=run).items():
            if files is None or (files and _size_bytes(files) >= least_bytes):
                log.info("no delta", form=form, base=base.version, version=image.version)
                continue
            least_bytes = _size_bytes(files)
            has_legacy = has_legacy or form == "legacy"
            own = [file for file in image.files if file.is_version_file]
            entries.append(
                replace(
                    image,
                    type="delta",
                    base=base.version,
                    form="compact" if form == "compact" else "legacy" if with_legacy else "own",
                    files=tuple(replace(file, order=order) for order, file in enumerate([*files, *own])),
                )
            )
    sha256 = _tree_sha256(tree.store, image.payloads, run=run)
    return [replace(entry, tree_sha256=sha256) for entry in entries]


def _make_delta(tree: ChannelTree, image: Image, base: Image, *, with_legacy: bool, run: Run) -> DeltaFiles:
    """Make the delta from `base` to `image` in each form that is wanted, or find that it was made."""
    sources, targets = base.payloads, image.payloads
    if _digests(sources) == _digests(targets):
        return {"legacy": ()}
    recipe: JsonObject = {
        "delta": DELTA_VERSION,
        "lzma": _LZMA,
        "source": _digests(sources),
        "target": _digests(targets),
        "legacy": with_legacy,
    }
    record = f"{layout.DELTA_CACHE}{json_sha256(recipe)}.json"
    remembered = _read_record(tree.store, record)
    if remembered is not None:
        return remembered
    with _unpacked(tree.store, sources, targets, run=run) as pair:
        remember_tree_sha256(tree.store, targets, pair.target.sha256())
        legacy = _make_legacy(tree, pair, recipe, targets, run=run) if with_legacy else None
        limit_bytes = min(_size_bytes(files) for files in (legacy, targets) if files)
        delta: DeltaFiles = {"legacy": legacy, "compact": _make_compact(tree, pair, limit_bytes, run=run)}
    document: JsonObject = {
        form: None if files is None else [file.to_json() for file in files] for form, files in delta.items()
    }
    tree.store.put_bytes(record, json_bytes(document), media_type=JSON)
    return delta


def _read_record(store: Store, key: str) -> DeltaFiles | None:
    """Return the files of a delta that was made before, if all of them are still there and signed."""
    content = read_bytes(store, key)
    if content is None:
        return None
    document = json.loads(content)
    delta: dict[Form, tuple[ImageFile, ...] | None] = {}
    forms: tuple[Form, ...] = ("legacy", "compact")
    for form in forms:
        if form in document:
            files = document[form]
            delta[form] = None if files is None else tuple(ImageFile.from_json(file, key) for file in files)
    paths = [path for files in delta.values() for file in files or () for path in (file.path, file.signature)]
    return delta if all(store.head(layout.key(path)) for path in paths) else None


def _make_legacy(
    tree: ChannelTree, pair: _Pair, recipe: JsonObject, targets: Sequence[ImageFile], *, run: Run
) -> tuple[ImageFile, ...] | None:
    """Make a delta in the form of 2015; a last tarball that changed nearly whole is the target's own.

    Returns:
        Its files; None when `removed` cannot name what must be deleted, or when the full image is no larger: nothing
        is put into the pool that no index will name.
    """
    try:
        layers = legacy_delta.plan(pair.base, pair.target, len(pair.parts))
    except legacy_delta.NotExpressibleError as error:
        log.warning("no delta in the form of 2015", reason=str(error))
        return None
    whole = legacy_delta.whole_last(layers, pair.base, pair.target)
    taken = targets[-1:] if whole else ()
    tarballs: dict[str, Path] = {}
    for part, layer in zip(pair.parts, whole or layers, strict=not whole):
        if layer.removed:
            write, target = partial(legacy_delta.write, layer, pair.target), pair.folder / f"{part}.delta.tar.xz"
            code_filter: Literal["x86"] | None = "x86" if has_linked_code(part) else None
            tarballs[part] = compress_xz(write, target, run=run, lzma=_LZMA, code_filter=code_filter)
    if _size_bytes(taken) + sum(path.stat().st_size for path in tarballs.values()) >= _size_bytes(targets):
        return None
    files: list[ImageFile] = []
    for part, path in tarballs.items():
        delta = put_signed_file(tree, partial(layout.delta, part), path, TAR_XZ)
        detail = read_detail(tree.store, artifact_of(targets[pair.parts.index(part)]))
        put_sidecar(tree, layout.sidecar(delta.uri), {"generator": "delta", **about(detail), **recipe})
        files.append(image_file(delta, len(files)))
    return (*files, *(replace(file, order=len(files)) for file in taken))


def _make_compact(tree: ChannelTree, pair: _Pair, limit_bytes: int, *, run: Run) -> tuple[ImageFile, ...] | None:
    """Make a compact delta, and apply it with the tools of the base image before it is published.

    Returns:
        Its one file; None should the delta not make the target, or not be smaller than `limit_bytes`.
    """
    work = pair.folder / "compact"
    work.mkdir()
    tools = BaseTools(pair.base, work / "tools", run=run)
    delta = make_compact(pair.base, pair.target, pair.folder / "image.delta", work, tools=tools, run=run)
    if delta.stat().st_size >= limit_bytes:
        return None
    try:
        PatchedTree(delta, pair.base, work, tools.require)
    except RepositoryError as error:
        log.warning("no compact delta", reason=str(error))
        return None
    return (image_file(put_signed_file(tree, layout.compact_delta, delta, COMPACT_DELTA), 0),)


def _tree_sha256(store: Store, files: Sequence[ImageFile], *, run: Run) -> str:
    """Return the digest of the tree that tarballs make; they are unpacked where it is not known yet."""
    content = read_bytes(store, _tree_record(files))
    if content is not None:
        return str(json.loads(content)[_TREE])
    with _unpacked(store, (), files, run=run) as pair:
        return remember_tree_sha256(store, files, pair.target.sha256())


def remember_tree_sha256(store: Store, files: Sequence[ImageFile], sha256: str) -> str:
    """Note the digest of the tree that tarballs make, so that they need not be unpacked to tell it."""
    store.put_bytes(_tree_record(files), json_bytes({_TREE: sha256}), media_type=JSON)
    return sha256


def _tree_record(files: Sequence[ImageFile]) -> str:
    return f"{layout.DELTA_CACHE}{json_sha256({'tree': _digests(files)})}.json"


@dataclass(frozen=True)
class _Pair:
    """Both trees, unpacked below `folder`; `parts` are the parts of the version that the target's tarballs hold."""

    base: LayeredTree
    target: LayeredTree
    parts: tuple[str, ...]
    folder: Path


@contextmanager
def _unpacked(store: Store, sources: Sequence[ImageFile], targets: Sequence[ImageFile], *, run: Run) -> Iterator[_Pair]:
    with workspace("delta", run=run) as folder, ExitStack() as opened:

        def read_tree(files: Sequence[ImageFile], side: str) -> LayeredTree:
            tars = []
            for number, file in enumerate(files):
                packed = fetch_blob(store, artifact_of(file), folder / f"{side}{number}.packed")
                plain = decompress(packed, folder / f"{side}{number}.tar", run=run)
                if plain != packed:
                    packed.unlink()
                tars.append(opened.enter_context(tarfile.open(plain, "r:")))
            return LayeredTree(tars)

        try:
            with ThreadPoolExecutor(1, "base") as executor:
                base = executor.submit(copy_context().run, read_tree, sources, "base")
                target = read_tree(targets, "target")
            pair = _Pair(base.result(), target, tuple(layout.part_of(file.path) for file in targets), folder)
        except RepositoryError as error:
            raise VerificationError(
                error.problem, where=error.where, resolution="no delta was made; look at what made this tarball"
            ) from error
        yield pair


def _size_bytes(files: Sequence[ImageFile]) -> int:
    return sum(file.size_bytes for file in files)


def _digests(files: Sequence[ImageFile]) -> list[str]:
    return [file.sha256 for file in files]
