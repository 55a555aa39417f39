"""Build what an index says: entries of images and files, and which of them clients of 2015 may see (system-image
§2.3). Pure; the codec is `coreimage.client.documents`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from coreimage.client.documents import Image, ImageFile, Index
from coreimage.model import TAR_XZ, ArtifactRef
from coreimage.system_image.documents import layout

ALL_DEVICES = 100
"""The phased percentage of a version that every device is offered."""


def generated_at(now: datetime) -> str:
    """Return the time as documents give it: in the C locale, with the token UTC (system-image §2.3)."""
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    at = now.astimezone(UTC)
    return f"{days[at.weekday()]} {months[at.month - 1]} {at:%d %H:%M:%S} UTC {at:%Y}"


def full_image(version: int, version_detail: str, description: str, files: Sequence[ArtifactRef]) -> Image:
    """Return the entry of a full image.

    Args:
        description: What people read; empty: the version_detail.
        files: Objects below the web root, in the order in which they are applied.
    """
    is_zstd = any(file.uri.endswith(layout.ZSTD) for file in files)
    return Image(
        version=version,
        type="full",
        base=None,
        version_detail=version_detail,
        description=description or version_detail,
        files=tuple(image_file(file, order) for order, file in enumerate(files)),
        form="own" if is_zstd else "legacy",
    )


def image_file(artifact: ArtifactRef, order: int) -> ImageFile:
    """Return the entry of an object below the web root; its signature stands beside it."""
    path = layout.web_path(artifact.uri)
    return ImageFile(
        path=path, signature=f"{path}.asc", sha256=artifact.sha256, size_bytes=artifact.size_bytes, order=order
    )


def artifact_of(file: ImageFile) -> ArtifactRef:
    """Return the object in the store that a file of our own tree is."""
    return ArtifactRef(uri=layout.key(file.path), sha256=file.sha256, size_bytes=file.size_bytes, media_type=TAR_XZ)


def build_index(
    images: Sequence[Image], channel: str, device: str, generated_at: str, *, target: str | None = None
) -> Index:
    """Return the index of these images, bound to its channel and device.

    Only the newest version keeps its phased percentage (system-image §2.3); what was withdrawn stays withdrawn. Clients
    of 2015 see the images as `_for_legacy_clients` leaves them.

    Args:
        target: The channel that an alias follows.
    """
    newest = max((image.version for image in images), default=0)
    phased = [
        image
        if image.version == newest or not image.phased_percentage
        else replace(image, phased_percentage=ALL_DEVICES)
        for image in images
    ]
    return Index(
        images=tuple(_for_legacy_clients(phased)),
        channel=channel,
        device=device,
        channel_target=target,
        generated_at=generated_at,
    )


def _for_legacy_clients(images: Sequence[Image]) -> Iterator[Image]:
    """Yield the images so that clients of 2015 find their way in bounded time, and none that leads back
    (docs/adr/0020-what-clients-of-2015-see.md).

    They try every chain of deltas (§3.3): at most one delta leads to each version, that from the newest base; others
    are for our clients only. A full image that is not the newest would take back a device that counts as one without a
    version, as after a change of an alias (§3.2), and a delta after it would not delete anything (§2.5): it is closed
    by a `minversion` that nobody below it has. Where our clients have newer versions, the newest full image is open to
    devices with a version only.
    """
    newest = max((image.version for image in images), default=0)
    legacy_fulls = (image.version for image in images if image.form == "legacy" and image.type == "full")
    newest_full = max(legacy_fulls, default=0)
    nearest_base: dict[int, int] = {}
    for image in images:
        if image.form == "legacy" and image.base is not None:
            nearest_base[image.version] = max(image.base, nearest_base.get(image.version, 0))
    for image in images:
        if image.form != "legacy":
            yield replace(image, minversion=0)
        elif image.base is not None:
            yield image if image.base == nearest_base[image.version] else replace(image, form="own")
        elif image.version != newest_full or image.version in nearest_base.values():
            yield replace(image, minversion=image.version)
        else:
            yield replace(image, minversion=0 if image.version == newest else 1)


def is_same_publication(one: Image, other: Image) -> bool:
    """Return whether two entries are one publication.

    Phasing, pins and `minversion` change with time, and earlier entries did not give the digest of their tree.
    """

    def lasting(image: Image) -> Image:
        return replace(image, phased_percentage=ALL_DEVICES, pinned=None, minversion=0, tree_sha256=None)

    return lasting(one) == lasting(other)


def details_of(version_detail: str) -> dict[str, str]:
    """Parse a version_detail: `name=value` pairs, joined by commas (system-image §2.3)."""
    return dict(part.partition("=")[::2] for part in version_detail.split(",") if part)


def detail_text(details: Mapping[str, str]) -> str:
    """Write a version_detail."""
    return ",".join(f"{name}={value}" for name, value in details.items())
