"""What is read from a server: which files there are by their names, and which signature belongs to which.

A keyring and its signature are two files, and a renewal replaces one after the other. `fetch_keyring` knows where the
signature of either is meanwhile. Nothing is trusted here: that is `coreimage.client.trust`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from coreimage.client.errors import ClientError, NotPresentError, SignatureError
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.client.trust import LocalFile, Signed

SIGNATURE_LIMIT_BYTES = 64 << 10
CHANNELS = "channels.json.gpg"
"""One object that holds the document and its signature, so that the two are never torn apart."""
CHANNELS_PAIR = "channels.json"
"""The same in two objects, as in trees of the original server."""

T = TypeVar("T")


class Web(Protocol):
    """A server's files, by their web paths.

    Raises NotPresentError, DownloadError, or RepositoryError for a file that is larger than it may be.
    """

    def read(self, path: str, limit_bytes: int) -> bytes:
        """Return the content of a file, at most `limit_bytes`."""
        ...

    def download(self, path: str, target: Path, sha256: str, size_bytes: int) -> None:
        """Write a file of at most `size_bytes` to `target`; the caller checks it."""
        ...


def keyring_path(kind: str) -> str:
    """Return the web path of a keyring."""
    return f"gpg/{kind}.tar.xz"


def keyring_signature_path(kind: str, tarball: bytes) -> str:
    """Return our own second path of a keyring's signature, which no other keyring ever has: while a renewal replaces
    keyring and signature one after the other, whichever keyring is there has its signature here."""
    return f"gpg/{kind}-{hashlib.sha256(tarball).hexdigest()}.tar.xz.asc"


def fetch_signed(web: Web, path: str, limit_bytes: int, signature_path: str = "") -> Signed:
    """Fetch a file and its detached signature, which is beside it (`.asc`) unless `signature_path` says where."""
    content = web.read(path, limit_bytes)
    return Signed(path, content, web.read(signature_path or f"{path}.asc", SIGNATURE_LIMIT_BYTES))


def fetch_keyring(
    web: Web, kind: str, trust: Callable[[Signed], T], *, on_torn: Callable[[ClientError], None] = lambda _: None
) -> T:
    """Fetch a keyring, and trust it with whichever of its two signatures fits.

    Args:
        web: Where from.
        kind: The keyring's kind, such as `image-signing`.
        trust: A link of the chain of trust, which raises SignatureError for a signature that does not fit.
        on_torn: Is told why the first signature, the only one that clients of 2015 look at, does not fit.

    Returns:
        What `trust` gave.

    Raises:
        ClientError: As `web` and `trust` raise it; of two signatures that do not fit, the first one's.
    """
    path = keyring_path(kind)
    tarball = web.read(path, KEYRING_LIMIT_BYTES)
    try:
        return trust(Signed(path, tarball, web.read(f"{path}.asc", SIGNATURE_LIMIT_BYTES)))
    except (SignatureError, NotPresentError) as torn:
        try:
            signature = web.read(keyring_signature_path(kind, tarball), SIGNATURE_LIMIT_BYTES)
        except NotPresentError:
            raise torn from None
        trusted = trust(Signed(path, tarball, signature))
        on_torn(torn)
        return trusted


def measure(path: Path) -> LocalFile:
    """Read a local file for its size and digest."""
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return LocalFile(path, path.stat().st_size, sha256)
