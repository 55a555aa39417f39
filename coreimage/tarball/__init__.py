"""Deterministic tar, compression, safe unpacking."""

from coreimage.tarball.compression import (
    MAXIMUM,
    XzFilter,
    compress_xz,
    compress_zstd,
    decompress,
    decompressed,
    gzip_writer,
    read_by,
    written_by,
)
from coreimage.tarball.reading import Limits, MemberCheck, check_members, extract
from coreimage.tarball.stored import stored_xz
from coreimage.tarball.writing import TarWriter, directory, normalise, regular, symlink

__all__ = [
    "MAXIMUM",
    "Limits",
    "MemberCheck",
    "TarWriter",
    "XzFilter",
    "check_members",
    "compress_xz",
    "compress_zstd",
    "decompress",
    "decompressed",
    "directory",
    "extract",
    "gzip_writer",
    "normalise",
    "read_by",
    "regular",
    "stored_xz",
    "symlink",
    "written_by",
]
