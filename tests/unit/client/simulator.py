"""A whole signed tree in memory, in the manner of python-tuf's repository simulator: no network, no processes, no gpg.

Keys are real OpenPGP packets as far as fingerprints go, and their signatures are digests that name the key. A test
changes the tree's values, publishes them or puts single objects, and looks at it through `Session` or `walk_tree`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from coreimage.client import (
    Channel,
    Channels,
    DeviceEntry,
    Image,
    ImageFile,
    Index,
    NotPresentError,
    RepositoryError,
    Session,
    SignatureError,
    SignedChannels,
    primary_fingerprints,
)
from coreimage.client.fetch import keyring_signature_path
from coreimage.model import Server
from coreimage.signing import make_keyring
from coreimage.system_image.payloads.version_tarball import version_tarball
from tests.harness.memory_signer import literal, said_in

NOW = 1_800_000_000
DAY_S = 86_400
EDGE, STABLE = "debian-core/13/edge", "debian-core/13/stable"
DEVICE = "generic_amd64"


@dataclass(frozen=True)
class Key:
    """A key pair; `packet` is what a keyring holds of it."""

    name: str

    @property
    def packet(self) -> bytes:
        body = b"\x04" + self.name.encode()
        return b"\x99" + len(body).to_bytes(2, "big") + body

    @property
    def fingerprint(self) -> str:
        (fingerprint,) = primary_fingerprints(self.packet)
        return fingerprint

    def detached(self, content: bytes) -> bytes:
        return f"{self.fingerprint} {_tag(self.fingerprint, content)}".encode()

    def inline(self, content: bytes) -> bytes:
        return literal(self.detached(content) + b"\n" + content)


def _tag(fingerprint: str, content: bytes) -> str:
    return hashlib.sha256(fingerprint.encode() + content).hexdigest()


class TagVerify:
    """`Verify` for the signatures of `Key`."""

    def detached(
        self, content: bytes | Path, signature: bytes, keyrings: Sequence[bytes], refused: Collection[str], where: str
    ) -> None:
        signed = content.read_bytes() if isinstance(content, Path) else content
        fingerprint, _, tag = signature.decode(errors="replace").partition(" ")
        if tag != _tag(fingerprint, signed):
            raise SignatureError("the signature is not of this content", where=where)
        if fingerprint not in frozenset[str]().union(*map(primary_fingerprints, keyrings)):
            raise SignatureError("the signature is by an unknown key", where=where)
        if fingerprint in refused:
            raise SignatureError("the signature is by a blacklisted key", where=where)

    def inline(self, message: bytes, keyrings: Sequence[bytes], refused: Collection[str], where: str) -> bytes:
        signature, _, content = said_in(message).partition(b"\n")
        self.detached(content, signature, keyrings, refused, where)
        return content


class Tree:
    """A tree with two versions of EDGE and one of STABLE, published. It is a `Web` too; `requests` are what was read.

    Every role has one key, by name, and a second one, `<role>-2`, that its keyring holds as well.
    """

    def __init__(self) -> None:
        self.now: float = NOW
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.keys = {
            name: Key(name)
            for role in ("archive-master", "image-master", "image-signing", "device-signing", "stranger")
            for name in (role, f"{role}-2")
        }
        for role, signer in (
            ("archive-master", "archive-master"),
            ("image-master", "archive-master"),
            ("image-signing", "image-master"),
        ):
            self.put_keyring(role, self.both(role), by=signer)
        self.archive_master = self.files["gpg/archive-master.tar.xz"]
        self.number = NOW - 100
        self.expires = NOW + 90 * DAY_S
        self.channels: dict[str, Channel] = {}
        self.indexes: dict[tuple[str, str], Index] = {}
        self.add_version(EDGE, 1)
        self.add_version(EDGE, 2)
        self.add_version(STABLE, 1)
        self.publish()

    # What is published

    def both(self, role: str) -> bytes:
        return self.keys[role].packet + self.keys[f"{role}-2"].packet

    def put(self, path: str, content: bytes, by: str = "image-signing") -> None:
        """Puts an object and its detached signature."""
        self.files[path.lstrip("/")] = content
        self.files[f"{path.lstrip('/')}.asc"] = self.keys[by].detached(content)

    def put_keyring(self, kind: str, packets: bytes, by: str, **about: Any) -> None:
        """Puts a keyring with both of its signatures."""
        tarball = make_keyring(kind, packets, **about)
        self.put(f"gpg/{kind}.tar.xz", tarball, by)
        self.files[keyring_signature_path(kind, tarball)] = self.keys[by].detached(tarball)

    def blacklist(self, *names: str) -> None:
        self.put_keyring("blacklist", b"".join(self.keys[name].packet for name in names), by="image-master")

    def image(
        self, channel: str, version: int, *, device: str = DEVICE, base: int | None = None, target: str = ""
    ) -> Image:
        """An image of one payload, which the same version has in every channel, and a version file; both put."""
        detail = f"ubuntu=20261123,version={version}"
        kind: Literal["full", "delta"] = "full" if base is None else "delta"
        contents = {
            f"/pool/ubuntu-{kind}-{base or 0}-{version}.tar.xz": f"payload {kind} {version}".encode(),
            f"/{channel}/{device}/version-{version}.tar.xz": version_tarball(
                channel, device, version, detail, server=Server(), mtime=NOW, target=target
            ),
        }
        files = []
        for order, (path, content) in enumerate(contents.items()):
            self.put(path, content)
            sha256 = hashlib.sha256(content).hexdigest()
            files.append(ImageFile(path, f"{path}.asc", sha256, len(content), order))
        return Image(version, kind, base, detail, detail, tuple(files))

    def add_version(self, channel: str, version: int, device: str = DEVICE) -> None:
        """Adds a full image to the values, and closes the others to clients of 2015; `publish` publishes them."""
        index = self.indexes.get((channel, device)) or Index((), channel, device, None, "a time")
        added = self.image(channel, version, device=device, target=index.channel_target or "")
        before = [replace(image, minversion=image.version) for image in index.images]
        self.indexes[channel, device] = replace(index, images=(*before, added))

    def put_index(self, channel: str, device: str, index: Index, *, plain: bool = True) -> DeviceEntry:
        """Puts an index under its digest and, if `plain`, as index.json; gives the entry that names it."""
        content = index.to_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        self.put(f"/{channel}/{device}/index-{sha256}.json", content)
        if plain:
            self.put(f"/{channel}/{device}/index.json", content)
        return DeviceEntry(f"/{channel}/{device}/index-{sha256}.json", sha256)

    def set_device(self, channel: str, device: str, entry: DeviceEntry) -> None:
        before = self.channels.get(channel, Channel())
        self.channels[channel] = replace(before, devices={**before.devices, device: entry})

    def publish(self) -> None:
        """Puts all indexes, and channels that name them, under the next number."""
        for (channel, device), index in self.indexes.items():
            before = self.channels.get(channel, Channel()).devices.get(device)
            entry = self.put_index(channel, device, index)
            keyring = before.keyring if before else None
            self.set_device(channel, device, replace(entry, keyring=keyring))
        self.number += 1
        self.put_channels()

    def put_channels(self, **changes: Any) -> None:
        """Puts the signed channels, with `changes` of the document, and the pair."""
        document = SignedChannels(Channels(dict(self.channels)), self.number, expires=self.expires)
        document = replace(document, **changes)
        self.files["channels.json.gpg"] = self.keys["image-signing"].inline(document.to_bytes())
        self.put("channels.json", document.channels.to_bytes())

    def put_candidate(self, channel: str, version: int, index: Index, **changes: Any) -> str:
        """Puts an index and the candidate's channels document that names it; gives the document's path."""
        entry = self.put_index(channel, DEVICE, index, plain=False)
        channels = Channels({channel: Channel({DEVICE: entry})})
        document = replace(SignedChannels(channels, version, kind="candidate"), **changes)
        path = f"{channel}/{DEVICE}/candidates/{version}/channels.json.gpg"
        self.files[path] = self.keys["image-signing"].inline(document.to_bytes())
        return path

    # How it is looked at

    def read(self, path: str, limit_bytes: int) -> bytes:
        self.requests.append(path.lstrip("/"))
        if path.lstrip("/") not in self.files:
            raise NotPresentError("404", where=path)
        content = self.files[path.lstrip("/")]
        if len(content) > limit_bytes:
            raise RepositoryError(f"is larger than {limit_bytes} bytes", where=path)
        return content

    def download(self, path: str, target: Path, sha256: str, size_bytes: int) -> None:
        """As a careless server: whatever the index says, all that is there."""
        target.write_bytes(self.read(path, 1 << 30))

    def session(self, **options: Any) -> Session:
        return Session(self, TagVerify(), self.archive_master, lambda: self.now, **options)
