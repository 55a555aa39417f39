"""The forms in which an image is handed out: raw with a block map, for virtual machines, or compressed."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Literal, get_args

from coreimage.errors import UsageError
from coreimage.process import Run

Form = Literal["raw", "qcow2", "vmdk"]
Compression = Literal["xz", "zst", "gz"]
FORMS: tuple[Form, ...] = get_args(Form)
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)

_MAGIC: dict[bytes, str] = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "vmdk",
    b"\xfd7zX": "xz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"\x1f\x8b": "gz",
}
_COMPRESSORS: dict[Compression, tuple[str, ...]] = {
    "xz": ("xz", "-c", "-1", "-T2", "--block-size=16MiB"),
    "zst": ("zstd", "-q", "-c", "-T2"),
    "gz": ("gzip", "-n", "-1", "-c"),
}
_DESCRIPTOR_BYTES = 64 << 10
_OPTIONS: dict[Form, tuple[str, ...]] = {"raw": (), "qcow2": (), "vmdk": ("-o", "subformat=monolithicSparse")}


def write_form(image: Path, target: Path, form: Form, compression: Compression | None, *, run: Run) -> Path:
    """The raw `image` as `target`, in a folder of ours alone; for the plain raw form, `image` itself is moved there.

    The same image gives the same bytes.
    """
    if compression and form != "raw":
        raise UsageError(
            f"{form} is small already", where=str(target), resolution="leave out --compress, or use --format raw"
        )
    if compression:
        return compress_as(compression, image, target, run=run)
    if form == "raw":
        return image.replace(target)
    # A vmdk has its own file's name in it: the same for all.
    made = target.with_name(f"disk.{form}")
    run(["qemu-img", "convert", "-f", "raw", "-O", form, *_OPTIONS[form], image, made])
    if form == "vmdk":
        _fix_content_id(image, made)
    return made.replace(target)


def _fix_content_id(image: Path, target: Path) -> None:
    """A vmdk has a random number in its descriptor: we take one that the disk's own ids decide."""
    with image.open("rb") as file:
        number = zlib.crc32(file.read(_DESCRIPTOR_BYTES))
    with target.open("r+b") as file:
        head = file.read(_DESCRIPTOR_BYTES)
        file.seek(head.index(b"\nCID=") + len(b"\nCID="))
        file.write(b"%08x" % number)


def compress_as(compression: Compression, image: Path, target: Path, *, run: Run) -> Path:
    """The bytes depend neither on the clock nor on the number of cores."""
    with target.open("wb") as file:
        run([*_COMPRESSORS[compression], "--", image], stdout=file)
    return target


def form_of(path: Path) -> str:
    """`raw`, `qcow2`, `vmdk`, `xz`, `zst` or `gz`, told by the first bytes."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "raw")
