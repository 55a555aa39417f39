"""The chain of trust, from one archive-master keyring to verified files. Pure: bytes in, verified values or errors out.

Each link can be had from the one before it only, so that the order of system-image §1.5 cannot be left:

    ArchiveMaster ─► ImageMaster ─► Blacklist ─► ImageSigning ─► AuthenticChannels ─► TrustedChannels
                                                                  ─► TrustedDevice ─► TrustedIndex ─► files

Who fetches the bytes, and what is remembered between two visits, is the caller's affair (`coreimage.client.session`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, Self

from coreimage.client.documents import Channels, DeviceEntry, ImageFile, Index, SignedChannels
from coreimage.client.errors import RepositoryError
from coreimage.client.keyring import Keyring, primary_fingerprints, read_keyring


class Verify(Protocol):
    """Checks OpenPGP signatures by the keys in `keyrings` (binary exports) whose fingerprints are not in `refused`.

    Raises SignatureError unless there is exactly one signature, good, by a key that is valid now. `where` is what the
    error is about.
    """

    def detached(
        self, content: bytes | Path, signature: bytes, keyrings: Sequence[bytes], refused: Collection[str], where: str
    ) -> None:
        """Check a detached signature of `content`, which is bytes or a file."""
        ...

    def inline(self, message: bytes, keyrings: Sequence[bytes], refused: Collection[str], where: str) -> bytes:
        """Check a signed message, and return what it says."""
        ...


@dataclass(frozen=True)
class Signed:
    """Content of the server with its detached signature, as they were fetched from `path`. Nothing of it is trusted."""

    path: str
    content: bytes
    signature: bytes


@dataclass(frozen=True)
class LocalFile:
    """A downloaded file, and what its content was measured to be."""

    path: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Seen:
    """What a client remembers of a server between its visits: the newest channels document that it believed."""

    number: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class Signers:
    """Those who may sign something: the keys of `keyrings` whose fingerprints are not in `refused`."""

    verify: Verify
    keyrings: tuple[bytes, ...]
    refused: frozenset[str] = frozenset()

    def check(self, signed: Signed) -> None:
        """Raise SignatureError unless one of the signers made the signature."""
        self.verify.detached(signed.content, signed.signature, self.keyrings, self.refused, signed.path)

    def check_file(self, file: Path, signature: bytes, where: str) -> None:
        """Raise SignatureError unless one of the signers made the signature of the file."""
        self.verify.detached(file, signature, self.keyrings, self.refused, where)

    def open(self, message: bytes, where: str) -> bytes:
        """Return what a signed message says. Raises SignatureError unless one of the signers signed it."""
        return self.verify.inline(message, self.keyrings, self.refused, where)

    def keyring(self, signed: Signed, kind: str, *, now: float, device: str = "") -> Keyring:
        """Return the keyring that one of the signers signed. Raises RepositoryError (see `read_keyring`)."""
        self.check(signed)
        return read_keyring(signed.content, kind, now=now, device=device, where=signed.path)


@dataclass(frozen=True)
class ArchiveMaster:
    """The keyring that is trusted because it was given. Times (`now`) are UNIX seconds in the whole chain."""

    keyring: Keyring
    signers: Signers

    @classmethod
    def trust(cls, tarball: bytes, verify: Verify, *, now: float) -> Self:
        """Begin a chain. Raises RepositoryError for a tarball that is no archive-master keyring, or an expired one."""
        keyring = read_keyring(tarball, "archive-master", now=now, where="archive-master")
        return cls(keyring, Signers(verify, (keyring.keys,)))

    def published(self, signed: Signed, *, now: float) -> ArchiveMaster:
        """Trust the archive-master keyring of the tree, which the given one signs. Clients never fetch it."""
        keyring = self.signers.keyring(signed, "archive-master", now=now)
        return ArchiveMaster(keyring, Signers(self.signers.verify, (keyring.keys,)))

    def image_master(self, signed: Signed, *, now: float) -> ImageMaster:
        """Trust the image-master keyring, which archive-master signs. Raises RepositoryError."""
        keyring = self.signers.keyring(signed, "image-master", now=now)
        return ImageMaster(keyring, Signers(self.signers.verify, (keyring.keys,)))


@dataclass(frozen=True)
class Blacklist:
    """The keys whose signatures count no more, from image-signing downwards; no keyring where there is no blacklist."""

    keyring: Keyring | None
    fingerprints: frozenset[str]


@dataclass(frozen=True)
class ImageMaster:
    """The verified image-master keyring."""

    keyring: Keyring
    signers: Signers

    def blacklist(self, signed: Signed | None, *, now: float) -> Blacklist:
        """Trust the blacklist, or that there is none (`signed` is None).

        Raises RepositoryError for one that cannot be read: unlike the original client, we stop there.
        """
        if signed is None:
            return Blacklist(None, frozenset())
        keyring = self.signers.keyring(signed, "blacklist", now=now)
        return Blacklist(keyring, primary_fingerprints(keyring.keys))

    def image_signing(self, signed: Signed, blacklist: Blacklist, *, now: float) -> ImageSigning:
        """Trust the image-signing keyring, which a key of image-master signs that is not blacklisted."""
        signers = Signers(self.signers.verify, self.signers.keyrings, blacklist.fingerprints)
        keyring = signers.keyring(signed, "image-signing", now=now)
        return ImageSigning(keyring, Signers(signers.verify, (keyring.keys,), blacklist.fingerprints))


@dataclass(frozen=True)
class ImageSigning:
    """The verified image-signing keyring: its keys sign channels, indexes and files."""

    keyring: Keyring
    signers: Signers

    def channels(self, message: bytes, where: str) -> AuthenticChannels:
        """Open a signed channels document. Raises RepositoryError."""
        return self._authentic(self.signers.open(message, where), where)

    def channels_pair(self, signed: Signed) -> AuthenticChannels:
        """Read channels.json with its detached signature, as servers of 2015 have it. Raises RepositoryError."""
        self.signers.check(signed)
        return self._authentic(signed.content, signed.path)

    def _authentic(self, content: bytes, where: str) -> AuthenticChannels:
        document = SignedChannels.from_bytes(content, where)
        return AuthenticChannels(document, hashlib.sha256(content).hexdigest(), where, self.signers)


@dataclass(frozen=True)
class AuthenticChannels:
    """A channels document that image-signing signed at some time: it may be an old one, or a candidate's."""

    document: SignedChannels
    sha256: str
    where: str
    signers: Signers

    def current(self, seen: Seen, *, now: float, legacy: bool) -> TrustedChannels:
        """Trust the document as what the server offers now.

        Args:
            seen: What an earlier visit of this server left to remember.
            now: UNIX seconds.
            legacy: Trust a document without number and expiry, as long as the server never had one with them.

        Raises:
            RepositoryError: The document is a candidate's, older than what was seen, or expired.
        """
        self.require_kind("channels")
        number, expires = self.document.number, self.document.expires
        if number < seen.number or (number == seen.number and seen.sha256 not in {"", self.sha256}):
            raise RepositoryError(
                f"the server gives channels document {number}, although document {seen.number} was seen before: "
                "old channels are served",
                where=self.where,
            )
        if number == 0 and not legacy:
            raise RepositoryError(
                "the channels have neither number nor expiry, which only a legacy server may do without",
                where=self.where,
                resolution="if it is a server of 2015, say so with --legacy; if not, do not install from it",
            )
        if expires is not None and expires <= now:
            raise RepositoryError(
                f"the channels have expired on {datetime.fromtimestamp(expires, UTC):%Y-%m-%d}: "
                "somebody keeps newer ones back, or the publisher no longer renews them",
                where=self.where,
            )
        return TrustedChannels(self.document, self.signers)

    def candidate(self) -> TrustedChannels:
        """Trust the document as that of a candidate, which was asked for. Raises RepositoryError if it is none."""
        self.require_kind("candidate")
        return self.of_any_age()

    def of_any_age(self) -> TrustedChannels:
        """Trust the document whatever its kind and age: for those who check a tree, and report these apart."""
        return TrustedChannels(self.document, self.signers)

    def require_kind(self, kind: str) -> None:
        """Raise RepositoryError unless the document is of `kind`."""
        if self.document.kind != kind:
            raise RepositoryError(f"the document is of the kind {self.document.kind!r}, not {kind!r}", where=self.where)


