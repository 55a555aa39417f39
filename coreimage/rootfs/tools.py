"""The tools tree: the programs that shape bytes, the same on every machine.

It is what the .debs of its lock hold and nothing else: no maintainer script runs, so nothing of the machine that makes
it can show. Its own tar and pigz pack it.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from coreimage.errors import BuildError, HostError, ProcessError
from coreimage.http import Fetch
from coreimage.model import JSON, TAR_GZ, Architecture, ArtifactRef, PackageLock, ToolsTree
from coreimage.process import Run, Sandbox, run_in
from coreimage.rootfs.chroot import fetch_packages, lay_out_packages
from coreimage.rootfs.emulation import MACHINES
from coreimage.rootfs.lock import read_lock
from coreimage.rootfs.spec import TOOLS, TOOLS_OF
from coreimage.storage import Store, put_blob_file
from coreimage.workspace import workspace

TREE, LOCK = "tree", "tree's lock"
"""The names of their digests among a lock's tools."""

_UNPACK = r"""
set -eu
umask 022
tree=$1; shift
mkdir -p "$tree/usr/bin" "$tree/usr/sbin" "$tree/usr/lib" "$tree/usr/lib64" "$tree/etc"
for name in bin sbin lib lib64; do ln -s "usr/$name" "$tree/$name"; done
for deb in "$@"; do
    dpkg-deb --fsys-tarfile "$deb" | tar --extract --directory "$tree" --keep-directory-symlink --no-same-owner \
        --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/info' \
        --exclude='./usr/share/locale' --exclude='./usr/share/lintian' --exclude='./var' --exclude='./dev'
done
cp "$tree/usr/share/base-passwd/passwd.master" "$tree/etc/passwd"
cp "$tree/usr/share/base-passwd/group.master" "$tree/etc/group"
[ -e "$tree/usr/bin/awk" ] || ln -s mawk "$tree/usr/bin/awk"
"""
"""In the order of the lock; /bin and its like are links into /usr, whether or not base-files brings them."""

_PACK = r"""
set -eu
cd "$1"
tar --create --format=gnu --sort=name --hard-dereference --owner=0 --group=0 --numeric-owner \
    --mode=u=rwX,go=rX --mtime="@$2" usr etc | pigz -n -p 2 > "$3"
"""


def machine_architecture() -> Architecture:
    """Of the programs that run here. Raises HostError for one that no tools are known for."""
    machine = platform.machine()
    if machine not in MACHINES:
        raise HostError(f"there are no tools for {machine}", resolution=f"build on {' or '.join(MACHINES)}")
    return MACHINES[machine]


def build_tools(lock: ArtifactRef, *, store: Store, fetch: Fetch, run: Run) -> ToolsTree:
    """The tree of a lock: the store's, when it was made before, by whatever machine; else made here.

    Needs dpkg-deb and tar, of any version. Raises BuildError for packages that do not make a tree that works.
    """
    found = stored_tools(lock, store)
    if found is not None:
        return found
    locked = read_lock(store, lock)
    fetch_packages(locked.packages, store=store, fetch=fetch)
    with workspace("tools", run=run) as folder:
        debs = lay_out_packages(locked.packages, folder / "debs", store=store)
        run(["sh", "-c", _UNPACK, "sh", folder / "tree", *debs], sandbox=Sandbox.FAMILY)
        packed = _pack(folder / "tree", folder / "tree.tar.gz", locked.epoch)
        tools = ToolsTree(tree=put_blob_file(store, packed, TAR_GZ), lock=lock)
    store.put_bytes(_place(lock), f"{tools.model_dump_json(indent=1)}\n".encode(), media_type=JSON)
    return tools


def stored_tools(lock: ArtifactRef, store: Store) -> ToolsTree | None:
    """What an earlier build made of the lock, if it is still there."""
    if store.head(_place(lock)) is None:
        return None
    with store.open(_place(lock)) as file:
        tools = ToolsTree.model_validate_json(file.read())
    return tools if store.head(tools.tree.uri) else None


def tool_versions(tools: ToolsTree, store: Store) -> dict[str, str]:
    """Version by tool, sorted by name, and the digest of the tree that they run from."""
    return versions_of(tools, read_lock(store, tools.lock))


def versions_of(tools: ToolsTree, locked: PackageLock) -> dict[str, str]:
    """Pure: the same, `locked` being the tree's lock."""
    wanted = {*TOOLS, *TOOLS_OF[locked.architecture]}
    versions = {package.name: package.version for package in locked.packages if package.name in wanted}
    return dict(sorted({**versions, LOCK: tools.lock.sha256, TREE: tools.tree.sha256}.items()))


def _pack(tree: Path, target: Path, epoch: int) -> Path:
    try:
        run_in(tree)(["sh", "-c", _PACK, "sh", tree, str(epoch), target])
    except ProcessError as error:
        raise BuildError(
            f"the tools do not run: {error}",
            where="tools tree",
            resolution="let `tools` in the project file name archives of Debian 12, Ubuntu 24.04 or newer",
        ) from error
    return target


def _place(lock: ArtifactRef) -> str:
    """Another recipe makes another tree of the same packages."""
    return f"tools/{lock.sha256}-{hashlib.sha256((_UNPACK + _PACK).encode()).hexdigest()[:12]}.json"
