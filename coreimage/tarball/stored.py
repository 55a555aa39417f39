"""Small .xz files in which nothing is compressed, so that their bytes depend on no compressor's version.

The xz file format 1.1.0: https://tukaani.org/xz/xz-file-format.txt (§2 to §4), LZMA2's uncompressed chunks (§5.3.1).
"""

from __future__ import annotations

import zlib

_MAGIC, _FOOTER_MAGIC = b"\xfd7zXZ\0", b"YZ"
_CHECK_CRC32 = b"\x00\x01"
_BLOCK_HEADER = b"\x02\x00\x21\x01\x00\x00\x00\x00"
"""12 bytes long with its CRC32; one filter: LZMA2, whose one byte of properties asks for the smallest dictionary."""
_CHUNK_BYTES = 1 << 16
_MORE = 0x80
_RESET, _NO_RESET, _END = b"\x01", b"\x02", b"\x00"


def stored_xz(content: bytes) -> bytes:
    """Return an .xz file of `content`, which must not be empty."""
    header = _BLOCK_HEADER + _crc32(_BLOCK_HEADER)
    chunks = _chunks(content)
    unpadded_bytes = len(header) + len(chunks) + 4
    index = _padded(b"\x00\x01" + _vli(unpadded_bytes) + _vli(len(content)))
    index += _crc32(index)
    backward = (len(index) // 4 - 1).to_bytes(4, "little") + _CHECK_CRC32
    return b"".join(
        [
            *(_MAGIC, _CHECK_CRC32, _crc32(_CHECK_CRC32)),
            *(header, _padded(chunks), _crc32(content)),
            *(index, _crc32(backward), backward, _FOOTER_MAGIC),
        ]
    )


def _chunks(content: bytes) -> bytes:
    parts = [content[start : start + _CHUNK_BYTES] for start in range(0, len(content), _CHUNK_BYTES)]
    controls = (_RESET, *(_NO_RESET for _ in parts[1:]))
    sized = [control + (len(part) - 1).to_bytes(2, "big") + part for control, part in zip(controls, parts, strict=True)]
    return b"".join(sized) + _END


def _vli(number: int) -> bytes:
    """Encode a number with seven bits per byte, the lowest first (§1.2)."""
    encoded = bytearray()
    while number >= _MORE:
        encoded.append(number % _MORE | _MORE)
        number >>= 7
    return bytes([*encoded, number])


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def _crc32(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")
