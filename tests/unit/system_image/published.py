"""Trees of channels made of a few bytes, without a process: versions are put as the importer puts them, unpacked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from coreimage.client.documents import Channels, Image, Index
from coreimage.model import TAR_XZ, Candidate, Server
from coreimage.storage import Store
from coreimage.system_image.channels.document import (
    put_candidate_channels,
    put_index,
    read_channels,
    read_index,
)
from coreimage.system_image.channels.release import release_candidate
from coreimage.system_image.channels.versions import claim_version, last_number, put_version
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.index import build_index, full_image, generated_at
from coreimage.system_image.payloads.deltas import remember_tree_sha256
from coreimage.system_image.payloads.pool import put_signed
from coreimage.system_image.server import ChannelTree
from tests.harness.memory_signer import MemorySigner
from tests.harness.memory_store import MemoryStore

EDGE, STABLE, DEVICE = "debian-core/13/edge", "debian-core/13/stable", "generic_amd64"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    at: datetime = NOON

    def __call__(self) -> datetime:
        return self.at

    def pass_(self, **time: float) -> None:
        """Move the clock on: `pass_(hours=1)`."""
        self.at += timedelta(**time)


def make_tree(clock: Clock | None = None) -> ChannelTree:
    return ChannelTree(MemoryStore(), MemorySigner(), clock or Clock())


def make_candidate(
    tree: ChannelTree,
    content: bytes,
    channel: str = EDGE,
    device: str = DEVICE,
    *,
    bases: Sequence[int] = (),
    suffix: str = ".xz",
) -> Candidate:
    """Put what the importer puts for a build whose rootfs is `content`.

    Args:
        bases: Versions from which the candidate has a delta.
        suffix: `.zst` makes a version that clients of 2015 cannot unpack.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    payload = put_signed(tree, layout.key(layout.pool("ubuntu", sha256, suffix)), content, TAR_XZ)
    current = read_channels(tree)
    index = read_index(tree.store, current.channels, channel, device)
    claim = claim_version(
        tree.store,
        channel,
        device,
        identity=sha256 + suffix,
        detail="ubuntu=20261123",
        generated_at=generated_at(tree.now()),
        newest=index.newest_version,
        last=last_number(current, index, channel, device),
    )
    version_file = put_version(tree, claim, Server(), 1_700_000_000)
    image = full_image(claim.version, claim.version_detail, "", [payload, version_file])
    remember_tree_sha256(tree.store, image.payloads, sha256)
    deltas = [
        Image(
            version=image.version,
            type="delta",
            base=base,
            version_detail=image.version_detail,
            description=image.description,
            files=image.files,
            form=image.form,
        )
        for base in bases
    ]
    before = [each for each in index.images if each.version < claim.version]
    put = put_index(tree, build_index([*before, image, *deltas], channel, device, claim.generated_at))
    return Candidate(
        channel=channel,
        device=device,
        version=claim.version,
        version_detail=claim.version_detail,
        build_id="20261123",
        index=put,
        channels=put_candidate_channels(tree, channel, device, claim.version, put),
        files=(payload, version_file),
    )


def release(tree: ChannelTree, content: bytes, channel: str = EDGE, device: str = DEVICE) -> int:
    """Publish a version whose rootfs is `content`, and return its number."""
    return release_candidate(tree, make_candidate(tree, content, channel, device)).version


def channels_of(tree: ChannelTree) -> Channels:
    return read_channels(tree).channels


def index_of(tree: ChannelTree, channel: str = EDGE, device: str = DEVICE) -> Index:
    return read_index(tree.store, channels_of(tree), channel, device)


def versions(tree: ChannelTree, channel: str = EDGE, device: str = DEVICE) -> list[int]:
    return [image.version for image in index_of(tree, channel, device).fulls]


def payload_key(image: Image) -> str:
    (payload,) = image.payloads
    return layout.key(payload.path)


def contents(tree: ChannelTree, channel: str = EDGE, device: str = DEVICE) -> list[bytes]:
    """Return the rootfs of each version, oldest first."""
    found = []
    for image in index_of(tree, channel, device).fulls:
        with tree.store.open(payload_key(image)) as file:
            found.append(file.read())
    return found


def change_object(store: Store, key: str, change: Callable[[bytes], bytes]) -> None:
    """Damage an object, as a faulty disk or somebody with access to the store would."""
    with store.open(key) as file:
        content = file.read()
    store.put_bytes(key, change(content), media_type=TAR_XZ)


def keys(store: Store) -> set[str]:
    return {info.key for info in store.list("system-image/")}
