"""Signed objects of the tree, and the pool's payloads: tarballs packed anew, named by the digest of what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from coreimage.architecture.facts import FACTS
from coreimage.client.json_codec import JsonObject, json_bytes, json_sha256
from coreimage.errors import LostWriteError
from coreimage.host.process import Run
from coreimage.host.workspace import workspace
from coreimage.model import JSON, OPENPGP_SIGNATURE, TAR_XZ, TAR_ZSTD, Architecture, ArtifactRef, Compression
from coreimage.signing import Role
from coreimage.storage import Store, fetch_blob, is_stored, read_bytes
from coreimage.system_image.documents import layout
from coreimage.system_image.payloads.customise import customise_rootfs, repack_tarball
from coreimage.system_image.server import ChannelTree
from coreimage.tarball import compress_xz, compress_zstd

log = structlog.get_logger("coreimage.system_image")

IMPORTER_VERSION = 8
"""Raise it when the same input gives other bytes: it is part of the cache key."""

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


def pack_payload(
    tree: ChannelTree,
    part: str,
    source: ArtifactRef,
    architecture: Architecture,
    *,
    detail: str,
    compression: Compression,
    run: Run,
) -> ArtifactRef:
    """Pack a tarball into the pool, unless the same was packed before.

    The pool file, its signature and its sidecar are in the store when this returns.

    Args:
        part: The part of the version that the tarball is: `ubuntu` (the rootfs), `device`, or a component's name.
        source: The tarball; those of builds are gzip.
        detail: What version_detail says of the tarball where it is packed first, as `name=value`; its sidecar keeps it.
        compression: `zstd` makes a `.tar.zst`, which clients of 2015 cannot read; all others a `.tar.xz`.

    Returns:
        The pool file `<part>-<digest>.tar.xz`.

    Raises:
        VerificationError: The tarball has members that have no place in a version, or is damaged.
    """
    recipe: JsonObject = {
        "importer": IMPORTER_VERSION,
        "kind": part,
        "architecture": architecture,
        "compression": compression,
        "source": source.sha256,
    }
    record = f"{layout.IMPORT_CACHE}{json_sha256(recipe)}.json"
    packed = recorded_artifact(tree.store, record)
    if packed is not None and tree.store.head(f"{packed.uri}.asc") is not None:
        log.info("pool file reused", path=packed.uri)
        return packed
    with workspace("import", run=run) as folder:
        source_path = fetch_blob(tree.store, source, folder / "source.tar.gz")
        write = partial(customise_rootfs if part == "ubuntu" else partial(repack_tarball, run=run), source_path)
        if compression == "zstd":
            tarball = compress_zstd(write, folder / "made.tar.zst", run=run, level=_ZSTD_LEVEL)
        else:
            lzma, block_size = _XZ[compression]
            tarball = compress_xz(
                write,
                folder / "made.tar.xz",
                run=run,
                lzma=_FAST_DEVICE if (part, compression) == ("device", "fast") else lzma,
                block_size=block_size,
                code_filter=FACTS[architecture].xz_filter if has_linked_code(part) else None,
            )
        media_type = TAR_ZSTD if compression == "zstd" else TAR_XZ
        packed = put_signed_file(tree, lambda sha256: layout.pool(part, sha256, tarball.suffix), tarball, media_type)
    put_sidecar(tree, layout.sidecar(packed.uri), {"generator": f"coreimage-{part}", **about(detail), **recipe})
    tree.store.put_bytes(record, packed.model_dump_json().encode(), media_type=JSON)
    log.info("pool file made", path=packed.uri, size_bytes=packed.size_bytes)
    return packed


def has_linked_code(part: str) -> bool:
    """Return whether xz's filter for machine code makes a part of a version smaller.

    The kernel modules of a device are not linked yet: all their calls have the same operand, which the filter would
    make different everywhere.
    """
    return part != "device"


def put_signed(tree: ChannelTree, key: str, content: bytes, media_type: str) -> ArtifactRef:
    """Put a small object and its signature by image-signing, unless both are there.

    The signature comes first: an object that is there can be verified.

    Args:
        key: Where the object stands. Whatever stands there already has the same content.
    """
    if tree.store.head(f"{key}.asc") is None:
        put_signature(tree.store, key, tree.signer.detached(Role.IMAGE_SIGNING, content))
    info = tree.store.head(key)
    if info is None or info.size_bytes != len(content):
        tree.store.put_bytes(key, content, media_type=media_type)
    sha256 = hashlib.sha256(content).hexdigest()
    return ArtifactRef(uri=key, sha256=sha256, size_bytes=len(content), media_type=media_type)


def put_signed_file(tree: ChannelTree, path_of: Callable[[str], str], file: Path, media_type: str) -> ArtifactRef:
    """Put a file into the pool, its signature first.

    A pool file that is there stays, unless it was cut: then it is put right (system-image §4.7).

    Args:
        path_of: The web path of the pool file, of its SHA-256.
    """
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    key, size_bytes = layout.key(path_of(sha256)), file.stat().st_size
    if tree.store.head(f"{key}.asc") is None:
        put_signature(tree.store, key, tree.signer.detached_file(Role.IMAGE_SIGNING, file))
    info = tree.store.head(key)
    if info is None or info.size_bytes != size_bytes:
        tree.store.put_file(key, file, media_type=media_type)
    return ArtifactRef(uri=key, sha256=sha256, size_bytes=size_bytes, media_type=media_type)


def put_signature(store: Store, signed_key: str, signature: bytes) -> None:
    """Put a signature beside what it signs. One that is there stays: signatures differ from run to run, and both are
    good."""
    with suppress(LostWriteError):
        store.put_bytes(f"{signed_key}.asc", signature, media_type=OPENPGP_SIGNATURE, if_absent=True)


def put_sidecar(tree: ChannelTree, key: str, document: JsonObject) -> None:
    """Note how a pool file was made, in a signed document beside it. A note that is there stays, and is signed."""
    with suppress(LostWriteError):
        tree.store.put_bytes(key, json_bytes(document), media_type=JSON, if_absent=True)
    if tree.store.head(f"{key}.asc") is None:
        with tree.store.open(key) as file:
            put_signature(tree.store, key, tree.signer.detached(Role.IMAGE_SIGNING, file.read()))


def about(detail: str) -> JsonObject:
    """Return what other servers look for in the sidecar of a pool file (system-image §2.8)."""
    return {"version": detail.partition("=")[2], "version_detail": detail}


def read_detail(store: Store, packed: ArtifactRef) -> str:
    """Return what the sidecar of a pool file says for version_detail; empty where it does not say."""
    try:
        document = json.loads(read_bytes(store, layout.sidecar(packed.uri)) or b"{}")
    except ValueError:
        return ""
    return str(document.get("version_detail", ""))


def recorded_artifact(store: Store, record: str) -> ArtifactRef | None:
    """Return the artifact that a record names, if the store still has it whole."""
    try:
        recorded = ArtifactRef.model_validate_json(read_bytes(store, record) or b"")
    except ValueError:
        return None
    return recorded if is_stored(store, recorded) else None
