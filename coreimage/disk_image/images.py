"""Disk images in the store: compressed, with their checksums signed, and back to a sparse file.

The compressed form is one that `zstd -d` writes sparsely by itself. zstd cuts its input into jobs whose size does not
depend on the number of cores, so neither do the bytes; the empty part of a disk costs a few bytes and little time.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

import structlog

from coreimage.disk_image.assembly import AssembledImage, sparse_content, sparse_sha256
from coreimage.errors import HostError, ProcessError, VerificationError
from coreimage.model import DISK_IMAGE_ZSTD, OPENPGP_SIGNATURE, DiskImage
from coreimage.process import Run
from coreimage.retention import Dated, expired
from coreimage.signing import Role, Signer
from coreimage.storage import ObjectInfo, Store, open_blob, put_blob_file
from coreimage.tarball import written_by

log = structlog.get_logger("coreimage.disk_image")

_LEVEL = 3
"""zstd's own choice: of the size that `xz -0` gives, in a tenth of the time."""
_THREADS = 2
_TEXT = "text/plain; charset=utf-8"


def store_image(assembled: AssembledImage, *, store: Store, signer: Signer, run: Run, work_folder: Path) -> DiskImage:
    """Compresses an image into the store and lists it below `images/<channel>/<device>/<version>/`.

    SHA256SUMS there is signed by cdimage, as a published build's is.
    """
    identity = assembled.identity
    with tempfile.TemporaryDirectory(prefix="store-image-", dir=work_folder) as folder, ThreadPoolExecutor(1) as beside:
        digest = beside.submit(sparse_sha256, assembled.path)
        ref = put_blob_file(store, compress(assembled.path, Path(folder) / "image.zst", run=run), DISK_IMAGE_ZSTD)
        raw_sha256 = digest.result()
    prefix = image_prefix(identity.channel, identity.device, identity.version)
    name = f"{identity.channel.replace('/', '-')}-{identity.device}-{identity.version}.img"
    store.copy(ref.uri, f"{prefix}/{name}.zst")
    checksums = f"{raw_sha256} *{name}\n{ref.sha256} *{name}.zst\n".encode()
    signature = signer.detached(Role.CDIMAGE, checksums)
    store.put_bytes(f"{prefix}/SHA256SUMS.gpg", signature, media_type=OPENPGP_SIGNATURE)
    store.put_bytes(f"{prefix}/SHA256SUMS", checksums, media_type=_TEXT)
    return DiskImage(
        channel=identity.channel,
        device=identity.device,
        version=identity.version,
        architecture=identity.architecture,
        image=ref,
        raw_sha256=raw_sha256,
        raw_size_bytes=assembled.raw_size_bytes,
    )


def image_prefix(channel: str, device: str, version: int) -> str:
    return f"images/{channel}/{device}/{version}"


def expire_images(
    channel: str,
    device: str,
    *,
    versions: Collection[int],
    keep_days: int,
    store: Store,
    now: datetime,
    dry_run: bool = False,
) -> tuple[str, ...]:
    """Removes the disk images of versions that a channel gave up, and gives their prefixes (with `dry_run`: those that
    would go), oldest first.

    Kept is the image of each of `versions`, which are those that the channel has; of what is newer than all of them,
    and may be a candidate; and what was stored within `keep_days` days (UTC).
    """
    found: dict[int, list[ObjectInfo]] = {}
    folder = f"{image_prefix(channel, device, 0).removesuffix('/0')}/"
    for info in store.list(folder):
        version = info.key.removeprefix(folder).partition("/")[0]
        if version.isdecimal():
            found.setdefault(int(version), []).append(info)
    dated = [Dated(version, max(info.modified for info in infos).date()) for version, infos in found.items()]
    protected = {*versions, *(version for version in found if version > max(versions, default=0))}
    gone = expired(dated, protected=protected, keep_count=0, keep_days=keep_days, today=now.astimezone(UTC).date())
    for item in () if dry_run else gone:
        _remove(found[item.id], store)
    return tuple(image_prefix(channel, device, item.id) for item in gone)


def _remove(objects: Sequence[ObjectInfo], store: Store) -> None:
    """The checksums first: what they list is there as long as they are."""
    keys = [info.key for info in objects]
    store.delete([key for key in keys if key.endswith("/SHA256SUMS")])
    store.delete(keys)
    log.info("image removed", image=keys[0].rpartition("/")[0])


def fetch_image(image: DiskImage, path: Path, *, store: Store, run: Run) -> Path:
    """The raw image as a sparse file at `path`; verified, and nothing is left there on failure."""
    try:
        with open_blob(store, image.image) as source:
            decompress(source, path, image.raw_size_bytes, run=run)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def convert(image: Path, output: Path, format_: str, *, run: Run) -> Path:
    """A raw image as qcow2 or vmdk; `output` is replaced whole."""
    temporary = output.with_name(f".{output.name}.converting")
    try:
        run(["qemu-img", "convert", "-f", "raw", "-O", format_, image, temporary])
        temporary.replace(output)
    except OSError as error:
        raise HostError(f"cannot be written: {error.strerror}", where=str(output)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return output


def compress(image: Path, target: Path, *, run: Run, threads: int = _THREADS) -> Path:
    """The same bytes for any number of `threads`."""
    with written_by(partial(_write, sparse_content(image))) as content:
        run(["zstd", "--quiet", f"-{_LEVEL}", f"-T{threads}", "--check", "-o", str(target)], stdin=content)
    return target


def decompress(source: BinaryIO, target: Path, size_bytes: int, *, run: Run) -> Path:
    """Writes what `source` unpacks to, with holes for zeros. Raises VerificationError unless it has `size_bytes`."""
    produce = partial(_copy, source)
    argv = ["prlimit", f"--fsize={size_bytes}", "zstd", "--quiet", "--decompress", "--sparse", "--force"]
    try:
        with written_by(produce) as content:
            run([*argv, "-o", str(target)], stdin=content)
    except ProcessError as error:
        raise _damaged(str(error)) from error
    if target.stat().st_size != size_bytes:
        raise _damaged(f"it unpacks to {target.stat().st_size} bytes, not {size_bytes}")
    return target


def _write(chunks: Iterable[memoryview], target: IO[bytes]) -> None:
    for chunk in chunks:
        target.write(chunk)


def _copy(source: BinaryIO, target: IO[bytes]) -> None:
    shutil.copyfileobj(source, target, 1 << 20)


def _damaged(problem: str) -> VerificationError:
    return VerificationError(
        f"the compressed image is damaged: {problem}", resolution="delete it and run again: it will be made anew"
    )
