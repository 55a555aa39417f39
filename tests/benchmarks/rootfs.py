"""A rootfs from packages that are on this machine: our whole stage against mmdebstrap and debootstrap alone."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from coreimage.host.process import run
from coreimage.model import PackageLock
from coreimage.project.loading import load_project
from coreimage.rootfs import plan_packages, probe_archives, read_lock, rootfs_spec, tools_run
from coreimage.rootfs.debs import fetch_packages
from coreimage.storage import Store, blob_key, open_store
from tests.benchmarks.measure import Measured, measured
from tests.benchmarks.page import Row, ratios, table
from tests.benchmarks.place import CHANNEL, PROJECT, ROOT, Place
from tests.harness.archive import LocalArchive, TestKey, fetch
from tests.harness.tools import made_tools

_PAGE = """# The rootfs

Our stage: from a lock whose packages are in the store to the tarball, its list of packages and its list of files,
system files and settings included, with the tools tree unpacked. The peers make a chroot of exactly the same packages,
which lie in an archive on the same disk, and nothing more; mmdebstrap also packs it, without compression. All are run
once before they are measured, so that nobody waits for a disk; then {rounds} rounds in turn, the fastest of each.

Debian's mkosi and debos begin with debootstrap, then install the rest in systemd-nspawn; where no systemd runs as the
first process, they do not work, and so are not compared.

{ratios}

## Our stage

When mmdebstrap said that it began the next thing, in seconds from the start.

{steps}
"""
_ROUNDS = 3
_SUITE = "trixie"
_SAID = ("extracting archives", "installing essential packages", "installing remaining packages")
_SAID_LAST = ("running --customize-hook", "creating tarball", "done", "success in")

_STAGE = """
import sys, time
from coreimage.project.loading import load_project
from coreimage.model import ArtifactRef, ToolsTree
from coreimage.rootfs import Offline, build_rootfs, rootfs_spec, tools_run
from coreimage.storage import open_store
url, project, channel, lock, tools = sys.argv[1:]
store = open_store(url)
spec = rootfs_spec(load_project(__import__("pathlib").Path(project)), channel, "amd64", store=store)
run = tools_run(ToolsTree.model_validate_json(tools), store=store)
begin = time.monotonic()
def said(line):
    print(f"{time.monotonic() - begin:.1f} {line}")
build_rootfs(spec, ArtifactRef.model_validate_json(lock), store=store, fetch=Offline(), run=run, on_line=said)
said("finished")
"""


@dataclass(frozen=True)
class Peer:
    """`argv` makes `made` in the current folder."""

    name: str
    argv: tuple[str, ...]
    made: str
    reach: str = ""


def section(place: Place) -> str:
    folder = place.folder("rootfs")
    argv, archive = _prepared(folder)
    peers = [peer for peer in archive if shutil.which(peer.argv[0])]
    environment = {"PYTHONPATH": str(ROOT), "COREIMAGE_CACHE": str(folder / "cache")}
    ours: list[Measured] = []
    theirs: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(_ROUNDS + 1):
        ours.append(measured(argv, cwd=folder, env=environment))
        for peer in peers:
            theirs[peer.name].append(_peer_s(peer, folder))
    best = min(ours[1:], key=_stage_s)
    rows = [_row(peer, _stage_s(best), min(theirs[peer.name][1:])) for peer in peers]
    return _PAGE.format(rounds=_ROUNDS, ratios=ratios(rows), steps=table(("second", "what"), _steps(best.output)))


def _row(peer: Peer, ours_s: float, theirs_s: float) -> Row:
    return Row(f"rootfs stage / {peer.name}", ours_s / theirs_s, f"{ours_s:.1f} s / {theirs_s:.1f} s", peer.reach)


def _peer_s(peer: Peer, folder: Path) -> float:
    duration_s = measured(peer.argv, cwd=folder).duration_s
    made = folder / peer.made
    if made.is_dir():
        shutil.rmtree(made)
    else:
        made.unlink()
    return duration_s


def _stage_s(stage: Measured) -> float:
    return float(stage.output.splitlines()[-1].split()[0])


def _steps(output: str) -> list[tuple[str, ...]]:
    lines = [line.partition(" ") for line in output.splitlines()]
    wanted = tuple(f"I: {words}" for words in (*_SAID, *_SAID_LAST))
    return [
        (at, text.removeprefix("I: ").split(":")[0]) for at, _, text in lines if text.startswith((*wanted, "finish"))
    ]


def _prepared(folder: Path) -> tuple[list[str], list[Peer]]:
    """Our stage's command line, and those of the peers, for the same packages."""
    store = open_store((folder / "store").as_uri())
    tools = made_tools(PROJECT, store)
    spec = rootfs_spec(load_project(PROJECT), CHANNEL, "amd64", store=store)
    releases = probe_archives(spec.archives, store=store, fetch=fetch, run=run)
    by_tools = tools_run(tools, store=store)
    lock = plan_packages(spec, releases, None, tools={}, store=store, fetch=fetch, run=by_tools)
    locked = read_lock(store, lock)
    fetch_packages(locked.packages, store=store, fetch=fetch)
    words = [store.url, str(PROJECT), CHANNEL, lock.model_dump_json(), tools.model_dump_json()]
    return [sys.executable, "-c", _STAGE, *words], _peers(folder, locked, _archive(folder, locked, store))


def _archive(folder: Path, lock: PackageLock, store: Store) -> LocalArchive:
    """The locked packages, signed by a key of its own."""
    key = TestKey.make(folder / "key", "bench")
    archive = LocalArchive(folder / "archive", key)
    for package in lock.packages:
        deb = folder / package.filename.rpartition("/")[2]
        with store.open(blob_key(package.sha256)) as file:
            deb.write_bytes(file.read())
        archive.add_deb(_SUITE, deb)
        deb.unlink()
    archive.publish()
    key.close()
    for packed in archive.folder.rglob("Packages.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    return archive


def _peers(folder: Path, lock: PackageLock, archive: LocalArchive) -> list[Peer]:
    names = ",".join(package.name for package in lock.packages)
    mode = "root" if os.geteuid() == 0 else "unshare"
    source = f"deb [trusted=yes] copy:{archive.folder} {_SUITE} main"
    mmdebstrap = ("mmdebstrap", f"--mode={mode}", "--variant=essential", f"--include={names}", _SUITE)
    debootstrap = ("debootstrap", "--variant=minbase", "--no-check-gpg", "--exclude=apt", f"--include={names}", _SUITE)
    return [
        Peer("bare mmdebstrap", (*mmdebstrap, "bare.tar", source), "bare.tar", "≤ 1.0"),
        Peer("debootstrap", (*debootstrap, str(folder / "debootstrap"), archive.uri), "debootstrap", "≤ 0.5"),
    ]
