"""What the signed Release of a suite says (Debian's repository format). Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from debian.deb822 import Release as ReleaseFields

from coreimage.errors import BuildError, VerificationError
from coreimage.model import Architecture, ArchiveRelease, ArtifactRef


@dataclass(frozen=True)
class IndexFile:
    """A Packages file that a Release lists; `name` is its path below the suite."""

    name: str
    sha256: str
    size_bytes: int
    by_hash: bool
    """Whether the archive serves it under its digest, too, so that an update of the archive cannot come between."""

    @property
    def path(self) -> str:
        """Where the archive serves it, below the suite."""
        return f"{self.name.rpartition('/')[0]}/by-hash/SHA256/{self.sha256}" if self.by_hash else self.name


def signed_text(message: bytes) -> bytes:
    """Return the text of a cleartext-signed message (RFC 9580 §7) as gpgv writes it, without what is around it."""
    body = message.replace(b"\r\n", b"\n").partition(b"-----BEGIN PGP SIGNED MESSAGE-----\n")[2]
    text = body.partition(b"\n\n")[2] if not body.startswith(b"\n") else body[1:]
    lines = text.partition(b"\n-----BEGIN PGP SIGNATURE-----")[0].split(b"\n")
    return b"".join(line.removeprefix(b"- ") + b"\n" for line in lines)


def archive_release(uri: str, suite: str, content: bytes, release: ArtifactRef, now: datetime) -> ArchiveRelease:
    """Return how a suite stands.

    Args:
        uri: The archive.
        suite: The suite.
        content: The text of its Release, of which the signature was verified.
        release: The InRelease file in the store.
        now: An aware time, that Valid-Until is compared with.

    Raises:
        VerificationError: `now` is past Valid-Until, or the Release has no Date.
    """
    fields, where = ReleaseFields(content.splitlines()), f"{uri} {suite}"
    until, date = fields.get("Valid-Until"), fields.get("Date", "")
    if until and parsedate_to_datetime(until) < now:
        raise VerificationError(
            f"the archive's Release was valid until {until}",
            where=where,
            resolution="the mirror no longer follows its archive: use another one, or check this machine's clock",
        )
    try:
        moment = parsedate_to_datetime(date).astimezone(UTC)
    except ValueError as error:
        raise VerificationError(
            f"the Release has no usable Date: {date!r}", where=where, resolution="use another mirror"
        ) from error
    return ArchiveRelease(
        uri=uri,
        suite=suite,
        origin=fields.get("Origin", ""),
        label=fields.get("Label", ""),
        codename=fields.get("Codename", ""),
        date=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        release_sha256=hashlib.sha256(content).hexdigest(),
        release=release,
    )


def index_files(content: bytes, components: Sequence[str], architecture: Architecture) -> list[IndexFile]:
    """Return the smallest form of every Packages file that lists packages for an architecture.

    Args:
        content: The text of a Release.
        components: The components that are wanted.
        architecture: What the packages are for; those for all architectures are listed there or in a file of their own.

    Raises:
        BuildError: The archive does not have a component for this architecture.
    """
    fields = ReleaseFields(content.splitlines())
    entries = {entry["name"]: (entry["sha256"], int(entry["size"])) for entry in fields.get("SHA256", [])}
    # An archive may list binary-all and yet not serve it: these two fields tell (apt, deb/debmetaindex.cc).
    folded = "Packages" in fields.get("No-Support-for-Architecture-all", "").split()
    separate = "all" in fields.get("Architectures", "").split() and not folded
    by_hash = str(fields.get("Acquire-By-Hash", "no")).lower() == "yes"
    files = []
    for component in components:
        if not any(name.startswith(f"{component}/binary-{architecture}/Packages") for name in entries):
            raise BuildError(
                f"the archive has no component {component!r} for {architecture}",
                where=f"{fields.get('Origin', '')} {fields.get('Suite', '')}",
                resolution="mend `components` in the project file",
            )
        for part in (architecture, "all") if separate else (architecture,):
            forms = [f"{component}/binary-{part}/Packages{suffix}" for suffix in (".xz", ".gz", "")]
            smallest = next((form for form in forms if form in entries), None)
            if smallest:
                files.append(IndexFile(smallest, *entries[smallest], by_hash=by_hash))
    return files
