"""The compact delta: what our own devices download in place of the form of 2015. docs/compact-delta.md has the format.

A base tree and the delta together are a tree again, so that it can be looked at, written to a folder or to a tarball.
Nothing but the standard library is needed, and the tools that the delta names by their place in a closed list.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol, cast

from coreimage.client.errors import RepositoryError
from coreimage.client.tree import Entry, Kind, Tree, as_bytes, tree_sha256

MAGIC = b"coreimage compact delta 2\n"
SECTIONS = ("manifest", "controls", "differences", "literals")
_SIZE_BYTES = 8
HEADER_BYTES = len(MAGIC) + _SIZE_BYTES * len(SECTIONS)
DICTIONARY_LIMIT_BYTES = 8 << 20
"""Three sections are read at once: their dictionaries together leave room for all else that applying takes."""
_MEMORY_LIMIT_BYTES = DICTIONARY_LIMIT_BYTES + (2 << 20)
_MANIFEST_LIMIT_BYTES = 32 << 20
_SPOOL_LIMIT_BYTES = 4 << 30
_CHUNK_BYTES = 1 << 18
_VARINT_BITS = 63

UNPACKERS: Mapping[str, tuple[str, ...]] = {
    "xz": ("xz", "-dc", "--threads=1", "--memlimit-decompress=20MiB"),
    "zstd": ("zstd", "-dcq", "--memory=16MB"),
    "gzip": ("gzip", "-dc"),
    "lz4": ("lz4", "-dcq"),
}
"""Streams whose window takes more memory than a device has for it are refused, here and where deltas are made."""
PACKERS: Mapping[str, tuple[str, ...]] = {
    **{f"zstd-{level}": ("zstd", "-cq", f"-{level}") for level in range(1, 10)},
    **{f"zstd-t-{level}": ("zstd", "-cq", f"-{level}", "-T1") for level in range(1, 10)},
    **{
        f"xz-{kind}{check}-{size}": ("xz", "-c", threads, f"--check={check}", f"--lzma2=preset=6,dict={size}")
        for kind, threads, size in (
            ("", "--threads=1", "1MiB"),
            ("", "--threads=1", "2MiB"),
            ("t-", "--threads=+1", "1MiB"),
        )
        for check in ("crc32", "crc64")
    },
    **{f"gzip-{level}": ("gzip", "-cn", f"-{level}") for level in (6, 9)},
    "lz4-9": ("lz4", "-lqc", "-9"),
}
"""The only commands that a delta can have started, as filters. A name keeps its meaning for ever. Those with `t` give
what a compressor of several threads gives, with one."""


class Filter(Protocol):
    """Runs a command of the base image with `source` as its input and `target` as its output. Raises ClientError."""

    def __call__(self, argv: Sequence[str], source: Path, target: Path, /) -> None: ...


class DifferentBaseError(RepositoryError):
    """The delta is for another tree than the one that is there: take the full image."""


@dataclass(frozen=True)
class Recipe:
    """A changed or new entry; `base` is the place in the base's entries that its content is made of. `content` None
    is that of the base's, unchanged."""

    entry: Entry
    base: int | None
    content: list[Any] | None


@dataclass(frozen=True)
class Manifest:
    """`removed` are places in the base's entries; `unpack` says where in a base file a packed stream begins, how long
    it is, and what unpacks it."""

    base_sha256: str
    result_sha256: str
    removed: frozenset[int]
    recipes: tuple[Recipe, ...]
    unpack: Mapping[int, tuple[int, int, str]]
    entries: Sequence[Entry]
    """The base's, which the places are in."""


class PatchedTree:
    """What `delta` makes of `base`. All that is new is made in `folder`, and the whole result verified, before this
    returns: nothing of a delta that does not fit is ever used.

    Raises DifferentBaseError, or RepositoryError for a delta that is damaged or does not make what it says.
    """

    def __init__(self, delta: Path, base: Tree, folder: Path, run: Filter) -> None:
        self._base = base
        entries = list(base.entries())
        spool = folder / "spool"
        try:
            with delta.open("rb") as file:
                manifest = read_manifest(file, entries, tree_sha256(entries))
                maker = _Maker(manifest, file, base, spool, run)
                self._made = maker.make_all()
        except (lzma.LZMAError, EOFError) as error:
            raise RepositoryError(f"the delta is damaged: {error}", where=str(delta)) from error
        self._spool = spool
        self._entries = _result(manifest, self._made)
        self._sources = _sources(manifest)
        if tree_sha256(self._entries) != manifest.result_sha256:
            raise RepositoryError("the delta does not make the tree that it is for", where=str(delta))

    def entries(self) -> Sequence[Entry]:
        return self._entries

    def open(self, name: bytes) -> IO[bytes]:
        made = self._made.get(name)
        if made is None:
            return self._base.open(self._sources.get(name, name))
        return cast("IO[bytes]", io.BufferedReader(_Slice(self._spool, made.start, made.size_bytes)))


