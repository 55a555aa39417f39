"""Disk images in the store: compressed, listed with signed checksums, fetched as sparse files, and expired.

zstd cuts its input into jobs whose size does not depend on the number of cores, so neither do its bytes; the empty part
of a disk costs a few bytes and little time.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

import structlog

from coreimage.disk_image.assembly import AssembledImage
from coreimage.disk_image.sparse import read_sparse, sparse_sha256
from coreimage.errors import ProcessError, VerificationError
from coreimage.host.process import Run
from coreimage.model import DISK_IMAGE_ZSTD, OPENPGP_SIGNATURE, TEXT, DiskImage
from coreimage.retention import Dated, expired
from coreimage.signing import Role, Signer
from coreimage.storage import ObjectInfo, Store, open_blob, put_blob_file
from coreimage.storage.checksums import CHECKSUMS, CHECKSUMS_SIGNATURE, format_checksums
from coreimage.tarball import written_by

log = structlog.get_logger("coreimage.disk_image")

_LEVEL = 3
"""zstd's default: the size that `xz -0` gives, in a tenth of the time."""
_THREADS = 2


def store_image(assembled: AssembledImage, *, store: Store, signer: Signer, run: Run, work_folder: Path) -> DiskImage:
    """Compress an image into the store, and list it below `images/<channel>/<device>/<version>/`.

    The list is a SHA256SUMS signed by cdimage, as that of a published build is.
    """
    identity = assembled.identity
    with tempfile.TemporaryDirectory(prefix="store-image-", dir=work_folder) as folder, ThreadPoolExecutor(1) as beside:
        digest = beside.submit(sparse_sha256, assembled.path)
        ref = put_blob_file(store, compress(assembled.path, Path(folder) / "image.zst", run=run), DISK_IMAGE_ZSTD)
        raw_sha256 = digest.result()
    prefix = image_prefix(identity.channel, identity.device, identity.version)
    name = f"{identity.channel.replace('/', '-')}-{identity.device}-{identity.version}.img"
    store.copy(ref.uri, f"{prefix}/{name}.zst")
    checksums = format_checksums({name: raw_sha256, f"{name}.zst": ref.sha256})
    signature = signer.detached(Role.CDIMAGE, checksums)
    store.put_bytes(f"{prefix}/{CHECKSUMS_SIGNATURE}", signature, media_type=OPENPGP_SIGNATURE)
    store.put_bytes(f"{prefix}/{CHECKSUMS}", checksums, media_type=TEXT)
    return DiskImage(
        channel=identity.channel,
        device=identity.device,
        version=identity.version,
        architecture=identity.architecture,
        image=ref,
        raw_sha256=raw_sha256,
        raw_size_bytes=assembled.raw_size_bytes,
    )


def fetch_image(image: DiskImage, path: Path, *, store: Store, run: Run) -> Path:
    """Unpack an image of the store to `path`, as a sparse file.

    Raises:
        VerificationError: The stored image is damaged. Nothing is left at `path`, as after any failure.
    """
    try:
        with open_blob(store, image.image) as source:
            decompress(source, path, image.raw_size_bytes, run=run)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def image_prefix(channel: str, device: str, version: int) -> str:
    """Return where the store has the image of a version."""
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
    """Remove the disk images of versions that a channel gave up.

    Args:
        channel: The channel.
        device: The device.
        versions: Those that the channel has: their images stay. So do those of newer versions, which may be candidates.
        keep_days: Images that were stored within so many days stay.
        store: Where the images are.
        now: The current time, UTC.
        dry_run: Only return what would be removed.

    Returns:
        The prefixes that were removed, the oldest first.
    """
    folder = f"{image_prefix(channel, device, 0).removesuffix('/0')}/"
    images: dict[int, list[ObjectInfo]] = {}
    for info in store.list(folder):
        version = info.key.removeprefix(folder).partition("/")[0]
        if version.isdecimal():
            images.setdefault(int(version), []).append(info)
    dated = [Dated(version, max(info.modified for info in infos).date()) for version, infos in images.items()]
    protected = {*versions, *(version for version in images if version > max(versions, default=0))}
    old = expired(dated, protected=protected, keep_count=0, keep_days=keep_days, today=now.astimezone(UTC).date())
    for item in () if dry_run else old:
        keys = [info.key for info in images[item.id]]
        # The checksums first: as long as they are there, what they list is.
        store.delete([key for key in keys if key.endswith(f"/{CHECKSUMS}")])
        store.delete(keys)
        log.info("image removed", image=image_prefix(channel, device, item.id))
    return tuple(image_prefix(channel, device, item.id) for item in old)


def compress(image: Path, target: Path, *, run: Run, threads: int = _THREADS) -> Path:
    """Compress a sparse file with zstd: to the same bytes for any number of `threads`."""
    with written_by(partial(_write, read_sparse(image))) as content:
        run(["zstd", "--quiet", f"-{_LEVEL}", f"-T{threads}", "--check", "-o", str(target)], stdin=content)
    return target


def decompress(source: BinaryIO, target: Path, size_bytes: int, *, run: Run) -> Path:
    """Write what a zstd file unpacks to, with holes for zeros.

    Raises:
        VerificationError: It is damaged, or does not unpack to `size_bytes`.
    """
    argv = ["prlimit", f"--fsize={size_bytes}", "zstd", "--quiet", "--decompress", "--sparse", "--force"]
    try:
        with written_by(partial(_copy, source)) as content:
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
