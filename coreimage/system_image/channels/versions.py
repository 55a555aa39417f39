"""A channel's next version: its number, which is claimed once and for ever, and the file that says it on a device."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, replace

from coreimage.client.documents import VERSION_LIMIT, Channels, Image, ImageFile, Index
from coreimage.client.json_codec import json_bytes
from coreimage.errors import ConflictError, LostWriteError, NotFoundError, VerificationError
from coreimage.model import JSON, TAR_XZ, ArtifactRef, Server
from coreimage.signing import Role
from coreimage.storage import Store, read_blob, read_bytes
from coreimage.system_image.channels.document import CurrentChannels, read_index
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.channel_rules import find_device
from coreimage.system_image.documents.index import artifact_of, image_file
from coreimage.system_image.payloads.pool import put_signature, put_signed
from coreimage.system_image.payloads.version_tarball import read_identity, version_tarball
from coreimage.system_image.server import ChannelTree


@dataclass(frozen=True)
class VersionClaim:
    """The claim of one publication on one version number, which holds for ever.

    It is written as the version's sidecar (system-image §2.8): whoever writes that first has the number.

    Attributes:
        version_detail: The whole version_detail; it ends with the number itself.
        identity: The digest of everything that the version's bytes depend on; empty in sidecars that others wrote.
    """

    channel: str
    device: str
    version: int
    version_detail: str
    identity: str
    generated_at: str

    @property
    def key(self) -> str:
        """The store's key of the sidecar."""
        return claim_key(self.channel, self.device, self.version)

    def to_json(self) -> bytes:
        """Write the sidecar."""
        return json_bytes(
            {
                "generator": "version",
                "version": self.version,
                "version_detail": f"version={self.version}",
                "channel.ini": {
                    "channel": self.channel,
                    "device": self.device,
                    "version": str(self.version),
                    "version_detail": self.version_detail,
                },
                "identity": self.identity,
                "generated_at": self.generated_at,
            }
        )

    @classmethod
    def from_json(cls, content: bytes, where: str) -> VersionClaim:
        """Read a sidecar. Raises VerificationError, naming `where`, for one that says no version."""
        try:
            document = json.loads(content)
            ini = document["channel.ini"]
            return cls(
                channel=str(ini["channel"]),
                device=str(ini["device"]),
                version=int(document["version"]),
                version_detail=str(ini["version_detail"]),
                identity=str(document.get("identity", "")),
                generated_at=str(document.get("generated_at", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise VerificationError(
                "the file is not the sidecar of a version", where=where, resolution="restore it from a backup"
            ) from error


def claim_version(
    store: Store, channel: str, device: str, *, identity: str, detail: str, generated_at: str, newest: int, last: int
) -> VersionClaim:
    """Claim the first number after `last` that is free, or that the same inputs claimed before.

    Inputs that are released already keep their number: importing the newest version again makes no second one.

    Args:
        identity: Digest of everything that the version's bytes depend on, except its number.
        detail: The version_detail without the number.
        generated_at: When, as documents give it (`generated_at`).
        newest: The newest version that the channel names; 0 for none.
        last: The highest number that devices may know (`last_number`).

    Raises:
        ConflictError: Every number that clients can read is taken.
    """
    released = read_claim(store, channel, device, newest) if newest == last and newest else None
    if released is not None and released.identity == identity:
        return released
    for version in range(last + 1, VERSION_LIMIT + 1):
        claim = VersionClaim(
            channel=channel,
            device=device,
            version=version,
            version_detail=",".join(filter(None, [detail, f"version={version}"])),
            identity=identity,
            generated_at=generated_at,
        )
        try:
            store.put_bytes(claim.key, claim.to_json(), media_type=JSON, if_absent=True)
        except LostWriteError:
            earlier = read_claim(store, channel, device, version)
            if earlier is not None and earlier.identity == identity:
                return earlier
        else:
            return claim
    raise ConflictError(
        f"the version numbers that clients can read end at {VERSION_LIMIT}",
        where=f"{channel} {device}",
        resolution="publish to a new channel",
    )


def read_claim(store: Store, channel: str, device: str, version: int) -> VersionClaim | None:
    """Read who has a version's number; None while nobody has it."""
    key = claim_key(channel, device, version)
    content = read_bytes(store, key)
    return None if content is None else VersionClaim.from_json(content, key)


def claim_key(channel: str, device: str, version: int) -> str:
    """Return the store's key of the sidecar that claims a version."""
    return layout.key(layout.version_sidecar(channel, device, version))


def last_number(current: CurrentChannels, index: Index, channel: str, device: str) -> int:
    """Return the highest number that devices may know, of versions that are not in the index too; 0 for none."""
    return max(index.newest_version, retired_number(current, channel, device))


def retired_number(current: CurrentChannels, channel: str, device: str) -> int:
    """Return the highest number that devices may know of something else than a version in the index; 0 for none."""
    return current.retired.get(channel, {}).get(device, 0)


def put_version(tree: ChannelTree, claim: VersionClaim, server: Server, mtime: int) -> ArtifactRef:
    """Put the version's file where the original server has it, and sign the sidecar.

    Args:
        server: Where devices of this version look for updates.
        mtime: UNIX seconds, not 0: the time of every member.
    """
    content = version_tarball(
        claim.channel, claim.device, claim.version, claim.version_detail, server=server, mtime=mtime
    )
    key = layout.key(layout.version_tarball(claim.channel, claim.device, claim.version))
    file = put_signed(tree, key, content, TAR_XZ)
    put_signature(tree.store, claim.key, tree.signer.detached(Role.IMAGE_SIGNING, claim.to_json()))
    return file


def recast(tree: ChannelTree, channel: str, device: str, image: Image, target: str = "") -> Image:
    """Return `image` of another channel as an image of this one: the same content and number under another name.

    The new version file names the same server as the old one.

    Args:
        target: The channel that an alias follows; empty for a channel that is no alias.
    """
    files = []
    for file in image.files:
        if not file.is_version_file:
            files.append(file)
            continue
        server, mtime = server_of(tree.store, file)
        content = version_tarball(
            channel, device, image.version, image.version_detail, server=server, mtime=mtime, target=target
        )
        sha256 = hashlib.sha256(content).hexdigest()
        key = layout.key(layout.own_version_tarball(channel, device, image.version, sha256))
        files.append(image_file(put_signed(tree, key, content, TAR_XZ), file.order))
    return replace(image, files=tuple(files))


def server_of(store: Store, file: ImageFile) -> tuple[Server, int]:
    """Read which server a version file names, and its time (UNIX seconds).

    Raises:
        VerificationError: The file is not the one of the index, or names no server.
    """
    artifact = artifact_of(file)
    values, mtime = read_identity(io.BytesIO(read_blob(store, artifact)), artifact.uri)
    try:
        http, https = (
            None if values[name] == "disabled" else int(values[name]) for name in ("http_port", "https_port")
        )
        return Server(base=values["base"], http_port=http, https_port=https), mtime
    except (KeyError, ValueError) as error:
        raise VerificationError(
            "the version file names no server", where=artifact.uri, resolution="import the build again"
        ) from error


def find_version(store: Store, channels: Channels, channel: str, device: str, version: int | None) -> Image:
    """Return the full image of a version; of the newest where `version` is None.

    Raises:
        NotFoundError: There is no such channel, device or version.
    """
    find_device(channels, channel, device)
    fulls = read_index(store, channels, channel, device).fulls
    for image in reversed(fulls):
        if version in {None, image.version}:
            return image
    known = ", ".join(str(image.version) for image in fulls) or "none"
    raise NotFoundError(
        f"channel {channel!r} has no version {version if version is not None else 'yet'} for {device}",
        resolution=f"its versions: {known}",
    )


def require_version_file(image: Image, where: str) -> ImageFile:
    """Return the version file. Raises NotFoundError for an image that no device could know by its version."""
    if image.version_file is None:
        raise NotFoundError(
            f"version {image.version} has no file that says its version",
            where=where,
            resolution="choose another version",
        )
    return image.version_file
