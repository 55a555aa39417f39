"""The rootfs tarball: packages, system files, overlay, hooks; cleaned of everything that belongs to one machine."""

from __future__ import annotations

import hashlib
import io
import shlex
import tarfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import IO

from coreimage.host.disk_space import explain_full_disk
from coreimage.host.process import Run
from coreimage.host.workspace import workspace
from coreimage.http import Fetch
from coreimage.model import LOG, TAR_GZ, TEXT, ArtifactRef, RootfsBuild
from coreimage.packages import dpkg_manifest
from coreimage.rootfs.chroot import FAILED_HOOK, make_chroot
from coreimage.rootfs.lock import read_lock
from coreimage.rootfs.spec import RootfsSpec
from coreimage.storage import Store, put_blob_bytes, put_blob_file
from coreimage.tarball import TarWriter, directory, gzip_writer, normalise, written_by

DPKG_STATUS = "var/lib/dpkg/status"

CLEAN = """
cd "$1"
rm -f etc/passwd- etc/shadow- etc/group- etc/gshadow- etc/subuid- etc/subgid- etc/.pwd.lock
rm -f etc/ssh/ssh_host_*_key etc/ssh/ssh_host_*_key.pub var/lib/dbus/machine-id var/lib/systemd/random-seed
rm -f etc/dpkg/dpkg.cfg.d/99mmdebstrap etc/dpkg/dpkg.cfg.d/coreimage
rm -f etc/apt/sources.list etc/apt/apt.conf.d/99mmdebstrap
rm -f var/lib/dpkg/*-old var/lib/dpkg/lock* var/lib/dpkg/triggers/Lock var/cache/ldconfig/aux-cache
rm -rf var/lib/apt var/cache/apt
find var/log -type f -delete
find tmp var/tmp run -mindepth 1 ! -path "tmp/mmdebstrap.*" -delete 2>/dev/null || true
: > etc/machine-id
rm -f etc/resolv.conf etc/hostname
"""
"""Removes what packages leave behind that is of one build or one machine."""

_UNPACK = 'tar --extract --touch --keep-directory-symlink --no-overwrite-dir --directory "$1" --file "$FILES/{name}"\n'

_HOOK = """
cp "$FILES/hooks/{number}" "$1/tmp/coreimage-hook"
chmod 0755 "$1/tmp/coreimage-hook"
status=0
chroot "$1" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \\
    SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" /tmp/coreimage-hook </dev/null 1>&2 || status=$?
rm -f "$1/tmp/coreimage-hook"
if [ "$status" -ne 0 ]; then echo {failed} {name} "$status" >&2; exit 1; fi
"""


def build_rootfs(
    spec: RootfsSpec,
    lock: ArtifactRef,
    *,
    store: Store,
    fetch: Fetch,
    run: Run,
    on_line: Callable[[str], None] | None = None,
) -> RootfsBuild:
    """Build the rootfs of a product for one architecture: the same bytes for the same spec and lock.

    Args:
        spec: What is built; its files are in the store.
        lock: The PackageLock that was planned for the spec.
        store: Where the artifacts go, and packages that are not there yet.
        fetch: Downloads packages.
        run: Runs mmdebstrap and pigz.
        on_line: Is given each line that mmdebstrap says.

    Raises:
        BuildError: Packages do not install, or a hook failed.
        HostError: The disk is full, or programs of the architecture cannot be run here.
    """
    locked = read_lock(store, lock)
    files = {"system.tar": spec.system_files}
    if spec.overlay:
        files["overlay.tar"] = spec.overlay
    files.update({f"hooks/{number}": hook.script for number, hook in enumerate(spec.hooks)})
    script, log_lines = customize(spec), list[str]()
    with workspace("rootfs", run=run) as folder:

        def make(tar: IO[bytes]) -> None:
            log = make_chroot(locked, folder, script, files, tar, store=store, fetch=fetch, run=run, on_line=on_line)
            log_lines.append(log)

        apt = any(package.name == "apt" for package in locked.packages)
        with explain_full_disk("while packing the rootfs"), written_by(make) as tar:
            manifest, filelist = pack(tar, folder / "rootfs.tar.gz", locked.epoch, apt=apt, run=run)
        return RootfsBuild(
            architecture=spec.architecture,
            rootfs=put_blob_file(store, folder / "rootfs.tar.gz", TAR_GZ),
            manifest=put_blob_bytes(store, manifest.encode(), TEXT),
            filelist=put_blob_bytes(store, filelist.encode(errors="surrogateescape"), TEXT),
            lock=lock,
            log=put_blob_bytes(store, "".join(log_lines).encode(), LOG),
        )


