"""Keyring tarballs (system-image §1.3)."""

from __future__ import annotations

import io
import json
import tarfile

from coreimage.tarball import stored_xz


def make_keyring(kind: str, public_keys: bytes, *, expiry: int | None = None, model: str | None = None) -> bytes:
    """Return a `.tar.xz` of `keyring.json` and `keyring.gpg`; the same arguments give the same bytes.

    Recovery images of 2015 read the JSON line by line: four blanks, one key a line, an integer expiry.

    Args:
        kind: `archive-master`, `image-master`, `image-signing`, `device-signing` or `blacklist`.
        public_keys: The binary export of the keys.
        expiry: UNIX seconds.
        model: The device that a device-signing keyring is for.
    """
    described = {"type": kind, "expiry": expiry, "model": model}
    described = {key: value for key, value in described.items() if value is not None}
    text = json.dumps(described, indent=4, sort_keys=True) + "\n"
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in (("keyring.json", text.encode()), ("keyring.gpg", public_keys)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return stored_xz(plain.getvalue())
