"""Makes compact deltas: docs/compact-delta.md. What each changed file is made of is decided by what it costs."""

from __future__ import annotations

import hashlib
import json
import re
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
from coreimage.process import Run
from coreimage.system_image.base_tools import Tools
from coreimage.system_image.byte_diff import DIFF_DRIFT_BYTES, DIFF_LIMIT_BYTES, Steps, diff, packed_bytes
from coreimage.system_image.cpio import MAGICS as CPIO_MAGICS
from coreimage.system_image.cpio import parts
from coreimage.system_image.file_bytes import IN_MEMORY_BYTES, Bytes, FileBytes, bytes_of, file_bytes
from coreimage.system_image.packed import Packed, packed_part, packers_of
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
_IN_MEMORY_STEPS_BYTES = 1 << 20
_PACKED_WORTH_BYTES = 4096
_SURELY_PACKED_TO = 16
"""Contents that change are not packed to so small a part of them."""
_STREAM_HEAD_BYTES = 6
_CHUNK_BYTES = 1 << 20


@dataclass
class _Content:
    """A recipe in the applier's words, and what it reads from the sections. `scratch` is a folder while it is made;
    `made_before` are names of the new tree's files by their digests, those that it may repeat."""

    scratch: Path
    made_before: Mapping[bytes, bytes]
    pieces: list[Any] = field(default_factory=list)
    sections: Sequence[IO[bytes]] = field(default_factory=lambda: [_spooled() for _ in SECTIONS[1:]])

    def literal(self, content: bytes) -> None:
        if not content:
            return
        if self.pieces and isinstance(self.pieces[-1], int):
            self.pieces[-1] += len(content)
        else:
            self.pieces.append(len(content))
        self.sections[-1].write(content)

    def patch(self, source: list[Any], steps: Steps, size_bytes: int) -> None:
        self.pieces.append(["p", source, size_bytes])
        for section, part in zip(self.sections, steps.parts(), strict=True):
            section.write(part)

    def move_to(self, sections: Sequence[IO[bytes]]) -> None:
        for section, target in zip(self.sections, sections, strict=True):
            section.seek(0)
            shutil.copyfileobj(section, target, _CHUNK_BYTES)
            section.close()


def _spooled() -> IO[bytes]:
    return cast("IO[bytes]", SpooledTemporaryFile(_IN_MEMORY_STEPS_BYTES))


