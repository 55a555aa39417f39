"""Which store a URL names. The implementations are imported when they are needed: boto3 takes half a second."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from coreimage.errors import UsageError
from coreimage.storage.store import Store


def open_store(url: str) -> Store:
    """Return the store at `file:///DIR`, at a plain path, or at `s3://BUCKET[/PREFIX]`.

    Raises:
        UsageError: `url` is none of these.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.netloc:
        from coreimage.storage.s3 import S3Store  # noqa: PLC0415

        return S3Store(parts.netloc, parts.path)
    if "://" not in url or (parts.scheme == "file" and not parts.netloc):
        from coreimage.storage.directory import DirectoryStore  # noqa: PLC0415

        return DirectoryStore(Path(unquote(parts.path) if parts.scheme == "file" else url))
    raise UsageError(f"no store is known for {url!r}", resolution="use file:///DIR or s3://BUCKET/PREFIX")
