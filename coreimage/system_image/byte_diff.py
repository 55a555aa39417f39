"""How one content is made of another: steps for the compact delta. Pure."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Self

import hdiffpatch

_MAGIC = b"HDIFF13&\0"
_CHUNK_BYTES = 1 << 18
DIFF_LIMIT_BYTES, DIFF_DRIFT_BYTES = 2 << 20, 1 << 20
"""Comparing takes nine times the memory of what is compared. So of larger contents each part is sought near where it
was: this far around it. Larger parts make no smaller deltas of a kernel."""


@dataclass
class Steps:
    """What the applier reads for a patch: numbers, differences to the old bytes, and literal bytes."""

    controls: bytearray
    differences: bytearray
    literals: bytearray

    @classmethod
    def none(cls) -> Self:
        return cls(bytearray(), bytearray(), bytearray())

    def cost_bytes(self) -> int:
        """About what it takes in the delta."""
        return sum(packed_bytes(part) for part in self.parts())

    def parts(self) -> tuple[bytearray, bytearray, bytearray]:
        return self.controls, self.differences, self.literals


def packed_bytes(content: bytes | bytearray) -> int:
    return len(zlib.compress(content, 1))


def diff(old: bytes, new: bytes, start: int = 0) -> Steps:
    """What makes `new` of a source that has `old` from `start` on."""
    steps = Steps.none()
    at, old_at = 0, -start
    for old_start, new_start, size in _covers(old, new):
        _step(steps, new[at:new_start], old_start - old_at, size)
        for place in range(0, size, _CHUNK_BYTES):
            count = min(_CHUNK_BYTES, size - place)
            one, other = new_start + place, old_start + place
            steps.differences += subtracted(new[one : one + count], old[other : other + count])
        at, old_at = new_start + size, old_start + size
    if at < len(new):
        _step(steps, new[at:], 0, 0)
    return steps


def _step(steps: Steps, literal: bytes, move: int, size: int) -> None:
    steps.literals += literal
    for number in (len(literal), move << 1 if move >= 0 else (-move << 1) - 1, size):
        steps.controls += varint(number)


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:  # noqa: PLR2004
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def subtracted(new: bytes, old: bytes) -> bytes:
    """Byte by byte, modulo 256: the inverse of the applier's addition."""
    size = len(new)
    if new == old:
        return bytes(size)
    low, high = int.from_bytes(b"\x7f" * size), int.from_bytes(b"\x80" * size)
    one, other = int.from_bytes(new), int.from_bytes(old)
    return (((one | high) - (other & low)) ^ ((one ^ ~other) & high)).to_bytes(size)


def _covers(old: bytes, new: bytes) -> list[tuple[int, int, int]]:
    """Parts of `new` that are like parts of `old`: (start in old, start in new, size), by their start in new.

    Of HDiffPatch's own form (HDIFF13, uncompressed) only the list of covers is read:
    https://github.com/sisong/HDiffPatch, libHDiffPatch/HDiff/private_diff.
    """
    if not old or not new:
        return []
    if old == new:
        return [(0, 0, len(new))]
    made: bytes = hdiffpatch.diff(old, new, validate=False)
    assert made.startswith(_MAGIC)  # noqa: S101
    reader = _Reader(made, len(_MAGIC))
    reader.number(), reader.number()
    count, cover_bytes = reader.number(), reader.number()
    for _ in range(7):
        reader.number()
    end = reader.at + cover_bytes
    found, old_at, new_at = [], 0, 0
    for _ in range(count):
        backwards = made[reader.at] >> 7
        move = reader.number(tag_bits=1)
        old_at += -move if backwards else move
        new_at += reader.number()
        size = reader.number()
        found.append((old_at, new_at, size))
        old_at, new_at = old_at + size, new_at + size
    assert reader.at == end  # noqa: S101
    return found


class _Reader:
    def __init__(self, content: bytes, at: int) -> None:
        self._content, self.at = content, at

    def number(self, *, tag_bits: int = 0) -> int:
        """The highest bits first, seven a byte and fewer in the first where a tag is before them."""
        byte = self._content[self.at]
        self.at += 1
        more = 0x80 >> tag_bits
        number = byte & (more - 1)
        going = byte & more
        while going:
            byte = self._content[self.at]
            self.at += 1
            number = number << 7 | byte & 0x7F
            going = byte & 0x80
        return number