def read_manifest(file: IO[bytes], entries: Sequence[Entry], base_sha256: str) -> Manifest:
    """Raises DifferentBaseError unless it is for a base of that digest."""
    try:
        document = json.loads(_Section(file, "manifest").read_all(_MANIFEST_LIMIT_BYTES))
        if document["base"] != base_sha256:
            raise DifferentBaseError("the delta is for another base than this")
        return Manifest(
            base_sha256,
            str(document["result"]),
            frozenset(_place(number, entries) for number in document["removed"]),
            tuple(_recipe(values, entries) for values in document["changed"]),
            {
                _place(int(key), entries): (int(start), int(size), str(tool))
                for key, (start, size, tool) in document["unpack"].items()
            },
            entries,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RepositoryError(f"the delta's manifest is damaged: {error!r}") from error


def _place(number: object, entries: Sequence[Entry]) -> int:
    if not isinstance(number, int) or not 0 <= number < len(entries):
        raise ValueError(number)
    return number


_KINDS: frozenset[Kind] = frozenset(("file", "link", "folder", "symlink", "char", "block", "fifo"))


def _recipe(values: Mapping[str, Any], entries: Sequence[Entry]) -> Recipe:
    """What is not said is as in the base's entry."""
    base = None if "b" not in values else _place(values["b"], entries)
    before = Entry(b"", "file") if base is None else entries[base]
    kind = values.get("k", before.kind)
    mode, uid, gid, mtime = values.get("m", (before.mode, before.uid, before.gid, before.mtime))
    numbers = (mode, uid, gid, mtime, *values.get("d", before.device), values.get("s", before.size_bytes))
    if kind not in _KINDS or not all(isinstance(number, int) for number in numbers):
        raise ValueError(values)
    records = {key: as_bytes(value) for key, value in values["x"].items()} if "x" in values else dict(before.records)
    entry = Entry(
        _name(values["n"]) if "n" in values else before.name,
        kind,
        *(mode, uid, gid, mtime),
        target=as_bytes(values["t"]) if "t" in values else before.target,
        device=(numbers[4], numbers[5]),
        records=tuple(sorted(records.items())),
        size_bytes=numbers[6],
        sha256=before.sha256 if kind == "file" else b"",
    )
    if kind == "file" and "c" not in values and (base is None or before.kind != "file"):
        raise ValueError(values)
    return Recipe(entry, base, values.get("c") if kind == "file" else None)


def _name(text: str) -> bytes:
    name = as_bytes(text)
    if not name or b"\0" in name or {b"", b".", b".."} & set(name.split(b"/")):
        raise ValueError(text)
    return name


def _result(manifest: Manifest, made: Mapping[bytes, _Made]) -> list[Entry]:
    kept = {entry.name: entry for number, entry in enumerate(manifest.entries) if number not in manifest.removed}
    for recipe in manifest.recipes:
        found = made.get(recipe.entry.name)
        kept[recipe.entry.name] = replace(recipe.entry, sha256=found.sha256) if found else recipe.entry
    return [kept[name] for name in sorted(kept)]


def _sources(manifest: Manifest) -> dict[bytes, bytes]:
    """Which name of the base has the content of an entry that is there unchanged, but elsewhere."""
    return {
        recipe.entry.name: manifest.entries[recipe.base].name
        for recipe in manifest.recipes
        if recipe.base is not None and recipe.content is None
    }


@dataclass(frozen=True)
class _Made:
    start: int
    size_bytes: int
    sha256: bytes


class _Maker:
    """Makes contents one after the other, into one file, as the sections of the delta are read in that order."""

    def __init__(self, manifest: Manifest, delta: IO[bytes], base: Tree, spool: Path, run: Filter) -> None:
        self._manifest, self._base, self._spool, self._run = manifest, base, spool, run
        self._entries = manifest.entries
        self._sections: dict[str, _Section] = {name: _Section(delta, name) for name in SECTIONS[1:]}
        self._made: dict[bytes, _Made] = {}
        self._unpacked: tuple[int, Path] | None = None
        self._later = {recipe.entry.name for recipe in manifest.recipes if recipe.content is not None}
        self._sources = _sources(manifest)
        self._left_bytes = _SPOOL_LIMIT_BYTES

    def make_all(self) -> dict[bytes, _Made]:
        with self._spool.open("wb") as spool:
            for recipe in self._manifest.recipes:
                if recipe.content is not None:
                    spool.flush()
                    self._made[recipe.entry.name] = self._make(recipe, spool)
        if self._unpacked:
            self._unpacked[1].unlink()
        return self._made

    def _make(self, recipe: Recipe, spool: IO[bytes]) -> _Made:
        assert recipe.content is not None  # noqa: S101
        digest, start = hashlib.sha256(), spool.tell()
        for chunk in self._pieces(recipe.content):
            digest.update(chunk)
            spool.write(chunk)
        size_bytes = spool.tell() - start
        if size_bytes != recipe.entry.size_bytes:
            raise RepositoryError(f"the delta makes {size_bytes} bytes of {recipe.entry.name!r}")
        return _Made(start, size_bytes, digest.digest())

    def _pieces(self, pieces: Sequence[Any], *, inside: bool = False) -> Iterator[bytes]:
        """A number is of literal bytes; `["p", source, size]` a patched source; `["k", source]` a whole one;
        `["z", packer, pieces]` what the packer makes of pieces, which are not packed again."""
        for piece in pieces:
            for chunk in self._piece(piece, inside=inside):
                self._left_bytes -= len(chunk)
                if self._left_bytes < 0:
                    raise RepositoryError("the delta makes more than it may")
                yield chunk

    def _piece(self, piece: Any, *, inside: bool) -> Iterator[bytes]:
        try:
            if isinstance(piece, int):
                yield from self._sections["literals"].chunks(piece)
            elif piece[0] == "p":
                with self._source(piece[1]) as source:
                    yield from self._patched(source, int(piece[2]))
            elif piece[0] == "k":
                with self._source(piece[1]) as source:
                    yield from iter(lambda: source.read(_CHUNK_BYTES), b"")
            else:
                yield from self._packed(PACKERS["none" if inside or piece[0] != "z" else piece[1]], piece[2])
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise RepositoryError(f"the delta's manifest is damaged: {error!r}") from error

    def _packed(self, packer: Sequence[str], pieces: Sequence[Any]) -> Iterator[bytes]:
        plain, packed = self._spool.with_name("plain"), self._spool.with_name("packed")
        with plain.open("wb") as file:
            file.writelines(self._pieces(pieces, inside=True))
        self._run(packer, plain, packed)
        with packed.open("rb") as file:
            yield from iter(lambda: file.read(_CHUNK_BYTES), b"")
        plain.unlink()
        packed.unlink()

    def _patched(self, source: IO[bytes], size_bytes: int) -> Iterator[bytes]:
        """Of each step: literal bytes, then bytes of the source from a place, with differences added to them."""
        controls, place = self._sections["controls"], 0
        while size_bytes > 0:
            literal_bytes, move, added_bytes = controls.varint(), controls.varint(), controls.varint()
            place += (move >> 1) ^ -(move & 1)
            size_bytes -= literal_bytes + added_bytes
            if place < 0 or size_bytes < 0 or literal_bytes + added_bytes == 0:
                raise ValueError(place)
            yield from self._sections["literals"].chunks(literal_bytes)
            source.seek(place)
            for difference in self._sections["differences"].chunks(added_bytes):
                yield added(_exactly(source, len(difference)), difference)
            place += added_bytes

    def _source(self, source: Sequence[Any]) -> IO[bytes]:
        """`["b", place]` is a file of the base, `["u", place, start, size]` a part of what is packed in one,
        `["r", name]` a file of the result that was made before, or that has a base file's content."""
        if source[0] == "b":
            return self._base.open(self._entries[_place(source[1], self._entries)].name)
        if source[0] == "u":
            return _sliced(self._unpack(_place(source[1], self._entries)), int(source[2]), int(source[3]))
        if source[0] == "r":
            name = as_bytes(source[1])
            if name in self._made:
                return _sliced(self._spool, self._made[name].start, self._made[name].size_bytes)
            if name in self._later:
                raise ValueError(source)
            return self._base.open(self._sources.get(name, name))
        raise ValueError(source)

    def _unpack(self, number: int) -> Path:
        """One is kept: parts of the same file are asked for one after the other."""
        if self._unpacked and self._unpacked[0] == number:
            return self._unpacked[1]
        start, size_bytes, tool = self._manifest.unpack[number]
        packed, plain = self._spool.with_name("base"), self._spool.with_name("unpacked")
        with packed.open("wb") as file, self._base.open(self._entries[number].name) as content:
            content.seek(start)
            for at in range(0, size_bytes, _CHUNK_BYTES):
                file.write(_exactly(content, min(_CHUNK_BYTES, size_bytes - at)))
        self._run(UNPACKERS[tool], packed, plain)
        packed.unlink()
        self._unpacked = (number, plain)
        return plain


def added(old: bytes, difference: bytes) -> bytes:
    """Byte by byte, modulo 256. All at once, as if the two were large numbers whose carries stay in their byte."""
    size = len(old)
    if difference.count(0) == size:
        return old
    low, high = int.from_bytes(b"\x7f" * size), int.from_bytes(b"\x80" * size)
    one, other = int.from_bytes(old), int.from_bytes(difference)
    return (((one & low) + (other & low)) ^ ((one ^ other) & high)).to_bytes(size)


class _Section:
    """One of the delta's xz streams, read from its beginning to its end."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        file.seek(0)
        header = file.read(HEADER_BYTES)
        if not header.startswith(MAGIC) or len(header) != HEADER_BYTES:
            raise RepositoryError("it is no compact delta of a form that is known here")
        sizes = [
            int.from_bytes(header[start : start + _SIZE_BYTES])
            for start in range(len(MAGIC), HEADER_BYTES, _SIZE_BYTES)
        ]
        number = SECTIONS.index(name)
        self._file = file
        self._at = HEADER_BYTES + sum(sizes[:number])
        self._end = self._at + sizes[number]
        self._xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_LIMIT_BYTES)
        self._ready, self._used = b"", 0

    def chunks(self, size_bytes: int) -> Iterator[bytes]:
        while size_bytes > 0:
            chunk = self._ready[self._used : self._used + size_bytes]
            if not chunk:
                self._ready, self._used = self._more(), 0
                continue
            self._used += len(chunk)
            size_bytes -= len(chunk)
            yield chunk

    def varint(self) -> int:
        """Seven bits a byte, the lowest first; the last byte is below 128."""
        number = 0
        for shift in range(0, _VARINT_BITS, 7):
            if self._used == len(self._ready):
                self._ready, self._used = self._more(), 0
            byte = self._ready[self._used]
            self._used += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:  # noqa: PLR2004
                return number
        raise ValueError("a number is too large")

    def read_all(self, limit_bytes: int) -> bytes:
        found = bytearray()
        while self._at < self._end or not self._xz.needs_input:
            if self._xz.eof:
                break
            found += self._more()
            if len(found) > limit_bytes:
                raise RepositoryError("the delta's manifest is too large")
        return bytes(found)

    def _more(self) -> bytes:
        while True:
            packed = b""
            if self._xz.needs_input:
                packed = os.pread(self._file.fileno(), min(_CHUNK_BYTES, self._end - self._at), self._at)
                self._at += len(packed)
                if not packed:
                    raise EOFError("it ends too early")
            plain = self._xz.decompress(packed, _CHUNK_BYTES)
            if plain or self._xz.eof:
                if not plain:
                    raise EOFError("it ends too early")
                return plain


class _Slice(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, path: Path, start: int, size_bytes: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._start, self._size_bytes, self._at = start, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size_bytes}[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        size = max(0, min(len(buffer), self._size_bytes - self._at))
        content = os.pread(self._file.fileno(), size, self._start + self._at)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def _sliced(path: Path, start: int, size_bytes: int) -> IO[bytes]:
    if start < 0 or size_bytes < 0:
        raise ValueError(start)
    return cast("IO[bytes]", io.BufferedReader(_Slice(path, start, size_bytes)))


def _exactly(source: IO[bytes], size_bytes: int) -> bytes:
    content = source.read(size_bytes)
    if len(content) != size_bytes:
        raise RepositoryError("the delta reads beyond the end of a base file")
    return content
