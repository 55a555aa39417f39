"""Makes compact deltas: docs/compact-delta.md. What each changed file is made of is decided by what it costs."""

from __future__ import annotations

import json
import re
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Lock
from typing import IO, Any

from coreimage.client.compact import MAGIC, SECTIONS
from coreimage.client.layers import LayeredTree
from coreimage.client.tree import Entry, as_text, tree_sha256
from coreimage.process import Run
from coreimage.system_image.base_tools import Tools
from coreimage.system_image.byte_diff import DIFF_DRIFT_BYTES, DIFF_LIMIT_BYTES, Steps, diff, packed_bytes
from coreimage.system_image.cpio import MAGICS as CPIO_MAGICS
from coreimage.system_image.cpio import parts
from coreimage.system_image.packed import Packed, packed_part, packers_of
from coreimage.tarball import compress_xz

_LZMA = {
    "manifest": "preset=6,dict=4MiB",
    "controls": "preset=6,dict=1MiB",
    "differences": "preset=3,dict=1MiB",
    "literals": "preset=6,dict=8MiB",
}
"""The last three are read at once on the device. Differences are zeros most often, and many: a higher preset takes five
times as long for a tenth of their size."""
_THREADS = 2
_AHEAD = 4
_LARGE_BYTES = 4 << 20
_PACKED_WORTH_BYTES = 4096


@dataclass
class _Content:
    """A recipe in the applier's words, and what it reads from the sections."""

    pieces: list[Any] = field(default_factory=list)
    steps: Steps = field(default_factory=Steps.none)

    def literal(self, content: bytes) -> None:
        if not content:
            return
        if self.pieces and isinstance(self.pieces[-1], int):
            self.pieces[-1] += len(content)
        else:
            self.pieces.append(len(content))
        self.steps.literals += content

    def patch(self, source: list[Any], steps: Steps, size_bytes: int) -> None:
        self.pieces.append(["p", source, size_bytes])
        self.steps.add(steps)


@dataclass(frozen=True)
class _Old:
    """What may be patched: `content` lies from `start` on in `source`."""

    content: bytes
    source: list[Any]
    start: int = 0

    def part(self, start: int, stop: int) -> _Old:
        return _Old(self.content[start:stop], self.source, self.start + start)


def make_compact(base: LayeredTree, target: LayeredTree, made: Path, folder: Path, *, tools: Tools, run: Run) -> Path:
    """Writes to `made` what makes `target` of `base`; `folder` is for what is needed meanwhile. The same bytes for the
    same trees. Both cores are used."""
    return _Maker(base, target, folder, tools, run).write(made)