@dataclass(frozen=True)
class TrustedChannels:
    """The channels that devices are looked up in."""

    document: SignedChannels
    signers: Signers

    @property
    def channels(self) -> Channels:
        """The channels themselves."""
        return self.document.channels

    def device(self, channel: str, device: str, keyring: Signed | None, *, now: float) -> TrustedDevice:
        """Trust the keys of a device.

        Args:
            channel: The channel that the device follows.
            device: Its name.
            keyring: The device's own keyring, where its entry names one.
            now: UNIX seconds.

        Raises:
            NotPresentError: There is no such channel or device.
            RepositoryError: The keyring is not signed by image-signing, or not fit for the device.
        """
        entry = self.channels.device(channel, device)
        signers, own = self.signers, None
        if entry.keyring is not None:
            if keyring is None:
                raise ValueError(f"{channel} {device} has a keyring of its own, which was not given")
            own = signers.keyring(keyring, "device-signing", now=now, device=device)
            signers = Signers(signers.verify, (*signers.keyrings, own.keys), signers.refused)
        content_of = entry.redirect or self.channels[channel].redirect or channel
        return TrustedDevice(entry, content_of, device, own, signers, is_bound=self.document.number > 0)


@dataclass(frozen=True)
class TrustedDevice:
    """A device of a channel, and who may sign its index and files: image-signing and its own keyring, if it has one.

    `content_of` is the channel whose versions the device gets, a redirect followed. Where `is_bound`, the server says
    everywhere what belongs together; only documents without a number may leave it out.
    """

    entry: DeviceEntry
    content_of: str
    name: str
    keyring: Keyring | None
    signers: Signers
    is_bound: bool

    def index(self, signed: Signed) -> TrustedIndex:
        """Trust the index of the device. Raises RepositoryError for any but the one that the channel names."""
        expected, where = self.entry.index_sha256, signed.path
        if expected is None and self.is_bound:
            raise RepositoryError("the channel does not say which index is its own", where=where)
        if expected not in {None, hashlib.sha256(signed.content).hexdigest()}:
            raise RepositoryError("the index is not the one that the channel names", where=where)
        self.signers.check(signed)
        index = Index.from_bytes(signed.content, where)
        unsaid = set() if self.is_bound else {None}
        if index.channel not in {self.content_of, *unsaid} or index.device not in {self.name, *unsaid}:
            raise RepositoryError(
                f"the index is of {index.channel} for {index.device}, not of {self.content_of} for {self.name}",
                where=where,
            )
        return TrustedIndex(index, self.signers)


@dataclass(frozen=True)
class TrustedIndex:
    """The verified images of a device."""

    index: Index
    signers: Signers

    def check_file(self, file: ImageFile, local: LocalFile, signature: bytes) -> None:
        """Raise RepositoryError unless `local` is the `file` of this index, and signed."""
        if local.size_bytes != file.size_bytes:
            raise RepositoryError(
                f"the file has {local.size_bytes} bytes, not the {file.size_bytes} of the index", where=file.path
            )
        if local.sha256 != file.sha256:
            raise RepositoryError("the file does not have the digest of the index", where=file.path)
        self.signers.check_file(local.path, signature, file.path)
