"""Whether signatures are good, by the machine-readable status of gpgv (doc/DETAILS of GnuPG) and nothing else; and
which key they name as their maker. `signer` makes them."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from coreimage.client.openpgp import PacketError, packets
from coreimage.errors import VerificationError
from coreimage.host.disk_space import disk_full
from coreimage.host.process import Run
from coreimage.host.process import run as run_process
from coreimage.host.workspace import workspace

_REFUSED = {
    "BADSIG": "the signature does not match the content",
    "ERRSIG": "the signature is by a key that is not in the keyring",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the signature is by a key that has expired",
    "REVKEYSIG": "the signature is by a key that was revoked",
    "NODATA": "there is no OpenPGP signature",
}
_STRONG_DIGESTS = {"8": "SHA-256", "9": "SHA-384", "10": "SHA-512"}
_DOCUMENT_CLASSES = {"00", "01"}
_VALIDSIG_FIELDS = 11

_CLEAR_TEXT = b"-----BEGIN PGP SIGNED MESSAGE-----"
_SIGNATURE_PACKET = 2
_PLAIN_PACKETS = {_SIGNATURE_PACKET, 4, 11}
"""Signatures, what announces them, and literal data (RFC 9580 §5)."""
_V4 = 4
_ISSUER_FINGERPRINT = 33
_V4_FINGERPRINT_BYTES = 20


def verify_detached(
    content: Path | bytes,
    signature: bytes,
    keyrings: Sequence[bytes],
    *,
    refused: Collection[str] = (),
    where: str = "",
    run: Run = run_process,
) -> str:
    """Return the fingerprint of the primary key that made `signature` over `content`.

    Args:
        keyrings: Binary exports of public keys.
        refused: Fingerprints of primary keys whose signatures count for nothing.
        where: What is being verified, for the error.

    Raises:
        VerificationError: There is not exactly one signature, good, and by a key that is valid now.
    """
    with workspace("gpgv") as home:
        (home / "signature").write_bytes(signature)
        signed = content.absolute() if isinstance(content, Path) else home / "content"
        if isinstance(content, bytes):
            signed.write_bytes(content)
        return signer_of(_gpgv(home, [home / "signature", signed], keyrings, run), refused, where)


def open_inline(
    message: bytes,
    keyrings: Sequence[bytes],
    *,
    refused: Collection[str] = (),
    where: str = "",
    run: Run = run_process,
) -> tuple[str, bytes]:
    """Return the fingerprint of the signer's primary key, and the content of an inline-signed message.

    The arguments and errors are those of `verify_detached`. A message that is compressed is refused: gpgv would unpack
    it without end before it looks at any signature.
    """
    if not message.startswith(_CLEAR_TEXT) and not _is_plain(message):
        raise _refusal("it is compressed, or no signed OpenPGP message", where)
    with workspace("gpgv") as home:
        (home / "message").write_bytes(message)
        status = _gpgv(home, ["--output", home / "content", home / "message"], keyrings, run)
        fingerprint = signer_of(status, refused, where)
        if [line[0] for line in status].count("PLAINTEXT") != 1:
            raise _refusal("it does not hold exactly one content", where)
        return fingerprint, (home / "content").read_bytes()


def signer_of(status: Sequence[Sequence[str]], refused: Collection[str], where: str) -> str:
    """Judge the status lines of gpgv, given as words, and return the fingerprint of the signer's primary key.

    Raises:
        VerificationError: There is not exactly one signature, good, and by a key that is valid now and not `refused`.
    """
    words = [line[0] for line in status if line]
    for word, problem in _REFUSED.items():
        if word in words:
            raise _refusal(problem, where)
    valid = [line for line in status if line and line[0] == "VALIDSIG"]
    if not (words.count("NEWSIG") == words.count("GOODSIG") == len(valid) == 1) or "ERROR" in words:
        raise _refusal("there is not exactly one good signature", where)
    if len(valid[0]) < _VALIDSIG_FIELDS:
        raise _refusal("gpgv does not name the signer", where)
    digest, signature_class, primary = valid[0][8:_VALIDSIG_FIELDS]
    if digest not in _STRONG_DIGESTS or signature_class not in _DOCUMENT_CLASSES:
        raise _refusal("the signature's digest is too weak, or it does not sign a document", where)
    if primary in refused:
        raise _refusal(f"the signing key {primary} is blacklisted", where)
    return primary


def issuer_of(signature: bytes) -> str:
    """Return the fingerprint (upper case) of the key that a detached signature names as its maker; empty for none.

    It is read from the OpenPGP packet itself (RFC 4880 §4.2, §5.2; RFC 9580 §5.2.3.35), to choose what to look at. Only
    gpgv tells whether it is true.
    """
    try:
        return _issuer(_signature_body(_without_armour(signature)))
    except (IndexError, ValueError, StopIteration, binascii.Error):
        return ""


def _gpgv(home: Path, arguments: Sequence[str | Path], keyrings: Sequence[bytes], run: Run) -> list[list[str]]:
    """Run gpgv, and return its status lines as lists of words, without their prefix."""
    options: list[str | Path] = []
    for number, keyring in enumerate(keyrings):
        path = home / f"keyring-{number}.gpg"
        path.write_bytes(keyring)
        options += ["--keyring", path]
    # The status goes to memory: on a full disk it would be empty, which would refuse what may be good.
    with os.fdopen(os.memfd_create("status"), "w+b") as status:
        command = ["gpgv", "--homedir", home, "--status-fd", "1", *options, *arguments]
        completed = run(command, stdout=status, accept=range(256))
        if full := disk_full(completed.output, str(home.parent)):
            raise full
        status.seek(0)
        lines = status.read().decode(errors="replace").splitlines()
    return [line.split()[1:] for line in lines if line.startswith("[GNUPG:] ")]


def _refusal(problem: str, where: str) -> VerificationError:
    return VerificationError(
        problem, where=where, resolution="do not use it; fetch it again, or ask its publisher which key is theirs"
    )


def _is_plain(message: bytes) -> bool:
    """Return whether a message is a signed content as it is, and no other packet is in it."""
    try:
        return {tag for tag, _ in packets(message, in_parts=True)} <= _PLAIN_PACKETS
    except PacketError:
        return False


def _without_armour(signature: bytes) -> bytes:
    if not signature.startswith(b"-----BEGIN"):
        return signature
    _, _, rest = signature.replace(b"\r", b"").partition(b"\n\n")
    lines = rest.split(b"\n")
    end = next(number for number, line in enumerate(lines) if line.startswith((b"=", b"-----END")))
    return base64.b64decode(b"".join(lines[:end]), validate=True)


def _signature_body(packet: bytes) -> bytes:
    tag = packet[0]
    if not tag & 0x80:
        raise ValueError("no packet")
    if tag & 0x40:
        if tag & 0x3F != _SIGNATURE_PACKET or packet[1] >= 224:  # noqa: PLR2004
            raise ValueError("no signature of known length")
        start = 2 if packet[1] < 192 else 3  # noqa: PLR2004
        return packet[start:]
    if (tag >> 2) & 0x0F != _SIGNATURE_PACKET:
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
