"""Who says to have made a signature: read from the OpenPGP packet itself (RFC 4880 §4.2, §5.2; RFC 9580 §5.2.3.35).

For choosing what to look at only. Whether it is true, gpgv says.
"""

from __future__ import annotations

import base64
import binascii

_SIGNATURE = 2
_V4 = 4
_ISSUER_FINGERPRINT = 33
_V4_FINGERPRINT_BYTES = 20


def issuer_of(signature: bytes) -> str:
    """The fingerprint (upper case) that a detached signature names as its maker's; empty where it names none."""
    try:
        return _issuer(_body(_unarmoured(signature)))
    except (IndexError, ValueError, StopIteration, binascii.Error):
        return ""


def _unarmoured(signature: bytes) -> bytes:
    if not signature.startswith(b"-----BEGIN"):
        return signature
    _, _, rest = signature.replace(b"\r", b"").partition(b"\n\n")
    lines = rest.split(b"\n")
    end = next(number for number, line in enumerate(lines) if line.startswith((b"=", b"-----END")))
    return base64.b64decode(b"".join(lines[:end]), validate=True)


def _body(packet: bytes) -> bytes:
    tag = packet[0]
    if not tag & 0x80:
        raise ValueError("no packet")
    if tag & 0x40:
        if tag & 0x3F != _SIGNATURE or packet[1] >= 224:  # noqa: PLR2004
            raise ValueError("no signature of known length")
        start = 2 if packet[1] < 192 else 3  # noqa: PLR2004
        return packet[start:]
    if (tag >> 2) & 0x0F != _SIGNATURE:
        raise ValueError("no signature")
    return packet[1 + (1 << (tag & 3)) :]


def _issuer(body: bytes) -> str:
    if body[0] != _V4:
        return ""
    hashed = body[6 : 6 + int.from_bytes(body[4:6], "big")]
    while hashed:
        length, start = (hashed[0], 1) if hashed[0] < 192 else (((hashed[0] - 192) << 8) + hashed[1] + 192, 2)  # noqa: PLR2004
        kind, content = hashed[start] & 0x7F, hashed[start + 1 : start + length]
        if kind == _ISSUER_FINGERPRINT and content[0] == _V4 and len(content) == 1 + _V4_FINGERPRINT_BYTES:
            return content[1:].hex().upper()
        hashed = hashed[start + length :]
    return ""
