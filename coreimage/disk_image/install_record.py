"""The record of how an image was made: `install.yaml` on its boot partition, as in 2015 (device-flash §4.7)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from coreimage.disk_image.boot_loaders import FOLDERS
from coreimage.disk_image.layout import ImageIdentity
from coreimage.disk_image.table import read_partitions
from coreimage.errors import CoreimageError
from coreimage.host.process import Run
from coreimage.model import Architecture

INSTALL_RECORD = "install.yaml"
_DEFAULT_ARCHITECTURE: Architecture = "amd64"
"""What 2015's images are of, whose record does not say it."""


def install_record(
    identity: ImageIdentity, part_names: Sequence[str], size_bytes: int | None, options: Mapping[str, object]
) -> str:
    """Return the record as YAML. Nothing in it depends on when or where the image was made.

    Args:
        identity: What the image is of.
        part_names: The tarballs in the order in which they were applied.
        size_bytes: The size that was asked for; None for the default.
        options: What else was asked for. A device with `rootfs-part` or `device-part` here takes no updates by itself.
    """
    record = {
        "meta": {
            "timestamp": identity.epoch,
            "channel": identity.channel,
            "device": identity.device,
            "architecture": identity.architecture,
            "initial-version": identity.version,
        },
        "tool": {"name": "coreimage", "version": version("coreimage")},
        "options": {key: value for key, value in {"size": size_bytes, **options}.items() if value},
        "parts": list(part_names),
    }
    return yaml.safe_dump(record, sort_keys=True)


def image_architecture(image: Path, *, run: Run) -> Architecture:
    """Return the architecture that a raw image's record names; `amd64` for an image that has no record of ours."""
    with suppress(CoreimageError, KeyError, struct.error):
        boot = {entry.name: entry for entry in read_partitions(image)}["system-boot"]
        for folder in FOLDERS.values():
            with suppress(CoreimageError, ValidationError, yaml.YAMLError, KeyError, TypeError):
                record = run(["mtype", "-i", f"{image}@@{boot.offset_bytes}", f"::{folder}/{INSTALL_RECORD}"]).output
                return TypeAdapter(Architecture).validate_python(yaml.safe_load(record)["meta"]["architecture"])
    return _DEFAULT_ARCHITECTURE
