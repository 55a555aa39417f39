"""Object storage: one `Store` protocol, a directory or S3 behind it, content-addressed blobs on top."""

from coreimage.storage.blobs import blob_key, fetch_blob, is_stored, open_blob, put_blob_bytes, put_blob_file, read_blob
from coreimage.storage.format import require_format
from coreimage.storage.opening import open_store
from coreimage.storage.store import ObjectInfo, Store
from coreimage.storage.swap import read_bytes, retry_lost_writes, swap

__all__ = [
    "ObjectInfo",
    "Store",
    "blob_key",
    "fetch_blob",
    "is_stored",
    "open_blob",
    "open_store",
    "put_blob_bytes",
    "put_blob_file",
    "read_blob",
    "read_bytes",
    "require_format",
    "retry_lost_writes",
    "swap",
]
