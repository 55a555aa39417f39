"""Makes compact deltas (docs/compact-delta.md). What each changed file is made of is decided by what it costs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryDirectory
from threading import BoundedSemaphore, Lock
from typing import IO, Any, cast

from coreimage.client.compact import MAGIC, SECTIONS
from coreimage.client.layers import LayeredTree
from coreimage.client.tree import Entry, as_text, tree_sha256
from coreimage.deltas.base_tools import Tools
from coreimage.deltas.byte_diff import DIFF_DRIFT_BYTES, DIFF_LIMIT_BYTES, Steps, diff, packed_bytes
from coreimage.deltas.cpio import MAGICS as CPIO_MAGICS
from coreimage.deltas.cpio import parts
from coreimage.deltas.file_bytes import IN_MEMORY_BYTES, Bytes, FileBytes, bytes_of, file_bytes
from coreimage.deltas.packed import Packed, packed_part
from coreimage.deltas.renames import Renames, without_numbers
from coreimage.deltas.repacking import Repacker, packed_stream
from coreimage.host.process import Run
from coreimage.tarball import compress_xz

_LZMA = {
    "manifest": "preset=6,dict=4MiB",
    "controls": "preset=6,dict=1MiB",
    "differences": "preset=3,dict=1MiB",
    "literals": "preset=6,dict=3MiB",
}
"""The last three are read at once on the device. Differences are zeros most often, and many: a higher preset takes five
times as long for a tenth of their size."""
_THREADS = 2
_AHEAD_BYTES = 16 << 20
"""So much of the files may be looked at before it is written: memory must not grow with all of them."""
_IN_MEMORY_STEPS_BYTES = 1 << 20
_SURELY_PACKED_TO = 16
"""Contents that change are not packed to so small a part of them."""
_CHUNK_BYTES = 1 << 20

Pieces = list[Any]
"""A recipe in the applier's words (docs/compact-delta.md, "c")."""


def make_compact(base: LayeredTree, target: LayeredTree, delta: Path, folder: Path, *, tools: Tools, run: Run) -> Path:
    """Write the delta that makes `target` of `base`. The same bytes for the same trees. Both cores are used.

    Args:
        delta: The file to write, which is returned.
        folder: An empty folder for what is needed meanwhile.
        tools: The compressors of the base image.
        run: Starts xz.
    """
    return _Maker(base, target, folder, tools, run).write(delta)


@dataclass
class _Content:
    """How a file's content is made: a recipe, and what the recipe reads from the sections.

    Attributes:
        scratch: A folder that is there while the recipe is made.
        made_before: Names of the new tree's files, by their digests, that the recipe may repeat.
    """

    scratch: Path
    made_before: Mapping[bytes, bytes]
    pieces: Pieces = field(default_factory=list)
    sections: Sequence[IO[bytes]] = field(default_factory=lambda: [_in_memory_while_small() for _ in SECTIONS[1:]])

    def literal(self, content: bytes) -> None:
        """Take bytes as they are."""
        if not content:
            return
        if self.pieces and isinstance(self.pieces[-1], int):
            self.pieces[-1] += len(content)
        else:
            self.pieces.append(len(content))
        self.sections[-1].write(content)

    def patch(self, source: Pieces, steps: Steps, size_bytes: int) -> None:
        """Make `size_bytes` of a source."""
        self.pieces.append(["p", source, size_bytes])
        for section, part in zip(self.sections, steps.parts(), strict=True):
            section.write(part)

    def move_to(self, sections: Sequence[IO[bytes]]) -> None:
        """Append what the recipe reads to the delta's own sections."""
        for section, target in zip(self.sections, sections, strict=True):
            section.seek(0)
            shutil.copyfileobj(section, target, _CHUNK_BYTES)
            section.close()


@dataclass(frozen=True)
class _Old:
    """An old content that may be patched: it lies from `start` on in `source`."""

    content: Bytes
    source: Pieces
    start: int = 0

    def part(self, start: int, stop: int) -> _Old:
        return _Old(self.content[start:stop], self.source, self.start + start)


