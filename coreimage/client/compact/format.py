"""The file of a compact delta: its sections, its manifest, and the programs that it may name."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from coreimage.client.errors import RepositoryError
from coreimage.client.tree import Entry, Kind, as_bytes, safe_name

MAGIC = b"coreimage compact delta 2\n"
SECTIONS = ("manifest", "controls", "differences", "literals")
_SIZE_BYTES = 8
HEADER_BYTES = len(MAGIC) + _SIZE_BYTES * len(SECTIONS)
DICTIONARY_LIMIT_BYTES = 8 << 20
"""Three sections are read at once: their dictionaries together leave room for all else that applying takes."""
_MEMORY_LIMIT_BYTES = DICTIONARY_LIMIT_BYTES + (2 << 20)
_MANIFEST_LIMIT_BYTES = 32 << 20
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
with one thread what a compressor of several threads gives."""


class Filter(Protocol):
    """Runs a command of the base image with `source` as its input and `target` as its output. Raises ClientError."""

    def __call__(self, argv: Sequence[str], source: Path, target: Path, /) -> None: ...


class DifferentBaseError(RepositoryError):
    """The delta is for another tree than the base: take the full image."""


@dataclass(frozen=True)
class Recipe:
    """A changed or new entry of the result.

    Attributes:
        entry: The entry; its digest is known only when its content is made.
        base: The place, among the base's entries, of the one that the entry is described by.
        content: The pieces that the content is made of; None takes over that of `base`.
    """

    entry: Entry
    base: int | None
    content: list[Any] | None


@dataclass(frozen=True)
class Packed:
    """A packed stream inside a file of the base; `unpacker` is a name in UNPACKERS."""

    start: int
    size_bytes: int
    unpacker: str


@dataclass(frozen=True)
class Manifest:
    """What a delta makes of its base.

    Attributes:
        removed: The places of base entries that the result does not have.
        recipes: The entries that are new or changed, in the order in which their contents are made.
        packed: The packed streams in base files, by the place of the file.
        entries: The base's entries, which all places count in.
    """

    base_sha256: str
    result_sha256: str
    removed: frozenset[int]
    recipes: tuple[Recipe, ...]
    packed: Mapping[int, Packed]
    entries: Sequence[Entry]

    def place(self, number: object) -> int:
        """Return `number`, which must be a place among the base's entries. Raises ValueError."""
        return _place(number, self.entries)


def read_manifest(file: IO[bytes], entries: Sequence[Entry], base_sha256: str) -> Manifest:
    """Read the manifest of a delta.

    Args:
        file: The delta.
        entries: The base's entries, sorted by name.
        base_sha256: Their digest (`tree_sha256`).

    Raises:
        DifferentBaseError: The delta is for a base of another digest.
        RepositoryError: The file is no delta, or damaged.
    """
    try:
        document = json.loads(Section(file, "manifest").read_all(_MANIFEST_LIMIT_BYTES))
        if document["base"] != base_sha256:
            raise DifferentBaseError("the delta is for another base than this")
        return Manifest(
            base_sha256,
            str(document["result"]),
            frozenset(_place(number, entries) for number in document["removed"]),
            tuple(_recipe(values, entries) for values in document["changed"]),
            {
                _place(int(place), entries): Packed(int(start), int(size_bytes), str(unpacker))
                for place, (start, size_bytes, unpacker) in document["unpack"].items()
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
    """Read one changed entry; what it does not say is as in its base entry."""
    base = None if "b" not in values else _place(values["b"], entries)
    before = Entry(b"", "file") if base is None else entries[base]
    kind = values.get("k", before.kind)
    mode, uid, gid, mtime = values.get("m", (before.mode, before.uid, before.gid, before.mtime))
    numbers = (mode, uid, gid, mtime, *values.get("d", before.device), values.get("s", before.size_bytes))
    if kind not in _KINDS or not all(isinstance(number, int) for number in numbers):
        raise ValueError(values)
    records = {key: as_bytes(value) for key, value in values["x"].items()} if "x" in values else dict(before.records)
    if "n" in values and safe_name(values["n"]) != values["n"]:
        raise ValueError(values["n"])
    entry = Entry(
        as_bytes(values["n"]) if "n" in values else before.name,
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


class Section:
    """One of a delta's xz streams, read from its beginning to its end, in little memory.

    Reading beyond the end raises EOFError, a damaged stream lzma.LZMAError.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        file.seek(0)
        header = file.read(HEADER_BYTES)
        if not header.startswith(MAGIC) or len(header) != HEADER_BYTES:
            raise RepositoryError("the file is no compact delta of a form that is known here")
        sizes = [
            int.from_bytes(header[start : start + _SIZE_BYTES])
            for start in range(len(MAGIC), HEADER_BYTES, _SIZE_BYTES)
        ]
        number = SECTIONS.index(name)
        self._file = file
        self._at = HEADER_BYTES + sum(sizes[:number])
        self._end = self._at + sizes[number]
        self._xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_LIMIT_BYTES)
        self._unpacked, self._used_bytes = b"", 0

    def chunks(self, size_bytes: int) -> Iterator[bytes]:
        """Yield the next `size_bytes`, in pieces."""
        while size_bytes > 0:
            chunk = self._unpacked[self._used_bytes : self._used_bytes + size_bytes]
            if not chunk:
                self._unpacked, self._used_bytes = self._unpack(), 0
                continue
            self._used_bytes += len(chunk)
            size_bytes -= len(chunk)
            yield chunk

    def varint(self) -> int:
        """Read a number of seven bits a byte, the lowest first; its last byte is below 128."""
        number = 0
        for shift in range(0, _VARINT_BITS, 7):
            if self._used_bytes == len(self._unpacked):
                self._unpacked, self._used_bytes = self._unpack(), 0
            byte = self._unpacked[self._used_bytes]
            self._used_bytes += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:  # noqa: PLR2004
                return number
        raise ValueError("a number is too large")

    def read_all(self, limit_bytes: int) -> bytes:
        """Read the whole section. Raises RepositoryError for more than `limit_bytes`."""
        content = bytearray()
        while (self._at < self._end or not self._xz.needs_input) and not self._xz.eof:
            content += self._unpack()
            if len(content) > limit_bytes:
                raise RepositoryError("the delta's manifest is too large")
        return bytes(content)

    def _unpack(self) -> bytes:
        """Return the next unpacked bytes, at least one."""
        while True:
            packed = b""
            if self._xz.needs_input:
                packed = os.pread(self._file.fileno(), min(_CHUNK_BYTES, self._end - self._at), self._at)
                self._at += len(packed)
                if not packed:
                    raise EOFError("the section ends too early")
            plain = self._xz.decompress(packed, _CHUNK_BYTES)
            if plain:
                return plain
            if self._xz.eof:
                raise EOFError("the section ends too early")
