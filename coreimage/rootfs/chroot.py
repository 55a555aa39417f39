"""A chroot made by mmdebstrap from exactly the packages of a lock, without network, as root or as an ordinary user."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from coreimage.errors import BuildError, CoreimageError, ProcessError
from coreimage.host.disk_space import disk_full, explain_full_disk
from coreimage.host.process import Run
from coreimage.host.sandbox import Sandbox
from coreimage.http import Fetch
from coreimage.model import ArtifactRef, LockedPackage, PackageLock
from coreimage.rootfs import emulation
from coreimage.rootfs.debs import fetch_packages, make_archive
from coreimage.storage import Store, fetch_blob

FAILED_HOOK = "coreimage-hook-failed"
"""What a customize script prints before the name and the status of a hook that failed."""

_WHERE = "while installing packages"
_GROWTH = 10
"""A chroot with its packages still in it, over the size of the packages: 6 is usual, 8 with an initrd."""
_LEAST_BYTES = 256 << 20
_SHARE = 3
"""Of the free memory one chroot takes no more than this part: another may be made beside it."""

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

_VIEW = """
set -eu
umask 022
work=$1; shift
root=0
while read -r within _ many; do
    if [ "$within" -le {apart} ] && [ $((within + many)) -ge $(({apart} + 65536)) ]; then root={apart}; fi
