"""The channels document and what hangs on it: read verified, moved by compare-and-swap, the pairs of 2015 derived."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from coreimage.client import RepositoryError
from coreimage.client.documents import Channel, Channels, DeviceEntry, Index, SignedChannels
from coreimage.errors import ConflictError, VerificationError
from coreimage.model import JSON, OPENPGP_MESSAGE, OPENPGP_SIGNATURE, ArtifactRef
from coreimage.signing import Role, says, signs
from coreimage.storage import Store, read_bytes
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.channel_rules import with_index
from coreimage.system_image.payloads.pool import put_signed
from coreimage.system_image.server import ChannelTree

CHANNELS_LIFETIME = timedelta(days=90)
"""How long clients believe a channels document: whoever serves them an old one is found out after this."""
_HEAL_ATTEMPTS = 100
"""All but the last of them mean that a change of somebody else went through: in a fan-out, one after the other."""


@dataclass(frozen=True)
class CurrentChannels:
    """The channels document as the store has it. `etag` is None, and `signed` empty, while there is none."""

    signed: SignedChannels
    etag: str | None

    @property
    def channels(self) -> Channels:
        return self.signed.channels

    @property
    def retired(self) -> Mapping[str, Mapping[str, int]]:
        """The newest number that devices may know, by channel and device: of versions that were removed, or of another
        channel, from which they were moved."""
        return self.signed.retired


def read_channels(tree: ChannelTree) -> CurrentChannels:
    """Read the channels. Raises VerificationError unless image-signing signed them."""
    key = layout.key(layout.CHANNELS_SIGNED)
    while (info := tree.store.head(key)) is not None:
        message = read_bytes(tree.store, key)
        again = tree.store.head(key)
        if message is not None and again is not None and again.etag == info.etag:
            content = tree.signer.open_inline(Role.IMAGE_SIGNING, message, where=key)
            try:
                return CurrentChannels(SignedChannels.from_bytes(content, key), info.etag)
            except RepositoryError as error:
                raise _damaged(error.problem, key) from error
    return CurrentChannels(SignedChannels(Channels(), number=0), None)


def read_index(store: Store, channels: Channels, channel: str, device: str) -> Index:
    """Read the index of a device; an empty one for a channel or device that is not there yet.

    Raises:
        VerificationError: The index is not the one that the channels name.
    """
    entry = channels.get(channel, Channel()).devices.get(device)
    return Index(()) if entry is None else read_named_index(store, entry)


def read_named_index(store: Store, entry: DeviceEntry) -> Index:
    """Read the index that a device's entry names. Raises VerificationError when other bytes are there, or none."""
    key = layout.key(entry.index)
    content = read_bytes(store, key)
    if content is None or hashlib.sha256(content).hexdigest() != entry.index_sha256:
        raise _damaged("the index is not the one that the channel names", key)
    try:
        return Index.from_bytes(content, key)
    except RepositoryError as error:
        raise _damaged(error.problem, key) from error


def put_channels(tree: ChannelTree, current: CurrentChannels, document: SignedChannels) -> CurrentChannels:
    """Replace the channels document; the new one gets the next number and end.

    Numbers are seconds since 1970 where the clock allows, so that they grow even after a backup was restored.

    Args:
        document: The channels and the retired versions that are wanted.

    Raises:
        LostWriteError: The channels document is no longer `current`.
    """
    now = tree.now()
    signed = SignedChannels(
        channels=document.channels,
        number=max(current.signed.number + 1, int(now.timestamp())),
        expires=int((now + CHANNELS_LIFETIME).timestamp()),
        retired=document.retired,
    )
    info = tree.store.put_bytes(
        layout.key(layout.CHANNELS_SIGNED),
        tree.signer.inline(Role.IMAGE_SIGNING, signed.to_bytes()),
        media_type=OPENPGP_MESSAGE,
        if_absent=current.etag is None,
        if_match=current.etag,
    )
    return CurrentChannels(signed, info.etag)


