"""Finished images in a folder of this machine: the same image again is a verified copy, not an assembly.

An entry is a sparse raw image, `<key>.img`, and beside it `<key>.json`, written last, with the digest of its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import structlog
from pydantic import ValidationError

from coreimage.disk_image.sparse import copy_sparse
from coreimage.host.workspace import workspace
from coreimage.model import Sha256, Value
from coreimage.retention import StoredItem, over_budget

log = structlog.get_logger("coreimage.disk_image")

_IMAGE, _FACTS = ".img", ".json"
_CODE = ("coreimage.disk_image", "coreimage.architecture", "coreimage.tarball")
_TOOLS = ("mke2fs", "mkfs.vfat", "mcopy", "grub-mkimage", "tar")
"""Whatever shapes the bytes of an image: packages of ours, and programs."""


class CachedFacts(Value):
    """What is known of a cached image: `content_sha256` as `copy_sparse` computes it, `epoch` in seconds, UTC."""

    content_sha256: Sha256
    epoch: int


class CachedImages:
    """A folder of finished images. It takes at most `limit_bytes`: images that were not used for longest go first."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes

    def get(self, key: str, target: Path) -> CachedFacts | None:
        """Copy the image of a key to `target`, and verify it.

        Returns:
            What is known of it; None, and nothing at `target`, when it is not cached or is damaged.
        """
        image = self._folder / f"{key}{_IMAGE}"
        try:
            facts = CachedFacts.model_validate_json((self._folder / f"{key}{_FACTS}").read_bytes())
            content_sha256 = copy_sparse(image, target)
            os.utime(image)
        except (FileNotFoundError, ValidationError):
            target.unlink(missing_ok=True)
            return None
        if content_sha256 != facts.content_sha256:
            log.warning("cached image is damaged: removed, and made again", file=str(image))
            target.unlink()
            self._remove(key)
            return None
        return facts

    def put(self, key: str, image: Path, epoch: int) -> None:
        """Cache a copy of an image. Where the disk has no room for it, it is not cached, which is no error."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with workspace("cache-image", parent=self._folder) as work:
                facts = CachedFacts(content_sha256=copy_sparse(image, work / "image"), epoch=epoch)
                (work / "facts").write_text(facts.model_dump_json())
                (work / "image").replace(self._folder / f"{key}{_IMAGE}")
                (work / "facts").replace(self._folder / f"{key}{_FACTS}")
            self._shrink()
        except OSError as error:
            log.warning("image is not cached", folder=str(self._folder), reason=error.strerror)

    def clear(self) -> None:
        """Remove all images."""
        for path in self._images():
            self._remove(path.stem)

    def _shrink(self) -> None:
        images = [StoredItem(path.stem, _stored_bytes(path), _last_used(path)) for path in self._images()]
        for image in over_budget(images, budget_bytes=self._limit_bytes):
            self._remove(image.key)

    def _images(self) -> list[Path]:
        return list(self._folder.glob(f"*{_IMAGE}"))

    def _remove(self, key: str) -> None:
        for suffix in (_FACTS, _IMAGE):
            (self._folder / f"{key}{suffix}").unlink(missing_ok=True)


def image_key(
    parts: Sequence[str],
    gadget_folder: Path,
    options: Mapping[str, object],
    *,
    tools_tree: str | None = None,
) -> str:
    """Return the key of an image: a digest of everything that decides its bytes.

    Args:
        parts: Names and digests of the tarballs, in the order in which they are applied.
        gadget_folder: The gadget, whose files are read.
        options: All else that is asked of the image. Values become text.
        tools_tree: Digest of the tools tree that the programs come from; the machine's own programs if not given.
    """
    digest = hashlib.sha256(json.dumps([parts, options], sort_keys=True, default=str).encode())
    for path in sorted(path for path in gadget_folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(gadget_folder)} {len(content)}\n".encode() + content)
    for package in _CODE:
        for source in _sources(files(package)):
            digest.update(source.read_bytes())
    digest.update((tools_tree or "".join(map(_program, _TOOLS))).encode())
    return digest.hexdigest()


def _sources(package: Traversable) -> Iterator[Traversable]:
    """Return all files of a package, bytecode aside: it is written while we read."""
    for entry in sorted(package.iterdir(), key=lambda each: each.name):
        if entry.is_file():
            yield entry
        elif entry.name != "__pycache__":
            yield from _sources(entry)


def _program(name: str) -> str:
    place = shutil.which(name)
    status = Path(place).resolve().stat() if place else None
    return f"{place} {status.st_size} {status.st_mtime_ns}\n" if status else "absent\n"


def _last_used(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _stored_bytes(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_blocks * 512
    return 0
