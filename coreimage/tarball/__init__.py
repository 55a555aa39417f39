"""Tar archives: written the same each time, compressed, and read safely."""

from coreimage.tarball.compression import (
    MAXIMUM,
    compress_xz,
    compress_zstd,
    decompress,
    decompressed,
    gzip_writer,
    read_by,
    written_by,
)
from coreimage.tarball.reading import VERSION_ROOTS, Contents, Limits, MemberCheck, extract
from coreimage.tarball.stored import stored_xz
from coreimage.tarball.writing import LegacyTar, TarWriter, directory, normalise, regular, symlink

__all__ = [
    "MAXIMUM",
    "VERSION_ROOTS",
    "Contents",
    "LegacyTar",
    "Limits",
    "MemberCheck",
    "TarWriter",
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