def put_index(tree: ChannelTree, index: Index) -> ArtifactRef:
    """Put an index, under the digest of its bytes, where its channel and device have theirs."""
    content = index.to_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return put_signed(tree, layout.key(layout.index(index.channel or "", index.device or "", sha256)), content, JSON)


def put_candidate_channels(
    tree: ChannelTree, channel: str, device: str, version: int, index: ArtifactRef
) -> ArtifactRef:
    """Put a channels document of nothing but this candidate; one that says the same is kept.

    The document says that it is a candidate's, so that nobody can serve it as the server's own. It never ends, as
    nobody is served it unasked.
    """
    key = layout.key(layout.candidate_channels(channel, device, version))
    channels = with_index(Channels(), channel, device, index.sha256)
    content = SignedChannels(channels, number=version, kind="candidate").to_bytes()
    message = read_bytes(tree.store, key)
    if message is None or not says(message, content, tree.signer):
        message = tree.signer.inline(Role.IMAGE_SIGNING, content)
        tree.store.put_bytes(key, message, media_type=OPENPGP_MESSAGE)
    sha256 = hashlib.sha256(message).hexdigest()
    return ArtifactRef(uri=key, sha256=sha256, size_bytes=len(message), media_type=OPENPGP_MESSAGE)


def heal_pair(tree: ChannelTree, *, thorough: bool = True) -> bool:
    """Rewrite the pairs of 2015 (channels.json, each index.json, and their signatures) that differ from the channels.

    Args:
        thorough: Look at every device. Otherwise only at those whose entry differs from that of channels.json: as
            channels.json is written last, these are the ones that a killed command may have left behind.

    Returns:
        Whether anything had to be written.

    Raises:
        ConflictError: The channels document changes all the time.
    """
    healed = False
    for _ in range(_HEAL_ATTEMPTS):
        current = read_channels(tree)
        if current.etag is None:
            return healed
        paired = Channels() if thorough else _read_pair(tree.store)
        for key, content in _derived(tree.store, current.channels, paired):
            signature = read_bytes(tree.store, f"{key}.asc")
            if read_bytes(tree.store, key) == content and signs(signature, content, Role.IMAGE_SIGNING, tree.signer):
                continue
            signature = tree.signer.detached(Role.IMAGE_SIGNING, content)
            tree.store.put_bytes(f"{key}.asc", signature, media_type=OPENPGP_SIGNATURE)
            tree.store.put_bytes(key, content, media_type=JSON)
            healed = True
        info = tree.store.head(layout.key(layout.CHANNELS_SIGNED))
        if info is not None and info.etag == current.etag:
            return healed
    raise ConflictError(
        "the channels document keeps changing",
        where=tree.store.url,
        resolution="run `coreimage verify --repair` later",
    )


def _derived(store: Store, channels: Channels, paired: Channels) -> Iterator[tuple[str, bytes]]:
    """Yield key and content of each document of 2015, channels.json last: it is what old clients start from.

    Indexes that `paired`, the present channels.json, names already are left out.
    """
    for name, channel in sorted(channels.items()):
        if channel.redirect:
            continue
        for device, entry in sorted(channel.devices.items()):
            before = paired.get(name, Channel()).devices.get(device)
            if entry.redirect or (before is not None and before.index == entry.index):
                continue
            content = read_bytes(store, layout.key(entry.index))
            if content is not None:
                yield layout.key(layout.plain_index(name, device)), content
    yield layout.key(layout.CHANNELS), channels.to_bytes()


def _read_pair(store: Store) -> Channels:
    """Read channels.json, only to compare with it: one that cannot be read names nothing."""
    key = layout.key(layout.CHANNELS)
    try:
        return Channels.from_bytes(read_bytes(store, key) or b"{}", key)
    except RepositoryError:
        return Channels()


def _damaged(problem: str, where: str) -> VerificationError:
    return VerificationError(problem, where=where, resolution="restore it from a backup")
