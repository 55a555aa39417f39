"""The tools tree: the programs that shape bytes, the same on every machine.

It is what the .debs of its lock hold and nothing else: no maintainer script runs, so nothing of the machine that makes
it can show. Its own tar and pigz pack it.
"""

from __future__ import annotations

import hashlib
import platform

from coreimage.architecture.facts import BY_MACHINE
from coreimage.errors import BuildError, HostError, ProcessError
from coreimage.host.process import Run, run_in
from coreimage.host.sandbox import Sandbox
from coreimage.host.workspace import workspace
from coreimage.http import Fetch
from coreimage.model import JSON, TAR_GZ, Architecture, ArtifactRef, PackageLock, ToolsTree
from coreimage.rootfs.debs import fetch_packages, lay_out_packages
from coreimage.rootfs.lock import read_lock
from coreimage.rootfs.spec import tools_of
from coreimage.storage import Store, put_blob_file

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
    """Return the architecture of this machine's programs. Raises HostError when no tools are known for it."""
    machine = platform.machine()
    if machine not in BY_MACHINE:
        raise HostError(f"there are no tools for {machine}", resolution=f"build on {' or '.join(BY_MACHINE)}")
    return BY_MACHINE[machine]


def build_tools(lock: ArtifactRef, *, store: Store, fetch: Fetch, run: Run) -> ToolsTree:
    """Return the tools tree of a lock; it is made here unless some machine made it before.

    Args:
        lock: The PackageLock of the tools.
        store: Where trees are.
        fetch: Downloads packages.
        run: Runs dpkg-deb and tar, of any version.

    Raises:
        BuildError: The packages do not make a tree that works.
    """
    stored = stored_tools(lock, store)
    if stored is not None:
        return stored
    locked = read_lock(store, lock)
    fetch_packages(locked.packages, store=store, fetch=fetch)
    with workspace("tools", run=run) as folder:
        debs = lay_out_packages(locked.packages, folder / "debs", store=store)
        run(["sh", "-c", _UNPACK, "sh", folder / "tree", *debs], sandbox=Sandbox.PID_NAMESPACE)
        tree, packed = folder / "tree", folder / "tree.tar.gz"
        try:
            run_in(tree)(["sh", "-c", _PACK, "sh", tree, str(locked.epoch), packed])
        except ProcessError as error:
            raise BuildError(
                f"the tools do not run: {error}",
                where="tools tree",
                resolution="let `tools` in the project file name archives of Debian 12, Ubuntu 24.04 or newer",
            ) from error
        tools = ToolsTree(tree=put_blob_file(store, packed, TAR_GZ), lock=lock)
    store.put_bytes(_record_key(lock), f"{tools.model_dump_json(indent=1)}\n".encode(), media_type=JSON)
    return tools


def stored_tools(lock: ArtifactRef, store: Store) -> ToolsTree | None:
    """Return the tree that was made of a lock before, or None when there is none or it was removed."""
    if store.head(_record_key(lock)) is None:
        return None
    with store.open(_record_key(lock)) as file:
        tools = ToolsTree.model_validate_json(file.read())
    return tools if store.head(tools.tree.uri) else None


def tool_versions(tools: ToolsTree, store: Store) -> dict[str, str]:
    """Return what a lock says of the tools that it is built with.

    Returns:
        Versions by tool, and the digests of the tree and of its lock, sorted by name.
    """
    return versions_of(tools, read_lock(store, tools.lock))


def versions_of(tools: ToolsTree, locked: PackageLock) -> dict[str, str]:
    """Return the same from a lock that was read already. Pure."""
    wanted = tools_of(locked.architecture)
    versions = {package.name: package.version for package in locked.packages if package.name in wanted}
    return dict(sorted({**versions, LOCK: tools.lock.sha256, TREE: tools.tree.sha256}.items()))


def _record_key(lock: ArtifactRef) -> str:
    """Where the store says which tree was made of a lock. Another recipe makes another tree of the same packages."""
    return f"tools/{lock.sha256}-{hashlib.sha256((_UNPACK + _PACK).encode()).hexdigest()[:12]}.json"
