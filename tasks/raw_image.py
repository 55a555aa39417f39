"""A stored image as a raw file again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from coreimage.errors import VerificationError
from coreimage.model import DiskImage
from coreimage.process import Run
from coreimage.storage import Store, fetch_blob


def fetch_raw(image: DiskImage, target: Path, *, store: Store, run: Run) -> Path:
    """Unpacks `image` to `target`, sparse; nothing is left there unless the bytes are those that were recorded."""
    packed = target.with_name(f"{target.name}.xz")
    try:
        fetch_blob(store, image.image, packed)
        run(["xz", "--decompress", "--force", "--threads=0", packed])
        with target.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if (found, target.stat().st_size) != (image.raw_sha256, image.raw_size_bytes):
            raise VerificationError(
                "the image does not unpack to what was recorded",
                where=image.image.uri,
                resolution="delete this object and build again",
            )
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        packed.unlink(missing_ok=True)
    return target
