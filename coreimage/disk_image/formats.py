"""The forms in which an image is handed out: raw, for virtual machines (qcow2, vmdk), or compressed."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Literal, get_args

from coreimage.errors import UsageError
from coreimage.host.process import Run
from coreimage.host.process import run as run_on_machine

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
_TABLE_BYTES = 64 << 10
"""The partition table, which has the disk's ids, is in these first bytes."""
_DESCRIPTOR = struct.Struct("<28xQQ")
"""A sparse extent's header ends with place and size of its descriptor, in sectors (Virtual Disk Format 5.0)."""
_OPTIONS: dict[Form, tuple[str, ...]] = {"raw": (), "qcow2": (), "vmdk": ("-o", "subformat=monolithicSparse")}


def write_form(image: Path, target: Path, form: Form, compression: Compression | None, *, run: Run) -> Path:
    """Write a raw image in another form. The same image gives the same bytes with the same QEMU.

    Args:
        image: The raw image. It is moved to `target` where raw is what is asked for.
        target: In a folder that is the caller's alone.
        form: For virtual machines, or raw.
        compression: Of the raw form only.
        run: Starts the compressors; QEMU is always the machine's own.

    Raises:
        UsageError: A form that is small already is to be compressed.
    """
    if compression and form != "raw":
        raise UsageError(
            f"{form} is small already", where=str(target), resolution="leave out --compress, or use --format raw"
        )
    if compression:
        with target.open("wb") as file:
            run([*_COMPRESSORS[compression], "--", image], stdout=file)
        return target
    if form == "raw":
        return image.replace(target)
    # A vmdk has its own file's name in it: so that is always the same.
    converted = target.with_name(f"disk.{form}")
    run_on_machine(["qemu-img", "convert", "-f", "raw", "-O", form, *_OPTIONS[form], image, converted])
    if form == "vmdk":
        _fix_content_id(image, converted)
    return converted.replace(target)


def _fix_content_id(image: Path, target: Path) -> None:
    """Replace the random number in a vmdk's descriptor by one that the disk's own ids decide."""
    with image.open("rb") as file:
        number = zlib.crc32(file.read(_TABLE_BYTES))
    with target.open("r+b") as file:
        start, size_bytes = (sectors * 512 for sectors in _DESCRIPTOR.unpack(file.read(_DESCRIPTOR.size)))
        file.seek(start)
        text = file.read(size_bytes).rstrip(b"\0")
        file.seek(start)
        file.write(fixed_descriptor(text, number).ljust(size_bytes, b"\0"))


def fixed_descriptor(text: bytes, number: int) -> bytes:
    """Return a vmdk's descriptor with this content id. It may be longer: qemu-img leaves out leading zeros."""
    return re.sub(rb"(?m)^CID=[0-9a-f]+$", b"CID=%08x" % number, text, count=1)


def form_of(path: Path) -> str:
    """Tell a file's form by its first bytes: `raw`, `qcow2`, `vmdk`, `xz`, `zst` or `gz`."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "raw")
