"""Assembling a disk image, against the least that it can be made of, and against doing it with loop devices."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.measure import Measured, measured
from tests.benchmarks.page import Row, ratios
from tests.benchmarks.place import CHANNEL, PROJECT, ROOT, Place

_PAGE = """# Assembly

Of the payloads of one built version, from files to a disk image. The bare sum is `xz -dc -T2`, `tar -x` and
`mke2fs -d` of the same contents.

{figures}

{remarks}
"""
_NO_LOOP = "Assembly with loop devices (to reach: ≤ 0.7) was not measured: none can be used here."

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

# A loop device for each partition: kernels without partition tables (of small virtual machines) find none by
# themselves; nor may they know FAT.
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
mkdir "$folder/mount"
devices=
trap 'umount -q "$folder/mount" || true; losetup -d $devices' EXIT
device() {
    losetup --find --show --offset $(($1 * 512)) --sizelimit $(($2 * 512)) "$folder/loop.img"
}
boot=$(device 16384 1048576); devices="$devices $boot"
mkfs.vfat -F 32 "$boot" > /dev/null
system=$(device 1064960 2097152); devices="$devices $system"
other=$(device 3162112 2097152); devices="$devices $other"
writable=$(device 5259264 2000000); devices="$devices $writable"
for one in "$system" "$other" "$writable"; do mke2fs -q -F -t ext4 "$one"; done
mount "$system" "$folder/mount"
for part in "$@"; do xz -dc -T2 "$part" | tar -x -C "$folder/mount" --transform 's,^system/,,S'; done
mcopy -i "$boot" "$folder"/mount/assets/* ::
rm -r "$folder/mount/assets"
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


def section(place: Place) -> str:
    pool = place.store / "system-image/pool"
    parts = _full(pool, "ubuntu"), _full(pool, "device")
    figures = measure_assembly(parts, place.folder("assembly"))
    rows = [*_rows(figures), *_again(place)]
    return _PAGE.format(figures=ratios(rows), remarks="" if figures.loop else _NO_LOOP)


def _full(pool: Path, role: str) -> Path:
    return next(path for path in pool.glob(f"{role}-*.tar.xz") if ".delta." not in path.name)


def _again(place: Place) -> list[Row]:
    """The command as its user runs it: for the first time, and once more."""
    folder = place.folder("again")
    words = ["--store", str(place.store), "--project", str(PROJECT), "flash", "core", "13", "--channel", CHANNEL]
    command = [sys.executable, "-m", "coreimage.cli", *words, "--no-bmap", "--output"]
    environment = {"PYTHONPATH": str(ROOT), "COREIMAGE_CACHE": str(folder / "cache")}
    cold = measured([*command, "a.img"], cwd=folder, env=environment)
    warm = measured([*command, "b.img"], cwd=folder, env=environment)
    copy = measured(["cp", "--sparse=always", "b.img", "c.img"], cwd=folder)

    def row(figure: str, ours: Measured, peer: Measured, reach: str) -> Row:
        return Row(
            figure, ours.duration_s / peer.duration_s, f"{ours.duration_s:.1f} s / {peer.duration_s:.1f} s", reach
        )

    return [
        row("`flash` of the same image again / the first time", warm, cold, ""),
        row("`flash` of the same image again / `cp --sparse=always`", warm, copy, "≤ 2"),
    ]


def _rows(figures: AssemblyFigures) -> list[Row]:
    ours_s = figures.ours.duration_s

    def row(figure: str, peer_s: float, reach: str = "") -> Row:
        return Row(figure, ours_s / peer_s, f"{ours_s:.1f} s / {peer_s:.1f} s", reach)

    loop = [row("assembly / with loop devices, as root", figures.loop.duration_s, "≤ 0.7")] if figures.loop else []
    return [
        row("assembly / the bare sum", figures.bare.duration_s, "≤ 1.3"),
        *loop,
        row("assembly / `cp --sparse=always` of the image", figures.copy.duration_s),
        Row("peak memory / 200 MB", figures.peak_bytes / 200e6, f"{figures.peak_bytes / 1e6:.0f} MB", "≤ 1"),
    ]


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
