"""How one content is made of another: the steps of a patch in a compact delta (docs/compact-delta.md). Pure."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Self

import hdiffpatch

from coreimage.errors import HostError

HDIFFPATCH_VERSION = "2.6.0"
"""The one version whose private form `_covers` reads; pyproject.toml pins it."""
_MAGIC = b"HDIFF13&\0"
_CHUNK_BYTES = 1 << 18
DIFF_LIMIT_BYTES, DIFF_DRIFT_BYTES = 2 << 20, 1 << 20
"""Comparing takes nine times the memory of what is compared. So of larger contents each part is sought near where it
was: this far around it. Larger parts make no smaller deltas of a kernel."""


@dataclass
class Steps:
    """What the applier reads for one patch.

    Attributes:
        controls: Numbers: how many literal bytes come, where to go in the old content, how much is taken from there.
        differences: What is added to the bytes that are taken from the old content, byte by byte.
        literals: Bytes that are new.
    """

    controls: bytearray
    differences: bytearray
    literals: bytearray

    @classmethod
    def none(cls) -> Self:
        """Return the steps that make nothing."""
        return cls(bytearray(), bytearray(), bytearray())

    def cost_bytes(self) -> int:
        """Return about how much of the delta the steps take."""
        return sum(packed_bytes(part) for part in self.parts())

    def parts(self) -> tuple[bytearray, bytearray, bytearray]:
        """Return the steps by section of the delta."""
        return self.controls, self.differences, self.literals


def packed_bytes(content: bytes | bytearray) -> int:
    """Return about how many bytes a content takes when it is packed."""
    return len(zlib.compress(content, 1))


def diff(old: bytes, new: bytes, start: int = 0) -> Steps:
    """Return the steps that make `new` of a source that has `old` from `start` on."""
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
    """Encode a number, seven bits a byte, the lowest first; the highest bit of a byte says that more follow."""
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def subtracted(new: bytes, old: bytes) -> bytes:
    """Subtract byte by byte, modulo 256: the inverse of the applier's addition."""
    size = len(new)
    if new == old:
        return bytes(size)
    low, high = int.from_bytes(b"\x7f" * size), int.from_bytes(b"\x80" * size)
    one, other = int.from_bytes(new), int.from_bytes(old)
    return (((one | high) - (other & low)) ^ ((one ^ ~other) & high)).to_bytes(size)


def _covers(old: bytes, new: bytes) -> list[tuple[int, int, int]]:
    """Find parts of `new` that are like parts of `old`: (start in old, start in new, size), by their start in new.

    Of HDiffPatch's own form (HDIFF13, uncompressed) only the list of covers is read:
    https://github.com/sisong/HDiffPatch, libHDiffPatch/HDiff/private_diff.
    """
    if not old or not new:
        return []
    if old == new:
        return [(0, 0, len(new))]
    require_hdiffpatch()
    made: bytes = hdiffpatch.diff(old, new, validate=False)
    assert made.startswith(_MAGIC)  # noqa: S101
    reader = _Reader(made, len(_MAGIC))
    reader.number(), reader.number()
    count, cover_bytes = reader.number(), reader.number()
    for _ in range(7):
        reader.number()
    end = reader.at + cover_bytes
    covers, old_at, new_at = [], 0, 0
    for _ in range(count):
        backwards = made[reader.at] >> 7
        move = reader.number(tag_bits=1)
        old_at += -move if backwards else move
        new_at += reader.number()
        size = reader.number()
        covers.append((old_at, new_at, size))
        old_at, new_at = old_at + size, new_at + size
    assert reader.at == end  # noqa: S101
    return covers


@cache
def require_hdiffpatch() -> None:
    """Raise HostError unless the installed hdiffpatch is the version whose private form is known."""
    installed = metadata.version("hdiffpatch")
    if installed != HDIFFPATCH_VERSION:
        raise HostError(
            f"hdiffpatch {installed} is installed, but deltas can be made with {HDIFFPATCH_VERSION} only: "
            "its output has a private form, which may differ between versions",
            resolution=f"run `make install`, or `pip install hdiffpatch=={HDIFFPATCH_VERSION}`",
        )


class _Reader:
    """Reads HDiffPatch's numbers from a place on."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content, self.at = content, at

    def number(self, *, tag_bits: int = 0) -> int:
        """Read a number: the highest bits first, seven a byte, and fewer in the first where a tag is before them."""
        byte = self._content[self.at]
        self.at += 1
        more = 0x80 >> tag_bits
        number = byte & (more - 1)
        follows = byte & more
        while follows:
            byte = self._content[self.at]
            self.at += 1
            number = number << 7 | byte & 0x7F
            follows = byte & 0x80
        return number