def customize(spec: RootfsSpec) -> str:
    """Return the script that runs once the packages are installed. Pure."""
    unpack = [_UNPACK.format(name="system.tar"), *([_UNPACK.format(name="overlay.tar")] if spec.overlay else [])]
    hooks = [
        _HOOK.format(number=number, failed=FAILED_HOOK, name=shlex.quote(hook.name))
        for number, hook in enumerate(spec.hooks)
    ]
    return "".join([*unpack, _UNITS, *hooks, CLEAN, _finish(spec.hostname)])


# ldconfig: a cache written on the device would hide the next image's, /etc being an overlay.
_UNITS = """
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \\
    fstrim.timer man-db.timer systemd-hwdb-update.service systemd-update-done.service systemd-firstboot.service \\
    ldconfig.service systemd-journal-catalog-update.service; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
done
chroot "$1" systemctl enable systemd-networkd.service coreimage-ssh-keys.service >&2
if [ -e "$1/usr/lib/systemd/system/systemd-resolved.service" ]; then
    chroot "$1" systemctl enable systemd-resolved.service >&2
fi
chroot "$1" systemctl disable systemd-networkd-wait-online.service >&2
"""


def _finish(hostname: str) -> str:
    return f"""
echo {shlex.quote(hostname)} > etc/hostname
ln -s ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf
mkdir -p writable boot usr/lib/modules usr/lib/firmware
while read -r path rest; do
    case "$path" in /*) [ -e ".$path" ] || mkdir -p ".$path" ;; esac
done < etc/system-image/writable-paths
for name in passwd group shadow gshadow; do : > var/lib/extrausers/$name; done
chmod 0640 var/lib/extrausers/shadow var/lib/extrausers/gshadow
chgrp 42 var/lib/extrausers/shadow var/lib/extrausers/gshadow
"""


def pack(source: IO[bytes], target: Path, epoch: int, *, apt: bool, run: Run) -> tuple[str, str]:
    """Write the rootfs tarball while the chroot is read, in its order.

    Args:
        source: The chroot as an uncompressed tar, sorted by name.
        target: Where the tarball is written.
        epoch: The time of everything in it, in UNIX seconds.
        apt: Whether the rootfs has apt, so that its settings are kept.
        run: Runs pigz.

    Returns:
        The manifest of packages, and the list of files: lines `name<TAB>mode<TAB>uid:gid<TAB>size<TAB>sha256 or link
        target`, sorted.
    """
    manifest, entries = "", list[str]()
    with (
        tarfile.open(fileobj=source, mode="r|") as tar,
        gzip_writer(target, run=run) as zipped,
        TarWriter(zipped, epoch=epoch) as out,
    ):
        for member in chain([_DEV], tar):
            if not kept(member, apt=apt):
                continue
            clean = normalise(member, epoch=epoch)
            content = tar.extractfile(member) if member.isreg() else None
            if clean.name == DPKG_STATUS and content:
                status = content.read()
                manifest, content = dpkg_manifest(status.decode()), io.BytesIO(status)
            reader = DigestReader(content) if content else None
            out.add(clean, reader)  # type: ignore[arg-type]
            link = f"-> {clean.linkname}" if clean.linkname else "directory"
            what = reader.digest.hexdigest() if reader else link
            entries.append(f"{clean.name}\t{clean.mode:04o}\t{clean.uid}:{clean.gid}\t{clean.size}\t{what}\n")
    return manifest, "".join(sorted(entries))


_DEV = directory("dev")
"""mmdebstrap leaves it out together with the nodes in it; the kernel mounts over it."""


class DigestReader:
    """A file that is digested while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read as a file does."""
        chunk = self._file.read(size)
        self.digest.update(chunk)
        return chunk


def kept(member: tarfile.TarInfo, *, apt: bool) -> bool:
    """Return whether a member of the chroot belongs into the rootfs. Pure.

    The root itself does not, nor do device nodes: the running system makes /dev. /etc/apt does if the rootfs has `apt`.
    """
    name = member.name.removeprefix("./")
    if not apt and (name == "etc/apt" or name.startswith("etc/apt/")):
        return False
    return name not in {"", "."} and not name.startswith("dev/") and not (member.isdev())
