"""Checks signatures with gpgv, by its machine-readable status (doc/DETAILS of GnuPG) and nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from coreimage.errors import HostError, VerificationError
from coreimage.process import Run
from coreimage.process import run as run_process
from coreimage.workspace import workspace

_REFUSED = {
    "BADSIG": "the signature does not match the content",
    "ERRSIG": "the signature is by a key that is not in the keyring",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the signature is by a key that has expired",
    "REVKEYSIG": "the signature is by a key that was revoked",
    "NODATA": "there is no OpenPGP signature",
}
_DIGESTS = {"8": "SHA-256", "9": "SHA-384", "10": "SHA-512"}
_DOCUMENT_CLASSES = {"00", "01"}
_PRIMARY_FIELD = 9


def verify_detached(
    content: Path | bytes,
    signature: bytes,
    keyrings: Sequence[bytes],
    *,
    refused: Collection[str] = (),
    where: str = "",
    run: Run = run_process,
) -> str:
    """The primary fingerprint that made `signature` over `content`.

    `keyrings` are binary public keys; keys whose primary fingerprint is in `refused` count for nothing. Raises
    VerificationError, naming `where`, unless there is exactly one signature, good, and by a key that is valid now.
    """
    with workspace("gpgv") as home:
        (home / "signature").write_bytes(signature)
        signed = content.absolute() if isinstance(content, Path) else home / "content"
        if isinstance(content, bytes):
            signed.write_bytes(content)
        status = _gpgv(home, [home / "signature", signed], keyrings, run)
        return _signer(status, refused, where)


def open_inline(
    message: bytes,
    keyrings: Sequence[bytes],
    *,
    refused: Collection[str] = (),
    where: str = "",
    run: Run = run_process,
) -> tuple[str, bytes]:
    """The signer's primary fingerprint and the content of an inline-signed message. Raises as `verify_detached`."""
    with workspace("gpgv") as home:
        (home / "message").write_bytes(message)
        status = _gpgv(home, ["--output", home / "content", home / "message"], keyrings, run)
        fingerprint = _signer(status, refused, where)
        if [line[0] for line in status].count("PLAINTEXT") != 1:
            raise _refusal("it does not hold exactly one content", where)
        return fingerprint, (home / "content").read_bytes()


def _gpgv(home: Path, arguments: Sequence[str | Path], keyrings: Sequence[bytes], run: Run) -> list[list[str]]:
    """The status lines as lists of words, without their prefix."""
    options: list[str | Path] = []
    for number, keyring in enumerate(keyrings):
        path = home / f"keyring-{number}.gpg"
        path.write_bytes(keyring)
        options += ["--keyring", path]
    # In memory: on a full disk it would say nothing, which is a refusal of what may be good.
    with os.fdopen(os.memfd_create("status"), "w+b") as status:
        command = ["gpgv", "--homedir", home, "--status-fd", "1", *options, *arguments]
        ended = run(command, stdout=status, accept=range(256))
        if os.strerror(errno.ENOSPC) in ended.output:
            raise HostError(
                "the disk is full", where=str(home.parent), resolution="free some space, or name another TMPDIR"
            )
        status.seek(0)
        lines = status.read().decode(errors="replace").splitlines()
    return [line.split()[1:] for line in lines if line.startswith("[GNUPG:] ")]


def _signer(status: Sequence[Sequence[str]], refused: Collection[str], where: str) -> str:
    """Pure judgement of gpgv's status lines: the primary fingerprint, or VerificationError."""
    words = [line[0] for line in status if line]
    for word, problem in _REFUSED.items():
        if word in words:
            raise _refusal(problem, where)
    valid = [line for line in status if line and line[0] == "VALIDSIG"]
    if not (words.count("NEWSIG") == words.count("GOODSIG") == len(valid) == 1) or "ERROR" in words:
        raise _refusal("there is not exactly one good signature", where)
    if len(valid[0]) <= _PRIMARY_FIELD + 1:
        raise _refusal("gpgv does not name the signer", where)
    _, _, _, _, _, _, _, _, digest, signature_class, primary = valid[0][:11]
    if digest not in _DIGESTS or signature_class not in _DOCUMENT_CLASSES:
        raise _refusal("the signature's digest is too weak, or it does not sign a document", where)
    if primary in refused:
        raise _refusal(f"the signing key {primary} is blacklisted", where)
    return primary


def _refusal(problem: str, where: str) -> VerificationError:
    return VerificationError(
        problem, where=where, resolution="do not use it; fetch it again, or ask its publisher which key is theirs"
    )
