"""The walk over a published tree that checks all of it: signatures, digests, sizes, references, pairs, expiry, orphans.

A client stops at the first thing that is wrong; the walk goes on, so that one look says everything. It trusts by the
same chain as a client (`coreimage.client.trust`), and also checks what only clients of 2015 read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeVar

from coreimage.client import (
    Channels,
    Image,
    ImageFile,
    Index,
    Keyring,
    NotPresentError,
    RepositoryError,
    SignatureError,
)
from coreimage.client.documents import CHANNELS_LIMIT_BYTES, INDEX_LIMIT_BYTES, SignedChannels
from coreimage.client.errors import ClientError
from coreimage.client.fetch import (
    CHANNELS,
    CHANNELS_PAIR,
    SIGNATURE_LIMIT_BYTES,
    Web,
    fetch_keyring,
    fetch_signed,
    keyring_path,
    measure,
)
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.client.trust import (
    ArchiveMaster,
    ImageSigning,
    Seen,
    Signed,
    Signers,
    TrustedChannels,
    TrustedIndex,
    Verify,
)
from coreimage.system_image.channels.candidates import CANDIDATE, may_be_released
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.index import build_index
from coreimage.system_image.payloads.version_tarball import read_identity
from coreimage.system_image.verify.findings import REPAIR, RESTORE, Collector, Findings, WaitingCandidate

KEYRING_WARNING_DAYS = 90
"""A keyring that expires sooner than this is warned of: devices that are off meanwhile need the new one in time."""
CHANNELS_WARNING_DAYS = 30
_DAY_S = 86_400
_RENEW_CHANNELS = "sign the channels anew: `coreimage keys re-sign`"
_MISSING_CHANNELS = f"{RESTORE}; only a server of 2015 has none: check that with --legacy"
_RENEW_KEYRING = "renew the keyring where the keys are: the next `coreimage build` publishes it"

_INDEX = re.compile(r"(?:.*/)?index-([0-9a-f]{64})\.json")
_OWN_HISTORY = re.compile(r".*\.html|gpg/[a-z-]+-[0-9a-f]{64}\.tar\.xz\.asc|.*/candidates/\d+/channels\.json\.gpg")


def walk_tree(
    web: Web,
    verify: Verify,
    archive_master: bytes,
    *,
    names: Iterable[str] | None,
    now: float,
    folder: Path,
    legacy: bool = False,
) -> Findings:
    """Check everything that can be reached from `archive_master`, and what the tree has beside it.

    Args:
        web: The tree's files.
        verify: Checks signatures.
        archive_master: The keyring tarball that is trusted because it was given.
        names: All paths below the web root; None when they cannot be listed, and then neither orphans nor waiting
            candidates are found.
        now: UNIX seconds.
        folder: An empty folder, where one file at a time is downloaded to.
        legacy: Whether the server is one of 2015, which has only the pair `channels.json` and its signature.

    Raises:
        DownloadError: The tree cannot be read. What is wrong in it is a finding.
    """
    walk = _Walk(web, verify, now, folder, None if names is None else frozenset(names), legacy=legacy)
    walk.tree(archive_master)
    return walk.findings()


class _RecordingWeb:
    """The tree's files; `names` are those that were read, as they are listed."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self.names: set[str] = set()

    def read(self, path: str, limit_bytes: int) -> bytes:
        content = self._web.read(path, limit_bytes)
        self.names.add(path.lstrip("/"))
        return content

    def download(self, path: str, target: Path, sha256: str, size_bytes: int) -> None:
        self.names.add(path.lstrip("/"))
        self._web.download(path, target, sha256, size_bytes)


class _HasKeyring(Protocol):
    """A link of the chain of trust that came with a keyring."""

    @property
    def keyring(self) -> Keyring | None: ...


_Link = TypeVar("_Link", bound=_HasKeyring)


