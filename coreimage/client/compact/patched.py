"""A base tree and a compact delta together are a tree again: to be looked at, written to a folder or to a tarball."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from coreimage.client.compact.format import (
    PACKERS,
    SECTIONS,
    UNPACKERS,
    Filter,
    Manifest,
    Recipe,
    Section,
    read_manifest,
)
from coreimage.client.errors import RepositoryError
from coreimage.client.tree import Entry, Tree, as_bytes, tree_sha256

_SPOOL_LIMIT_BYTES = 4 << 30
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class _Content:
    """A new content in the spool file."""

    start: int
    size_bytes: int
    sha256: bytes


class PatchedTree:
    """What a delta makes of a base.

    Everything new is made and the whole result verified before there is an instance: nothing of a delta that does not
    fit is ever used. The delta, the base and `folder` must stay as long as the tree is used.

    Args:
        delta: The compact delta.
        base: The tree that the delta is for.
        folder: An empty folder for new contents.
        run: Starts the programs that the delta names.

    Raises:
        DifferentBaseError: The delta is for another base.
        RepositoryError: The delta is damaged, or does not make what it says.
    """

    def __init__(self, delta: Path, base: Tree, folder: Path, run: Filter) -> None:
        self._base, self._spool = base, folder / "spool"
        entries = list(base.entries())
        try:
            with delta.open("rb") as file:
                manifest = read_manifest(file, entries, tree_sha256(entries))
                self._contents = _ContentMaker(manifest, file, base, self._spool, run).make_all()
        except (lzma.LZMAError, EOFError) as error:
            raise RepositoryError(f"the delta is damaged: {error}", where=str(delta)) from error
        self._base_names = _base_names(manifest)
        by_name = {entry.name: entry for place, entry in enumerate(entries) if place not in manifest.removed}
        for recipe in manifest.recipes:
            content = self._contents.get(recipe.entry.name)
            by_name[recipe.entry.name] = replace(recipe.entry, sha256=content.sha256) if content else recipe.entry
        self._entries = [by_name[name] for name in sorted(by_name)]
        if tree_sha256(self._entries) != manifest.result_sha256:
            raise RepositoryError("the delta does not make the tree that it is for", where=str(delta))

    def entries(self) -> Sequence[Entry]:
        """Return the entries of the result, sorted by name."""
        return self._entries

    def open(self, name: bytes) -> IO[bytes]:
        """Open the content of a file of the result."""
        content = self._contents.get(name)
        if content is None:
            return self._base.open(self._base_names.get(name, name))
        return _open_slice(self._spool, content.start, content.size_bytes)


def added(old: bytes, difference: bytes) -> bytes:
    """Add two byte strings of one length, byte by byte, modulo 256.

    All bytes at once: the two are taken for large numbers, of which no carry leaves its byte.
    """
    size = len(old)
    if difference.count(0) == size:
        return old
    low, high = int.from_bytes(b"\x7f" * size), int.from_bytes(b"\x80" * size)
    one, other = int.from_bytes(old), int.from_bytes(difference)
    return (((one & low) + (other & low)) ^ ((one ^ other) & high)).to_bytes(size)


def _packer(piece: Sequence[Any], *, inside_packed: bool) -> Sequence[str]:
    if piece[0] != "z" or inside_packed:
        raise ValueError(piece)
    return PACKERS[piece[1]]


def _base_names(manifest: Manifest) -> dict[bytes, bytes]:
    """Return by which name the base has the content of entries that take it over under another name."""
    return {
        recipe.entry.name: manifest.entries[recipe.base].name
        for recipe in manifest.recipes
        if recipe.base is not None and recipe.content is None
    }


class _ContentMaker:
    """Makes new contents into one file, in the manifest's order, as the delta's sections can be read in that only."""

    def __init__(self, manifest: Manifest, delta: IO[bytes], base: Tree, spool: Path, run: Filter) -> None:
        self._manifest, self._base, self._spool, self._run = manifest, base, spool, run
        self._sections = {name: Section(delta, name) for name in SECTIONS if name != "manifest"}
        self._contents: dict[bytes, _Content] = {}
        self._unpacked: tuple[int, Path] | None = None
        self._names_to_make = {recipe.entry.name for recipe in manifest.recipes if recipe.content is not None}
        self._base_names = _base_names(manifest)
        self._left_bytes = _SPOOL_LIMIT_BYTES

    def make_all(self) -> Mapping[bytes, _Content]:
        """Return the new contents by their names in the result."""
        with self._spool.open("wb") as spool:
            for recipe in self._manifest.recipes:
                if recipe.content is not None:
                    spool.flush()
                    self._contents[recipe.entry.name] = self._make(recipe, recipe.content, spool)
        if self._unpacked:
            self._unpacked[1].unlink()
        return self._contents

    def _make(self, recipe: Recipe, pieces: Sequence[Any], spool: IO[bytes]) -> _Content:
        digest, start = hashlib.sha256(), spool.tell()
        for chunk in self._pieces(pieces):
            digest.update(chunk)
            spool.write(chunk)
        size_bytes = spool.tell() - start
        if size_bytes != recipe.entry.size_bytes:
            raise RepositoryError(f"the delta makes {size_bytes} bytes of {recipe.entry.name!r}")
        return _Content(start, size_bytes, digest.digest())

    def _pieces(self, pieces: Sequence[Any], *, inside_packed: bool = False) -> Iterator[bytes]:
        """Make pieces one after the other; those inside a packed piece must not be packed again."""
        for piece in pieces:
            for chunk in self._piece(piece, inside_packed=inside_packed):
                self._left_bytes -= len(chunk)
                if self._left_bytes < 0:
                    raise RepositoryError("the delta makes more than it may")
                yield chunk

    def _piece(self, piece: Any, *, inside_packed: bool) -> Iterator[bytes]:
        """Make one piece: so many literal bytes, `["k", source]` the whole source, `["p", source, size]` the patched
        source, or `["z", packer, pieces]` what the packer makes of pieces."""
        try:
            if isinstance(piece, int):
                yield from self._sections["literals"].chunks(piece)
            elif piece[0] == "k":
                with self._source(piece[1]) as source:
                    yield from iter(lambda: source.read(_CHUNK_BYTES), b"")
            elif piece[0] == "p":
                with self._source(piece[1]) as source:
                    yield from self._patched(source, int(piece[2]))
            else:
                yield from self._packed(_packer(piece, inside_packed=inside_packed), piece[2])
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise RepositoryError(f"the delta's manifest is damaged: {error!r}") from error

    def _packed(self, packer: Sequence[str], pieces: Sequence[Any]) -> Iterator[bytes]:
        plain, packed = self._spool.with_name("plain"), self._spool.with_name("packed")
        with plain.open("wb") as file:
            file.writelines(self._pieces(pieces, inside_packed=True))
        self._run(packer, plain, packed)
        with packed.open("rb") as file:
            yield from iter(lambda: file.read(_CHUNK_BYTES), b"")
        plain.unlink()
        packed.unlink()

    def _patched(self, source: IO[bytes], size_bytes: int) -> Iterator[bytes]:
        """Carry out the steps of a patch: each gives literal bytes, then bytes of the source with differences added."""
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
                yield added(_read_exactly(source, len(difference)), difference)
            place += added_bytes

    def _source(self, source: Sequence[Any]) -> IO[bytes]:
        """Open a source: `["b", place]` a file of the base, `["u", place, start, size]` a part of what is packed in
        one, `["r", name]` a file of the result that was made before, or that takes over a content of the base."""
        if source[0] == "b":
            return self._base.open(self._manifest.entries[self._manifest.place(source[1])].name)
        if source[0] == "u":
            return _open_slice(self._unpack(self._manifest.place(source[1])), int(source[2]), int(source[3]))
        if source[0] == "r":
            name = as_bytes(source[1])
            if name in self._contents:
                return _open_slice(self._spool, self._contents[name].start, self._contents[name].size_bytes)
            if name not in self._names_to_make:
                return self._base.open(self._base_names.get(name, name))
        raise ValueError(source)

    def _unpack(self, place: int) -> Path:
        """Unpack what is packed in a base file. The last one is kept, as parts of one file are asked for in a row."""
        if self._unpacked and self._unpacked[0] == place:
            return self._unpacked[1]
        stream = self._manifest.packed[place]
        packed, plain = self._spool.with_name("base"), self._spool.with_name("unpacked")
        with packed.open("wb") as file, self._base.open(self._manifest.entries[place].name) as content:
            content.seek(stream.start)
            for at in range(0, stream.size_bytes, _CHUNK_BYTES):
                file.write(_read_exactly(content, min(_CHUNK_BYTES, stream.size_bytes - at)))
        self._run(UNPACKERS[stream.unpacker], packed, plain)
        packed.unlink()
        self._unpacked = (place, plain)
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


def _open_slice(path: Path, start: int, size_bytes: int) -> IO[bytes]:
    if start < 0 or size_bytes < 0:
        raise ValueError(start)
    return cast("IO[bytes]", io.BufferedReader(_Slice(path, start, size_bytes)))


def _read_exactly(source: IO[bytes], size_bytes: int) -> bytes:
    content = source.read(size_bytes)
    if len(content) != size_bytes:
        raise RepositoryError("the delta reads beyond the end of a base file")
    return content
