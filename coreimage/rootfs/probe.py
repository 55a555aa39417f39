"""How the archives stand: the signed Release of every suite, and nothing more."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from debian.deb822 import Release as ReleaseFile

from coreimage.errors import NotFoundError, VerificationError
from coreimage.full_disk import full_disk
from coreimage.http import Fetch
from coreimage.model import TEXT, ArchiveRelease, ArtifactRef
from coreimage.process import Run
from coreimage.rootfs.spec import ArchiveSpec
from coreimage.storage import Store, fetch_blob, put_blob_file
from coreimage.workspace import workspace

_LIMIT_BYTES = 16 << 20


def probe_archives(
    archives: tuple[ArchiveSpec, ...], *, store: Store, fetch: Fetch, run: Run, now: datetime | None = None
) -> tuple[ArchiveRelease, ...]:
    """The releases of all suites, in the order of `archives`.

    Raises InfrastructureError or NotFoundError for an archive that does not answer, VerificationError for one that is
    not signed by its key or is past its Valid-Until, HostError when the disk is full.
    """
    moment = now or datetime.now(UTC)
    with workspace("probe", run=run) as folder:
        return tuple(
            _probe(archive, suite, folder, moment, store=store, fetch=fetch, run=run)
            for archive in archives
            for suite in archive.suites
        )


def _probe(
    archive: ArchiveSpec, suite: str, folder: Path, now: datetime, *, store: Store, fetch: Fetch, run: Run
) -> ArchiveRelease:
    where = f"{archive.uri} {suite}"
    signed = _in_release(f"{archive.uri}/dists/{suite}/InRelease", folder / "InRelease", fetch)
    content = _verified(signed, archive.key, where, store=store, run=run)
    return describe(archive.uri, suite, content, put_blob_file(store, signed, TEXT), now)


def _in_release(url: str, path: Path, fetch: Fetch) -> Path:
    try:
        return fetch(url, path, limit_bytes=_LIMIT_BYTES)
    except NotFoundError as error:
        raise NotFoundError(
            f"the archive has no signed Release of this suite: {error.problem}",
            where=url,
            resolution="check `uri` and `suites` in the project file, and that the mirror is whole",
        ) from error


def describe(uri: str, suite: str, content: bytes, release: ArtifactRef, now: datetime) -> ArchiveRelease:
    """Pure: what a verified Release says. Raises VerificationError when `now` is past its Valid-Until."""
    fields = ReleaseFile(content.splitlines())
    until = fields.get("Valid-Until")
    if until and parsedate_to_datetime(until) < now:
        raise VerificationError(
            f"the archive's Release was valid until {until}",
            where=f"{uri} {suite}",
            resolution="the mirror no longer follows its archive: use another one, or check this machine's clock",
        )
    return ArchiveRelease(
        uri=uri,
        suite=suite,
        origin=fields.get("Origin", ""),
        label=fields.get("Label", ""),
        codename=fields.get("Codename", ""),
        date=_rfc3339(fields.get("Date", ""), f"{uri} {suite}"),
        release_sha256=hashlib.sha256(content).hexdigest(),
        release=release,
    )


def signed_text(content: bytes) -> bytes:
    """The text of a cleartext-signed message (RFC 9580 §7), as gpgv writes it; what is around it is left out."""
    body = content.replace(b"\r\n", b"\n").partition(b"-----BEGIN PGP SIGNED MESSAGE-----\n")[2]
    text = body.partition(b"\n\n")[2] if not body.startswith(b"\n") else body[1:]
    lines = text.partition(b"\n-----BEGIN PGP SIGNATURE-----")[0].split(b"\n")
    return b"".join(line.removeprefix(b"- ") + b"\n" for line in lines)


def _verified(signed: Path, key: ArtifactRef, where: str, *, store: Store, run: Run) -> bytes:
    keyring = fetch_blob(store, key, signed.with_name("keyring.gpg"))
    plain = signed.with_name("Release")
    plain.unlink(missing_ok=True)
    argv: list[str | Path] = ["gpgv", "--status-fd", "1", "--keyring", keyring, "--output", plain, signed]
    status = run(argv, accept=(0, 1, 2)).output
    if full := full_disk(status, f"while checking {where}"):
        raise full
    good = re.search(r"^\[GNUPG:\] GOODSIG ", status, re.M) and re.search(r"^\[GNUPG:\] VALIDSIG ", status, re.M)
    if not good or "[GNUPG:] BADSIG" in status or not plain.exists():
        raise VerificationError(
            _complaint(status, _key_ids(keyring, run)),
            where=where,
            resolution="nothing of it is used; if the archive changed its key, put the new one in the project file",
        )
    return plain.read_bytes()


def _complaint(status: str, trusted: list[str]) -> str:
    signers = sorted(set(re.findall(r"^\[GNUPG:\] (?:NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG) ([0-9A-F]+)", status, re.M)))
    found = f"is signed by {', '.join(signers)}" if signers else "carries no signature that can be read"
    return f"InRelease {found}; trusted are {', '.join(trusted) or 'no keys at all'}"


def _key_ids(keyring: Path, run: Run) -> list[str]:
    listing = run(["gpg", "--batch", "--show-keys", "--with-colons", keyring], accept=(0, 1, 2)).output
    return sorted(set(re.findall(r"^(?:pub|sub):(?:[^:]*:){3}([0-9A-F]{16}):", listing, re.M)))


def _rfc3339(date: str, where: str) -> str:
    try:
        return parsedate_to_datetime(date).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError as error:
        raise VerificationError(f"the Release has no usable Date: {date!r}", where=where) from error
