"""Applying a compact delta with real compressors, in a process of its own: what it and its children take."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import tarfile
from contextlib import ExitStack
from pathlib import Path
from shutil import which

from coreimage.client.folder import write_folder
from coreimage.client.layers import LayeredTree
from coreimage.deltas.base_tools import BaseTools
from coreimage.deltas.compact import make_compact
from coreimage.host.process import run
from tests.unit.deltas.test_compact import cpio
from tests.unit.deltas.test_legacy import FILE, tree

LIMIT_KIB = 64 << 10
TOOLS = ("gzip", "xz", "zstd", "lz4")
PACKED = {
    "initrd-lz4": ("lz4", "-lqc", "-9"),
    "initrd-xz": ("xz", "-c", "--check=crc32", "--threads=1", "--lzma2=preset=6,dict=1MiB"),
    "initrd-larger-xz": ("xz", "-c", "--check=crc32", "--threads=1", "--lzma2=preset=6,dict=2MiB"),
    "initrd-gzip": ("gzip", "-cn", "-9"),
    "module-zstd": ("zstd", "-cq", "-3"),
}
APPLY = """
import re, subprocess, sys, time
from pathlib import Path
from coreimage.client.compact import PatchedTree
from coreimage.client.folder import FolderTree

def peak_kib(pid):
    return int((re.findall(r"VmHWM:\\s+(\\d+)", Path(f"/proc/{pid}/status").read_text()) or [0])[0])

peaks = {}

def run(argv, source, target):
    with source.open("rb") as content, target.open("wb") as file:
        child = subprocess.Popen(argv, stdin=content, stdout=file)
        while child.poll() is None:
            name = " ".join(argv)
            peaks[name] = max(peaks.get(name, 0), peak_kib(child.pid))
            time.sleep(0.002)
        assert child.returncode == 0, argv

delta, base, work = map(Path, sys.argv[1:])
PatchedTree(delta, FolderTree(base), work, run)
for name, peak in peaks.items():
    print(peak, name)
print(peak_kib("self"), "updater")
"""


def host_tools() -> list[tuple[str, bytes, bytes | str]]:
    """The compressors of this machine with their libraries, as a base image has them."""
    found = {}
    for tool in TOOLS:
        path = which(tool)
        assert path, tool
        found[f"system/usr/bin/{tool}"] = Path(path).read_bytes()
        for library in re.findall(r"(/\S+)", _output(["ldd", path])):
            found[f"system/usr/lib/{Path(library).name}"] = Path(library).read_bytes()
    return [(name, FILE, content) for name, content in found.items()]


def content(old: bool) -> bytes:
    """3 MiB that compress a little, as code does."""
    noise = hashlib.shake_256(b"code").digest(1 << 20)
    made = b"".join(noise[at : at + 32] + bytes(64) for at in range(0, 1 << 20, 32))
    return made if old else made[: 1 << 20] + b"changed" + made[(1 << 20) + 4 :]


def _output(argv: list[str]) -> str:
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout


def packed(argv: tuple[str, ...], plain: bytes) -> bytes:
    return subprocess.run(argv, input=plain, stdout=subprocess.PIPE, check=True).stdout


def image(old: bool) -> list[tuple[str, bytes, bytes | str]]:
    archive = cpio(**{"a.ko": content(old)})
    return [(f"assets/{name}", FILE, packed(argv, archive)) for name, argv in PACKED.items()]


def test_updater_and_its_children_fit_into_64_mib(tmp_path: Path) -> None:
    """Each compressor in turn beside the updater at its peak, all of them looked into, dictionaries filled."""
    old, new = hashlib.shake_256(b"a").digest(9 << 20), hashlib.shake_256(b"b").digest(9 << 20)
    tools = host_tools()
    base, target = (
        tree(*tools, *image(old=True), ("system/x", FILE, old)),
        tree(*tools, *image(old=False), ("system/x", FILE, new)),
    )
    with ExitStack() as opened:
        trees = [LayeredTree([opened.enter_context(tarfile.open(fileobj=io.BytesIO(tar)))]) for tar in (base, target)]
        for name in ("made", "base", "work"):
            (tmp_path / name).mkdir()
        image_tools = BaseTools(trees[0], tmp_path / "tools", run=run)
        delta = make_compact(trees[0], trees[1], tmp_path / "delta", tmp_path / "made", tools=image_tools, run=run)
        write_folder(trees[0], tmp_path / "base")
    argv = [sys.executable, "-c", APPLY, str(delta), str(tmp_path / "base"), str(tmp_path / "work")]
    lines = [line.split(" ", 1) for line in _output(argv).splitlines()]
    peaks = {name: int(kib) for kib, name in lines}
    updater = peaks.pop("updater")
    assert {name.split()[0] for name in peaks if " -d" not in name} == set(TOOLS), peaks
    assert updater + max(peaks.values()) <= LIMIT_KIB, (updater, peaks)
