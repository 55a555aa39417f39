"""Assembling a disk image, against the least that it can be made of, and against doing it with loop devices."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.measure import Measured, measured

ROOT = Path(__file__).parents[2]

_ASSEMBLE = """
import sys
from pathlib import Path
from coreimage.disk_image import ImageIdentity, assemble
from coreimage.process import run
*parts, gadget, output, work = map(Path, sys.argv[1:])
identity = ImageIdentity(channel="bench/13/edge", device="generic_amd64", version=1, architecture="amd64", epoch=1)
assemble(parts, gadget, identity, output, run=run, work_folder=work)
"""

# The same contents, and nothing checked, dated, booted or laid out.
_BARE = """
set -eu
folder=$1; shift
mkdir "$folder/tree"
for part in "$@"; do xz -dc -T2 "$part" > "$folder/part.tar"; tar -xf "$folder/part.tar" -C "$folder/tree"; done
truncate -s 1G "$folder/system.img"
mke2fs -q -F -t ext4 -d "$folder/tree/system" "$folder/system.img"
"""

_LOOP = """
set -eu
folder=$1; shift
truncate -s 3899999744 "$folder/loop.img"
sfdisk -q "$folder/loop.img" <<END
label: gpt
start=8192, size=8192
size=1048576
size=2097152
size=2097152
size=2000000
END
device=$(losetup --find --show --partscan "$folder/loop.img")
trap 'umount -q "$folder/mount" || true; losetup -d "$device"' EXIT
mkfs.vfat -F 32 "${device}p2" > /dev/null
for number in 3 4 5; do mke2fs -q -F -t ext4 "${device}p$number"; done
mkdir "$folder/mount" "$folder/other"
mount "${device}p3" "$folder/mount"
for part in "$@"; do
    xz -dc -T2 "$part" | tar -x -C "$folder/mount" --transform 's,^system/,,S' --exclude='assets/*'
done
umount "$folder/mount"
"""


@dataclass(frozen=True)
class AssemblyFigures:
    """`loop` is None where there are no loop devices to use: for an ordinary user, and in most containers."""

    ours: Measured
    bare: Measured
    loop: Measured | None
    copy: Measured

    @property
    def peak_bytes(self) -> int:
        return self.ours.peak_bytes()


def measure_assembly(parts: tuple[Path, ...], folder: Path) -> AssemblyFigures:
    """`parts` are the rootfs and device payloads of a version; they are read first, so that nobody waits for a disk."""
    for part in parts:
        part.read_bytes()
    gadget = ROOT / "deployments/gadgets/generic_amd64"
    (folder / "work").mkdir()
    names = [str(part) for part in parts]
    bare = measured(["sh", "-c", _BARE, "bare", str(folder), *names], cwd=folder)
    arguments = [*names, str(gadget), str(folder / "x.img"), str(folder / "work")]
    environment = {"PYTHONPATH": str(ROOT)}
    ours = measured([sys.executable, "-c", _ASSEMBLE, *arguments], cwd=folder, env=environment)
    copy = measured(["cp", "--sparse=always", "x.img", "copy.img"], cwd=folder)
    return AssemblyFigures(ours, bare, _loop(names, folder), copy)


def _loop(names: list[str], folder: Path) -> Measured | None:
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        return None
    try:
        return measured(["sh", "-c", _LOOP, "loop", str(folder), *names], cwd=folder)
    except subprocess.CalledProcessError:
        return None
