"""From one archive-master keyring to verified files, in the order of system-image §1.5."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from coreimage.client.documents import (
    CHANNELS_LIMIT_BYTES,
    INDEX_LIMIT_BYTES,
    Channel,
    DeviceEntry,
    Image,
    ImageFile,
    Index,
    parse_index,
)
from coreimage.client.errors import NotPresentError, RepositoryError, SignatureError
from coreimage.client.keyring import KEYRING_LIMIT_BYTES, Keyring, primary_fingerprints, read_keyring
from coreimage.client.select import select_full
from coreimage.client.trust import Seen, SignedChannels, judge, parse_signed_channels

SIGNATURE_LIMIT_BYTES = 64 << 10
CHANNELS = "channels.json.gpg"
"""One object that holds the document and its signature, so that the two are never torn apart."""
CHANNELS_PAIR = "channels.json"
"""The same in two objects, as in trees of the original server."""


def keyring_path(kind: str) -> str:
    return f"gpg/{kind}.tar.xz"


def keyring_signature_path(kind: str, tarball: bytes) -> str:
    """Our own second name of a keyring's signature, which no other keyring ever has: while a renewal replaces keyring
    and signature one after the other, whichever keyring is there has its signature here."""
    return f"gpg/{kind}-{hashlib.sha256(tarball).hexdigest()}.tar.xz.asc"


class Each(Protocol):
    """`map` over files: results in the order of the files, the first error raised."""

    def __call__(self, function: Callable[[ImageFile], Path], files: Sequence[ImageFile], /) -> Iterable[Path]: ...


class Web(Protocol):
    """A server's files. Raises NotPresentError, DownloadError, or RepositoryError for more than `limit_bytes`."""

    def read(self, path: str, limit_bytes: int) -> bytes: ...

    def download(self, path: str, target: Path, sha256: str, size_bytes: int) -> None: ...


class Verify(Protocol):
    """Judges OpenPGP signatures by the keys in `keyrings` whose fingerprints are not in `refused`.

    Raises SignatureError unless there is exactly one, good, by a key that is valid now.
    """

    def detached(
        self, content: bytes | Path, signature: bytes, keyrings: Sequence[bytes], refused: Collection[str], where: str
    ) -> None: ...

    def inline(self, message: bytes, keyrings: Sequence[bytes], refused: Collection[str], where: str) -> bytes: ...


