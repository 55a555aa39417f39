"""Which full image a revision names (the rules of ubuntu-device-flash)."""

from __future__ import annotations

from collections.abc import Sequence

from coreimage.client.documents import Image
from coreimage.client.errors import NotPresentError


def select_full(images: Sequence[Image], revision: int = 0) -> Image:
    """`revision` 0 is the newest full image, -n the n-th full one before it, +n the one of version n."""
    fulls = sorted((image for image in images if image.type == "full"), key=lambda image: -image.version)
    if revision > 0:
        found = next((image for image in fulls if image.version == revision), None)
    else:
        found = fulls[-revision] if -revision < len(fulls) else None
    if found is None:
        known = ", ".join(str(image.version) for image in fulls) or "none"
        raise NotPresentError(f"there is no full image for revision {revision} (versions there are: {known})")
    return found
