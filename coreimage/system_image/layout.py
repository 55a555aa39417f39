"""Where things stand below `system-image/` in the store, the web root that devices know (system-image §1.1)."""

from __future__ import annotations

import re

ROOT = "system-image/"
CHANNELS = "channels.json"
CHANNELS_SIGNED = "channels.json.gpg"
"""The truth about channels: one signed object, moved by compare-and-swap. The pair beside it is derived from it."""
DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
ZSTD = ".tar.zst"
"""What the names of payloads end with that the appliers of 2015 cannot unpack."""
IMPORT_CACHE = "import-cache/"
"""Outside the web root: which pool file was made from which input."""
DELTA_CACHE = "import-cache/deltas/"
"""Apart, since those who promote write there too."""


def key(path: str) -> str:
    """The store's key of a path on the web, server-absolute or relative."""
    return ROOT + path.lstrip("/")


def pool(prefix: str, sha256: str, suffix: str = ".xz") -> str:
    return f"/pool/{prefix}-{sha256}.tar{suffix}"


def sidecar(path: str) -> str:
    """What the server notes beside a tarball."""
    return re.sub(r"\.tar\.(xz|zst)$", "", path) + ".json"


def delta(prefix: str, sha256: str) -> str:
    return f"/pool/{prefix}-{sha256}.delta.tar.xz"


def compact_delta(sha256: str) -> str:
    return f"/pool/image-{sha256}.delta"


def keyring(kind: str) -> str:
    return f"/gpg/{kind}.tar.xz"


def version_tarball(channel: str, device: str, version: int) -> str:
    return f"/{channel}/{device}/version-{version}.tar.xz"


def own_version_tarball(channel: str, device: str, version: int, sha256: str) -> str:
    """Below a folder of its digest: an alias that gets another target has other bytes for the same number."""
    return f"/{channel}/{device}/{sha256[:16]}/version-{version}.tar.xz"


def version_sidecar(channel: str, device: str, version: int) -> str:
    return f"/{channel}/{device}/version-{version}.json"


def index(channel: str, device: str, sha256: str) -> str:
    return f"/{channel}/{device}/index-{sha256}.json"


def plain_index(channel: str, device: str) -> str:
    return f"/{channel}/{device}/index.json"


def candidate_channels(channel: str, device: str, version: int) -> str:
    return f"/{channel}/{device}/candidates/{version}/channels.json.gpg"
