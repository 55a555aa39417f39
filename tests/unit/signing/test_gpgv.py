"""The judgement of gpgv's status lines."""

from __future__ import annotations

import pytest

from coreimage.errors import VerificationError
from coreimage.signing.gpgv import _signer

PRIMARY, SUBKEY = "A" * 40, "B" * 40


def valid(digest: str = "10", kind: str = "00") -> list[str]:
    return f"VALIDSIG {SUBKEY} 2026-11-23 1795472469 0 4 0 1 {digest} {kind} {PRIMARY}".split()


GOOD = [["NEWSIG"], ["GOODSIG", "X"], valid()]


def test_primary_fingerprint_is_what_counts() -> None:
    assert _signer(GOOD, [SUBKEY], "") == PRIMARY


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
        _signer(status, [], "")


def test_blacklisted_primary_is_refused() -> None:
    with pytest.raises(VerificationError, match="blacklisted"):
        _signer(GOOD, [PRIMARY], "")
