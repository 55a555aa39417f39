"""Assembling a disk image, against the least that it can be made of, and against doing it with loop devices."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from coreimage.host.sandbox import Sandbox, sandbox_argv
from coreimage.model import ToolsTree
from coreimage.rootfs import trees_folder
from coreimage.rootfs.unpacked_tools import unpacked_tools
from coreimage.storage import open_store
from tests.benchmarks.measure import Measured, measured
from tests.benchmarks.page import Row, ratios
from tests.benchmarks.place import CHANNEL, PROJECT, ROOT, Place

_PAGE = """# Assembly

Of the payloads of one built version, from files to a disk image. All run the programs of one tools tree, so that they
have the same decoder. The bare sum is `xz -dc -T2`, `tar -x` and `mke2fs -d` of the same contents. Each ran {repeats}
times, in turn; the middle one counts.

{figures}

{remarks}
"""
_NO_LOOP = "Assembly with loop devices (to reach: ≤ 0.7) was not measured: none can be used here."
_LOOP_LIMIT = """
The decoder alone, which has both cores to itself, takes {part:.2f} of assembly with loop devices: 0.7 of it would leave
{left_s:.2f} s for all else, of which Python takes 0.3 s to start and import. With loop devices the kernel fills the
file systems, and nothing is checked, dated, or made to boot.
"""
_START = """
Of the command for the same image again, {start} go by until Python has started and imported: no copy could be
so fast that it all took twice as long as `cp`. The rest is verifying what the channel offers (gpgv), copying and
verifying the image, and putting the login in."""
_REPEATS = 3

_ASSEMBLE = """
import sys
from pathlib import Path
from coreimage.disk_image import ImageIdentity, assemble
from coreimage.host.process import run_in
tree, *parts, gadget, output, work = map(Path, sys.argv[1:])
identity = ImageIdentity(channel="bench/13/edge", device="generic_amd64", version=1, architecture="amd64", epoch=1)
assemble(parts, gadget, identity, output, run=run_in(tree), work_folder=work)
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

_DECODE = """
set -eu
for part in "$@"; do xz -dc -T2 "$part" > /dev/null; done
"""

