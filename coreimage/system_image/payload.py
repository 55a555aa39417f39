"""Pool files: recompressed payloads, named by the digest of what they hold, signed by image-signing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

import structlog

from coreimage.errors import ConflictError, NotFoundError
from coreimage.model import JSON, OPENPGP_SIGNATURE, TAR_XZ, TAR_ZSTD, Architecture, ArtifactRef, Compression
from coreimage.process import Run
from coreimage.signing import Role, Signer
from coreimage.storage import Store, fetch_blob
from coreimage.system_image import layout
from coreimage.system_image.customise import customise_rootfs, repack_component, unpack_gzip
from coreimage.system_image.documents import Document, json_bytes
from coreimage.tarball import XzFilter, compress_xz, compress_zstd
from coreimage.workspace import workspace

log = structlog.get_logger("coreimage.system_image")

IMPORTER_VERSION = 7
"""Raise it when the same input gives other bytes: it is part of the cache key."""

_CUSTOMISE: dict[str, Callable[[Path, IO[bytes]], None]] = {"ubuntu": customise_rootfs, "device": unpack_gzip}
"""By what the payload is; any other is a component."""
_XZ: dict[Compression, tuple[str, str]] = {
    "fast": ("preset=0", "16MiB"),
    "default": ("preset=2,dict=8MiB,nice=64,depth=16", "16MiB"),
    "smallest": ("preset=6,dict=32MiB", "64MiB"),
}
"""Options of LZMA2, and block size: what each of two threads works on. Giving up the search earlier than the preset
does, in more of what came before, finds more in the same time."""
_FAST_DEVICE = "preset=0,dict=64KiB"
"""For kernels and modules, which are compressed already: a third of the time goes, and nothing of the size comes."""
_ZSTD_LEVEL = 6


def payload(
    kind: str,
    source: ArtifactRef,
    architecture: Architecture,
    *,
    compression: Compression,
    store: Store,
    signer: Signer,
    run: Run,
) -> ArtifactRef:
    """The signed pool file `<kind>-<digest>.tar.xz` made of `source`: made now, or found when the same was made before.

    With the compression `zstd` it is a `.tar.zst`, which clients of 2015 cannot read.

    The pool file, its signature and its sidecar are in the store when this returns.
    """
    recipe = {
        "importer": IMPORTER_VERSION,
        "kind": kind,
        "architecture": architecture,
        "compression": compression,
        "source": source.sha256,
    }
    cached = f"{layout.IMPORT_CACHE}{hashlib.sha256(json_bytes(recipe)).hexdigest()}.json"
    found = _cached(store, cached)
    if found is not None:
        log.info("pool file reused", path=found.uri)
        return found
    with workspace("import", run=run) as folder:
        packed = fetch_blob(store, source, folder / "source.tar.gz")
        produce = partial(_CUSTOMISE.get(kind, partial(repack_component, run=run)), packed)
        made = _compressed(produce, kind, architecture, compression, folder, run=run)
        ref = _to_pool(kind, made, store)
        put_signature(store, ref.uri, signer.detached_file(Role.IMAGE_SIGNING, made))
    put_sidecar(store, signer, layout.sidecar(ref.uri), {"generator": f"coreimage-{kind}", **recipe})
    store.put_bytes(cached, ref.model_dump_json().encode(), media_type=JSON)
    log.info("pool file made", path=ref.uri, size_bytes=ref.size_bytes)
    return ref


def _compressed(
    produce: Callable[[IO[bytes]], object],
    kind: str,
    architecture: Architecture,
    compression: Compression,
    folder: Path,
    *,
    run: Run,
) -> Path:
    if compression == "zstd":
        return compress_zstd(produce, folder / "made.tar.zst", run=run, level=_ZSTD_LEVEL)
    lzma, block_size = _XZ[compression]
    return compress_xz(
        produce,
        folder / "made.tar.xz",
        run=run,
        lzma=_FAST_DEVICE if (kind, compression) == ("device", "fast") else lzma,
        block_size=block_size,
        # The filter for arm64 is younger (xz 5.4) than the decoders of 2015's clients.
        filters=code_filter(kind) if architecture == "amd64" else XzFilter.NONE,
    )


def put_signature(store: Store, signed_key: str, signature: bytes) -> None:
    """Keeps one that is there: signatures differ from run to run, and both are good."""
    with suppress(ConflictError):
        store.put_bytes(f"{signed_key}.asc", signature, media_type=OPENPGP_SIGNATURE, if_absent=True)


def put_sidecar(store: Store, signer: Signer, sidecar_key: str, document: Document) -> None:
    content = json_bytes(document)
    with suppress(ConflictError):
        store.put_bytes(sidecar_key, content, media_type=JSON, if_absent=True)
    if store.head(f"{sidecar_key}.asc") is None:
        with store.open(sidecar_key) as file:
            put_signature(store, sidecar_key, signer.detached(Role.IMAGE_SIGNING, file.read()))


def code_filter(kind: str) -> XzFilter:
    """What makes machine code of amd64 smaller. Kernel modules are not linked yet: what they call is all the same
    number, which the filter would make different everywhere."""
    return XzFilter.NONE if kind == "device" else XzFilter.X86


def _to_pool(kind: str, made: Path, store: Store) -> ArtifactRef:
    with made.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    uri = layout.key(layout.pool(kind, sha256, made.suffix))
    media_type = TAR_ZSTD if made.suffix == ".zst" else TAR_XZ
    put_pool_file(store, uri, made, media_type=media_type)
    return ArtifactRef(uri=uri, sha256=sha256, size_bytes=made.stat().st_size, media_type=media_type)


def put_pool_file(store: Store, key: str, made: Path, *, media_type: str = TAR_XZ) -> None:
    """One that is there stays, unless it was cut: then it is put right (system-image §4.7)."""
    try:
        store.put_file(key, made, media_type=media_type, if_absent=True)
    except ConflictError:
        found = store.head(key)
        if found is None or found.size_bytes != made.stat().st_size:
            store.put_file(key, made, media_type=media_type)


def _cached(store: Store, key: str) -> ArtifactRef | None:
    """A cached pool file that is still there, whole and signed."""
    try:
        with store.open(key) as file:
            ref = ArtifactRef.model_validate(json.loads(file.read()))
    except (NotFoundError, ValueError):
        return None
    found = store.head(ref.uri)
    whole = found is not None and found.size_bytes == ref.size_bytes
    return ref if whole and store.head(f"{ref.uri}.asc") is not None else None
