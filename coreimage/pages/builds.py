"""Reading the content of the pages of published builds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import PurePosixPath

from coreimage.errors import UsageError
from coreimage.model import FileRole, PublishedFile
from coreimage.packages import package_changes, parse_manifest
from coreimage.pages.content import ArchiveState, Build, BuildLine, BuildPart, Builds, Changes, Download, Verdict
from coreimage.publication import BuildId, BuildTree, read_build, read_pin
from coreimage.publication.build_info import BuildInfo
from coreimage.publication.builds import Survey, survey_builds
from coreimage.publication.documents import Current, MarkedGood, Pending, read_document
from coreimage.publication.layout import BUILD_INFO, EVIDENCE, PAGE, TARBALLS, is_listed
from coreimage.storage import Store, read_bytes

_LINES = 100
"""How many builds of a tree are listed; the older ones are only counted."""
_TAR = ".tar.gz"
_NOTES: dict[FileRole, str] = {
    "device": "kernel, initrd and modules",
    "custom": "files of the product's own",
    "rootfs": "root file system",
    "manifest": "packages and versions",
    "filelist": "all files",
    "lock": "exactly which .debs",
    "log": "how it was built",
}


def build_trees(store: Store) -> tuple[BuildTree, ...]:
    """Return all trees of published builds, by the folders below `cdimage/`."""
    root = "cdimage/"
    return tuple(
        BuildTree(project=project, series=series, image_type=image_type)
        for project in store.folders(root)
        for series in store.folders(f"{root}{project}/")
        for image_type in store.folders(f"{root}{project}/{series}/")
    )


def list_builds(tree: BuildTree, *, store: Store) -> Builds:
    """Return the content of the page of a tree, for other ways to show it."""
    return BuildReader(store).builds(tree, survey_builds(tree, store=store))


class BuildReader:
    """The published builds of a store, read once for all pages that show them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.info = cache(self._info)
        self.packages = cache(self._packages)

    def builds(self, tree: BuildTree, surveyed: Survey) -> Builds:
        """Return the list of a tree's builds."""
        pending = read_document(self._store, tree.pending_key, Pending)
        current = read_document(self._store, tree.current_key, Current)
        newest_first = tuple(reversed(surveyed.complete))
        lines = tuple(self._line(tree, build_id, surveyed, pending, current) for build_id in newest_first[:_LINES])
        return Builds(_title(tree), f"{tree.prefix}/{PAGE}", lines, max(0, len(newest_first) - _LINES))

    def build(self, tree: BuildTree, build_id: BuildId, surveyed: Survey) -> Build:
        """Return one build with all its files, and the packages that changed since the build before it."""
        published, info = read_build(tree, build_id, store=self._store), self.info(tree, build_id)
        architectures = sorted({*info.architectures, *(part.architecture for part in info.carried)})
        info_file = Download(
            BUILD_INFO, published.info.uri, published.info.size_bytes, published.info.sha256, "what this build is"
        )
        before = [other for other in surveyed.complete if other < build_id]
        changes = Changes("", None)
        if before:
            packages = self.packages(tree, before[-1], ""), self.packages(tree, build_id, "")
            changes = Changes(str(before[-1]), package_changes(*packages))
        return Build(
            title=_title(tree),
            build_id=str(build_id),
            page=tree.key(build_id, PAGE),
            day=build_id.day,
            parts=(
                *(self._part(tree, build_id, info, name, published.files) for name in architectures),
                BuildPart("", Verdict(None, ""), "", (info_file,)),
            ),
            changes=changes,
            archives=tuple(ArchiveState(source.uri, source.suite, source.date) for source in info.sources),
            pinned=self._pin(tree, build_id, surveyed),
        )

    def _line(
        self, tree: BuildTree, build_id: BuildId, surveyed: Survey, pending: Pending | None, current: Current | None
    ) -> BuildLine:
        prefix = f"{tree.build_prefix(build_id)}/"
        sizes = {info.key.removeprefix(prefix): info.size_bytes for info in surveyed.objects[build_id]}
        marked_good = current.architectures if current else {}
        return BuildLine(
            build_id=str(build_id),
            page=tree.key(build_id, PAGE),
            day=build_id.day,
            size_bytes=sum(size_bytes for name, size_bytes in sizes.items() if name.endswith(_TAR)),
            files={name: sizes[name] for name in sorted(sizes) if is_listed(name)},
            good=tuple(sorted(PurePosixPath(name).stem for name in sizes if name.startswith(f"{EVIDENCE}/"))),
            newest=pending is not None and pending.build_id == str(build_id),
            current=tuple(name for name, marked in marked_good.items() if marked.build_id == str(build_id)),
            carried={part.architecture: part.build_id for part in self.info(tree, build_id).carried},
            pinned=self._pin(tree, build_id, surveyed),
        )

    def _pin(self, tree: BuildTree, build_id: BuildId, surveyed: Survey) -> str | None:
        pin = read_pin(tree, build_id, store=self._store) if build_id in surveyed.pinned else None
        return pin.note if pin else None

    def _part(
        self, tree: BuildTree, build_id: BuildId, info: BuildInfo, architecture: str, files: Sequence[PublishedFile]
    ) -> BuildPart:
        own = sorted(
            (file for file in files if file.architecture == architecture),
            key=lambda file: (file.role not in TARBALLS, file.name),  # most people come for the tarballs
        )
        good = read_document(self._store, tree.evidence_key(build_id, architecture), MarkedGood)
        return BuildPart(
            architecture=architecture,
            verdict=Verdict(None, "not found good yet") if good is None else Verdict.of(good.evidence),
            carried_from=next((part.build_id for part in info.carried if part.architecture == architecture), ""),
            files=tuple(
                Download(
                    file.name, file.artifact.uri, file.artifact.size_bytes, file.artifact.sha256, _NOTES[file.role]
                )
                for file in own
            ),
        )

    def _info(self, tree: BuildTree, build_id: BuildId) -> BuildInfo:
        info = read_document(self._store, tree.key(build_id, BUILD_INFO), BuildInfo)
        if info is None:
            raise UsageError("has no build.json", where=tree.build_prefix(build_id))
        return info

    def _packages(self, tree: BuildTree, build_id: BuildId, device: str) -> dict[str, str]:
        """Return versions by package, of one device and its rootfs, or of all (`device` is empty)."""
        info = self.info(tree, build_id)
        devices = [part for part in info.devices if device in ("", part.device)]
        architectures = {part.architecture for part in devices} if device else {a.architecture for a in info.rootfs}
        rootfs = [part.tarball for part in info.rootfs if part.architecture in architectures]
        versions: dict[str, str] = {}
        for tarball in (*rootfs, *(part.tarball for part in devices)):
            key = tree.key(build_id, f"{tarball.removesuffix(_TAR)}.manifest")
            versions |= parse_manifest((read_bytes(self._store, key) or b"").decode(), key)
        return versions


def _title(tree: BuildTree) -> str:
    return f"{tree.project} {tree.series} {tree.image_type}"
