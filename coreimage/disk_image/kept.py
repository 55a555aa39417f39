"""Finished images that are kept: the same image again is a copy instead of an assembly.

An entry is a sparse raw image, `<key>.img`, and beside it `<key>.json` with the digest of what is in it, without which
it counts for nothing. The key is of everything that decides the image's bytes: whoever asks makes it with `image_key`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import structlog
from pydantic import ValidationError

from coreimage.budget import Pooled, over_budget
from coreimage.disk_image.holes import extents
from coreimage.model import Sha256, Value
from coreimage.workspace import workspace

log = structlog.get_logger("coreimage.disk_image")

_CHUNK_BYTES, _PIECE_BYTES = 1 << 20, 1 << 16
_ZEROS = bytes(_PIECE_BYTES)
_IMAGE, _FACTS = ".img", ".json"
_TOOLS = ("mke2fs", "mkfs.vfat", "mcopy", "grub-mkimage", "tar")


class KeptFacts(Value):
    """`content_sha256` is that of `copy_sparse`; `epoch` (seconds, UTC) that of the image."""

    content_sha256: Sha256
    epoch: int


class KeptImages:
    """Keeps at most `limit_bytes` in `folder`, dropping what was not used for longest."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes

    def give(self, key: str, target: Path) -> KeptFacts | None:
        """Copies the image of that key to `target`; None, and nothing there, when there is none or it is damaged."""
        image = self._folder / f"{key}{_IMAGE}"
        try:
            facts = KeptFacts.model_validate_json((self._folder / f"{key}{_FACTS}").read_bytes())
            digest = copy_sparse(image, target)
            os.utime(image)
        except (FileNotFoundError, ValidationError):
            target.unlink(missing_ok=True)
            return None
        if digest != facts.content_sha256:
            log.warning("a damaged image is dropped from the cache", file=str(image))
            target.unlink()
            self._drop(key)
            return None
        return facts

    def keep(self, key: str, image: Path, epoch: int) -> None:
        """A disk without room for it is no error: then the image is made again the next time."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with workspace("keep", parent=self._folder) as work:
                facts = KeptFacts(content_sha256=copy_sparse(image, work / "image"), epoch=epoch)
                (work / "facts").write_text(facts.model_dump_json())
                (work / "image").replace(self._folder / f"{key}{_IMAGE}")
                (work / "facts").replace(self._folder / f"{key}{_FACTS}")
            self._shrink()
        except OSError as error:
            log.warning("the image is not kept", folder=str(self._folder), reason=error.strerror)

    def clear(self) -> None:
        for path in self._images():
            self._drop(path.stem)

    def _shrink(self) -> None:
        images = [Pooled(path.stem, _stored_bytes(path), _last_used(path)) for path in self._images()]
        anytime = datetime.max.replace(tzinfo=UTC)
        for image in over_budget(images, needed=(), fresh_since=anytime, budget_bytes=self._limit_bytes):
            self._drop(image.key)

    def _images(self) -> list[Path]:
        return list(self._folder.glob(f"*{_IMAGE}"))

    def _drop(self, key: str) -> None:
        for suffix in (_FACTS, _IMAGE):
            (self._folder / f"{key}{suffix}").unlink(missing_ok=True)


def image_key(
    parts: Sequence[str], gadget_folder: Path, said: Mapping[str, object], tools_tree: str | None = None
) -> str:
    """Pure but for what it reads: of the digests of the tarballs in their order, the gadget's files, what `said` has
    of the image, our own code, and the programs that shape bytes: a tools tree by its digest, else this machine's."""
    digest = hashlib.sha256(json.dumps([parts, said], sort_keys=True, default=str).encode())
    for path in sorted(path for path in gadget_folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(gadget_folder)} {len(content)}\n".encode() + content)
    for source in sorted(files("coreimage.disk_image").iterdir(), key=lambda each: each.name):
        digest.update(source.read_bytes() if source.is_file() else b"")
    digest.update((tools_tree or "".join(map(_program, _TOOLS))).encode())
    return digest.hexdigest()


def _program(name: str) -> str:
    place = shutil.which(name)
    found = Path(place).resolve().stat() if place else None
    return f"{place} {found.st_size} {found.st_mtime_ns}\n" if found else "absent\n"


def copy_sparse(source: Path, target: Path) -> str:
    """Copies everything but holes, sharing the blocks where the filesystem can; gives the digest of its size, and of
    place and bytes of all pieces that are not zero.

    Holes may be elsewhere in a copy, on another filesystem, and the digest is the same.
    """
    with (
        source.open("rb", buffering=0) as reader,
        target.open("wb", buffering=0) as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        size_bytes = os.fstat(reader.fileno()).st_size
        writer.truncate(size_bytes)
        found = list(extents(reader.fileno()))
        copied = pool.submit(_copy_extents, reader.fileno(), writer.fileno(), found)
        digest = _content_digest(reader.fileno(), size_bytes, found)
        copied.result()
    return digest


def _copy_extents(source: int, target: int, found: Sequence[tuple[int, int]]) -> None:
    for start, stop in found:
        position = start
        while position < stop:
            count = _copy_piece(source, target, position, stop - position)
            if not count:
                return
            position += count


def _copy_piece(source: int, target: int, position: int, most_bytes: int) -> int:
    try:
        return os.copy_file_range(source, target, most_bytes, position, position)
    except OSError as error:
        # Between two filesystems, or on one that cannot.
        if error.errno not in {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
            raise
    return os.pwrite(target, os.pread(source, min(most_bytes, _CHUNK_BYTES), position), position)


def _content_digest(file: int, size_bytes: int, found: Sequence[tuple[int, int]]) -> str:
    digest = hashlib.sha256(size_bytes.to_bytes(8, "little"))
    done = 0
    for start, stop in found:
        for place in range(max(done, start // _PIECE_BYTES * _PIECE_BYTES), stop, _PIECE_BYTES):
            piece = os.pread(file, _PIECE_BYTES, place)
            if piece != _ZEROS[: len(piece)]:
                digest.update(place.to_bytes(8, "little") + piece)
            done = place + _PIECE_BYTES
    return digest.hexdigest()


def _last_used(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _stored_bytes(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_blocks * 512
    return 0
