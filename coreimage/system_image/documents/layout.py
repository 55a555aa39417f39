"""Where everything stands below `system-image/` in the store, the web root that devices know (system-image §1.1)."""

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
    """Return the store's key of a web path, server-absolute or relative."""
    return ROOT + path.lstrip("/")


def web_path(key: str) -> str:
    """Return the server-absolute web path of a key below the web root."""
    return "/" + key.removeprefix(ROOT)


def pool(part: str, sha256: str, suffix: str = ".xz") -> str:
    """Return the path of a payload. `part` is the part of the version that it holds, such as `ubuntu`."""
    return f"/pool/{part}-{sha256}.tar{suffix}"


def delta(part: str, sha256: str) -> str:
    """Return the path of a delta of one part, in the form of 2015."""
    return f"/pool/{part}-{sha256}.delta.tar.xz"


def compact_delta(sha256: str) -> str:
    """Return the path of a compact delta, which is of a whole image."""
    return f"/pool/image-{sha256}.delta"


def part_of(path: str) -> str:
    """Return the part that a payload holds: the inverse of `pool` (system-image §5 has no other place for it)."""
    return path.rpartition("/")[2].rpartition("-")[0]


def sidecar(path: str) -> str:
    """Return the path of what the server notes beside a tarball (system-image §2.8)."""
    return re.sub(r"\.tar\.(xz|zst)$", "", path) + ".json"


def keyring(kind: str) -> str:
    return f"/gpg/{kind}.tar.xz"


def version_tarball(channel: str, device: str, version: int) -> str:
    return f"/{channel}/{device}/version-{version}.tar.xz"


def own_version_tarball(channel: str, device: str, version: int, sha256: str) -> str:
    """Return the path of a version file that an alias or a renamed channel has instead of the original one.

    It is in a folder of its digest: an alias that gets another target has other bytes for the same number.
    """
    return f"/{channel}/{device}/{sha256[:16]}/version-{version}.tar.xz"


def version_sidecar(channel: str, device: str, version: int) -> str:
    return f"/{channel}/{device}/version-{version}.json"


def index(channel: str, device: str, sha256: str) -> str:
    return f"/{channel}/{device}/index-{sha256}.json"


def plain_index(channel: str, device: str) -> str:
    return f"/{channel}/{device}/index.json"


def candidate_channels(channel: str, device: str, version: int) -> str:
    return f"/{channel}/{device}/candidates/{version}/channels.json.gpg"