class _Maker:
    def __init__(self, base: LayeredTree, target: LayeredTree, folder: Path, tools: Tools, run: Run) -> None:
        self._base, self._target, self._folder, self._run = base, target, folder, run
        self._old, self._new = list(base.entries()), list(target.entries())
        self._places = {entry.name: number for number, entry in enumerate(self._old)}
        self._by_sha256 = {e.sha256: n for n, e in reversed(list(enumerate(self._old))) if e.kind == "file"}
        self._made_before = {e.sha256: e.name for e in reversed(self._new) if e.kind == "file" and not _late(e)}
        self._tools = tools
        self._packers: dict[tuple[str, bytes], str | None] = {}
        self._renamed = _Names(self._old, {entry.name for entry in self._new})
        self._unpack: dict[str, list[Any]] = {}
        self._names = count()
        self._reading, self._large = Lock(), Lock()

    def write(self, made: Path) -> Path:
        changed = [entry for entry in self._new if self._old_entry(entry.name) != entry]
        files = [entry for entry in changed if entry.kind == "file" and entry.sha256 not in self._by_sha256]
        files.sort(key=_late)
        contents = {entry.name: pieces for entry, pieces in self._contents(files)}
        elsewhere = [entry for entry in changed if entry.name not in contents]
        names = {entry.name for entry in self._new}
        manifest = {
            "base": tree_sha256(self._old),
            "result": tree_sha256(self._new),
            "removed": [number for number, entry in enumerate(self._old) if entry.name not in names],
            "unpack": dict(sorted(self._unpack.items(), key=lambda item: int(item[0]))),
            "changed": [self._recipe(entry, contents.get(entry.name)) for entry in (*elsewhere, *files)],
        }
        self._plain("manifest").write_bytes(json.dumps(manifest, separators=(",", ":")).encode())
        sections = [self._section(name) for name in SECTIONS]
        with made.open("wb") as file:
            file.write(MAGIC + b"".join(section.stat().st_size.to_bytes(8) for section in sections))
            for section in sections:
                file.write(section.read_bytes())
        return made

    def _contents(self, files: Sequence[Entry]) -> Iterator[tuple[Entry, list[Any]]]:
        """What each is made of, in order. Few are ahead of what is written, so that memory does not grow with all."""
        with ExitStack() as opened:
            spools = [opened.enter_context(self._plain(name).open("wb")) for name in SECTIONS[1:]]
            pool = opened.enter_context(ThreadPoolExecutor(_THREADS, "delta"))
            ahead: deque[tuple[Entry, Future[_Content]]] = deque()
            for entry in (*files, None):
                if entry is not None:
                    ahead.append((entry, pool.submit(copy_context().run, self._content, entry)))
                while len(ahead) > (0 if entry is None else _AHEAD):
                    done, future = ahead.popleft()
                    content = future.result()
                    for spool, part in zip(spools, content.steps.parts(), strict=True):
                        spool.write(part)
                    yield done, content.pieces

    def _plain(self, section: str) -> Path:
        return self._folder / f"{section}.plain"

    def _section(self, name: str) -> Path:
        """As an xz stream whose dictionary is no larger than the device has memory for; nothing of nothing."""
        plain = self._plain(name)
        if not plain.stat().st_size:
            return plain

        def produce(file: IO[bytes]) -> None:
            with plain.open("rb") as content:
                shutil.copyfileobj(content, file, 1 << 20)

        made = compress_xz(
            produce,
            plain.with_suffix(".xz"),
            run=self._run,
            lzma=_LZMA[name],
            check="crc32",
        )
        plain.unlink()
        return made

    def _old_entry(self, name: bytes) -> Entry | None:
        place = self._places.get(name)
        return None if place is None else self._old[place]

    def _recipe(self, entry: Entry, pieces: list[Any] | None) -> dict[str, Any]:
        place = self._places.get(entry.name)
        if pieces is None and entry.kind == "file" and (place is None or self._old[place].sha256 != entry.sha256):
            place = self._by_sha256[entry.sha256]
        elif place is None and entry.kind == "file":
            place = self._renamed.like(entry.name)
        before = Entry(b"", "file") if place is None else self._old[place]
        values: dict[str, Any] = {} if place is None else {"b": place}
        numbers = [entry.mode, entry.uid, entry.gid, entry.mtime]
        said: tuple[tuple[str, Any, Any], ...] = (
            ("n", as_text(entry.name), as_text(before.name)),
            ("k", entry.kind, before.kind),
            ("m", numbers, [before.mode, before.uid, before.gid, before.mtime]),
            ("t", as_text(entry.target), as_text(before.target)),
            ("d", list(entry.device), list(before.device)),
            ("s", entry.size_bytes, before.size_bytes),
            ("x", {k: as_text(v) for k, v in entry.records}, {k: as_text(v) for k, v in before.records}),
        )
        values |= {key: value for key, value, old in said if value != old}
        return values if pieces is None else {**values, "c": pieces}

    def _content(self, entry: Entry) -> _Content:
        """Large ones one at a time, for the memory that they take."""
        with self._large if entry.size_bytes > _LARGE_BYTES else nullcontext():
            return self._content_of(entry)

    def _read(self, tree: LayeredTree, name: bytes) -> bytes:
        """All files of a tarball are read through one place in it."""
        with self._reading:
            return tree.read(name)

    def _content_of(self, entry: Entry) -> _Content:
        """Patched where that is smaller, whole otherwise; looked into where there is something in it."""
        new = self._read(self._target, entry.name)
        place = self._places.get(entry.name)
        if place is None or self._old[place].kind != "file":
            place = self._renamed.like(entry.name)
        old = None if place is None else _Old(self._read(self._base, self._old[place].name), ["b", place])
        made_before = self._made_before if _late(entry) else {}
        packed = packed_part(new) if len(new) >= _PACKED_WORTH_BYTES else None
        content = _Content()
        if packed is None or not self._repack(content, old, new, packed, made_before):
            self._add(content, old, new, made_before)
        return content

    def _repack(
        self, content: _Content, old: _Old | None, new: bytes, packed: Packed, made_before: Mapping[bytes, bytes]
    ) -> bool:
        """Looks inside, where packing what is inside again with the base image's own tool gives the same bytes."""
        plain = self._inside(new, packed)
        packer = None if plain is None else self._packer(packed, plain, new)
        if plain is None or packer is None:
            return False
        was = packed_part(old.content) if old else None
        old_plain = self._inside(old.content, was) if old and was else None
        self._add(content, old.part(0, was.start) if old and was else None, new[: packed.start], made_before)
        inside, old_inside = _Content(steps=content.steps), None
        if old and was and old_plain is not None:
            number = old.source[1]
            self._unpack[str(number)] = [was.start, was.end - was.start, was.kind]
            old_inside = _Old(old_plain, ["u", number, 0, len(old_plain)])
        self._add(inside, old_inside, plain, made_before)
        content.pieces.append(["z", packer, inside.pieces])
        rest = old.part(was.end, len(old.content)) if old and was else None
        self._add(content, rest, new[packed.end :], made_before)
        return True

    def _add(self, content: _Content, old: _Old | None, new: bytes, made_before: Mapping[bytes, bytes]) -> None:
        """Member by member where it is an archive: each is one of the new tree's files, or like one of the old
        archive."""
        if not new.startswith(CPIO_MAGICS):
            _patch(content, old, new)
            return
        members = {_like(part.name): part for part in parts(old.content)} if old else {}
        for part in parts(new):
            same = made_before.get(part.sha256(new)) if part.size_bytes else None
            before = members.get(_like(part.name))
            if same is not None:
                content.pieces.append(["k", ["r", as_text(same)]])
            else:
                was = old.part(before.start, before.start + before.size_bytes) if old and before else None
                _patch(content, was, new[part.start : part.start + part.size_bytes])

    def _inside(self, content: bytes, packed: Packed) -> bytes | None:
        name = str(next(self._names))
        source, target = self._folder / f"{name}.packed", self._folder / f"{name}.plain"
        source.write_bytes(content[packed.start : packed.end])
        plain = target.read_bytes() if self._tools.unpack(packed.kind, source, target) else None
        source.unlink()
        target.unlink(missing_ok=True)
        return plain

    def _packer(self, packed: Packed, plain: bytes, content: bytes) -> str | None:
        """The one that gives exactly these bytes in the base image. What held for a file of the same kind is tried
        first; where it failed for one of that beginning, the rest is not tried again."""
        wanted = content[packed.start : packed.end]
        key = packed.kind, wanted[:8]
        known = self._packers.get(key)
        if key in self._packers and known is None:
            return None
        name = str(next(self._names))
        source, target = self._folder / f"{name}.plain", self._folder / f"{name}.packed"
        source.write_bytes(plain)
        found = None
        for packer in dict.fromkeys(([known] if known else []) + list(packers_of(packed.kind, wanted))):
            if self._tools.pack(packer, source, target) and target.read_bytes() == wanted:
                found = packer
                break
        source.unlink()
        target.unlink(missing_ok=True)
        self._packers.setdefault(key, found)
        return found


