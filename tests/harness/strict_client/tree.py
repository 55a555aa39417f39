"""A whole published tree: every document, every file, and every way that a device may come to the newest version."""

from __future__ import annotations

import functools
import hashlib
import time
from pathlib import Path
from typing import Any

from tests.harness.strict_client import openpgp
from tests.harness.strict_client.applier import Applier
from tests.harness.strict_client.device import Device, Fetch, Update, update
from tests.harness.strict_client.documents import parse_channels, parse_index
from tests.harness.strict_client.payloads import check_delta, check_identity, check_rootfs
from tests.harness.strict_client.refusal import RefusedError, json_object, require
from tests.harness.strict_client.search import winner

_XZ = b"\xfd7zXZ\0"


def check_tree(
    tree: Path | Fetch, archive_master: bytes, *, ours: bool = True, now: float | None = None
) -> dict[tuple[str, str], list[int]]:
    """Every channel and device of a tree; gives the full versions of each, in the index's order.

    `tree` is its folder, or what fetches its files. `ours` also asks for what our server promises beyond the wire
    format. `now` is UNIX seconds, the clock's by default.
    """
    fetch = functools.partial(_read_file, tree) if isinstance(tree, Path) else tree
    return _Tree(fetch, archive_master, time.time() if now is None else now, ours=ours).check()


def _read_file(root: Path, path: str) -> bytes | None:
    file = root / path
    return file.read_bytes() if file.is_file() else None


