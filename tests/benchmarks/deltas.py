"""Imports and deltas of two pairs of Debian, against the method of the server of 2015."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coreimage.client.documents import ImageFile, Index
from coreimage.host.process import run
from coreimage.model import Compression, PublishedBuild
from coreimage.storage import open_blob
from coreimage.system_image import ChannelTree, import_build, release_candidate, with_deltas
from coreimage.system_image.channels.document import read_channels, read_index
from coreimage.system_image.documents import layout
from coreimage.system_image.importer import select_files
from tests.benchmarks.measure import measured
from tests.benchmarks.original_method import PARTS
from tests.benchmarks.page import Row, ratios, table
from tests.benchmarks.place import ROOT, Place
from tests.benchmarks.rootfs_pairs import DEVICE, PACKAGES, RELEASES, Pair, made_pair

COMPRESSIONS: tuple[Compression, ...] = ("fast", "default", "smallest", "zstd")
MEMORY_LIMIT_BYTES = 300e6
_PAGE = """# Deltas

Two imports of each pair: a release of Debian as it came out (`main` alone), then the same packages with updates and
security fixes. The peer is the method of the server of 2015, written again for this: gunzip, shift the tarball, `xz -9`
on one thread; for the delta unpack both, compare sizes and times, `xz -9`. Both start from the same published builds.
Ours also makes the delta in both forms, applies the compact one, signs, and releases the version.

Our times are those of the whole process; the peer's are its processor time, which is what it takes on an idle machine,
as it uses one thread. Memory is the proportional set size of the process and all that it starts.

The packages: minbase, linux-image-cloud-amd64, initramfs-tools, {packages}; without manuals and documentation.

{pairs}
"""
_PAIR = """## Debian {series}

{figures}

In MB; the kernel part is the kernel, its modules and its initrd. The compact delta is one file for both parts: what the
kernel part has of it is what is saved when that does not change.

{sizes}

{imports}
"""


@dataclass(frozen=True)
class Taken:
    """What a process took: seconds, and its peak of memory."""

    duration_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of both parts; `delta` is in the form of 2015, empty for the first import."""

    full: dict[str, int]
    delta: dict[str, int]
    compact_bytes: int = 0

    @property
    def full_bytes(self) -> int:
        return sum(self.full.values())

    @property
    def delta_bytes(self) -> int:
        return sum(self.delta.values())


@dataclass(frozen=True)
class Figures:
    """The first and the second import of the peer, and of ours by compression; the sizes are those of the second."""

    peer: tuple[Taken, Taken]
    peer_sizes: Sizes
    ours: dict[str, tuple[Taken, Taken]]
    sizes: dict[str, Sizes]
    compact_rootfs_bytes: int


def section(place: Place) -> str:
    folder = place.folder("deltas")
    pairs = [_pair(series, measure(made_pair(folder / series, name))) for series, name in RELEASES.items()]
    return _PAGE.format(packages=", ".join(PACKAGES), pairs="\n".join(pairs))


def measure(pair: Pair) -> Figures:
    """What an earlier call measured in the pair's folder is not measured again."""
    peer = tuple(Taken(**_once(pair, f"peer-{turn}", _peer)) for turn in ("before", "after"))
    ours = {
        name: tuple(Taken(**_once(pair, f"{name}-{turn}", _ours)) for turn in ("before", "after"))
        for name in COMPRESSIONS
    }
    sizes = {name: _sizes(pair, name) for name in COMPRESSIONS}
    rootfs = _once(pair, "rootfs-alone", _compact_rootfs)
    return Figures(peer, _peer_sizes(pair), ours, sizes, rootfs["size_bytes"])  # type: ignore[arg-type]


def _once(pair: Pair, name: str, produce: Callable[[Pair, str], dict[str, Any]]) -> dict[str, Any]:
    record = pair.folder / f"{name}.json"
    if not record.exists():
        record.write_text(json.dumps(produce(pair, name)))
    found: dict[str, Any] = json.loads(record.read_text())
    return found


# The peer


def _peer(pair: Pair, name: str) -> dict[str, Any]:
    folder, turn = pair.folder / "peer", name.removeprefix("peer-")
    folder.mkdir(exist_ok=True)
    build: PublishedBuild = getattr(pair, turn)
    for part, file in zip(PARTS, select_files(build, DEVICE)[:2], strict=True):
        with open_blob(pair.store, file.artifact) as source, (folder / f"{turn}.{part}.tar.gz").open("wb") as target:
            shutil.copyfileobj(source, target)
    argv = [sys.executable, "-m", "tests.benchmarks.original_method", str(folder), turn]
    taken = measured([*argv, *(["before"] if turn == "after" else [])], cwd=ROOT)
    return asdict(Taken(float(taken.output.split()[-1]), taken.peak_bytes()))


def _peer_sizes(pair: Pair) -> Sizes:
    folder = pair.folder / "peer"
    full, delta = (
        {part: (folder / f"{before}{part}{after}.tar.xz").stat().st_size for part in PARTS}
        for before, after in (("after.", ""), ("", ".delta"))
    )
    return Sizes(full, delta)


# Ours

_IMPORT = "import sys; from tests.benchmarks.deltas import import_once; import_once(*sys.argv[1:])"


