"""The judgement of the status lines of gpgv, and the maker that a signature names."""

from __future__ import annotations

import base64

import pytest

from coreimage.errors import VerificationError
from coreimage.host.process import Completed
from coreimage.signing.signatures import issuer_of, open_inline, signer_of

PRIMARY, SUBKEY = "A" * 40, "B" * 40


def valid(digest: str = "10", kind: str = "00") -> list[str]:
    return f"VALIDSIG {SUBKEY} 2026-11-23 1795472469 0 4 0 1 {digest} {kind} {PRIMARY}".split()


GOOD = [["NEWSIG"], ["GOODSIG", "X"], valid()]


def test_primary_fingerprint_is_what_counts() -> None:
    assert signer_of(GOOD, [SUBKEY], "") == PRIMARY


@pytest.mark.parametrize(
    "status",
    [
        [],
        GOOD[1:],
        [*GOOD, ["BADSIG"]],
        [*GOOD, ["EXPKEYSIG"]],
        [*GOOD, ["REVKEYSIG"]],
        [*GOOD, ["EXPSIG"]],
        [*GOOD, ["ERRSIG"]],
        [*GOOD, ["ERROR", "x"]],
        [*GOOD, ["NEWSIG"]],
        [*GOOD, *GOOD],
        [["NEWSIG"], ["GOODSIG"], valid(digest="2")],
        [["NEWSIG"], ["GOODSIG"], valid(kind="10")],
        [["NEWSIG"], ["GOODSIG"], valid()[:10]],
    ],
)
def test_anything_else_is_refused(status: list[list[str]]) -> None:
    with pytest.raises(VerificationError):
        signer_of(status, [], "")


def test_blacklisted_primary_is_refused() -> None:
    with pytest.raises(VerificationError, match="blacklisted"):
        signer_of(GOOD, [PRIMARY], "")


ANNOUNCED, LITERAL, SIGNED = b"\x90\x02xy", b"\xcb\x03abc", b"\xc2\x03sig"
PARTS = b"\xcb\xe1ab\xc0\x00" + b"c" * 192


class StartedError(Exception):
    pass


def started(*_: object, **__: object) -> Completed:
    raise StartedError


@pytest.mark.parametrize(
    ("message", "is_opened"),
    [
        (ANNOUNCED + LITERAL + SIGNED, True),
        (SIGNED + PARTS + b"\x89\x00\x03sig", True),
        (b"\xcb\xff\x00\x00\x00\x03abc" + SIGNED, True),
        (b"-----BEGIN PGP SIGNED MESSAGE-----\n\ntext", True),
        (b"\xa3\x01bomb", False),
        (b"\xc8\x04bomb", False),
        (ANNOUNCED + LITERAL + SIGNED + b"\xc8\x04bomb", False),
        (b"\x9b\x01anything", False),
        (LITERAL[:-1], False),
        (PARTS[:3], False),
        (b"-----BEGIN PGP MESSAGE-----\n\nyMDA\n", False),
        (b"text", False),
    ],
)
def test_only_a_signed_message_that_is_not_compressed_is_opened(message: bytes, is_opened: bool) -> None:
    with pytest.raises(StartedError if is_opened else VerificationError):
        open_inline(message, [], run=started)


FINGERPRINT = bytes(range(0xE0, 0xF4))
ISSUER = bytes([22, 33, 4]) + FINGERPRINT
CREATED = bytes([5, 2, 0, 0, 0, 0])
FALSE = bytes([22, 33, 4]) + b"\x01" * 20
LONG = bytes([192 + 1, 3]) + bytes([20]) + (FALSE * 20)[: (1 << 8) + 3 + 192 - 1]
"""A subpacket (notation data) with a length of two bytes. Whoever takes it for another length finds another maker."""
SHORTEST_LONG = bytes([192, 0]) + bytes([20]) + (FALSE * 20)[: 192 - 1]


def packet(*subpackets: bytes, version: int = 4, header: bytes = b"\x89\x01\x00") -> bytes:
    """A signature packet (RFC 9580 §5.2.3) with these hashed subpackets; what follows them does not matter."""
    hashed = b"".join(subpackets)
    return header + bytes([version, 0, 1, 10]) + len(hashed).to_bytes(2, "big") + hashed + b"rest"


def armoured(content: bytes) -> bytes:
    lines = base64.b64encode(content).decode()
    return f"-----BEGIN PGP SIGNATURE-----\nComment: x\n\n{lines}\n=abcd\n-----END PGP SIGNATURE-----\n".encode()


@pytest.mark.parametrize(
    "signature",
    [
        packet(ISSUER),
        packet(CREATED, ISSUER),
        packet(LONG, CREATED, ISSUER),
        packet(SHORTEST_LONG, ISSUER),
        packet(ISSUER, header=b"\xc2\xbf"),
        packet(ISSUER, header=b"\xc2\xc0\x00"),
        armoured(packet(ISSUER)).replace(b"=abcd\n", b""),
        armoured(packet(ISSUER)) + b"\n\nmore\n=x\n",
        packet(CREATED, bytes([22, 33 | 0x80, 4]) + FINGERPRINT),
        packet(ISSUER, header=b"\xc2\x30"),
        packet(ISSUER, header=b"\xc2\xc1\x00"),
        packet(ISSUER, header=b"\x88\x30"),
        armoured(packet(CREATED, ISSUER)),
        armoured(packet(ISSUER)).replace(b"\n", b"\r\n"),
    ],
    ids=[
        *("one", "second", "after a long one", "after the shortest long one", "length 191", "length 192"),
        *("armour without a sum", "text after the armour", "critical"),
        *("new form", "new form, long", "short", "armour", "CRLF"),
    ],
)
def test_the_maker_that_a_signature_names_is_read(signature: bytes) -> None:
    assert issuer_of(signature) == FINGERPRINT.hex().upper()


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"text",
        b"-----BEGIN PGP SIGNATURE-----\n\n",
        armoured(packet(ISSUER)).replace(b"i", b"?"),
        packet(CREATED),
        packet(ISSUER, version=6),
        packet(bytes([22, 33, 6]) + FINGERPRINT),
        packet(bytes([12, 33, 4]) + FINGERPRINT[:10]),
        packet(ISSUER)[:20],
        packet(ISSUER, header=b"\x99\x01\x00"),
        packet(ISSUER, header=b"\xc6\x30"),
        packet(ISSUER, header=b"\xc2\xe1"),
        packet(ISSUER, header=b"\xc2\xe0"),
        packet()[:7] + ISSUER,
        armoured(packet(ISSUER)).replace(b"\n=", b"!\n="),
    ],
    ids=[
        *("empty", "text", "no armour", "bad armour", "no issuer", "version 6", "other key", "short fingerprint"),
        *("cut", "a key", "a key in the new form", "partial length", "shortest partial length", "not hashed"),
        "not base64",
    ],
)
def test_a_signature_that_names_no_maker_has_none(signature: bytes) -> None:
    assert issuer_of(signature) == ""