class _Tree:
    def __init__(self, fetch: Fetch, archive_master: bytes, now: float, *, ours: bool) -> None:
        self._fetch, self._archive_master, self._now, self._ours = fetch, archive_master, now, ours

    def check(self) -> dict[tuple[str, str], list[int]]:
        self._update(Device(self._archive_master, "no such channel", "none"))
        self._keyring_of_itself()
        signing = self._keys("image-signing")
        channels = parse_channels(self._signed("channels.json", [signing]))
        seen = {}
        for channel, entry in channels.items():
            self._kind(channel, entry, channels)
            for device, described in entry["devices"].items():
                images = self._index(channel, device, entry, described, signing)
                seen[channel, device] = [image["version"] for image in images if image["type"] == "full"]
                self._ways(channel, device, entry, described, images)
        return seen

    # Channels

    def _kind(self, channel: str, entry: dict[str, Any], channels: dict[str, Any]) -> None:
        """An alias has its target's devices, a redirect is a copy of its target (§2.2)."""
        if target := entry.get("redirect"):
            copied = {**channels[target], "redirect": target, "hidden": True}
            require(entry == copied, f"redirect {channel} is a copy of {target}")
        if target := entry.get("alias"):
            require(set(entry["devices"]) == set(channels[target]["devices"]), f"{channel} has the devices of {target}")
        for device, described in entry["devices"].items():
            if (target := described.get("redirect")) and not entry.get("redirect"):
                copied = {**channels[target]["devices"][device], "redirect": target}
                require(described == copied, f"{device} of {channel} is a copy of that of {target}")

    def _index(
        self, channel: str, device: str, entry: dict[str, Any], described: dict[str, Any], signing: bytes
    ) -> list[dict[str, Any]]:
        keys = [signing, *self._device_keys(described, device, signing)]
        index = parse_index(self._signed(described["index"], keys), described["index"])
        images: list[dict[str, Any]] = index["images"]
        named = described.get("redirect") or entry.get("redirect") or channel
        for image in images:
            self._files(image, named, device, entry.get("alias"), keys)
        if self._ours:
            self._only_the_newest_is_open(images)
            self._never_back(images, max((i["version"] for i in images + index.get("compact", [])), default=0))
            self._plain_index(named, device, described, keys)
            for image in images:
                for file in sorted(image["files"], key=lambda file: int(file["order"]))[:-1]:
                    self._sidecar(file["path"], image, keys)
        return images

    def _device_keys(self, described: dict[str, Any], device: str, signing: bytes) -> list[bytes]:
        if "keyring" not in described:
            return []
        tarball = self._signed(described["keyring"]["path"], [signing], described["keyring"]["signature"])
        return [openpgp.keyring(tarball, "device-signing", device, self._now).keys]

    def _only_the_newest_is_open(self, images: list[dict[str, Any]]) -> None:
        """Never a full image and then a delta, whose removals recovery would skip (§2.5)."""
        fulls = [image for image in images if image["type"] == "full"]
        for image in fulls:
            is_open = image.get("minversion", 0) < image["version"]
            require(is_open <= (image is fulls[-1]), f"full image {image['version']} is closed: it is not the newest")
        bases = {image["base"] for image in images if image["type"] == "delta"}
        require(not fulls or fulls[-1]["version"] not in bases, "no delta leads on from the newest full image")

    def _never_back(self, images: list[dict[str, Any]], newest: int) -> None:
        """A device that counts as one without a version (§3.2) may have any content: it gets the newest, or nothing."""
        versions = {image["version"] for image in images}
        for build in sorted({0, newest, *versions, *(version - 1 for version in versions)}):
            for percentage in (0, 100):
                path = winner(images, build, percentage)
                last = path[-1]["version"] if path else newest
                require(last == newest or last > build > 0, f"a device at {build} goes to {last}, not to {newest}")

    def _plain_index(self, channel: str, device: str, described: dict[str, Any], keys: list[bytes]) -> None:
        plain = f"{channel}/{device}/index.json"
        require(self._signed(plain, keys) == self._file(described["index"]), f"{plain} is another one")

    # Files

    def _files(self, image: dict[str, Any], channel: str, device: str, target: str | None, keys: list[bytes]) -> None:
        files = sorted(image["files"], key=lambda file: int(file["order"]))
        require([file["order"] for file in files] == list(range(len(files))), "order from 0")
        contents = {}
        for file in files:
            content = self._signed(file["path"], keys, file["signature"])
            require(file["size"] == len(content), f"size of {file['path']}")
            require(hashlib.sha256(content).hexdigest() == file["checksum"], f"checksum of {file['path']}")
            require(content.startswith(_XZ), f"{file['path']} is no xz, and recovery unpacks nothing else (§2.4)")
            contents[file["path"].rpartition("/")[2]] = content
        details = dict(part.split("=", 1) for part in image["version_detail"].split(","))
        require(details["version"] == str(image["version"]), "version_detail")
        kinds = {name.split("-")[0]: content for name, content in contents.items()}
        check_identity(kinds["version"], image, channel, device, target)
        if self._ours:
            self._ours_inside(image, list(kinds), contents)

    def _ours_inside(self, image: dict[str, Any], kinds: list[str], contents: dict[str, bytes]) -> None:
        require(kinds[-1] == "version", "the version comes last")
        payloads = list(contents.items())[:-1]
        if image["type"] == "full":
            require(kinds[:2] == ["ubuntu", "device"], "components in order")
            check_rootfs(payloads[0][1])
        for name, content in payloads:
            if ".delta" in name:
                check_delta(content)

    def _sidecar(self, path: str, image: dict[str, Any], keys: list[bytes]) -> None:
        """Where another server that imports from ours finds a file's part of version_detail (§2.8, §5.2)."""
        name = f"{path.removesuffix('.tar.xz')}.json"
        said = json_object(self._signed(name, keys), name)
        require({"generator", "version", "version_detail"} <= set(said), f"keys of {name}")
        part, _, value = said["version_detail"].partition("=")
        parts = [detail.partition("=")[0] for detail in image["version_detail"].split(",")]
        require(part in parts and value == said["version"], f"version_detail of {name}")

    # Ways

    def _ways(
        self, channel: str, device: str, entry: dict[str, Any], described: dict[str, Any], images: list[dict[str, Any]]
    ) -> None:
        """From nothing and from every full version, a device gets what the newest full image installs."""
        fulls = [image for image in images if image["type"] == "full"]
        if not fulls or images[-1].get("phased-percentage", 100) == 0:
            return
        newest = self._installed(fulls[-1], device)
        for start in (*([] if fulls[-1].get("minversion") else [None]), *fulls):
            installed = self._installed(start, device) if start else Applier(self._archive_master, device, self._now)
            at = Device(self._archive_master, channel, device, start["version"] if start else 0, percentage=0)
            at.channel_target = entry.get("alias")
            found = self._update(at)
            where = f"{channel} {device}, from {at.build} to {fulls[-1]['version']}"
            if at.build >= fulls[-1]["version"]:
                require(found is None, f"{where}: nothing to do")
                continue
            require(found is not None and found.images[-1]["version"] == fulls[-1]["version"], f"{where}: no way")
            installed.run(found.command, found.files)  # type: ignore[union-attr]
            if not self._ours and len({image["type"] for image in found.images}) > 1:  # type: ignore[union-attr]
                continue  # recovery skips what the deltas remove (§2.5)
            _require_same(installed, newest, where)

    def _installed(self, full: dict[str, Any], device: str) -> Applier:
        made = Applier(self._archive_master, device, self._now)
        for file in sorted(full["files"], key=lambda file: int(file["order"])):
            made.unpack(self._file(file["path"]))
        return made

    def _update(self, device: Device) -> Update | None:
        found = update(device, self._fetch, self._now)
        self._cached = device.keyrings
        return found

    # Reading

    def _keys(self, kind: str) -> bytes:
        return openpgp.keyring(self._cached[kind][0], kind, "", self._now).keys

    def _keyring_of_itself(self) -> None:
        top = openpgp.keyring(self._archive_master, "archive-master", "", self._now)
        self._signed("gpg/archive-master.tar.xz", [top.keys])

    def _signed(self, path: str, keys: list[bytes], signature: str = "") -> bytes:
        content = self._file(path)
        blacklist = self._cached.get("blacklist")
        refused = openpgp.keyring(blacklist[0], "blacklist", "", self._now).keys if blacklist else b""
        openpgp.verify(content, self._file(signature or f"{path}.asc"), tuple(keys), openpgp.primaries(refused), path)
        return content

    def _file(self, path: str) -> bytes:
        content = self._fetch(path.lstrip("/"))
        if content is None:
            raise RefusedError(f"{path} is not there")
        return content


def _require_same(left: Applier, right: Applier, where: str) -> None:
    one, other = left.look(), right.look()
    different = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    require(not different, f"{where}: {different[:3]} are not what a full installation has")
