"""The delta form of 2015 (system-image §2.5, §6.2): changed files whole, and `removed` first.

Where the original compares size and time, this compares content; where it looks at each tarball alone, this looks at
the tree that all of them make, so that a path may move from one to another.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO

from coreimage.client.layers import REMOVED, LayeredTree
from coreimage.client.tar import tar_member
from coreimage.client.tree import XATTR

_AWKWARD = frozenset(b" \t*?[]'\"\\$`")
"""What the recovery of 2015, a shell script, reads as more than a letter of a name."""
_DEFAULT_ACL = f"{XATTR}system.posix_acl_default"

_WHOLE_FROM, _WHOLE_LEAST_BYTES = 0.9, 1 << 20
"""So much of a tarball's bytes must have changed that it is taken as it is; packing less again takes no time."""


class NotExpressibleError(Exception):
    """`removed` is a list of lines of text: it cannot name every path. Nor can all of a folder be changed in place."""


@dataclass(frozen=True)
class Layer:
    """One tarball of a delta: what it deletes, then what it brings.

    A folder's content follows it at once: GNU tar sets a folder's time when it believes to have left it.
    """

    removed: tuple[bytes, ...]
    written: tuple[bytes, ...]


def plan(base: LayeredTree, target: LayeredTree, layers: int) -> tuple[Layer, ...]:
    """What each of the `layers` tarballs of the delta must delete and bring; one that brings nothing is not needed.

    Applied in order they make `target` of `base`: what goes or becomes something else goes first, so that nothing a
    tarball brought is deleted by a later one. `removed` is never empty, as the updater of 15.04 choked on that
    (LP #1437225). Raises NotExpressibleError.
    """
    written = _written(base, target)
    _require_expressible(written, base, target)
    leaving = _topmost(_leaving(base, target))
    first = min((target.last_layer(name) for name in written), default=0)
    plans = []
    for layer in range(layers):
        brought = {name for name in written if target.last_layer(name) == layer}
        removed = {name for name in brought if name in base and _must_go(name, base, target)}
        removed |= leaving if layer == first else set()
        brought |= {
            parent for name in (*brought, *removed) for parent in _parents(name)[:1] if _is_folder(target, parent)
        }
        plans.append(_layer(removed, brought, base, target))
    return tuple(plans)


def whole_last(plans: Sequence[Layer], base: LayeredTree, target: LayeredTree) -> tuple[Layer, ...] | None:
    """What remains of the plans when the last tarball of the delta is the target's own last one, whole: packing nearly
    all of it again would save nothing. None where that does not pay, where it would lack what another tarball of the
    target brings, or where something in it would inherit the default ACL of its folder.

    What the last would delete, the first does: no other brings those names.
    """
    *others, last = plans
    own = {name for name in target.names if target[name].layer == len(others)}
    whole_bytes, written_bytes = (sum(target[name].entry.size_bytes for name in some) for some in (own, last.written))
    pays = written_bytes >= max(_WHOLE_LEAST_BYTES, _WHOLE_FROM * whole_bytes)
    if not others or not pays or not own.issuperset(last.written) or any(_inherits(name, base, target) for name in own):
        return None
    first = Layer(tuple(sorted({*others[0].removed, *last.removed})), others[0].written)
    return first, *others[1:]


def _layer(removed: set[bytes], written: set[bytes], base: LayeredTree, target: LayeredTree) -> Layer:
    for name in removed:
        if not _is_text(name):
            raise NotExpressibleError(f"{name!r} cannot be named in a list of lines of text")
    if not written and not removed:
        return Layer((), ())
    return Layer(tuple(sorted(removed)) or (_absent(base, target),), tuple(sorted(written, key=_path)))


def _absent(base: LayeredTree, target: LayeredTree) -> bytes:
    name = b"system/.nothing"
    while name in base or name in target:
        name += b"_"
    return name


def write(layer: Layer, target: LayeredTree, file: IO[bytes]) -> None:
    """The tarball, uncompressed. The same bytes for the same trees."""
    newest = max((target[name].entry.mtime for name in layer.written), default=1)
    content = b"".join(name + b"\n" for name in layer.removed)
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        head = tarfile.TarInfo(REMOVED)
        head.size, head.mtime = len(content), newest
        tar.addfile(head, io.BytesIO(content))
        first_names: dict[int, bytes] = {}
        for name in layer.written:
            node = target[name]
            other = first_names.setdefault(node.inode, name)
            member = tar_member(node.entry, link_to=other if other != name else None)
            tar.addfile(member, target.open(name) if member.isreg() else None)


def _written(base: LayeredTree, target: LayeredTree) -> set[bytes]:
    """Every name whose file differs in anything. Names of one file go together, as links are made anew."""
    changed = {
        inode
        for inode, names in target.groups.items()
        for name in names
        if name not in base or base[name].entry != target[name].entry or base.groups[base[name].inode] != names
    }
    return {name for inode in changed for name in target.groups[inode]}


def _leaving(base: LayeredTree, target: LayeredTree) -> set[bytes]:
    """Names that are gone, and those that become something else where a folder is on either side."""
    folders = {parent for name in target.names for parent in _parents(name)}
    folders |= {name for name in target.names if _is_folder(target, name)}
    return {
        name
        for name in base.names
        if (_is_folder(base, name) != (name in folders)) or (name not in folders and name not in target)
    }


def _must_go(name: bytes, base: LayeredTree, target: LayeredTree) -> bool:
    """Files that are replaced are deleted before, as the original does; a folder that stays one is not, nor is a
    name that a shell would take apart, where writing over it does as well."""
    old = base[name].entry
    if old.kind == "folder" or target[name].entry.kind == "folder":
        return False
    alone = old.kind == "file" == target[name].entry.kind and len(base.groups[base[name].inode]) == 1
    return not (alone and _awkward(name))


def _topmost(names: Iterable[bytes]) -> set[bytes]:
    """Deletion is recursive: what is below a deleted folder need not be named (LP #1381134)."""
    gone = set(names)
    return {name for name in gone if not gone & set(_parents(name))}


def _parents(name: bytes) -> list[bytes]:
    """Nearest first."""
    parts = name.split(b"/")
    return [b"/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _path(name: bytes) -> list[bytes]:
    return name.split(b"/")


def _is_folder(tree: LayeredTree, name: bytes) -> bool:
    node = tree.get(name)
    return node is not None and node.entry.kind == "folder"


def _require_expressible(written: set[bytes], base: LayeredTree, target: LayeredTree) -> None:
    """Unpacking over a folder takes no attribute from it, and what is made in one that has a default ACL inherits
    that."""
    for name in target.names:
        if _is_folder(target, name) and _attributes(base, name) - _attributes(target, name):
            raise NotExpressibleError(f"the folder {name!r} loses an attribute")
    one_tarball = len({target.last_layer(name) for name in written}) == 1
    for name in written:
        if _inherits(name, base, *(() if one_tarball else (target,))):
            raise NotExpressibleError(f"{name!r} would inherit the default ACL of its folder")


def _inherits(name: bytes, *trees: LayeredTree) -> bool:
    """Where one of these is there already."""
    return any(_DEFAULT_ACL in _attributes(tree, name.rpartition(b"/")[0]) for tree in trees)


def _attributes(tree: LayeredTree, folder: bytes) -> set[str]:
    return {key for key, _ in tree[folder].entry.records} if _is_folder(tree, folder) else set()


def _awkward(name: bytes) -> bool:
    return bool(_AWKWARD & set(name)) or not _is_text(name)


def _is_text(name: bytes) -> bool:
    try:
        return name.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False