class Session:
    """One look at a server, for one device or none: documents are read once, keyrings never beyond their expiry.

    `archive_master` is the keyring tarball that is trusted because it was given; `now` gives UNIX seconds;
    `channels_path` points at another channels document than the server's own, which must be a candidate's. `seen` is
    what an earlier session of this server left to remember. `legacy` believes a server that binds nothing, as those of
    2015; never one that was seen to bind.
    """

    def __init__(
        self,
        web: Web,
        verify: Verify,
        archive_master: bytes,
        now: Callable[[], float],
        *,
        channels_path: str = CHANNELS,
        seen: Seen = Seen(),  # noqa: B008
        legacy: bool = False,
    ) -> None:
        self._web, self._verify, self._now = web, verify, now
        self._archive_master, self._channels_path = archive_master, channels_path
        self._seen, self._legacy = seen, legacy

    def channels(self) -> dict[str, Channel]:
        return self._channels

    def expires(self) -> int | None:
        """The end of the channels document, UNIX seconds; None where it has none."""
        self.channels()
        return self._signed_channels.expires

    def seen(self) -> Seen:
        """What to remember of this server, and to hand to the next session."""
        self.channels()
        return self._seen

    def index(self, channel: str, device: str) -> Index:
        entry = self._entry(channel, device)
        content = self._web.read(entry.index, INDEX_LIMIT_BYTES)
        if entry.index_sha256 is None and not self._unbound:
            raise RepositoryError("the channel does not say which index is its own", where=entry.index)
        if entry.index_sha256 not in {None, hashlib.sha256(content).hexdigest()}:
            raise RepositoryError("the index is not the one that the channel names", where=entry.index)
        self._check(entry.index, content, f"{entry.index}.asc", self._keys_of(entry, device))
        index = parse_index(content, entry.index)
        wanted = entry.redirect or self._channels[channel].redirect or channel
        unknown = {None} if self._unbound else set()
        if index.channel not in {wanted, *unknown} or index.device not in {device, *unknown}:
            raise RepositoryError(f"the index is of {index.channel} for {index.device}", where=entry.index)
        return index

    def select(self, channel: str, device: str, revision: int = 0) -> Image:
        """Raises NotPresentError for a channel, device or revision that the server does not have."""
        return select_full(self.index(channel, device).images, revision)

    def download(
        self,
        channel: str,
        device: str,
        image: Image,
        folder: Path,
        *,
        each: Each = map,
        leave_out: Collection[str] = (),
    ) -> tuple[Path, ...]:
        """The files of `image` in `folder`, in the order in which they are applied, each verified by size, digest
        and signature. Files that are there already are used when they are right.

        `each` is `map`, or one that does several at a time; files named in `leave_out` are not wanted.
        """
        keys = self._keys_of(self._entry(channel, device), device)
        wanted = [file for file in image.files if file.name not in leave_out]
        return tuple(each(lambda file: self._fetch(file, folder / file.name, keys), wanted))

    def message(self, message: bytes, where: str) -> bytes:
        """What an inline-signed message says. Raises SignatureError unless image-signing signed it."""
        return self._verify.inline(message, [self._image_signing.keys], self._blacklist, where)

    def _fetch(self, file: ImageFile, target: Path, keys: Sequence[Keyring]) -> Path:
        if not _is_right(target, file):
            target.unlink(missing_ok=True)
            self._web.download(file.path, target, file.sha256, file.size_bytes)
        try:
            _require_right(target, file)
            self._check(file.path, target, file.signature, keys)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return target

    def _entry(self, channel: str, device: str) -> DeviceEntry:
        if channel not in self._channels:
            raise NotPresentError(f"channel {channel!r} is not on this server")
        if device not in self._channels[channel].devices:
            raise NotPresentError(f"channel {channel!r} has no device {device!r}")
        return self._channels[channel].devices[device]

    @cached_property
    def _channels(self) -> dict[str, Channel]:
        document = self._signed_channels
        if self._channels_path == CHANNELS:
            where = CHANNELS if document.number else CHANNELS_PAIR
            self._seen = judge(document, self._seen, now=self._now(), legacy=self._legacy, where=where)
        elif document.kind != "candidate":
            raise RepositoryError("it is not a candidate's document", where=self._channels_path)
        return document.channels

    @property
    def _unbound(self) -> bool:
        """Only documents without a number may leave out what they are about."""
        return self._signed_channels.number == 0

    @cached_property
    def _signed_channels(self) -> SignedChannels:
        keys = [self._image_signing]
        try:
            message = self._web.read(self._channels_path, CHANNELS_LIMIT_BYTES)
        except NotPresentError:
            if self._channels_path != CHANNELS:
                raise
            content = self._web.read(CHANNELS_PAIR, CHANNELS_LIMIT_BYTES)
            self._check(CHANNELS_PAIR, content, f"{CHANNELS_PAIR}.asc", keys)
        else:
            content = self._verify.inline(message, [key.keys for key in keys], self._blacklist, self._channels_path)
        return parse_signed_channels(content, self._channels_path)

    @cached_property
    def _image_master(self) -> Keyring:
        trusted = read_keyring(self._archive_master, "archive-master", now=self._now(), where="archive-master")
        return self._keyring("image-master", trusted, frozenset())

    @cached_property
    def _blacklist(self) -> frozenset[str]:
        """Absent is empty; a blacklist that cannot be read stops us, unlike the original client."""
        try:
            return primary_fingerprints(self._keyring("blacklist", self._image_master, frozenset()).keys)
        except NotPresentError:
            return frozenset()

    @cached_property
    def _image_signing(self) -> Keyring:
        return self._keyring("image-signing", self._image_master, self._blacklist)

    def _keys_of(self, entry: DeviceEntry, device: str) -> list[Keyring]:
        """Who may sign the index and the files: image-signing and, if the channel lists one, the device's key."""
        if entry.keyring is None:
            return [self._image_signing]
        path, signature = entry.keyring
        tarball = self._web.read(path, KEYRING_LIMIT_BYTES)
        self._check(path, tarball, signature, [self._image_signing])
        own = read_keyring(tarball, "device-signing", now=self._now(), device=device, where=path)
        return [self._image_signing, own]

    def _keyring(self, kind: str, signed_by: Keyring, refused: frozenset[str]) -> Keyring:
        path = keyring_path(kind)
        tarball = self._web.read(path, KEYRING_LIMIT_BYTES)
        try:
            self._check_keyring(path, tarball, f"{path}.asc", signed_by, refused)
        except (SignatureError, NotPresentError) as torn:
            try:
                self._check_keyring(path, tarball, keyring_signature_path(kind, tarball), signed_by, refused)
            except NotPresentError:
                raise torn from None
        return read_keyring(tarball, kind, now=self._now(), where=path)

    def _check_keyring(
        self, path: str, tarball: bytes, signature_path: str, signed_by: Keyring, refused: frozenset[str]
    ) -> None:
        signature = self._web.read(signature_path, SIGNATURE_LIMIT_BYTES)
        self._verify.detached(tarball, signature, [signed_by.keys], refused, path)

    def _check(self, path: str, content: bytes | Path, signature_path: str, keys: Sequence[Keyring]) -> None:
        signature = self._web.read(signature_path, SIGNATURE_LIMIT_BYTES)
        self._verify.detached(content, signature, [key.keys for key in keys], self._blacklist, path)


def _is_right(path: Path, file: ImageFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _require_right(path: Path, file: ImageFile) -> None:
    if not _is_right(path, file):
        raise RepositoryError("the file is not the one that the index names", where=file.path)
