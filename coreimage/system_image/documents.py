"""Writes channels.json, index.json and sidecars (system-image §2). Pure: documents in, documents out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

from coreimage.model import PublishedFile
from coreimage.system_image import layout

VERSION_BASE = 1
VERSION_LIMIT = 65535
"""16 bits in the original client (system-image §2.3)."""

Document = dict[str, Any]


def json_bytes(document: Document) -> bytes:
    """Sorted keys, four blanks, one newline at the end, as the original server writes."""
    return (json.dumps(document, indent=4, sort_keys=True, ensure_ascii=False) + "\n").encode()


def generated_at(now: datetime) -> str:
    """C locale, and the token UTC must occur (system-image §2.3)."""
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    at = now.astimezone(UTC)
    return f"{days[at.weekday()]} {months[at.month - 1]} {at:%d %H:%M:%S} UTC {at:%Y}"


def image_entry(version: int, version_detail: str, description: str, files: Sequence[PublishedFile]) -> Document:
    """A full image; `files` are in the order in which they are applied."""
    return {
        "type": "full",
        "version": version,
        "version_detail": version_detail,
        "description": description or version_detail,
        "files": [
            {
                "path": _web_path(file),
                "signature": f"{_web_path(file)}.asc",
                "checksum": file.artifact.sha256,
                "size": file.artifact.size_bytes,
                "order": order,
            }
            for order, file in enumerate(files)
        ],
    }


def index_with(images: Sequence[Document], image: Document, channel: str, device: str, at: str) -> Document:
    """The index of `images` and then `image`, newest last, bound to its channel and device."""
    about = {"generated_at": at, "channel": channel, "device": device}
    return {"global": about, "images": [*images, image]}


def channels_with(channels: Document, channel: str, device: str, index_sha256: str) -> Document:
    """`channels` with the device's index replaced; a new channel or device is added. Nothing else changes."""
    changed = deepcopy(channels)
    entry = changed.setdefault(channel, {"devices": {}})["devices"].setdefault(device, {})
    entry.update(index=layout.index(channel, device, index_sha256), index_sha256=index_sha256)
    return changed


def newest_version(images: Sequence[Document]) -> int:
    """0 when there are none."""
    return max((image["version"] for image in images), default=VERSION_BASE - 1)


def _web_path(file: PublishedFile) -> str:
    return "/" + file.artifact.uri.removeprefix(layout.ROOT)
