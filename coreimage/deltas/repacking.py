"""Looks into packed streams whose content can be packed again, byte by byte the same, by the base image's own tools."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from coreimage.deltas.base_tools import Tools
from coreimage.deltas.file_bytes import Bytes
from coreimage.deltas.packed import Packed, packed_part, packers_of

_WORTH_BYTES = 4096
"""Smaller contents are not looked into."""
_STREAM_HEAD_BYTES = 6


def packed_stream(content: Bytes) -> Packed | None:
    """Return the packed stream in a content, if there is one that is worth looking into."""
    return packed_part(content) if len(content) >= _WORTH_BYTES else None


class Repacker:
    """Finds which packer made a stream, once for all streams that look alike.

    The first stream of a kind tells the packer of all of them: not every packer is tried for each stream, and which
    file is looked at first does not matter.
    """

    def __init__(self, tools: Tools, folder: Path) -> None:
        """Use `tools` of the base image; `folder` is for what is needed meanwhile."""
        self._tools, self._folder = tools, folder
        self._packers: dict[tuple[object, ...], Future[str | None]] = {}

    def look_for_packers(self, contents: Iterable[Bytes], executor: Executor) -> None:
        """Begin to look for the packers of all streams in these contents."""
        for content in contents:
            packed = packed_stream(content)
            if packed is None:
                continue
            stream = content[packed.start : packed.end]
            kind = _kind_of_stream(packed, stream)
            if kind not in self._packers:
                find = partial(self._find_packer, packed.kind, stream)
                self._packers[kind] = executor.submit(copy_context().run, find)

    def unpack(self, content: Bytes, packed: Packed, target: Path) -> Path | None:
        """Unpack a stream to `target`; None where the base image's tool cannot."""
        source = target.with_suffix(".packed")
        source.write_bytes(content[packed.start : packed.end])
        is_unpacked = self._tools.unpack(packed.kind, source, target)
        source.unlink()
        return target if is_unpacked else None

    def packer_of(self, content: Bytes, packed: Packed, plain: Path) -> str | None:
        """Return the packer that makes exactly this stream of its content `plain`, if there is one."""
        stream = content[packed.start : packed.end]
        future = self._packers.get(_kind_of_stream(packed, stream))
        packer = future.result() if future else None
        return packer if packer and self._makes(packer, plain, stream) else None

    def _find_packer(self, tool: str, stream: bytes) -> str | None:
        with TemporaryDirectory(dir=self._folder) as scratch:
            plain = self.unpack(stream, Packed(0, len(stream), tool), Path(scratch) / "plain")
            if plain is None:
                return None
            return next((packer for packer in packers_of(tool, stream) if self._makes(packer, plain, stream)), None)

    def _makes(self, packer: str, plain: Path, stream: bytes) -> bool:
        target = plain.with_suffix(".again")
        return self._tools.pack(packer, plain, target) and target.read_bytes() == stream


def _kind_of_stream(packed: Packed, stream: bytes) -> tuple[object, ...]:
    """Return what streams have in common that the same packer may have made."""
    return (*packers_of(packed.kind, stream), stream[:_STREAM_HEAD_BYTES])
