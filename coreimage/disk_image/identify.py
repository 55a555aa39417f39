"""What an image says about itself."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from coreimage.disk_image.boot_files import FOLDERS, RECORD
from coreimage.disk_image.table import read_partitions
from coreimage.errors import CoreimageError
from coreimage.model import Architecture
from coreimage.process import Run


def image_architecture(image: Path, *, run: Run) -> Architecture:
    """Of the record that the assembly left on a raw image; `amd64` for an image of somebody else's."""
    with suppress(CoreimageError, KeyError, struct.error):
        boot = {entry.name: entry for entry in read_partitions(image)}["system-boot"]
        for folder in FOLDERS.values():
            with suppress(CoreimageError, ValidationError, yaml.YAMLError, KeyError, TypeError):
                record = run(["mtype", "-i", f"{image}@@{boot.offset_bytes}", f"::{folder}/{RECORD}"]).output
                return TypeAdapter(Architecture).validate_python(yaml.safe_load(record)["meta"]["architecture"])
    return "amd64"