class _Maker:
    """Makes one delta."""

    def __init__(self, base: LayeredTree, target: LayeredTree, folder: Path, tools: Tools, run: Run) -> None:
        self._base, self._target, self._folder, self._run = base, target, folder, run
        self._old, self._new = list(base.entries()), list(target.entries())
        self._numbers = {entry.name: number for number, entry in enumerate(self._old)}
        self._by_sha256 = {e.sha256: n for n, e in reversed(list(enumerate(self._old))) if e.kind == "file"}
        self._made_before = {e.sha256: e.name for e in reversed(self._new) if e.kind == "file" and not _comes_late(e)}
        self._renames = Renames(self._old, {entry.name for entry in self._new})
        self._repacker = Repacker(tools, folder)
        self._unpacked: dict[int, tuple[int, int, str]] = {}
        """Old files that the device must unpack, by number: start, size and kind of the stream in them."""
        self._reading, self._large, self._diffing = Lock(), Lock(), BoundedSemaphore(_THREADS)
        self._part_executor = ThreadPoolExecutor(_THREADS, "delta-part")

    def write(self, delta: Path) -> Path:
        with self._part_executor:
            changed = [entry for entry in self._new if self._old_entry(entry.name) != entry]
            files = [entry for entry in changed if entry.kind == "file" and entry.sha256 not in self._by_sha256]
            files.sort(key=_comes_late)
            recipes = {entry.name: pieces for entry, pieces in self._make_contents(files)}
        others = [entry for entry in changed if entry.name not in recipes]
        names = {entry.name for entry in self._new}
        manifest = {
            "base": tree_sha256(self._old),
            "result": tree_sha256(self._new),
            "removed": [number for number, entry in enumerate(self._old) if entry.name not in names],
            "unpack": {str(number): list(stream) for number, stream in sorted(self._unpacked.items())},
            "changed": [self._describe(entry, recipes.get(entry.name)) for entry in (*others, *files)],
        }
        self._plain("manifest").write_bytes(json.dumps(manifest, separators=(",", ":")).encode())
        sections = [self._pack_section(name) for name in SECTIONS]
        with delta.open("wb") as file:
            file.write(MAGIC + b"".join(section.stat().st_size.to_bytes(8) for section in sections))
            for section in sections:
                file.write(section.read_bytes())
        return delta

    def _make_contents(self, files: Sequence[Entry]) -> Iterator[tuple[Entry, Pieces]]:
        """Yield each file with its recipe, in order, and write what the recipes read to the sections."""
        with ExitStack() as opened:
            sections = [opened.enter_context(self._plain(name).open("wb")) for name in SECTIONS[1:]]
            executor = opened.enter_context(ThreadPoolExecutor(_THREADS, "delta"))
            self._repacker.look_for_packers((self._lazily(self._target, entry.name) for entry in files), executor)
            ahead: deque[tuple[Entry, Future[_Content]]] = deque()
            for entry in (*files, None):
                if entry is not None:
                    ahead.append((entry, executor.submit(copy_context().run, self._make_content, entry)))
                while ahead and (entry is None or sum(one.size_bytes for one, _ in ahead) > _AHEAD_BYTES):
                    done, future = ahead.popleft()
                    content = future.result()
                    content.move_to(sections)
                    yield done, content.pieces

    def _plain(self, section: str) -> Path:
        return self._folder / f"{section}.plain"

    def _pack_section(self, name: str) -> Path:
        """Pack a section into an xz stream whose dictionary fits into the device's memory; nothing stays nothing."""
        plain = self._plain(name)
        if not plain.stat().st_size:
            return plain

        def write(file: IO[bytes]) -> None:
            with plain.open("rb") as content:
                shutil.copyfileobj(content, file, _CHUNK_BYTES)

        packed = compress_xz(write, plain.with_suffix(".xz"), run=self._run, lzma=_LZMA[name], check="crc32")
        plain.unlink()
        return packed

    def _old_entry(self, name: bytes) -> Entry | None:
        number = self._numbers.get(name)
        return None if number is None else self._old[number]

    def _describe(self, entry: Entry, pieces: Pieces | None) -> dict[str, Any]:
        """Return what the manifest says of a changed entry: what differs from the old entry that it starts from.

        Args:
            pieces: The recipe of its content; None where that is another old file's content.
        """
        number = self._numbers.get(entry.name)
        if pieces is None and entry.kind == "file" and (number is None or self._old[number].sha256 != entry.sha256):
            number = self._by_sha256[entry.sha256]
        elif number is None and entry.kind == "file":
            number = self._renames.find(entry.name)
        before = Entry(b"", "file") if number is None else self._old[number]
        values: dict[str, Any] = {} if number is None else {"b": number}
        attributes: tuple[tuple[str, Any, Any], ...] = (
            ("n", as_text(entry.name), as_text(before.name)),
            ("k", entry.kind, before.kind),
            (
                "m",
                [entry.mode, entry.uid, entry.gid, entry.mtime],
                [before.mode, before.uid, before.gid, before.mtime],
            ),
            ("t", as_text(entry.target), as_text(before.target)),
            ("d", list(entry.device), list(before.device)),
            ("s", entry.size_bytes, before.size_bytes),
            ("x", {k: as_text(v) for k, v in entry.records}, {k: as_text(v) for k, v in before.records}),
        )
        values |= {key: value for key, value, old_value in attributes if value != old_value}
        return values if pieces is None else {**values, "c": pieces}

    def _make_content(self, entry: Entry) -> _Content:
        """Patch a file's content where that is smaller, take it whole otherwise; look into a stream that is in it."""
        # Large contents come one at a time, for the memory that they take.
        is_large = entry.size_bytes > IN_MEMORY_BYTES
        with self._large if is_large else nullcontext(), TemporaryDirectory(dir=self._folder) as scratch:
            new = bytes_of(self._lazily(self._target, entry.name))
            number = self._numbers.get(entry.name)
            if number is None or self._old[number].kind != "file":
                number = self._renames.find(entry.name)
            old = None
            if number is not None:
                old = _Old(bytes_of(self._lazily(self._base, self._old[number].name)), ["b", number])
            packed = packed_stream(new)
            content = _Content(Path(scratch), self._made_before if _comes_late(entry) else {})
            if packed is None or not self._repack(content, old, new, packed):
                self._add(content, old, new)
            return content

    def _lazily(self, tree: LayeredTree, name: bytes) -> FileBytes:
        """Return a content that is read when it is needed: all files of a tarball are read through one place in it."""
        return FileBytes(partial(tree.open, name), tree[name].entry.size_bytes, self._reading)

    def _repack(self, content: _Content, old: _Old | None, new: Bytes, packed: Packed) -> bool:
        """Make a content by packing what is in its stream again, with the base image's own tool.

        Returns:
            Whether that tool gives the same bytes; nothing is added where it does not.
        """
        plain = self._repacker.unpack(new, packed, content.scratch / "new.plain")
        packer = None if plain is None else self._repacker.packer_of(new, packed, plain)
        if plain is None or packer is None:
            return False
        old_packed = packed_part(old.content) if old else None
        head, inside_old, tail = None, None, None
        if old and old_packed:
            head = old.part(0, old_packed.start)
            tail = old.part(old_packed.end, len(old.content))
            old_plain = self._repacker.unpack(old.content, old_packed, content.scratch / "old.plain")
            if old_plain is not None:
                number = old.source[1]
                self._unpacked[number] = (old_packed.start, old_packed.end - old_packed.start, old_packed.kind)
                old_inside = bytes_of(file_bytes(old_plain))
                inside_old = _Old(old_inside, ["u", number, 0, len(old_inside)])
        self._add(content, head, new[: packed.start])
        inside = replace(content, pieces=[])
        self._add(inside, inside_old, bytes_of(file_bytes(plain)))
        content.pieces.append(["z", packer, inside.pieces])
        self._add(content, tail, new[packed.end :])
        return True

    def _add(self, content: _Content, old: _Old | None, new: Bytes) -> None:
        """Add bytes to a content: an archive member by member, where each is one of the new tree's files, or like one
        of the old archive."""
        if not new.startswith(CPIO_MAGICS):
            self._patch(content, old, new)
            return
        old_members = {without_numbers(part.name): part for part in parts(old.content)} if old else {}
        for part in parts(new):
            member = part.of(new)
            same = content.made_before.get(hashlib.sha256(member).digest()) if member else None
            before = old_members.get(without_numbers(part.name))
            if same is not None:
                content.pieces.append(["k", ["r", as_text(same)]])
            else:
                old_part = old.part(before.start, before.start + before.size_bytes) if old and before else None
                self._patch(content, old_part, member)

    def _patch(self, content: _Content, old: _Old | None, new: Bytes) -> None:
        """Add bytes as a patch, where that is smaller than the bytes themselves.

        Large contents are looked at in parts, on both cores.
        """
        starts = range(0, len(new), DIFF_LIMIT_BYTES)

        def compare(start: int) -> tuple[bytes, Steps | None]:
            window = new[start : start + DIFF_LIMIT_BYTES]
            if old is None:
                return window, None
            near = old.part(max(0, start - DIFF_DRIFT_BYTES), start + DIFF_LIMIT_BYTES + DIFF_DRIFT_BYTES)
            with self._diffing:
                steps = diff(near.content[:], window, near.start)
                cost_bytes = steps.cost_bytes()
                is_surely_less = cost_bytes * _SURELY_PACKED_TO < len(window)
                return window, steps if is_surely_less or cost_bytes < packed_bytes(window) else None

        for window, steps in self._part_executor.map(compare, starts) if len(starts) > 1 else map(compare, starts):
            if old is None or steps is None:
                content.literal(window)
            else:
                content.patch(old.source, steps, len(window))


def _in_memory_while_small() -> IO[bytes]:
    return cast("IO[bytes]", SpooledTemporaryFile(_IN_MEMORY_STEPS_BYTES))


def _comes_late(entry: Entry) -> bool:
    """Return whether a file comes after those that it may repeat: an archive of many files.

    The rest stays in the order of the tree, so that like comes after like.
    """
    return entry.name.startswith(b"assets/")