def _late(entry: Entry) -> bool:
    """Archives of many files come last: they repeat what others bring. The rest stays as in the tree, so that like
    comes after like."""
    return entry.name.startswith(b"assets/")


def _patch(content: _Content, old: _Old | None, new: bytes) -> None:
    """Where that is smaller than the bytes themselves. Large contents are looked at in windows."""
    for at in range(0, len(new), DIFF_LIMIT_BYTES):
        window = new[at : at + DIFF_LIMIT_BYTES]
        near = old and old.part(max(0, at - DIFF_DRIFT_BYTES), at + DIFF_LIMIT_BYTES + DIFF_DRIFT_BYTES)
        steps = diff(near.content, window, near.start) if near else None
        if near is None or steps is None or steps.cost_bytes() >= packed_bytes(window):
            content.literal(window)
        else:
            content.patch(near.source, steps, len(window))


_NUMBERS = re.compile(rb"\d+")


def _like(name: bytes) -> bytes:
    """Names that differ in numbers alone are versions of one thing."""
    return _NUMBERS.sub(b"0", name)


class _Names:
    """Which old file a new name continues: one that is gone, and differs in numbers alone or has the same last name.
    Of several the one that is most like it: `raid10` is no version of `raid1` where there was a `raid10`."""

    def __init__(self, old: Sequence[Entry], kept: set[bytes]) -> None:
        self._alike: dict[bytes, list[int]] = {}
        self._last: dict[bytes, list[int]] = {}
        self._old = old
        for number, entry in enumerate(old):
            if entry.kind == "file" and entry.name not in kept:
                self._alike.setdefault(_like(entry.name), []).append(number)
                self._last.setdefault(_like(_last(entry.name)), []).append(number)

    def like(self, name: bytes) -> int | None:
        found = self._alike.get(_like(name)) or self._last.get(_like(_last(name)), [])
        words, last = set(_like(name).split(b"/")), _last(name)

        def likeness(number: int) -> tuple[bool, int]:
            other = self._old[number].name
            return _last(other) == last, len(words & set(_like(other).split(b"/")))

        return max(found, key=likeness, default=None)


def _last(name: bytes) -> bytes:
    return name.rpartition(b"/")[2]
