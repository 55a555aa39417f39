"""One visit of a server: what to fetch in which order, and what of it to remember. What to believe is in `trust`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from coreimage.client.documents import CHANNELS_LIMIT_BYTES, INDEX_LIMIT_BYTES, Channels, Image, ImageFile, Index
from coreimage.client.errors import NotPresentError
from coreimage.client.fetch import (
    CHANNELS,
    CHANNELS_PAIR,
    SIGNATURE_LIMIT_BYTES,
    Web,
    fetch_keyring,
    fetch_signed,
    measure,
)
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.client.trust import (
    ArchiveMaster,
    AuthenticChannels,
    ImageSigning,
    Seen,
    TrustedChannels,
    TrustedIndex,
    Verify,
)
from coreimage.client.upgrade import select_full


class Each(Protocol):
    """`map` over files: results in the order of the files, the first error raised."""

    def __call__(self, function: Callable[[ImageFile], Path], files: Sequence[ImageFile], /) -> Iterable[Path]: ...


class Session:
    """One visit of a server: what was fetched and verified once holds until its end.

    Args:
        web: The server's files.
        verify: Checks signatures.
        archive_master: The keyring tarball that is trusted because it was given.
        now: Gives UNIX seconds.
        channels_path: Another channels document than the server's own; it must be a candidate's.
        seen: What an earlier session of this server left to remember.
        legacy: Whether to believe a server that does not say what belongs together, as those of 2015; one that was
            seen to say it is never believed without.
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
        self._indexes: dict[tuple[str, str], TrustedIndex] = {}

    def channels(self) -> Channels:
        """Return the server's channels. Raises ClientError."""
        return self._channels.channels

    def expires(self) -> int | None:
        """Return when the channels document expires, in UNIX seconds; None where it never does. Raises ClientError."""
        return self._channels.document.expires

    def seen(self) -> Seen:
        """Return what to remember of this server, and to hand to the next session. Raises ClientError."""
        number = self._channels.document.number
        if self._channels_path != CHANNELS or number == 0:
            return self._seen
        return Seen(number, self._authentic_channels.sha256)

    def index(self, channel: str, device: str) -> Index:
        """Return the images of a device. Raises ClientError."""
        return self._index(channel, device).index

    def select(self, channel: str, device: str, revision: int = 0) -> Image:
        """Return the full image of a revision (see `select_full`). Raises ClientError."""
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
        """Download the files of `image` to `folder`, each verified by size, digest and signature.

        Files that are there already are used when they are right.

        Args:
            channel: The channel whose index has the image.
            device: The device whose index has the image.
            image: An image of that index.
            folder: An existing folder.
            each: `map`, or one that does several at a time.
            leave_out: Names of files that are not to be downloaded.

        Returns:
            The files in the order in which they are applied.

        Raises:
            ClientError: No wrong file is left behind.
        """
        index = self._index(channel, device)
        files = [file for file in image.files if file.name not in leave_out]
        return tuple(each(lambda file: self._download(index, file, folder / file.name), files))

    def message(self, message: bytes, where: str) -> bytes:
        """Return what an inline-signed message says. Raises SignatureError unless image-signing signed it."""
        return self._image_signing.signers.open(message, where)

    @cached_property
    def _image_signing(self) -> ImageSigning:
        now, web = self._now(), self._web
        top = ArchiveMaster.trust(self._archive_master, self._verify, now=now)
        master = fetch_keyring(web, "image-master", lambda signed: top.image_master(signed, now=now))
        try:
            blacklist = fetch_keyring(web, "blacklist", lambda signed: master.blacklist(signed, now=now))
        except NotPresentError:
            blacklist = master.blacklist(None, now=now)
        return fetch_keyring(web, "image-signing", lambda signed: master.image_signing(signed, blacklist, now=now))

    @cached_property
    def _authentic_channels(self) -> AuthenticChannels:
        signing = self._image_signing
        try:
            message = self._web.read(self._channels_path, CHANNELS_LIMIT_BYTES)
        except NotPresentError:
            if self._channels_path != CHANNELS:
                raise
            return signing.channels_pair(fetch_signed(self._web, CHANNELS_PAIR, CHANNELS_LIMIT_BYTES))
        return signing.channels(message, self._channels_path)

    @cached_property
    def _channels(self) -> TrustedChannels:
        if self._channels_path != CHANNELS:
            return self._authentic_channels.candidate()
        return self._authentic_channels.current(self._seen, now=self._now(), legacy=self._legacy)

    def _index(self, channel: str, device: str) -> TrustedIndex:
        if (channel, device) not in self._indexes:
            entry = self._channels.channels.device(channel, device)
            keyring = None
            if entry.keyring is not None:
                keyring = fetch_signed(self._web, entry.keyring.path, KEYRING_LIMIT_BYTES, entry.keyring.signature)
            trusted = self._channels.device(channel, device, keyring, now=self._now())
            self._indexes[channel, device] = trusted.index(fetch_signed(self._web, entry.index, INDEX_LIMIT_BYTES))
        return self._indexes[channel, device]

    def _download(self, index: TrustedIndex, file: ImageFile, target: Path) -> Path:
        local = measure(target) if target.is_file() else None
        if local is None or (local.size_bytes, local.sha256) != (file.size_bytes, file.sha256):
            target.unlink(missing_ok=True)
            self._web.download(file.path, target, file.sha256, file.size_bytes)
            local = None
        try:
            index.check_file(file, local or measure(target), self._web.read(file.signature, SIGNATURE_LIMIT_BYTES))
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return target
