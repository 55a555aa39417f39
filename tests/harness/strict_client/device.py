"""One run of the client on a device: the verification state machine (§1.5), the winner, and what recovery is told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.harness.strict_client import openpgp
from tests.harness.strict_client.documents import parse_channels, parse_index
from tests.harness.strict_client.openpgp import Keyring
from tests.harness.strict_client.refusal import BadSignatureError, MissingError, RefusedError, require
from tests.harness.strict_client.search import Image, Path, candidates, device_percentage, winner

Fetch = Callable[[str], bytes | None]
"""The bytes at a path below the web root; None for what a server would answer with 404."""
Signed = tuple[bytes, bytes]


@dataclass
class Device:
    """What is installed. `percentage` overrides the device's own (`-p`); `keyrings` are those of earlier runs."""

    archive_master: bytes
    channel: str
    name: str
    build: int = 0
    channel_target: str | None = None
    machine_id: str = "0123456789abcdef"
    percentage: int | None = None
    keyrings: dict[str, Signed] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """`command` is the `ubuntu_command` file, `files` the cache partition: bytes by name."""

    images: Path
    command: str
    files: dict[str, bytes]


def update(device: Device, fetch: Fetch, now: float) -> Update | None:
    """None where there is nothing to do. Raises RefusedError where the client ends with an error."""
    return _Run(device, fetch, now).update()


class _Run:
    def __init__(self, device: Device, fetch: Fetch, now: float) -> None:
        self._device, self._fetch, self._now = device, fetch, now
        self._refused: frozenset[str] = frozenset()

    def update(self) -> Update | None:
        self._refused = self._blacklist()
        channels = self._channels()
        entry = channels.get(self._device.channel, {"devices": {}})
        described = entry["devices"].get(self._device.name)
        if described is None:
            return None
        keys = [self._keyring("image-signing", "image-master").keys, *self._device_keys(described)]
        index = parse_index(self._signed(described["index"], f"{described['index']}.asc", keys), described["index"])
        images = self._winner(index["images"], entry)
        return self._download(images, keys) if images else None

    # Keyrings

    def _blacklist(self) -> frozenset[str]:
        """No blacklist is no reason to stop; one that is badly signed is, once image-master was fetched again."""
        try:
            return self._try_blacklist()
        except BadSignatureError:
            del self._device.keyrings["image-master"]
            return self._try_blacklist()

    def _try_blacklist(self) -> frozenset[str]:
        master = self._keyring("image-master", "archive-master")
        try:
            found = self._fetched("blacklist")
        except MissingError:
            return frozenset()
        openpgp.verify(*found, (master.keys,), frozenset(), "blacklist")
        self._device.keyrings["blacklist"] = found
        return openpgp.primaries(self._read(found[0], "blacklist").keys)

    def _keyring(self, kind: str, signer: str) -> Keyring:
        """The cached one where it is still good, else the server's."""
        top = self._device.archive_master
        trusted = self._read(top if signer == "archive-master" else self._device.keyrings[signer][0], signer)
        refused = self._refused if kind == "image-signing" else frozenset()
        try:
            cached = self._device.keyrings[kind]
            openpgp.verify(*cached, (trusted.keys,), frozenset(), kind)
            return self._read(cached[0], kind)
        except (KeyError, RefusedError):
            found = self._fetched(kind)
            openpgp.verify(*found, (trusted.keys,), refused, kind)
            read = self._read(found[0], kind)
            self._device.keyrings[kind] = found
            return read

    def _device_keys(self, described: dict[str, Any]) -> list[bytes]:
        if "keyring" not in described:
            return []
        signing = self._read(self._device.keyrings["image-signing"][0], "image-signing")
        found = self._required(described["keyring"]["path"]), self._required(described["keyring"]["signature"])
        openpgp.verify(*found, (signing.keys,), self._refused, "device-signing")
        self._device.keyrings["device-signing"] = found
        return [self._read(found[0], "device-signing").keys]

    def _read(self, tarball: bytes, kind: str) -> Keyring:
        return openpgp.keyring(tarball, kind, self._device.name, self._now)

    # Documents

    def _channels(self) -> dict[str, Any]:
        """A bad signature may mean a new key: image-signing is fetched again, once."""
        for last in (False, True):
            keys = self._keyring("image-signing", "image-master").keys
            try:
                return parse_channels(self._signed("channels.json", "channels.json.asc", [keys]))
            except BadSignatureError:
                if last:
                    raise
                del self._device.keyrings["image-signing"]
        raise AssertionError

    def _winner(self, images: list[Image], entry: dict[str, Any]) -> Path:
        device, alias = self._device, entry.get("alias")
        switched = alias and device.channel_target and alias != device.channel_target
        build = 0 if switched else device.build
        every = candidates(images, build)
        if not every:
            return ()
        target = max(path[-1]["version"] for path in every)
        drawn = device_percentage(alias or device.channel_target, target, device.machine_id)
        return winner(images, build, drawn if device.percentage is None else device.percentage)

    # Payloads

    def _download(self, images: Path, keys: list[bytes]) -> Update:
        """Up to the first image that wants a reboot."""
        stop = next((at for at, image in enumerate(images) if image.get("bootme")), len(images) - 1)
        images = images[: stop + 1]
        files, updates = dict[str, bytes](), list[str]()
        known: dict[str, tuple[str, str]] = {}
        for image in images:
            for file in sorted(image["files"], key=lambda file: (file["order"], file["path"])):
                name = file["path"].rpartition("/")[2]
                here = file["path"], file["checksum"]
                require(known.setdefault(name, here) == here, f"two different files are called {name}")
                files[name] = self._signed(file["path"], file["signature"], keys)
                files[f"{name}.asc"] = self._required(file["signature"])
                require(hashlib.sha256(files[name]).hexdigest() == file["checksum"], f"checksum of {name}")
                updates.append(f"update {name} {name}.asc")
        return Update(images, self._command(images, updates, files), files)

    def _command(self, images: Path, updates: list[str], files: dict[str, bytes]) -> str:
        loads = []
        for kind in ("image-master", "image-signing", "device-signing"):
            if kind in self._device.keyrings:
                files[f"{kind}.tar.xz"], files[f"{kind}.tar.xz.asc"] = self._device.keyrings[kind]
                loads.append(f"load_keyring {kind}.tar.xz {kind}.tar.xz.asc")
        formats = ["format system"] if any(image["type"] == "full" for image in images) else []
        return "\n".join([*loads, *formats, "mount system", *updates, "unmount system", ""])

    # The server

    def _signed(self, path: str, signature: str, keys: list[bytes]) -> bytes:
        content = self._required(path)
        openpgp.verify(content, self._required(signature), tuple(keys), self._refused, path)
        return content

    def _fetched(self, kind: str) -> Signed:
        return self._required(f"gpg/{kind}.tar.xz"), self._required(f"gpg/{kind}.tar.xz.asc")

    def _required(self, path: str) -> bytes:
        content = self._fetch(path.lstrip("/"))
        if content is None:
            raise MissingError(f"{path} is not there")
        return content
