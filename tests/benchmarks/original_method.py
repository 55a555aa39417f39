"""How the server of 2015 made an import (system-image §4, §6): the peer of our own. For benchmarks only.

`python -m tests.benchmarks.original_method FOLDER AFTER [BEFORE]`: FOLDER/AFTER.<part>.tar.gz are the tarballs of a
build. Makes FOLDER/AFTER.<part>.tar.xz of them and, with the build BEFORE made before, FOLDER/<part>.delta.tar.xz.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PARTS = {"ubuntu": "system/", "device": ""}
"""What is put before the names of its members."""


def main(folder: Path, after: str, before: str = "") -> None:
    for part, prefix in PARTS.items():
        plain = folder / f"{after}.{part}.tar"
        with gzip.open(folder / f"{after}.{part}.tar.gz") as source:
            _shift(source, plain, prefix)
        _xz(plain)
    if before:
        for part in PARTS:
            old, new = (_unxz(folder / f"{build}.{part}.tar.xz") for build in (before, after))
            _xz(_diff(old, new, folder / f"{part}.delta.tar"))
            old.unlink()
            new.unlink()


def _shift(source: gzip.GzipFile, target: Path, prefix: str) -> None:
    with (
        tarfile.open(fileobj=source, mode="r:") as old,
        tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as new,
    ):
        for member in old:
            member.name = prefix + member.name
            if member.islnk():
                member.linkname = prefix + member.linkname
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isreg() else None)


def _diff(before: Path, after: Path, target: Path) -> Path:
    """What differs in kind, mode, owner, size or time is changed, links but for their target; changed and gone names
    are listed in `removed`."""
    with tarfile.open(before) as old, tarfile.open(after) as new:
        was = {member.name: _look(member) for member in old}
        members = new.getmembers()
        names = {member.name for member in members}
        changed = [member for member in members if was.get(member.name) != _look(member)]
        gone = sorted({member.name for member in changed if member.name in was} | (was.keys() - names))
        with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as delta:
            lines = "\n".join(gone).encode("utf-8", "surrogateescape") + b"\n"
            removed = tarfile.TarInfo("removed")
            removed.size = len(lines)
            delta.addfile(removed, io.BytesIO(lines))
            for member in changed:
                delta.addfile(member, new.extractfile(member) if member.isreg() else None)
    return target


def _look(member: tarfile.TarInfo) -> tuple[object, ...]:
    return member.type, member.mode, member.uid, member.gid, member.size, member.mtime, member.devmajor, member.devminor


def _xz(plain: Path) -> None:
    subprocess.run(["xz", "-z", "-9", "--force", "--threads=1", plain], check=True)


def _unxz(packed: Path) -> Path:
    plain = packed.with_suffix("")
    with plain.open("wb") as target, subprocess.Popen(["xz", "-dc", packed], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        shutil.copyfileobj(process.stdout, target)
    return plain


def _processor_s() -> float:
    """It uses one thread, and never waits for more than the disk: on an idle machine its time is this."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
    sys.stdout.write(f"{_processor_s():.1f}\n")
