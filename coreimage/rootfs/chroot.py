"""A chroot made by mmdebstrap from exactly the packages of a lock, without network, as root or as an ordinary user."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import IO, TypeVar

from coreimage.errors import BuildError, CoreimageError, ProcessError
from coreimage.full_disk import full_disk, telling_full_disk
from coreimage.http import Fetch
from coreimage.model import ArtifactRef, LockedPackage, PackageLock
from coreimage.process import Run, Sandbox
from coreimage.rootfs import emulation, memory
from coreimage.rootfs.deb import decompress_deb
from coreimage.storage import Store, blob_key, fetch_blob, put_blob_file
from coreimage.workspace import workspace

S = TypeVar("S")
T = TypeVar("T")
DEB = "application/vnd.debian.binary-package"
_DOWNLOADS = 8
_WHERE = "while installing packages"

_FILTERS = "\n".join(
    [
        *(
            f"path-exclude=/usr/share/{name}/*"
            for name in ("doc", "man", "info", "groff", "lintian", "linda", "locale")
        ),
        "path-include=/usr/share/doc/*/copyright",
        "path-include=/usr/share/locale/locale.alias",
    ]
)
SLIM = f"""
mkdir -p "$1/etc/dpkg/dpkg.cfg.d"
echo '{_FILTERS}' > "$1/etc/dpkg/dpkg.cfg.d/coreimage"
cd "$1"
for name in doc man info groff lintian linda locale; do rm -rf usr/share/$name/*; done
"""
"""What is not unpacked (dpkg(1), path filters); copyright files stay, as licences ask.

Runs when the essential packages were unpacked for the first time, before dpkg installs them: given to mmdebstrap, the
filters would have every one of those packages go through a filter in Python.
"""

FAILED_HOOK = "coreimage-hook-failed"

_INDEX = (
    "apt-ftparchive",
    "packages",
    ".",
    *(f"-oAPT::FTPArchive::{name}=false" for name in ("MD5", "SHA1", "SHA512")),
)
"""One process reads all packages in the time that dpkg-deb takes for a few: it starts two children for each."""

_VIEW = """
set -eu
umask 022
work=$1; shift
view=$work/view
mkdir "$view"
mount -t tmpfs -o mode=0755 view "$view"
cd "$view"
mkdir -p dev proc sys root tmp run old var/lib/dpkg ".$work"
chmod 1777 tmp
for name in usr etc bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then
        cp -P "/$name" "$name"
    elif [ -d "/$name" ]; then
        mkdir -p "$name"
        mount --rbind "/$name" "$name"
        mount -o remount,bind,ro "$name" 2>/dev/null || true  # refused where it is not ours to write anyway
    fi
done
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o ro,mode=0755 dpkg var/lib/dpkg  # the machine's own packages are no business of the chroot's
mount --rbind /sys sys
mount -t proc proc proc
mount --bind "$work" ".$work"
@MEMORY@
@EMULATION@
pivot_root . old
cd "$work"
umount -l /old
rmdir /old
exec "$@"
"""
"""Runs a command that sees the system's programs, its own work folder, and nothing else of the machine: maintainer
scripts and hooks are root in there, and for an ordinary user that root is the user. What belongs to the user (home,
store, keys) is not in sight, not even through /proc/1/root. The umask is mmdebstrap's and the hooks': the caller's
must not show in the result.
"""


_MEMORY = 'mount -t tmpfs -o mode=0755,size={size_bytes} chroot ".$work/tmp"'
"""Thousands of small files, written twice and thrown away: no disk need see them."""


def fetch_packages(packages: Sequence[LockedPackage], *, store: Store, fetch: Fetch) -> None:
    """Puts every .deb into the store, several at a time; those already there are not fetched again."""

    missing = [package for package in packages if store.head(blob_key(package.sha256)) is None]
    with workspace("packages") as folder:

        def one(package: LockedPackage) -> None:
            uri = package.archive.rpartition(" ")[0]
            path = folder / package.sha256
            fetch(f"{uri}/{package.filename}", path, sha256=package.sha256, size_bytes=package.size_bytes)
            put_blob_file(store, path, DEB)
            path.unlink()

        _in_parallel(one, missing)


def make_chroot(
    lock: PackageLock,
    folder: Path,
    customize: str,
    files: Mapping[str, ArtifactRef],
    tar: IO[bytes],
    *,
    store: Store,
    fetch: Fetch,
    run: Run,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Installs the packages, then runs `customize` (sh; $1 is the chroot, $FILES holds `files`) in the sandbox.

    The finished chroot goes to `tar`, uncompressed, sorted by name. Gives what mmdebstrap said while making it.
    Raises BuildError for what does not install and for a failing hook, HostError when the disk is full.
    """
    fetch_packages(lock.packages, store=store, fetch=fetch)
    archive = _local_archive(lock, folder / "archive", store=store, run=run)
    for name, ref in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        fetch_blob(store, ref, folder / name)
    (folder / "tmp").mkdir()
    hooks = {name: _script(folder, name, text) for name, text in (("extract", SLIM), ("customize", customize))}
    argv = [*_view(lock, folder), *_argv(lock, archive, hooks)]
    return _bootstrap(argv, folder, lock.epoch, tar, run=run, on_line=on_line)


def _script(folder: Path, name: str, text: str) -> Path:
    script = folder / name
    script.write_text(f"#!/bin/sh\nset -eu\nFILES={folder}\n{text}")
    script.chmod(0o755)
    return script


def _bootstrap(
    argv: Sequence[str],
    folder: Path,
    epoch: int,
    tar: IO[bytes],
    *,
    run: Run,
    on_line: Callable[[str], None] | None,
) -> str:
    lines = list[str]()

    def keep(line: str) -> None:
        lines.append(line)
        if on_line:
            on_line(line)

    env = {
        "SOURCE_DATE_EPOCH": str(epoch),
        "TMPDIR": str(folder / "tmp"),
        "INITRD": "No",
        "HOME": "/root",
        "USER": "root",
    }
    try:
        run(argv, sandbox=Sandbox.ROOT, network=False, env=env, cwd=folder, stdout=tar, on_line=keep)
    except ProcessError as error:
        raise explain(error, lines) from error
    return "".join(f"{line}\n" for line in lines)


def _view(lock: PackageLock, folder: Path) -> list[str]:
    """What goes before a command that is to run in the view: programs of the lock's architecture run there too."""
    found = emulation.emulator(lock.architecture)
    script = _VIEW.replace("@EMULATION@", found.placed(folder).register() if found else "")
    size_bytes = memory.chroot_bytes(lock.packages, memory.available_bytes())
    script = script.replace("@MEMORY@", _MEMORY.format(size_bytes=size_bytes) if size_bytes else "")
    return [*(emulation.own_users(folder) if found else []), "sh", "-c", script, "sh", str(folder)]


def _argv(lock: PackageLock, archive: Path, hooks: Mapping[str, Path]) -> list[str]:
    return [
        "mmdebstrap",
        "--mode=root",
        "--variant=essential",
        "--format=tar",
        f"--architectures={lock.architecture}",
        f"--include={','.join(package.name for package in lock.packages)}",
        '--aptopt=APT::Sandbox::User "root"',
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        *(f"--{name}-hook={script}" for name, script in hooks.items()),
        "--skip=output/dev,check/qemu",
        "",
        "-",
        f"deb [trusted=yes] copy:{archive} ./",
    ]


def explain(error: ProcessError, lines: Sequence[str]) -> CoreimageError:
    """Pure: what went wrong, out of what mmdebstrap said."""
    text = "\n".join(lines)
    if emulation.REFUSED in lines:
        return emulation.refused()
    if full := full_disk(text, _WHERE):
        return full
    failed = re.search(rf"^{FAILED_HOOK} (\S+) (\d+)$", text, re.M)
    if failed:
        said = "\n".join(f"  | {line}" for line in text[: failed.start()].splitlines()[-10:])
        return BuildError(
            f"ended with status {failed[2]}; its last lines:\n{said}",
            where=f"hook {failed[1]}",
            resolution="mend the hook; it runs as root in the rootfs, without network",
        )
    said = "\n".join(f"  | {line}" for line in [*lines][-20:])
    return BuildError(
        f"mmdebstrap could not install the packages (status {error.status}); its last lines:\n{said}",
        resolution="a package's own script may have failed: the lines above name it",
    )


def lay_out_packages(packages: Sequence[LockedPackage], folder: Path, *, store: Store) -> list[Path]:
    """Every .deb as a file of `folder`, in the order of `packages`."""
    folder.mkdir()

    def one(package: LockedPackage) -> Path:
        ref = ArtifactRef(
            uri=blob_key(package.sha256), sha256=package.sha256, size_bytes=package.size_bytes, media_type=DEB
        )
        return fetch_blob(store, ref, folder / f"{package.sha256}.deb")

    return _in_parallel(one, packages)


def _local_archive(lock: PackageLock, folder: Path, *, store: Store, run: Run) -> Path:
    """A flat archive (sources.list(5), exact path) of the locked packages and nothing else.

    Where dpkg will be emulated, this machine decompresses the packages for it.
    """
    paths = lay_out_packages(lock.packages, folder, store=store)
    if emulation.emulator(lock.architecture):
        _in_parallel(lambda path: decompress_deb(path, run=run), paths)
    with telling_full_disk(_WHERE), (folder / "Packages").open("wb") as file:
        run(_INDEX, cwd=folder, stdout=file)
    return folder


def _in_parallel(work: Callable[[S], T], items: Sequence[S]) -> list[T]:
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        futures = [pool.submit(copy_context().run, work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