class _Walk:
    """One walk, and what it found so far."""

    def __init__(
        self, web: Web, verify: Verify, now: float, folder: Path, names: frozenset[str] | None, *, legacy: bool
    ) -> None:
        self._legacy = legacy
        self._web, self._verify, self._now, self._folder, self._names = _RecordingWeb(web), verify, now, folder, names
        self._collector = Collector()
        self._checked_files: set[tuple[ImageFile, Signers]] = set()
        self._named_indexes: set[str] = set()
        self._newest: dict[tuple[str, str], int] = {}
        self._candidates: list[WaitingCandidate] = []

    def findings(self) -> Findings:
        unread = (self._names or frozenset()) - self._web.names
        return Findings(
            findings=tuple(self._collector.findings),
            checked=len(self._web.names),
            candidates=tuple(self._candidates),
            orphans=tuple(sorted(name for name in unread if not _OWN_HISTORY.fullmatch(name))),
        )

    def tree(self, archive_master: bytes) -> None:
        with self._collector.noting(keyring_path("image-signing")):
            signing = self._image_signing(archive_master)
            document = SignedChannels(Channels(), number=0)
            with self._collector.noting(CHANNELS):
                channels = self._channels(signing)
                for name, channel in channels.channels.items():
                    for device in channel.devices:
                        self._device(channels, name, device, signing)
                document = channels.document
            for name in sorted(self._names or ()):
                self._unnamed(name, document, signing)

    # Keyrings

    def _image_signing(self, archive_master: bytes) -> ImageSigning:
        now = self._now
        top = ArchiveMaster.trust(archive_master, self._verify, now=now)
        with self._collector.noting(keyring_path("archive-master")):
            self._keyring("archive-master", lambda signed: top.published(signed, now=now))
        master = self._keyring("image-master", lambda signed: top.image_master(signed, now=now))
        try:
            blacklist = self._keyring("blacklist", lambda signed: master.blacklist(signed, now=now))
        except NotPresentError:
            if keyring_path("blacklist") in self._web.names:
                self._collector.error(keyring_path("blacklist"), "its signature is missing", REPAIR)
            blacklist = master.blacklist(None, now=now)
        return self._keyring("image-signing", lambda signed: master.image_signing(signed, blacklist, now=now))

    def _keyring(self, kind: str, trust: Callable[[Signed], _Link]) -> _Link:
        path = keyring_path(kind)

        def note_torn(error: ClientError) -> None:
            problem = f"the keyring and its signature do not belong together: {error.problem}"
            self._collector.error(path, problem, REPAIR)

        link = fetch_keyring(self._web, kind, trust, on_torn=note_torn)
        self._warn_of_expiry(link.keyring, path)
        return link

    def _warn_of_expiry(self, keyring: Keyring | None, path: str) -> None:
        if keyring is None or keyring.expiry is None:
            return
        if keyring.expiry < self._now + KEYRING_WARNING_DAYS * _DAY_S:
            self._collector.warning(path, f"the keyring expires on {_day(keyring.expiry)}", _RENEW_KEYRING)

    # Documents

    def _channels(self, signing: ImageSigning) -> TrustedChannels:
        """Return the channels of the signed object, with which the pair must agree; of the pair where it is alone."""
        try:
            message = self._web.read(CHANNELS, CHANNELS_LIMIT_BYTES)
        except NotPresentError:
            pair = fetch_signed(self._web, CHANNELS_PAIR, CHANNELS_LIMIT_BYTES)
            if not self._legacy:
                self._collector.error(CHANNELS, "it is missing, and says which channels are new", _MISSING_CHANNELS)
            return signing.channels_pair(pair).of_any_age()
        authentic = signing.channels(message, CHANNELS)
        with self._collector.noting(CHANNELS):
            authentic.require_kind("channels")
            with self._collector.noting(CHANNELS, _RENEW_CHANNELS):
                authentic.current(Seen(), now=self._now, legacy=True)
            self._warn_of_age(authentic.document)
        with self._collector.noting(CHANNELS_PAIR, REPAIR):
            pair = self._signed_apart(CHANNELS_PAIR, CHANNELS_LIMIT_BYTES, signing.signers)
            if Channels.from_bytes(pair.content, CHANNELS_PAIR) != authentic.document.channels:
                raise RepositoryError(f"it does not say what {CHANNELS} says", where=CHANNELS_PAIR)
        return authentic.of_any_age()

    def _warn_of_age(self, document: SignedChannels) -> None:
        if document.number == 0:
            self._collector.warning(CHANNELS, "the channels have neither number nor expiry", _RENEW_CHANNELS)
        elif document.expires and self._now < document.expires < self._now + CHANNELS_WARNING_DAYS * _DAY_S:
            self._collector.warning(CHANNELS, f"the channels expire on {_day(document.expires)}", _RENEW_CHANNELS)

    def _device(self, channels: TrustedChannels, channel: str, device: str, signing: ImageSigning) -> None:
        entry = channels.channels.device(channel, device)
        self._named_indexes.add(entry.index.lstrip("/"))
        with self._collector.noting(entry.index):
            trusted, content = self._index(channels, channel, device)
            self._newest[channel, device] = max((image.version for image in trusted.index.fulls), default=0)
            is_redirect = entry.redirect or channels.channels[channel].redirect
            if not is_redirect and trusted.index.channel is not None:
                shown = build_index(trusted.index.images, channel, device, "").images
                if shown != trusted.index.images:
                    self._collector.warning(
                        entry.index, "clients of 2015 could go back or search for ever in it", REPAIR
                    )
            if not is_redirect and entry.index_sha256 is not None:
                plain = layout.plain_index(channel, device).lstrip("/")
                with self._collector.noting(plain, REPAIR):
                    if self._signed_apart(plain, INDEX_LIMIT_BYTES, signing.signers).content != content:
                        raise RepositoryError(f"it does not say what {entry.index.lstrip('/')} says", where=plain)
            self._images(trusted, entry.index)

    def _index(self, channels: TrustedChannels, channel: str, device: str) -> tuple[TrustedIndex, bytes]:
        """Return the index that the channels name, and its bytes."""
        entry, keyring = channels.channels.device(channel, device), None
        if entry.keyring is not None:
            keyring = fetch_signed(self._web, entry.keyring.path, KEYRING_LIMIT_BYTES, entry.keyring.signature)
        trusted = channels.device(channel, device, keyring, now=self._now)
        if entry.keyring is not None:
            self._warn_of_expiry(trusted.keyring, entry.keyring.path)
        signed = fetch_signed(self._web, entry.index, INDEX_LIMIT_BYTES)
        _require_digest_of_name(signed)
        index = trusted.index(signed)
        for problem in index_problems(index.index):
            self._collector.error(entry.index, problem)
        return index, signed.content

    def _images(self, trusted: TrustedIndex, where: str) -> None:
        for image in trusted.index.images:
            for file in image.files:
                with self._collector.noting(file.path):
                    self._file(file, image, trusted)
            named = [file for file in image.files if file.name == f"version-{image.version}.tar.xz"]
            if trusted.index.channel is not None and image.type == "full" and len(named) != 1:
                self._collector.error(where, f"image {image.version} has no file that says its version")

    def _file(self, file: ImageFile, image: Image, trusted: TrustedIndex) -> None:
        """Check a file once, in whatever images it is."""
        if (file, trusted.signers) in self._checked_files:
            return
        self._checked_files.add((file, trusted.signers))
        local = self._folder / "file"
        try:
            self._web.download(file.path, local, file.sha256, file.size_bytes)
            trusted.check_file(file, measure(local), self._web.read(file.signature, SIGNATURE_LIMIT_BYTES))
            self._sidecar(file.path, trusted.signers)
            if trusted.index.channel is not None and file.is_version_file:
                self._identity(file, local, image, trusted.index)
        finally:
            local.unlink(missing_ok=True)

    def _sidecar(self, path: str, signers: Signers) -> None:
        """Check what the server notes beside a tarball: nothing refers to it, but what is there must be signed."""
        sidecar = layout.sidecar(path)
        is_listed = self._names is None or sidecar.lstrip("/") in self._names
        if not path.endswith((".tar.xz", ".tar.zst")) or not is_listed:
            return
        try:
            content = self._web.read(sidecar, INDEX_LIMIT_BYTES)
        except NotPresentError:
            return
        with self._collector.noting(sidecar):
            signers.check(Signed(sidecar, content, self._web.read(f"{sidecar}.asc", SIGNATURE_LIMIT_BYTES)))

    def _identity(self, file: ImageFile, local: Path, image: Image, index: Index) -> None:
        """Compare what a version file says on the device with the index that it is in."""
        expected = {
            "channel": index.channel,
            "device": index.device,
            "channel_target": index.channel_target,
            "build_number": str(image.version),
            "version_detail": image.version_detail,
        }
        with local.open("rb") as content:
            values, _ = read_identity(content, file.path)
        for name, value in expected.items():
            if values.get(name) != value:
                problem = f"{name} is {values.get(name)!r} in the version file, and {value!r} in the index"
                self._collector.error(file.path, problem)

    # What the channels do not name

    def _unnamed(self, name: str, document: SignedChannels, signing: ImageSigning) -> None:
        is_superseded = name not in self._web.names and name not in self._named_indexes
        if _INDEX.fullmatch(name) and is_superseded:
            with self._collector.noting(name):
                superseded = fetch_signed(self._web, name, INDEX_LIMIT_BYTES)
                signing.signers.check(superseded)
                _require_digest_of_name(superseded)
        elif candidate := CANDIDATE.fullmatch(name):
            channel, device, version = candidate["channel"], candidate["device"], int(candidate["version"])
            newest = self._newest.get((channel, device), 0)
            if may_be_released(document, channel, device, version, newest=newest):
                with self._collector.noting(name):
                    self._candidate(name, channel, device, version, signing)

    def _candidate(self, name: str, channel: str, device: str, version: int, signing: ImageSigning) -> None:
        authentic = signing.channels(self._web.read(name, CHANNELS_LIMIT_BYTES), name)
        if authentic.document.number:
            authentic.require_kind("candidate")
        channels = authentic.of_any_age()
        if channels.channels.keys() != {channel} or channels.channels[channel].devices.keys() != {device}:
            raise RepositoryError("a candidate names nothing but its own channel and device", where=name)
        trusted, _ = self._index(channels, channel, device)
        if trusted.index.newest_version != version:
            raise RepositoryError(f"its index does not end with version {version}", where=name)
        self._images(trusted, channels.channels.device(channel, device).index)
        self._candidates.append(WaitingCandidate(channel=channel, device=device, version=version))

    def _signed_apart(self, path: str, limit_bytes: int, signers: Signers) -> Signed:
        """Return a document of a pair, which a kill between two writes can leave with another one's signature."""
        signed = fetch_signed(self._web, path, limit_bytes)
        try:
            signers.check(signed)
        except SignatureError as error:
            problem = f"it and its signature do not belong together: {error.problem}"
            raise RepositoryError(problem, where=path) from None
        return signed


def index_problems(index: Index) -> list[str]:
    """Return what is wrong with the images of an index among themselves."""
    fulls = [image.version for image in index.images if image.type == "full"]
    deltas = [(image.base, image.version, image.form) for image in index.images if image.type == "delta"]
    problems = []
    if fulls != sorted(set(fulls)):
        problems.append("its versions are not in order, each once")
    if len(set(deltas)) != len(deltas):
        problems.append("two deltas lead from one version to the same other")
    problems += [f"a delta leads from {base} to {version}" for base, version, _ in deltas if (base or 0) >= version]
    return problems


def _require_digest_of_name(signed: Signed) -> None:
    named = _INDEX.fullmatch(signed.path)
    if named and hashlib.sha256(signed.content).hexdigest() != named[1]:
        raise RepositoryError("the index does not have the digest of its name", where=signed.path)


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