@dataclass(frozen=True)
class _Old:
    """What may be patched: `content` lies from `start` on in `source`."""

    content: Bytes
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
        self._packers: dict[tuple[object, ...], Future[str | None]] = {}
        self._renamed = _Names(self._old, {entry.name for entry in self._new})
        self._unpack: dict[str, list[Any]] = {}
        self._reading, self._large, self._diffing = Lock(), Lock(), BoundedSemaphore(_THREADS)
        self._parts = ThreadPoolExecutor(_THREADS, "delta-part")

    def write(self, made: Path) -> Path:
        with self._parts:
            return self._write(made)

    def _write(self, made: Path) -> Path:
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
            self._ask_packers(files, pool)
            ahead: deque[tuple[Entry, Future[_Content]]] = deque()
            for entry in (*files, None):
                if entry is not None:
                    ahead.append((entry, pool.submit(copy_context().run, self._content, entry)))
                while ahead and (entry is None or sum(one.size_bytes for one, _ in ahead) > _AHEAD_BYTES):
                    done, future = ahead.popleft()
                    content = future.result()
                    content.move_to(spools)
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
        large = entry.size_bytes > IN_MEMORY_BYTES
        with self._large if large else nullcontext(), TemporaryDirectory(dir=self._folder) as scratch:
            return self._content_of(entry, Path(scratch))

    def _content_of(self, entry: Entry, scratch: Path) -> _Content:
        """Patched where that is smaller, whole otherwise; looked into where there is something in it."""
        new = self._read(self._target, entry.name)
        place = self._places.get(entry.name)
        if place is None or self._old[place].kind != "file":
            place = self._renamed.like(entry.name)
        old = None
        if place is not None:
            old = _Old(self._read(self._base, self._old[place].name), ["b", place])
        packed = packed_part(new) if len(new) >= _PACKED_WORTH_BYTES else None
        content = _Content(scratch, self._made_before if _late(entry) else {})
        if packed is None or not self._repack(content, old, new, packed):
            self._add(content, old, new)
        return content

    def _read(self, tree: LayeredTree, name: bytes) -> Bytes:
        return bytes_of(self._seen(tree, name))

    def _seen(self, tree: LayeredTree, name: bytes) -> FileBytes:
        """All files of a tarball are read through one place in it."""
        return FileBytes(partial(tree.open, name), tree[name].entry.size_bytes, self._reading)

    def _repack(self, content: _Content, old: _Old | None, new: Bytes, packed: Packed) -> bool:
        """Looks inside, where packing what is inside again with the base image's own tool gives the same bytes."""
        plain = self._inside(new, packed, content.scratch / "new.plain")
        packer = None if plain is None else self._packer(packed, plain, new)
        if plain is None or packer is None:
            return False
        was = packed_part(old.content) if old else None
        old_plain = self._inside(old.content, was, content.scratch / "old.plain") if old and was else None
        self._add(content, old.part(0, was.start) if old and was else None, new[: packed.start])
        inside, old_inside = replace(content, pieces=[]), None
        if old and was and old_plain is not None:
            number = old.source[1]
            self._unpack[str(number)] = [was.start, was.end - was.start, was.kind]
            was_plain = bytes_of(file_bytes(old_plain))
            old_inside = _Old(was_plain, ["u", number, 0, len(was_plain)])
        self._add(inside, old_inside, bytes_of(file_bytes(plain)))
        content.pieces.append(["z", packer, inside.pieces])
        rest = old.part(was.end, len(old.content)) if old and was else None
        self._add(content, rest, new[packed.end :])
        return True

    def _add(self, content: _Content, old: _Old | None, new: Bytes) -> None:
        """Member by member where it is an archive: each is one of the new tree's files, or like one of the old
        archive."""
        if not new.startswith(CPIO_MAGICS):
            self._patch(content, old, new)
            return
        members = {_like(part.name): part for part in parts(old.content)} if old else {}
        for part in parts(new):
            member = part.of(new)
            same = content.made_before.get(hashlib.sha256(member).digest()) if member else None
            before = members.get(_like(part.name))
            if same is not None:
                content.pieces.append(["k", ["r", as_text(same)]])
            else:
                was = old.part(before.start, before.start + before.size_bytes) if old and before else None
                self._patch(content, was, member)

    def _patch(self, content: _Content, old: _Old | None, new: Bytes) -> None:
        """Where that is smaller than the bytes themselves. Large contents are looked at in parts, on both cores."""
        starts = range(0, len(new), DIFF_LIMIT_BYTES)

        def part(start: int) -> tuple[bytes, Steps | None]:
            window = new[start : start + DIFF_LIMIT_BYTES]
            near = old and old.part(max(0, start - DIFF_DRIFT_BYTES), start + DIFF_LIMIT_BYTES + DIFF_DRIFT_BYTES)
            with self._diffing:
                return window, _worthwhile(near, window)

        for window, steps in self._parts.map(part, starts) if len(starts) > 1 else map(part, starts):
            if old is None or steps is None:
                content.literal(window)
            else:
                content.patch(old.source, steps, len(window))

    def _inside(self, content: Bytes, packed: Packed, target: Path) -> Path | None:
        source = target.with_suffix(".packed")
        source.write_bytes(content[packed.start : packed.end])
        unpacked = self._tools.unpack(packed.kind, source, target)
        source.unlink()
        return target if unpacked else None

    def _packer(self, packed: Packed, plain: Path, content: Bytes) -> str | None:
        """The one that gives exactly these bytes in the base image."""
        stream = content[packed.start : packed.end]
        asked = self._packers.get(_key(packed, stream))
        packer = asked.result() if asked else None
        return packer if packer and self._gives(stream, packer, plain) else None

    def _ask_packers(self, files: Sequence[Entry], pool: ThreadPoolExecutor) -> None:
        """The first stream of each kind says what may have made all of them: not every packer is tried for each, and
        which file is looked at first does not matter."""
        for entry in files:
            content = self._seen(self._target, entry.name)
            packed = packed_part(content) if len(content) >= _PACKED_WORTH_BYTES else None
            if packed is None:
                continue
            stream = content[packed.start : packed.end]
            key = _key(packed, stream)
            if key not in self._packers:
                self._packers[key] = pool.submit(copy_context().run, self._made_by, packed.kind, stream)

    def _made_by(self, kind: str, stream: bytes) -> str | None:
        with TemporaryDirectory(dir=self._folder) as scratch:
            plain = self._inside(stream, Packed(0, len(stream), kind), Path(scratch) / "plain")
            packers = packers_of(kind, stream) if plain else ()
            return next((packer for packer in packers if plain and self._gives(stream, packer, plain)), None)

    def _gives(self, stream: bytes, packer: str, plain: Path) -> bool:
        target = plain.with_suffix(".again")
        return self._tools.pack(packer, plain, target) and target.read_bytes() == stream


def _late(entry: Entry) -> bool:
    """Archives of many files come last: they repeat what others bring. The rest stays as in the tree, so that like
    comes after like."""
    return entry.name.startswith(b"assets/")


def _key(packed: Packed, stream: bytes) -> tuple[object, ...]:
    """Equal for streams that the same packer may have made."""
    return (*packers_of(packed.kind, stream), stream[:_STREAM_HEAD_BYTES])


def _worthwhile(old: _Old | None, new: bytes) -> Steps | None:
    """Those that make `new` of the old content, where they take less than the bytes themselves."""
    steps = diff(old.content[:], new, old.start) if old else None
    if steps is None:
        return None
    cost_bytes = steps.cost_bytes()
    sure = cost_bytes * _SURELY_PACKED_TO < len(new)
    return steps if sure or cost_bytes < packed_bytes(new) else None


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
