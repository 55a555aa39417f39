"""Reads what the pages show from a store: builds, channels, and how the two belong together."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, date, datetime
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from coreimage.changes import package_changes
from coreimage.errors import UsageError
from coreimage.model import BootReport, PublishedFile
from coreimage.pages.site import (
    Build,
    BuildLine,
    BuildPart,
    Builds,
    Changes,
    Channel,
    Delta,
    Device,
    Download,
    Source,
    Verdict,
    Version,
)
from coreimage.publication import BuildId, BuildTree, parse_build_id, read_build, read_pin
from coreimage.publication.builds import Survey, survey
from coreimage.publication.changes import parse_manifest
from coreimage.publication.documents import BuildInfo, Current, MarkedGood, Pending, decode_checksums
from coreimage.publication.layout import BUILD_INFO, CHECKSUMS, EVIDENCE, PAGE, is_for, is_listed
from coreimage.publication.pointers import read_document
from coreimage.storage import Store, read_bytes
from coreimage.system_image import layout
from coreimage.system_image.documents import PHASE, PINNED, Document, details_of, fulls, images_of, payloads

VERSIONS = 30
"""So many versions of a device are shown; the older ones are counted."""
BUILDS = 100
_IMAGES = "images"
_TAR = ".tar.gz"


def build_trees(store: Store) -> tuple[BuildTree, ...]:
    """All trees of published builds, by the folders below `cdimage/`."""
    root = "cdimage/"
    return tuple(
        BuildTree(project=project, series=series, image_type=image_type)
        for project in store.folders(root)
        for series in store.folders(f"{root}{project}/")
        for image_type in store.folders(f"{root}{project}/{series}/")
    )


class Reader:
    """Reads one state of a store for one set of pages: what several of them show is read once.

    In `trees` it looks for the builds that versions were made of.
    """

    def __init__(self, store: Store, trees: Sequence[BuildTree]) -> None:
        self._store, self._trees = store, trees
        self.info = cache(self._info)
        self.packages = cache(self._packages)
        self.document = cache(self._document)

    # Published builds

    def builds(self, tree: BuildTree, found: Survey) -> Builds:
        pending = read_document(self._store, tree.pending_key, Pending)
        current = read_document(self._store, tree.current_key, Current)
        newest = tuple(reversed(found.complete))
        lines = tuple(self._line(tree, build_id, found, pending, current) for build_id in newest[:BUILDS])
        return Builds(_title(tree), f"{tree.prefix}/{PAGE}", lines, max(0, len(newest) - BUILDS))

    def _line(
        self, tree: BuildTree, build_id: BuildId, found: Survey, pending: Pending | None, current: Current | None
    ) -> BuildLine:
        prefix = f"{tree.build_prefix(build_id)}/"
        sizes = {info.key.removeprefix(prefix): info.size_bytes for info in found.objects[build_id]}
        good = current.architectures if current else {}
        return BuildLine(
            build_id=str(build_id),
            page=tree.key(build_id, PAGE),
            made=build_id.day,
            size_bytes=sum(size_bytes for name, size_bytes in sizes.items() if name.endswith(_TAR)),
            files={name: sizes[name] for name in sorted(sizes) if is_listed(name)},
            good=tuple(sorted(PurePosixPath(name).stem for name in sizes if name.startswith(f"{EVIDENCE}/"))),
            newest=pending is not None and pending.build_id == str(build_id),
            current=tuple(name for name, marked in good.items() if marked.build_id == str(build_id)),
            carried={part.architecture: part.build_id for part in self.info(tree, build_id).carried},
            pinned=self._pin(tree, build_id, found),
        )

    def build(self, tree: BuildTree, build_id: BuildId, found: Survey) -> Build:
        published, info = read_build(tree, build_id, store=self._store), self.info(tree, build_id)
        architectures = sorted({*info.architectures, *(part.architecture for part in info.carried)})
        left = [file for file in published.files if not any(is_for(file.name, name) for name in architectures)]
        parts = [self._part(tree, build_id, info, name, published.files) for name in architectures]
        return Build(
            title=_title(tree),
            build_id=str(build_id),
            page=tree.key(build_id, PAGE),
            made=build_id.day,
            parts=(*parts, BuildPart("", Verdict(None, ""), "", _downloads(left))),
            changes=self._build_changes(tree, build_id, found),
            sources=tuple(Source(source.uri, source.suite, source.date) for source in info.sources),
            pinned=self._pin(tree, build_id, found),
        )

    def _pin(self, tree: BuildTree, build_id: BuildId, found: Survey) -> str | None:
        pin = read_pin(tree, build_id, store=self._store) if build_id in found.pinned else None
        return pin.note if pin else None

    def _part(
        self, tree: BuildTree, build_id: BuildId, info: BuildInfo, architecture: str, files: Sequence[PublishedFile]
    ) -> BuildPart:
        carried = [part.build_id for part in info.carried if part.architecture == architecture]
        return BuildPart(
            architecture=architecture,
            verdict=self._build_verdict(tree, build_id, architecture),
            carried_from=carried[0] if carried else "",
            files=_downloads([file for file in files if is_for(file.name, architecture)]),
        )

    def _build_changes(self, tree: BuildTree, build_id: BuildId, found: Survey) -> Changes:
        before = [other for other in found.complete if other < build_id]
        if not before:
            return Changes("", None)
        old, new = self.packages(tree, before[-1], ""), self.packages(tree, build_id, "")
        return Changes(str(before[-1]), package_changes(old, new))

    def _build_verdict(self, tree: BuildTree, build_id: BuildId, architecture: str) -> Verdict:
        good = read_document(self._store, tree.evidence_key(build_id, architecture), MarkedGood)
        return Verdict(None, "not found good yet") if good is None else _verdict(good.evidence)

    def _info(self, tree: BuildTree, build_id: BuildId) -> BuildInfo:
        found = read_document(self._store, tree.key(build_id, BUILD_INFO), BuildInfo)
        if found is None:
            raise UsageError("has no build.json", where=tree.build_prefix(build_id))
        return found

    def _packages(self, tree: BuildTree, build_id: BuildId, device: str) -> dict[str, str]:
        """Versions by package, of one device and its rootfs, or of all (`device` is empty)."""
        info = self.info(tree, build_id)
        devices = [part for part in info.devices if device in ("", part.device)]
        architectures = {part.architecture for part in devices} if device else {a.architecture for a in info.rootfs}
        rootfs = [part.tarball for part in info.rootfs if part.architecture in architectures]
        named: dict[str, str] = {}
        for tarball in (*rootfs, *(part.tarball for part in devices)):
            key = tree.key(build_id, f"{tarball.removesuffix(_TAR)}.manifest")
            named |= parse_manifest((read_bytes(self._store, key) or b"").decode(), key)
        return named

    # Channels

    def with_followers(self, channels: Collection[str]) -> set[str]:
        """And the aliases of `channels`, and what redirects to them: all that show the same."""
        document = self.document(layout.CHANNELS) or {}
        follow = (name for name, entry in document.items() if {entry.get("alias"), entry.get("redirect")} & {*channels})
        return {*channels, *follow}

    def channels(self, wanted: Collection[str] | None = None) -> tuple[Channel, ...]:
        """Those of channels.json, sorted by name; of a channel that is not `wanted`, only the newest versions."""
        document = self.document(layout.CHANNELS) or {}
        return tuple(
            self._channel(name, document[name], document, whole=wanted is None or name in wanted)
            for name in sorted(document)
        )

    def _channel(self, name: str, entry: Document, document: Document, *, whole: bool) -> Channel:
        target = entry.get("alias") or entry.get("redirect") or ""
        kind = "alias" if entry.get("alias") else "redirect" if entry.get("redirect") else ""
        devices = [
            self._device(name, device, described, VERSIONS if whole else 1)
            for device, described in sorted(entry["devices"].items())
        ]
        return Channel(
            name=name,
            page=layout.key(f"{name}/{PAGE}"),
            devices=tuple(devices),
            hidden=bool(entry.get("hidden")),
            kind=kind,
            target=target,
            target_page=layout.key(f"{target}/{PAGE}") if target in document else "",
        )

    def _device(self, channel: str, device: str, entry: Document, most: int) -> Device:
        images = images_of(self.document(entry["index"]) or {"images": []})
        newest = list(reversed(fulls(images)))
        return Device(
            channel=channel,
            name=device,
            page=layout.key(f"{channel}/{device}/{PAGE}"),
            versions=tuple(
                self._version(channel, device, image, images, newest[number + 1 : number + 2])
                for number, image in enumerate(newest[:most])
            ),
            older=max(0, len(newest) - most),
        )

    def _version(
        self, channel: str, device: str, image: Document, images: Sequence[Document], before: Sequence[Document]
    ) -> Version:
        number, place = int(image["version"]), self._build_of(image, device)
        deltas = _smallest([other for other in images if other["type"] == "delta" and other["version"] == number])
        downloads, raw_sha256 = self._disk_image(channel, device, number)
        return Version(
            number=number,
            made=self._made(channel, device, number),
            build_id=details_of(image["version_detail"]).get("ubuntu", ""),
            build_page=place[0].key(place[1], PAGE) if place else "",
            builds_page=f"{place[0].prefix}/{PAGE}" if place else "",
            size_bytes=_size(image),
            deltas=deltas,
            phase=image.get(PHASE),
            pinned=image.get(PINNED),
            verdict=self._version_verdict(place, device, raw_sha256),
            changes=self._version_changes(place, device, before),
            image=downloads,
            files=tuple(_pool_download(file) for file in image["files"]),
        )

    def _version_changes(
        self, place: tuple[BuildTree, BuildId] | None, device: str, before: Sequence[Document]
    ) -> Changes:
        older = self._build_of(before[0], device) if before else None
        since = f"version {before[0]['version']}" if before else ""
        if place is None or older is None:
            return Changes(since, None)
        return Changes(since, package_changes(self.packages(*older, device), self.packages(*place, device)))

    def _build_of(self, image: Document, device: str) -> tuple[BuildTree, BuildId] | None:
        """The published build that a version was made of: of the ids it names, the one whose tarball its payload is."""
        source = next((self._source(file["path"]) for file in payloads(image)), "")
        try:
            build_id = parse_build_id(details_of(image["version_detail"]).get("ubuntu", ""))
        except UsageError:
            return None
        for tree in self._trees:
            info = read_document(self._store, tree.key(build_id, BUILD_INFO), BuildInfo)
            if info and source in {part.tarball_sha256 for part in info.rootfs}:
                return tree, build_id
        return None

    def _source(self, path: str) -> str:
        """The digest of the tarball that a pool file was made of."""
        sidecar = self.document(layout.sidecar(path)) or {}
        return str(sidecar.get("source", ""))

    def _made(self, channel: str, device: str, number: int) -> date | None:
        sidecar = self.document(layout.version_sidecar(channel, device, number)) or {}
        try:
            return datetime.strptime(sidecar["generated_at"], "%a %b %d %H:%M:%S UTC %Y").replace(tzinfo=UTC).date()
        except (KeyError, ValueError):
            return None

    def _version_verdict(self, place: tuple[BuildTree, BuildId] | None, device: str, raw_sha256: str) -> Verdict:
        """By the very image of this version; of one whose image is not kept, by what its build was marked with."""
        if place is None:
            return Verdict(None, "nothing is known")
        parts = [part.architecture for part in self.info(*place).devices if part.device == device]
        good = read_document(self._store, place[0].evidence_key(place[1], parts[0]), MarkedGood) if parts else None
        if good is None:
            return Verdict(None, "its build was not found good")
        own = tuple(report for report in good.evidence if report.image_sha256 == raw_sha256)
        return _verdict(own or good.evidence)

    def _disk_image(self, channel: str, device: str, number: int) -> tuple[Download | None, str]:
        """The image as it can be downloaded, and the digest of what it unpacks to."""
        prefix = f"{_IMAGES}/{channel}/{device}/{number}"
        listed = read_bytes(self._store, f"{prefix}/{CHECKSUMS}")
        digests = decode_checksums(listed, f"{prefix}/{CHECKSUMS}") if listed else {}
        packed = next((name for name in digests if name.endswith(".zst")), "")
        info = self._store.head(f"{prefix}/{packed}") if packed else None
        if info is None:
            return None, ""
        image = Download(packed, info.key, info.size_bytes, digests[packed], "disk image: zstd -d unpacks it")
        return image, digests.get(packed.removesuffix(".zst"), "")

    def _document(self, path: str) -> Document | None:
        """A JSON document of the web root, by its path there; None when it is not there or is none."""
        try:
            found: Any = json.loads(read_bytes(self._store, layout.key(path)) or b"null")
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


def list_builds(tree: BuildTree, *, store: Store) -> Builds:
    """What the page of a tree shows, for other ways to show it."""
    return Reader(store, [tree]).builds(tree, survey(tree, store=store))


def surveyed(trees: Sequence[BuildTree], store: Store) -> Iterator[tuple[BuildTree, Survey]]:
    for tree in trees:
        yield tree, survey(tree, store=store)


def _title(tree: BuildTree) -> str:
    return f"{tree.project} {tree.series} {tree.image_type}"


def _verdict(evidence: Sequence[BootReport]) -> Verdict:
    if not evidence:
        return Verdict(None, "released without a boot test")
    firmwares = " and ".join(sorted({report.firmware.upper() for report in evidence}))
    failed = [report for report in evidence if not report.passed]
    if failed:
        return Verdict(False, f"failed with {failed[0].firmware.upper()}: {failed[0].reason}")
    return Verdict(True, f"boots with {firmwares}")


_NOTES = {
    f".device{_TAR}": "kernel, initrd and modules",
    f".custom{_TAR}": "files of the product's own",
    _TAR: "root file system",
    ".manifest": "packages and versions",
    ".filelist": "all files",
    ".lock.json": "exactly which .debs",
    ".log": "how it was built",
    BUILD_INFO: "what this build is",
}


def _downloads(files: Sequence[PublishedFile]) -> tuple[Download, ...]:
    """The tarballs first: most people come for them."""
    files = sorted(files, key=lambda file: (not file.name.endswith(_TAR), file.name))
    return tuple(
        Download(file.name, file.artifact.uri, file.artifact.size_bytes, file.artifact.sha256, _note(file.name))
        for file in files
    )


def _note(name: str) -> str:
    return next((note for end, note in _NOTES.items() if name.endswith(end)), "")


def _pool_download(file: Document) -> Download:
    name = file["path"].rpartition("/")[2]
    kinds = {"ubuntu": "root file system", "device": "kernel, initrd and modules", "version": "channel and version"}
    return Download(name, layout.key(file["path"]), file["size"], file["checksum"], kinds.get(name.split("-")[0], ""))


def _smallest(deltas: Sequence[Document]) -> tuple[Delta, ...]:
    """From each base the one that our clients take, of both forms; the newest base first."""
    sizes: dict[int, int] = {}
    for delta in deltas:
        base = int(delta["base"])
        sizes[base] = min(_size(delta), sizes.get(base, _size(delta)))
    return tuple(Delta(base, sizes[base]) for base in sorted(sizes, reverse=True))


def _size(image: Document) -> int:
    return sum(int(file["size"]) for file in image["files"])
