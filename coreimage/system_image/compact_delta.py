"""Makes compact deltas: docs/compact-delta.md. What each changed file is made of is decided by what it costs."""

from __future__ import annotations

import json
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from coreimage.system_image.byte_diff import DIFF_LIMIT_BYTES, Steps, diff, packed_bytes, varint
from coreimage.system_image.cpio import parts
from coreimage.tarball import compress_xz

_DICTIONARIES = {"manifest": "4MiB", "controls": "1MiB", "differences": "4MiB", "literals": "8MiB"}
"""As xz writes sizes. The last three are read at once on the device."""
_PRESET = 6
_THREADS = 2
_AHEAD = 4
_LARGE_BYTES = 4 << 20
_PACKED_WORTH_BYTES = 4096
_MAGICS = {b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b\x08": "gzip"}
_PACKERS = {
    "gzip": ("gzip-6", "gzip-9"),
    "zstd": tuple(f"zstd-{kind}{level}" for level in (9, 3, 1, 19, 5, 4, 2, 6, 7, 8) for kind in ("t-", "")),
    "xz": tuple(f"xz-{check}-{size}" for check in ("crc32", "crc64") for size in ("1MiB", "2MiB", "8MiB")),
}
"""In the order in which they are tried."""


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
            preset=_PRESET,
            dictionary=_DICTIONARIES[name],
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
        new = self._read(self._target, entry.name)
        place = self._places.get(entry.name)
        if place is None or self._old[place].kind != "file":
            place = self._renamed.like(entry.name)
        made_before = self._made_before if _late(entry) else {}
        looked_into = self._repacked(place, new, made_before) if len(new) >= _PACKED_WORTH_BYTES else None
        return looked_into or self._alone(place, new)

    def _alone(self, place: int | None, new: bytes) -> _Content:
        """Patched where that is smaller, whole otherwise."""
        content = _Content()
        if place is not None:
            old = self._read(self._base, self._old[place].name)
            _patched(content, lambda *_: ["b", place], old, new, whole_source=True)
        else:
            content.literal(new)
        return content

    def _repacked(self, place: int | None, new: bytes, made_before: Mapping[bytes, bytes]) -> _Content | None:
        """Looks inside, where packing what is inside again with the base image's own tool gives the same bytes."""
        start, kind = _packed_part(new)
        if kind is None:
            return None
        plain = self._inside(new, start, kind)
        packer = None if plain is None else self._packer(kind, plain, new[start:])
        if plain is None or packer is None:
            return None
        outside = self._archive(None, None, new[:start], made_before)
        inside = self._archive(*self._old_inside(place), plain, made_before)
        steps = outside.steps
        steps.add(inside.steps)
        return _Content([*outside.pieces, ["z", packer, inside.pieces]], steps)

    def _old_inside(self, place: int | None) -> tuple[int | None, bytes | None]:
        if place is None:
            return None, None
        old = self._read(self._base, self._old[place].name)
        start, kind = _packed_part(old)
        plain = None if kind is None else self._inside(old, start, kind)
        if kind is None or plain is None:
            return None, None
        self._unpack[str(place)] = [start, kind]
        return place, plain

    def _archive(
        self, place: int | None, old: bytes | None, new: bytes, made_before: Mapping[bytes, bytes]
    ) -> _Content:
        """Member by member where it is an archive: each is one of the new tree's files, or like one of the old
        archive."""
        members = {_like(part.name): part for part in parts(old)} if old else {}
        content = _Content()
        for part in parts(new):
            bytes_ = new[part.start : part.start + part.size_bytes]
            same = made_before.get(part.sha256(new)) if part.size_bytes else None
            before = members.get(_like(part.name))
            if same is not None:
                content.pieces.append(["k", ["r", as_text(same)]])
            elif before is not None and old is not None and place is not None:
                was = old[before.start : before.start + before.size_bytes]
                if was == bytes_:
                    content.pieces.append(["k", ["u", place, before.start, before.size_bytes]])
                else:
                    _patched(content, lambda at, size, b=before: ["u", place, b.start + at, size], was, bytes_)  # type: ignore[misc]
            else:
                content.literal(bytes_)
        return content

    def _inside(self, packed: bytes, start: int, kind: str) -> bytes | None:
        name = str(next(self._names))
        source, target = self._folder / f"{name}.packed", self._folder / f"{name}.plain"
        source.write_bytes(packed[start:])
        plain = target.read_bytes() if self._tools.unpack(kind, source, target) else None
        source.unlink()
        target.unlink(missing_ok=True)
        return plain

    def _packer(self, kind: str, plain: bytes, wanted: bytes) -> str | None:
        """The one that gives exactly these bytes in the base image. What held for a file of the same kind is tried
        first; where it failed for one of that beginning, the rest is not tried again."""
        key = kind, wanted[:8]
        known = self._packers.get(key)
        if key in self._packers and known is None:
            return None
        name = str(next(self._names))
        source, target = self._folder / f"{name}.plain", self._folder / f"{name}.packed"
        source.write_bytes(plain)
        found = None
        for packer in dict.fromkeys(([known] if known else []) + list(_PACKERS[kind])):
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


def _patched(
    content: _Content, source: Callable[[int, int], list[Any]], old: bytes, new: bytes, *, whole_source: bool = False
) -> None:
    """Large contents are looked at in windows."""
    for at in range(0, len(new), DIFF_LIMIT_BYTES):
        window = new[at : at + DIFF_LIMIT_BYTES]
        near = at if len(old) > DIFF_LIMIT_BYTES else 0
        was = old[near : near + DIFF_LIMIT_BYTES]
        steps = diff(was, window)
        if steps.cost_bytes() >= packed_bytes(window):
            content.literal(window)
            continue
        if whole_source and near:
            steps = _moved(steps, near)
        content.patch(source(near, len(was)), steps, len(window))


def _moved(steps: Steps, near: int) -> Steps:
    """The same steps, in a source that begins `near` bytes before."""
    first = bytes(steps.controls)
    _, at = _number(first, 0)
    move, end = _number(first, at)
    place = (move >> 1) ^ -(move & 1)
    return Steps(bytearray(first[:at] + varint((place + near) << 1) + first[end:]), steps.differences, steps.literals)


def _number(content: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (content[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if content[at - 1] < 0x80:  # noqa: PLR2004
            return number, at


def _packed_part(content: bytes) -> tuple[int, str | None]:
    """Where what packed stream begins: at the beginning, or after archives that are not packed (an initrd may begin
    with some)."""
    start = 0
    for part in parts(content):
        if part.name == b"" and part.size_bytes == len(content) - part.start:
            start = part.start
    start += len(content[start : start + 4096]) - len(content[start : start + 4096].lstrip(b"\0"))
    kind = next((kind for magic, kind in _MAGICS.items() if content.startswith(magic, start)), None)
    return start, kind


_NUMBERS = re.compile(rb"\d+")


def _like(name: bytes) -> bytes:
    """Names that differ in numbers alone are versions of one thing."""
    return _NUMBERS.sub(b"0", name)


class _Names:
    """Which old file a new name continues: one that is gone and differs in numbers alone, or has the same last name in
    the folder most like it."""

    def __init__(self, old: Sequence[Entry], kept: set[bytes]) -> None:
        self._alike: dict[bytes, int] = {}
        self._last: dict[bytes, list[int]] = {}
        self._old = old
        for number, entry in enumerate(old):
            if entry.kind == "file" and entry.name not in kept:
                self._alike[_like(entry.name)] = number
                self._last.setdefault(_like(entry.name.rpartition(b"/")[2]), []).append(number)

    def like(self, name: bytes) -> int | None:
        found = self._alike.get(_like(name))
        if found is not None:
            return found
        others = self._last.get(_like(name.rpartition(b"/")[2]), [])
        words = set(_like(name).split(b"/"))
        return max(others, key=lambda number: len(words & set(_like(self._old[number].name).split(b"/"))), default=None)