done < /proc/self/uid_map
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
for name in null zero full random urandom tty; do : > dev/$name; mount --bind /dev/$name dev/$name; done
ln -s /proc/self/fd dev/fd
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o ro,mode=0755 dpkg var/lib/dpkg  # the machine's own packages are no business of the chroot's
mount -t sysfs -o ro,nosuid,nodev,noexec sys sys
mount -t proc proc proc
mount -t tmpfs -o mode=0755 work ".$work"
for entry in "$work"/*; do
    [ "$entry" != "$view" ] || continue
    if [ -d "$entry" ]; then mkdir ".$entry"; else : > ".$entry"; fi
    mount --bind "$entry" ".$entry"
done
@MEMORY@
[ "$root" = 0 ] || chown -R "$root:$root" ".$work" root
mkfifo tmp/made tmp/mapped
pivot_root . old
umount -l /old
rmdir /old
cd /
unshare --user -- sh -c 'echo > /tmp/made; read -r _ < /tmp/mapped || true' &
read -r _ < /tmp/made
for kind in uid gid; do
    ids="0 $root 65536\\n"
    if [ "$root" = 0 ]; then
        ids=
        while read -r within _ many; do ids="$ids$within $within $many\\n"; done < "/proc/self/${kind}_map"
    fi
    printf "$ids" > "/proc/$!/${kind}_map"
done
exec 3< "/proc/$!/ns/user"
echo > /tmp/mapped
rm /tmp/made /tmp/mapped
cd "$work"
exec nsenter --user=/proc/self/fd/3 --setuid 0 --setgid 0 -- \\
    unshare --mount --pid --ipc --uts --cgroup --net --fork --kill-child=KILL --mount-proc -- sh -c '
set -eu
exec 3<&-
@EMULATION@
exec perl -e "syscall(shift, 1, 0) >= 0 or die qq(no session keyring: \\$!); exec @ARGV or die" @KEYCTL@ "$@"' sh "$@"
""".replace("{apart}", str(0x70000000))
"""Runs a command that sees the system's programs, its own work folder, and nothing else of the machine: maintainer
scripts and hooks are root in there, and could leave their chroot. What belongs to the user (home, store, keys) is not
in sight, not even through /proc/1/root.

The command is root of a second user namespace, within the one that owns these mounts: it can neither unmount them nor
make them writable. For root itself its ids are some that nobody has (systemd's UIDS-GIDS): the kernel lets the
machine's root write to /proc/sys without any capability. The umask is mmdebstrap's and the hooks': the caller's must
not show in the result.
"""

_KEYCTL = {"x86_64": 250, "aarch64": 219}
"""The number of the system call that begins a new session keyring: the caller's would be in reach."""

_MEMORY = 'mount -t tmpfs -o mode=0755,size={size_bytes} chroot ".$work/tmp"'
"""Thousands of small files, written twice and thrown away: no disk need see them."""


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
    """Install the packages of a lock, customize the chroot, and write it as a tar.

    Args:
        lock: What is installed.
        folder: A work folder, which the sandbox sees; it stays with what was put there.
        customize: A script for sh that runs in the sandbox; $1 is the chroot, $FILES holds `files`.
        files: Artifacts that `customize` needs, by path below $FILES.
        tar: Where the chroot goes, uncompressed and sorted by name.
        store: Has the artifacts; packages that it does not have are put there.
        fetch: Downloads packages.
        run: Runs mmdebstrap.
        on_line: Is given each line that mmdebstrap says.

    Returns:
        All that mmdebstrap said.

    Raises:
        BuildError: Packages do not install, or a hook failed.
        HostError: The disk is full, or programs of the lock's architecture cannot be run here.
    """
    fetch_packages(lock.packages, store=store, fetch=fetch)
    emulator = emulation.emulator(lock.architecture)
    archive = folder / "archive"
    with explain_full_disk(_WHERE):
        make_archive(lock.packages, archive, unpack=emulator is not None, store=store, run=run)
    for name, ref in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        fetch_blob(store, ref, folder / name)
    (folder / "tmp").mkdir()
    for name, text in (("extract", SLIM), ("customize", customize)):
        (folder / name).write_text(f"#!/bin/sh\nset -eu\nFILES={folder}\n{text}")
        (folder / name).chmod(0o755)

    register = emulator.placed(folder).register() if emulator else ""
    view = _VIEW.replace("@EMULATION@", register.replace("'", "'\\''")).replace(
        "@KEYCTL@", str(_KEYCTL[os.uname().machine])
    )
    memory_bytes = chroot_bytes(lock.packages, available_bytes())
    view = view.replace("@MEMORY@", _MEMORY.format(size_bytes=memory_bytes) if memory_bytes else "")
    argv = [
        *("sh", "-c", view, "sh", str(folder)),
        "mmdebstrap",
        "--mode=root",
        "--variant=essential",
        "--format=tar",
        f"--architectures={lock.architecture}",
        f"--include={','.join(package.name for package in lock.packages)}",
        '--aptopt=APT::Sandbox::User "root"',
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        *(f"--{name}-hook={folder / name}" for name in ("extract", "customize")),
        "--skip=output/dev,check/qemu",
        "",
        "-",
        f"deb [trusted=yes] copy:{archive} ./",
    ]
    env = {
        "SOURCE_DATE_EPOCH": str(lock.epoch),
        "TMPDIR": str(folder / "tmp"),
        "INITRD": "No",
        "HOME": "/root",
        "USER": "root",
    }
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        if on_line:
            on_line(line)

    try:
        run(argv, sandbox=Sandbox.ROOT, network=False, env=env, cwd=folder, stdout=tar, on_line=keep)
    except ProcessError as error:
        raise explain(error, lines) from error
    return "".join(f"{line}\n" for line in lines)


def explain(error: ProcessError, lines: Sequence[str]) -> CoreimageError:
    """Return what went wrong, out of what mmdebstrap said. Pure."""
    text = "\n".join(lines)
    if emulation.REFUSED in lines:
        return emulation.refused()
    if full := disk_full(text, _WHERE):
        return full
    failed = re.search(rf"^{FAILED_HOOK} (\S+) (\d+)$", text, re.M)
    if failed:
        last_lines = "\n".join(f"  | {line}" for line in text[: failed.start()].splitlines()[-10:])
        return BuildError(
            f"ended with status {failed[2]}; its last lines:\n{last_lines}",
            where=f"hook {failed[1]}",
            resolution="mend the hook; it runs as root in the rootfs, without network",
        )
    last_lines = "\n".join(f"  | {line}" for line in [*lines][-20:])
    return BuildError(
        f"mmdebstrap could not install the packages (status {error.status}); its last lines:\n{last_lines}",
        resolution="a package's own script may have failed: the lines above name it",
    )


def chroot_bytes(packages: Sequence[LockedPackage], available_bytes: int) -> int:
    """Return how large a chroot of the packages may become in memory; 0 if it is to be made on the disk. Pure."""
    wanted = _LEAST_BYTES + _GROWTH * sum(package.size_bytes for package in packages)
    return wanted if wanted * _SHARE <= available_bytes else 0


def available_bytes(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much memory this machine, or the control group of a container (cgroup v2), has left; 0 if unknown."""

    def read(path: Path) -> str:
        try:
            return path.read_text()
        except OSError:
            return ""

    match = re.search(r"^MemAvailable: +([0-9]+) kB$", read(meminfo), re.M)
    machine_bytes = int(match[1]) << 10 if match else 0
    limit, used = read(group / "memory.max").strip(), read(group / "memory.current").strip()
    return min(machine_bytes, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else machine_bytes
