"""Asks the archives how they stand: for the signed Release of every suite, and nothing more."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from coreimage.errors import NotFoundError, VerificationError
from coreimage.host.disk_space import disk_full
from coreimage.host.process import Run
from coreimage.host.workspace import workspace
from coreimage.http import Fetch
from coreimage.model import TEXT, ArchiveRelease
from coreimage.rootfs.release_file import archive_release
from coreimage.rootfs.spec import ArchiveSpec
from coreimage.storage import Store, fetch_blob, put_blob_file

_LIMIT_BYTES = 16 << 20


def probe_archives(
    archives: tuple[ArchiveSpec, ...], *, store: Store, fetch: Fetch, run: Run, now: datetime | None = None
) -> tuple[ArchiveRelease, ...]:
    """Fetch and verify the Release of every suite, and store it.

    Args:
        archives: Whose suites; their keys are in the store.
        store: Where the InRelease files go.
        fetch: Downloads a file.
        run: Runs gpgv.
        now: The time that Valid-Until is compared with; default: the present.

    Returns:
        One release for each suite, in the order of `archives` and their suites.

    Raises:
        NotFoundError: An archive has no InRelease for a suite.
        InfrastructureError: An archive does not answer.
        VerificationError: An InRelease is not signed by the archive's key, or is past its Valid-Until.
        HostError: The disk is full.
    """
    moment, releases = now or datetime.now(UTC), []
    with workspace("probe", run=run) as folder:
        for archive in archives:
            for suite in archive.suites:
                where, url = f"{archive.uri} {suite}", f"{archive.uri}/dists/{suite}/InRelease"
                try:
                    signed = fetch(url, folder / "InRelease", limit_bytes=_LIMIT_BYTES)
                except NotFoundError as error:
                    raise NotFoundError(
                        f"the archive has no signed Release of this suite: {error.problem}",
                        where=url,
                        resolution="check `uri` and `suites` in the project file, and that the mirror is whole",
                    ) from error
                keyring = fetch_blob(store, archive.key, folder / "keyring.gpg")
                content = _verified_text(signed, keyring, where, run=run)
                release = put_blob_file(store, signed, TEXT)
                releases.append(archive_release(archive.uri, suite, content, release, moment))
    return tuple(releases)


def _verified_text(signed: Path, keyring: Path, where: str, *, run: Run) -> bytes:
    """The text of an InRelease that a key of `keyring` signed. Raises VerificationError for any other."""
    plain = signed.with_name("Release")
    plain.unlink(missing_ok=True)
    argv: list[str | Path] = ["gpgv", "--status-fd", "1", "--keyring", keyring, "--output", plain, signed]
    status = run(argv, accept=(0, 1, 2)).output
    if full := disk_full(status, f"while checking {where}"):
        raise full
    good = re.search(r"^\[GNUPG:\] GOODSIG ", status, re.M) and re.search(r"^\[GNUPG:\] VALIDSIG ", status, re.M)
    if good and "[GNUPG:] BADSIG" not in status and plain.exists():
        return plain.read_bytes()
    bad = re.findall(r"^\[GNUPG:\] (?:NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG) ([0-9A-F]+)", status, re.M)
    signature = f"is signed by {', '.join(sorted(set(bad)))}" if bad else "carries no signature that can be read"
    listing = run(["gpg", "--batch", "--show-keys", "--with-colons", keyring], accept=(0, 1, 2)).output
    trusted = sorted(set(re.findall(r"^(?:pub|sub):(?:[^:]*:){3}([0-9A-F]{16}):", listing, re.M)))
    raise VerificationError(
        f"InRelease {signature}; trusted are {', '.join(trusted) or 'no keys at all'}",
        where=where,
        resolution="nothing of it is used; if the archive changed its key, put the new one in the project file",
    )
