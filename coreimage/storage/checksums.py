"""SHA256SUMS: the list of the files of a folder in the store, as sha256sum(1) reads it; not its signature."""

from __future__ import annotations

import re
from collections.abc import Mapping

from coreimage.errors import VerificationError

CHECKSUMS = "SHA256SUMS"
CHECKSUMS_SIGNATURE = "SHA256SUMS.gpg"

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\0\n]+)")


def format_checksums(digests: Mapping[str, str]) -> bytes:
    """Write a SHA256SUMS: lines `<hex> *<name>`, sorted by name (cdimage `checksums.py`).

    Args:
        digests: SHA-256 by file name.
    """
    return "".join(f"{digests[name]} *{name}\n" for name in sorted(digests)).encode()


def parse_checksums(content: bytes, where: str) -> dict[str, str]:
    """Read a SHA256SUMS.

    Args:
        content: The file; both the `*` and the blank that sha256sum puts before a name are taken.
        where: What an error calls the file, usually its key.

    Returns:
        SHA-256 by file name.

    Raises:
        VerificationError: A line has another form, or a name is listed twice.
    """
    digests: dict[str, str] = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if not match or match[2] in digests:
            raise VerificationError(
                f"line {number} is not `<sha256> *<name>` with a new name: {line[:100]!r}",
                where=where,
                resolution="remove what this file lists, and publish it again",
            )
        digests[match[2]] = match[1]
    return digests