def _ours(pair: Pair, name: str) -> dict[str, Any]:
    taken = measured([sys.executable, "-c", _IMPORT, str(pair.folder), *name.split("-")], cwd=ROOT)
    return asdict(Taken(taken.duration_s, taken.peak_bytes()))


def import_once(folder: str, compression: Compression, turn: str) -> None:
    """One import into a channel called after the compression, released."""
    pair = made_pair(Path(folder), "")
    tree = ChannelTree(pair.store, pair.signer, lambda: datetime.now(UTC))
    build: PublishedBuild = getattr(pair, turn)
    candidate = import_build(tree, build, _channel(compression), DEVICE, compression=compression, run=run)
    release_candidate(tree, candidate)


def _channel(compression: str) -> str:
    return f"pairs/{compression}"


def _index(pair: Pair, compression: str) -> Index:
    channels = read_channels(ChannelTree(pair.store, pair.signer, lambda: datetime.now(UTC))).channels
    return read_index(pair.store, channels, _channel(compression), DEVICE)


def _sizes(pair: Pair, compression: str) -> Sizes:
    index = _index(pair, compression)
    deltas = {image.form: image.payloads for image in index.images if image.type == "delta"}
    compact = deltas.pop("compact", ())
    legacy = next(iter(deltas.values()), ())
    return Sizes(_bytes(index.fulls[-1].payloads), _bytes(legacy), sum(_bytes(compact).values()))


def _bytes(files: Sequence[ImageFile]) -> dict[str, int]:
    return {file.name.partition("-")[0]: file.size_bytes for file in files}


def _compact_rootfs(pair: Pair, _: str) -> dict[str, Any]:
    """The compact delta of a version that changes nothing but the rootfs."""
    before, after = _index(pair, "default").fulls
    kernel = next(file for file in before.payloads if layout.part_of(file.path) == "device")
    rootfs = next(file for file in after.payloads if layout.part_of(file.path) == "ubuntu")
    files = [rootfs, kernel, *(file for file in after.files if file.is_version_file)]
    changed = replace(after, files=tuple(replace(file, order=order) for order, file in enumerate(files)))
    entries = with_deltas(ChannelTree(pair.store, pair.signer, lambda: datetime.now(UTC)), changed, [before], run=run)
    return {"size_bytes": entries[-1].payloads[0].size_bytes}


# The page


def _pair(series: str, figures: Figures) -> str:
    return _PAIR.format(
        series=series, figures=ratios(_rows(figures)), sizes=_size_table(figures), imports=_import_table(figures)
    )


def _rows(figures: Figures) -> list[Row]:
    peer, ours, sizes = figures.peer, figures.ours, figures.sizes

    def time(what: str, name: str, turn: int, reach: str) -> Row:
        one, other = ours[name][turn].duration_s, peer[turn].duration_s
        return Row(f"{what} / the peer's", one / other, f"{one:.1f} s / {other:.1f} s", reach)

    def size(what: str, one: int, other: int, reach: str) -> Row:
        return Row(f"{what} / the peer's", one / other, f"{one / 1e6:.1f} MB / {other / 1e6:.1f} MB", reach)

    peak = max(taken.peak_bytes for taken in ours["default"])
    return [
        time("import with delta, by default", "default", 1, "≤ 0.17, try 0.10"),
        Row("… memory / 300 MB", peak / MEMORY_LIMIT_BYTES, f"{peak / 1e6:.0f} MB", "≤ 1"),
        time("import with delta, zstd", "zstd", 1, "≤ 0.067"),
        size("full image, by default", sizes["default"].full_bytes, figures.peer_sizes.full_bytes, "≤ 1.15"),
        size("full image, smallest", sizes["smallest"].full_bytes, figures.peer_sizes.full_bytes, "≤ 1.0"),
        time("first import, smallest", "smallest", 0, "≤ 0.33"),
        size("compact delta", sizes["default"].compact_bytes, figures.peer_sizes.delta_bytes, "≤ 0.26, try 0.13"),
    ]


def _size_table(figures: Figures) -> str:
    ours, peer = figures.sizes, figures.peer_sizes
    compact = {name: found.compact_bytes for name, found in ours.items()}
    default = ours["default"]
    rows = [
        *(("full image", name, found.full) for name, found in (("2015", peer), *ours.items())),
        *(("delta of 2015", name, found.delta) for name, found in (("2015", peer), ("ours", default))),
    ]
    cells = [
        (what, name, *(f"{parts.get(part, 0) / 1e6:.1f}" for part in PARTS), _mb(sum(parts.values())))
        for what, name, parts in rows
    ]
    rootfs = figures.compact_rootfs_bytes
    cells.append(("compact delta", "ours", _mb(rootfs), _mb(compact["default"] - rootfs), _mb(compact["default"])))
    return table(("", "", "rootfs", "kernel part", "together"), cells)


def _import_table(figures: Figures) -> str:
    every = (("2015", figures.peer), *figures.ours.items())
    rows = [
        (
            name,
            *(f"{taken.duration_s:.1f} s" for taken in both),
            f"{max(taken.peak_bytes for taken in both) / 1e6:.0f} MB",
        )
        for name, both in every
    ]
    return table(("import", "first", "second, with delta", "peak memory"), rows)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f}"