# A loop device for each partition: kernels without partition tables (of small virtual machines) find none by
# themselves; nor may they know FAT.
_LOOP = """
set -eu
folder=$1; shift
truncate -s 3899999744 "$folder/loop.img"
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
    decoder: Measured
    loop: Measured | None
    copy: Measured


@dataclass(frozen=True)
class AgainFigures:
    """The command for the first time and once more; `start` is what Python needs to start and import."""

    first: Measured
    again: Measured
    start: Measured
    copy: Measured


def section(place: Place) -> str:
    pool = place.store / "system-image/pool"
    parts = _full(pool, "ubuntu"), _full(pool, "device")
    figures = measure_assembly(parts, _tree(place.store), place.folder("assembly"))
    again = measure_again(place.store, place.folder("again"))
    remarks = [_loop_remark(figures), _START.format(start=_seconds(again.start))]
    return _PAGE.format(
        figures=ratios([*_rows(figures), *_again(again)]),
        remarks="\n\n".join(map(str.strip, remarks)),
        repeats=_REPEATS,
    )


def _loop_remark(figures: AssemblyFigures) -> str:
    if figures.loop is None:
        return _NO_LOOP
    loop_s, decoder_s = figures.loop.duration_s, figures.decoder.duration_s
    return _LOOP_LIMIT.format(part=decoder_s / loop_s, left_s=0.7 * loop_s - decoder_s)


def _full(pool: Path, role: str) -> Path:
    return next(path for path in pool.glob(f"{role}-*.tar.xz") if ".delta." not in path.name)


def _tree(store: Path) -> Path:
    """The tools of the build, unpacked."""
    (named,) = (store / "tools").glob("*.json")
    tools = ToolsTree.model_validate_json(named.read_text())
    return unpacked_tools(tools, store=open_store(str(store)), folder=trees_folder())


def _row(figure: str, ours: Measured, peer: Measured, reach: str = "") -> Row:
    return Row(figure, ours.duration_s / peer.duration_s, f"{_seconds(ours)} / {_seconds(peer)}", reach)


def _seconds(one: Measured) -> str:
    return f"{one.duration_s:.2f} s"


def _rows(figures: AssemblyFigures) -> list[Row]:
    ours, peak_bytes = figures.ours, figures.ours.peak_bytes()
    loop = [_row("assembly / with loop devices, as root", ours, figures.loop, "≤ 0.7")] if figures.loop else []
    return [
        _row("assembly / the bare sum", ours, figures.bare, "≤ 1.3"),
        *loop,
        _row("assembly / the decoder alone", ours, figures.decoder),
        _row("assembly / `cp --sparse=always` of the image", ours, figures.copy),
        Row("peak memory / 200 MB", peak_bytes / 200e6, f"{peak_bytes / 1e6:.0f} MB", "≤ 1"),
    ]


def _again(figures: AgainFigures) -> list[Row]:
    return [
        _row("`flash` of the same image again / the first time", figures.again, figures.first),
        _row("`flash` of the same image again / `cp --sparse=always`", figures.again, figures.copy, "≤ 2"),
        _row("starting Python and importing / `cp --sparse=always`", figures.start, figures.copy),
    ]


def measure_assembly(parts: tuple[Path, ...], tree: Path, folder: Path) -> AssemblyFigures:
    """`parts` are the rootfs and device payloads of a version; they are read first, so that nobody waits for a disk."""
    for part in parts:
        part.read_bytes()
    names = [str(part) for part in parts]
    bare, decoder, ours, copy, loop = [], [], [], [], []
    for number in range(_REPEATS):
        own = folder / str(number)
        (own / "work").mkdir(parents=True)
        bare.append(
            measured([*sandbox_argv(Sandbox.ROOT, tree=tree), "sh", "-c", _BARE, "bare", str(own), *names], cwd=own)
        )
        decoder.append(measured([*sandbox_argv(tree=tree), "sh", "-c", _DECODE, "decode", *names], cwd=own))
        ours.append(_assembled(tree, names, own))
        copy.append(measured(["cp", "--sparse=always", "x.img", "copy.img"], cwd=own))
        loop.append(_loop(tree, names, own))
        subprocess.run(["rm", "-rf", own], check=True)
    loops = [one for one in loop if one]
    return AssemblyFigures(middle(ours), middle(bare), middle(decoder), middle(loops) if loops else None, middle(copy))


def middle(runs: list[Measured]) -> Measured:
    return sorted(runs, key=lambda one: one.duration_s)[len(runs) // 2]


def _assembled(tree: Path, names: list[str], folder: Path) -> Measured:
    gadget = ROOT / "deployments/gadgets/generic_amd64"
    arguments = [str(tree), *names, str(gadget), str(folder / "x.img"), str(folder / "work")]
    return measured([sys.executable, "-c", _ASSEMBLE, *arguments], cwd=folder, env={"PYTHONPATH": str(ROOT)})


def _loop(tree: Path, names: list[str], folder: Path) -> Measured | None:
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        return None
    try:
        return measured([*sandbox_argv(tree=tree), "sh", "-c", _LOOP, "loop", str(folder), *names], cwd=folder)
    except subprocess.CalledProcessError:
        return None


_START_ONLY = """
import coreimage.cli.app, coreimage.cli.commands.flash.core, coreimage.operations.flash
import coreimage.http, coreimage.logs, coreimage.rootfs, coreimage.boot_test
"""


def measure_again(store: Path, folder: Path) -> AgainFigures:
    words = ["--store", str(store), "--project", str(PROJECT), "flash", "core", "13", "--channel", CHANNEL]
    command = [sys.executable, "-m", "coreimage.cli", *words, "--no-bmap", "--force", "--output"]
    environment = {"PYTHONPATH": str(ROOT), "COREIMAGE_CACHE": str(folder / "cache")}

    def repeated(argv: list[str]) -> Measured:
        return middle([measured(argv, cwd=folder, env=environment) for _ in range(_REPEATS)])

    return AgainFigures(
        first=measured([*command, "a.img"], cwd=folder, env=environment),
        again=repeated([*command, "b.img"]),
        start=repeated([sys.executable, "-c", _START_ONLY]),
        copy=repeated(["cp", "--sparse=always", "b.img", "c.img"]),
    )
