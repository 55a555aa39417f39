"""Reading the content of the pages of channels: devices, versions, and the build that each version was made of."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime
from functools import cache, cached_property

from coreimage import client
from coreimage.client import Channels, DeviceEntry, Image, ImageFile, Index
from coreimage.errors import UsageError
from coreimage.packages import package_changes
from coreimage.pages.builds import BuildReader
from coreimage.pages.content import Changes, Channel, Delta, Device, Download, Verdict, Version
from coreimage.publication import BuildId, BuildTree, parse_build_id
from coreimage.publication.build_info import BuildInfo
from coreimage.publication.documents import MarkedGood, read_document
from coreimage.publication.layout import BUILD_INFO, PAGE
from coreimage.storage import Store, read_bytes
from coreimage.storage.checksums import CHECKSUMS, parse_checksums
from coreimage.system_image.channels.versions import read_claim
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.index import ALL_DEVICES, details_of
from coreimage.system_image.web import client_errors

_VERSIONS = 30
"""How many versions of a device are shown; the older ones are only counted."""
_IMAGES = "images"
_NOTES = {"ubuntu": "root file system", "device": "kernel, initrd and modules", "version": "channel and version"}
"""What a payload is, by the first word of its name in the pool."""


class ChannelReader:
    """The channels of a store, read once for all pages that show them. The builds of their versions are in `trees`."""

    def __init__(self, store: Store, trees: Sequence[BuildTree], builds: BuildReader) -> None:
        self._store, self._trees, self._builds = store, trees, builds
        self._build_of = cache(self._find_build)

    def with_followers(self, names: Collection[str]) -> set[str]:
        """Return the channels `names`, their aliases and the redirects to them, whose pages show the same."""
        chosen = {*names}
        return chosen | {name for name, entry in self._channels.items() if {entry.alias, entry.redirect} & chosen}

    def channels(self, chosen: Collection[str] | None = None) -> tuple[Channel, ...]:
        """Return the channels, sorted by name.

        Args:
            chosen: The channels of which all versions are shown; of the others the newest one. None: all.
        """
        return tuple(
            self._channel(name, entry, _VERSIONS if chosen is None or name in chosen else 1)
            for name, entry in sorted(self._channels.items())
        )

    @cached_property
    def _channels(self) -> Channels:
        content = read_bytes(self._store, layout.key(layout.CHANNELS))
        with client_errors():
            return Channels() if content is None else Channels.from_bytes(content, layout.CHANNELS)

    def _channel(self, name: str, entry: client.Channel, version_limit: int) -> Channel:
        target = entry.alias or entry.redirect or ""
        return Channel(
            name=name,
            page=layout.key(f"{name}/{PAGE}"),
            devices=tuple(
                self._device(name, device, described, version_limit)
                for device, described in sorted(entry.devices.items())
            ),
            hidden=entry.hidden,
            kind="alias" if entry.alias else "redirect" if entry.redirect else "",
            target=target,
            target_page=layout.key(f"{target}/{PAGE}") if target in self._channels else "",
        )

    def _device(self, channel: str, device: str, entry: DeviceEntry, version_limit: int) -> Device:
        content = read_bytes(self._store, layout.key(entry.index))
        with client_errors():
            index = Index(()) if content is None else Index.from_bytes(content, entry.index)
        newest_first = index.fulls[::-1]
        shown = newest_first[:version_limit]
        versions = []
        for image, before in zip(shown, [*newest_first[1:], None], strict=False):
            deltas = [each for each in index.images if each.type == "delta" and each.version == image.version]
            versions.append(self._version(channel, device, image, deltas, before))
        return Device(
            channel=channel,
            name=device,
            page=layout.key(f"{channel}/{device}/{PAGE}"),
            versions=tuple(versions),
            older=len(newest_first) - len(shown),
        )

    def _version(
        self, channel: str, device: str, image: Image, deltas: Sequence[Image], before: Image | None
    ) -> Version:
        build = self._build_of(image)
        disk_image, raw_sha256 = self._disk_image(channel, device, image.version)
        return Version(
            number=image.version,
            created=self._created(channel, device, image.version),
            build_id=details_of(image.version_detail).get("ubuntu", ""),
            build_page=build[0].key(build[1], PAGE) if build else "",
            builds_page=f"{build[0].prefix}/{PAGE}" if build else "",
            size_bytes=image.size_bytes,
            deltas=smallest_deltas(deltas),
            phased_percentage=None if image.phased_percentage == ALL_DEVICES else image.phased_percentage,
            pinned=image.pinned,
            verdict=self._verdict(build, device, raw_sha256),
            changes=self._changes(build, device, before),
            image=disk_image,
            files=tuple(_download(file) for file in image.files),
        )

    def _find_build(self, image: Image) -> tuple[BuildTree, BuildId] | None:
        """Return the published build that a version names and that has the tarball its first payload was made of."""
        try:
            build_id = parse_build_id(details_of(image.version_detail).get("ubuntu", ""))
        except UsageError:
            return None
        tarball_sha256 = self._source_sha256(image.payloads[0]) if image.payloads else ""
        for tree in self._trees:
            info = read_document(self._store, tree.key(build_id, BUILD_INFO), BuildInfo)
            if info and tarball_sha256 in {part.tarball_sha256 for part in info.rootfs}:
                return tree, build_id
        return None

    def _source_sha256(self, payload: ImageFile) -> str:
        """Return the digest of the tarball that a pool file was made of, as its sidecar says; empty where none does."""
        try:
            sidecar = json.loads(read_bytes(self._store, layout.key(layout.sidecar(payload.path))) or b"{}")
        except ValueError:
            return ""
        return str(sidecar.get("source", "")) if isinstance(sidecar, dict) else ""

    def _created(self, channel: str, device: str, version: int) -> date | None:
        claim = read_claim(self._store, channel, device, version)
        try:
            return parse_generated_at(claim.generated_at) if claim else None
        except ValueError:
            return None

    def _verdict(self, build: tuple[BuildTree, BuildId] | None, device: str, raw_sha256: str) -> Verdict:
        """Judge by the reports of this very disk image; where it is not kept, by those of its build."""
        if build is None:
            return Verdict(None, "nothing is known")
        tree, build_id = build
        architecture = next(
            (p.architecture for p in self._builds.info(tree, build_id).devices if p.device == device), None
        )
        good = None
        if architecture is not None:
            good = read_document(self._store, tree.evidence_key(build_id, architecture), MarkedGood)
        if good is None:
            return Verdict(None, "its build was not found good")
        own = tuple(report for report in good.evidence if report.image_sha256 == raw_sha256)
        return Verdict.of(own or good.evidence)

    def _changes(self, build: tuple[BuildTree, BuildId] | None, device: str, before: Image | None) -> Changes:
        if before is None:
            return Changes("", None)
        since, build_before = f"version {before.version}", self._build_of(before)
        if build is None or build_before is None:
            return Changes(since, None)
        packages = self._builds.packages(*build_before, device), self._builds.packages(*build, device)
        return Changes(since, package_changes(*packages))

    def _disk_image(self, channel: str, device: str, version: int) -> tuple[Download | None, str]:
        """Return the image as it can be downloaded, and the digest of what it unpacks to; None where none is kept."""
        folder = f"{_IMAGES}/{channel}/{device}/{version}"
        checksums = read_bytes(self._store, f"{folder}/{CHECKSUMS}")
        digests = parse_checksums(checksums, f"{folder}/{CHECKSUMS}") if checksums else {}
        packed = next((name for name in digests if name.endswith(".zst")), "")
        info = self._store.head(f"{folder}/{packed}") if packed else None
        if info is None:
            return None, ""
        image = Download(packed, info.key, info.size_bytes, digests[packed], "disk image: zstd -d unpacks it")
        return image, digests.get(packed.removesuffix(".zst"), "")


def smallest_deltas(deltas: Sequence[Image]) -> tuple[Delta, ...]:
    """Return from each base the delta that our clients take, whatever its form; the newest base first."""
    sizes: dict[int, int] = {}
    for delta in deltas:
        base = delta.base or 0
        sizes[base] = min(delta.size_bytes, sizes.get(base, delta.size_bytes))
    return tuple(Delta(base, sizes[base]) for base in sorted(sizes, reverse=True))


def parse_generated_at(text: str) -> date:
    """Return the day of a time as documents have it (system-image §2.3). Raises ValueError."""
    return datetime.strptime(text, "%a %b %d %H:%M:%S UTC %Y").replace(tzinfo=UTC).date()


def _download(file: ImageFile) -> Download:
    note = _NOTES.get(file.name.partition("-")[0], "")
    return Download(file.name, layout.key(file.path), file.size_bytes, file.sha256, note)
