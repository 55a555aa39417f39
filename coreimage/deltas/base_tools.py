"""The compressors of a base image, run outside of it: they make what a device will make of the same input."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import structlog

from coreimage.client import RepositoryError
from coreimage.client.compact import PACKERS, UNPACKERS
from coreimage.client.layers import LayeredTree
from coreimage.errors import CoreimageError
from coreimage.host.process import Run

log = structlog.get_logger("coreimage.system_image")

_ZSTD_LIMIT_BYTES = 4 << 20
"""zstd takes more memory the more it packs: of this much, a compressor and the updater fit into 64 MiB together."""
_NAMES = rb"ld-linux[^/]*|lib(c|m|z|lzma|zstd|lz4|xxhash|pthread|dl|rt)[.][^/]*"
_LIBRARY = re.compile(rb"system/(usr/)?lib(64)?/([^/]+/)?(" + _NAMES + rb")")
_LOADER = re.compile(r"ld-linux[^/]*\.so\.\d+")
_TOOLS = ("gzip", "xz", "zstd", "lz4")


class Tools(Protocol):
    """Compressors of a base image."""

    def unpack(self, tool: str, source: Path, target: Path) -> bool:
        """Unpack a file with a tool (`coreimage.client.compact.UNPACKERS`); return whether that could be done."""
        ...

    def pack(self, packer: str, source: Path, target: Path) -> bool:
        """Pack a file as a packer does (`coreimage.client.compact.PACKERS`); return whether that could be done."""
        ...

    def require(self, argv: Sequence[str], source: Path, target: Path) -> None:
        """Pack a file as the applier of deltas wants it. Raises RepositoryError where the image cannot."""
        ...


class BaseTools:
    """`gzip`, `xz`, `zstd` and `lz4` as the image `base` has them, unpacked to `folder`.

    With a tool that the image lacks, or that this machine cannot run, nothing is ever packed. What a packer made of a
    content is kept: it takes long, and makes the same of the same.
    """

    def __init__(self, base: LayeredTree, folder: Path, *, run: Run) -> None:
        self._folder, self._made, self._run = folder, folder / "made", run
        self._made.mkdir(parents=True)
        for name in base.names:
            if _LIBRARY.fullmatch(name):
                self._unpack(base, name)
        for tool in _TOOLS:
            for place in ("usr/bin", "bin"):
                self._unpack(base, f"system/{place}/{tool}".encode())
        loaders = sorted(path for path in folder.iterdir() if _LOADER.fullmatch(path.name))
        self._loader = loaders[0] if loaders else None

    def require(self, argv: Sequence[str], source: Path, target: Path) -> None:
        kept = self._kept(argv, source)
        if kept.exists():
            shutil.copyfile(kept, target)
        elif not self._filter(argv, source, target):
            raise RepositoryError(f"the base image cannot run `{' '.join(argv)}`")

    def unpack(self, tool: str, source: Path, target: Path) -> bool:
        return self._filter(UNPACKERS[tool], source, target)

    def pack(self, packer: str, source: Path, target: Path) -> bool:
        # Only within the memory that a device has for it.
        if packer.startswith("zstd") and source.stat().st_size > _ZSTD_LIMIT_BYTES:
            return False
        kept = self._kept(PACKERS[packer], source)
        if not kept.exists():
            with TemporaryDirectory(dir=self._made) as folder:
                packed = Path(folder) / "packed"
                if not self._filter(PACKERS[packer], source, packed):
                    return False
                packed.rename(kept)
        shutil.copyfile(kept, target)
        return True

    def _kept(self, argv: Sequence[str], source: Path) -> Path:
        """Return where what a packer makes of this content is kept."""
        with source.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return self._made / hashlib.sha256(f"{argv} {content}".encode()).hexdigest()

    def _filter(self, argv: Sequence[str], source: Path, target: Path) -> bool:
        if self._loader is None or not (self._folder / argv[0]).exists():
            return False
        command = [str(self._loader), "--library-path", str(self._folder), str(self._folder / argv[0])]
        try:
            with source.open("rb") as content, target.open("wb") as file:
                self._run([*command, *argv[1:]], stdin=content, stdout=file)
        except CoreimageError as error:
            log.debug("not done with the base image's tool", argv=" ".join(argv), error=str(error))
            return False
        return True

    def _unpack(self, base: LayeredTree, name: bytes) -> None:
        """Unpack a program or library under the name that others ask for, which is a link most often."""
        source = _follow_links(base, name)
        target = self._folder / name.rpartition(b"/")[2].decode()
        if source is None or target.exists():
            return
        with target.open("wb") as file, base.open(source) as content:
            while chunk := content.read(1 << 20):
                file.write(chunk)
        target.chmod(0o755)


def _follow_links(base: LayeredTree, name: bytes) -> bytes | None:
    """Return the name of the file that a name leads to; None where it leads nowhere, or through too many links."""
    for _ in range(5):
        node = base.get(name)
        if node is None or node.entry.kind == "file":
            return name if node else None
        if node.entry.kind != "symlink":
            return None
        target, folder = node.entry.target, name.rpartition(b"/")[0]
        if target.startswith(b"/"):
            folder, target = b"system", target.lstrip(b"/")
        parts: list[bytes] = []
        for part in (folder + b"/" + target).split(b"/"):
            if part == b"..":
                parts = parts[:-1]
            elif part != b".":
                parts.append(part)
        name = b"/".join(parts)
        name = re.sub(rb"^system/(lib|bin)(64)?/", rb"system/usr/\1\2/", name) if name not in base else name
    return None
