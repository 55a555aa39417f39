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
from coreimage.tarball import LegacyTar

_AWKWARD = frozenset(b" \t*?[]'\"\\$`")
"""What the recovery of 2015, a shell script, reads as more than a letter of a name."""
_DEFAULT_ACL = f"{XATTR}system.posix_acl_default"

_WHOLE_FROM, _WHOLE_LEAST_BYTES = 0.9, 1 << 20
"""So much of a tarball's bytes must have changed that it is taken as it is; packing less again takes no time."""


class NotExpressibleError(Exception):
    """There is no delta in the form of 2015 for this change.

    `removed` is a list of lines of text: it cannot name every path. Nor can all of a folder be changed in place.
    """


@dataclass(frozen=True)
class Layer:
    """One tarball of a delta: what it deletes, then what it brings.

    A folder's content follows it at once: GNU tar sets a folder's time when it believes to have left it.
    """

    removed: tuple[bytes, ...]
    written: tuple[bytes, ...]


def plan(base: LayeredTree, target: LayeredTree, layers: int) -> tuple[Layer, ...]:
    """Plan what each tarball of the delta must delete and bring.

    Applied in order they make `target` of `base`: what goes or becomes something else goes first, so that nothing a
    tarball brought is deleted by a later one. `removed` is never empty, as the updater of 15.04 choked on that
    (LP #1437225).

    Args:
        layers: How many tarballs the target has; the delta has as many.

    Returns:
        One layer for each tarball; one that deletes and brings nothing is not needed.

    Raises:
        NotExpressibleError: This form cannot express the change.
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
    """Plan a delta whose last tarball is the target's own last tarball, unchanged.

    That serves where nearly all of the tarball changed: packing it again would take time and save nothing. What the
    last layer would delete, the first one deletes: no other layer brings those names.

    Args:
        plans: What `plan` made of the same trees.

    Returns:
        The layers that are still to be made, which come before that tarball; None where it does not pay, or where the
        tarball laid over `base` would not make the target: it lacks what another tarball of the target brings, a file
        in it would inherit the default ACL of its folder, or a folder in it has attributes that another tarball may
        have given.
    """
    *others, last = plans
    own = {name for name in target.names if target[name].layer == len(others)}
    whole_bytes, written_bytes = (sum(target[name].entry.size_bytes for name in some) for some in (own, last.written))
    pays = written_bytes >= max(_WHOLE_LEAST_BYTES, _WHOLE_FROM * whole_bytes)
    if not others or not pays or not own.issuperset(last.written):
        return None
    if any(_inherits(name, base, target) for name in own):
        return None
    if any(_attributes(target, name) not in ({}, _attributes(base, name)) for name in own):
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
    """Write the tarball of a layer, uncompressed. The same bytes for the same trees."""
    newest = max((target[name].entry.mtime for name in layer.written), default=1)
    content = b"".join(name + b"\n" for name in layer.removed)
    with LegacyTar.writing(file) as tar:
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
    """Return every name whose file differs in anything. Names of one file go together, as links are made anew."""
    changed = {
        inode
        for inode, names in target.groups.items()
        for name in names
        if name not in base or base[name].entry != target[name].entry or base.groups[base[name].inode] != names
    }
    return {name for inode in changed for name in target.groups[inode]}


def _leaving(base: LayeredTree, target: LayeredTree) -> set[bytes]:
    """Return the names that are gone, and those that become something else where a folder is on either side."""
    folders = {parent for name in target.names for parent in _parents(name)}
    folders |= {name for name in target.names if _is_folder(target, name)}
    return {
        name
        for name in base.names
        if (_is_folder(base, name) != (name in folders)) or (name not in folders and name not in target)
    }


def _must_go(name: bytes, base: LayeredTree, target: LayeredTree) -> bool:
    """Return whether a name is deleted before it is written.

    Files that are replaced are, as the original does. A folder that stays one is not, nor is a name that a shell would
    take apart, where writing over it does as well.
    """
    old = base[name].entry
    if old.kind == "folder" or target[name].entry.kind == "folder":
        return False
    alone = old.kind == "file" == target[name].entry.kind and len(base.groups[base[name].inode]) == 1
    return not (alone and _awkward(name))


def _topmost(names: Iterable[bytes]) -> set[bytes]:
    """Return the names that are not below another one: deletion is recursive (LP #1381134)."""
    deleted = set(names)
    return {name for name in deleted if not deleted & set(_parents(name))}


def _parents(name: bytes) -> list[bytes]:
    """Return the folders that a name is in, the nearest first."""
    parts = name.split(b"/")
    return [b"/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _path(name: bytes) -> list[bytes]:
    return name.split(b"/")


def _is_folder(tree: LayeredTree, name: bytes) -> bool:
    node = tree.get(name)
    return node is not None and node.entry.kind == "folder"


def _require_expressible(written: set[bytes], base: LayeredTree, target: LayeredTree) -> None:
    """Refuse changes that unpacking cannot make.

    Unpacking takes no attribute from a folder, and what it makes in a folder that has a default ACL inherits that.
    """
    for name in target.names:
        if _is_folder(target, name) and _attributes(base, name).keys() - _attributes(target, name).keys():
            raise NotExpressibleError(f"the folder {name!r} loses an attribute")
    one_tarball = len({target.last_layer(name) for name in written}) == 1
    for name in written:
        if _inherits(name, base, *(() if one_tarball else (target,))):
            raise NotExpressibleError(f"{name!r} would inherit the default ACL of its folder")


def _inherits(name: bytes, *trees: LayeredTree) -> bool:
    """Return whether the folder of a name has a default ACL in one of the trees."""
    return any(_DEFAULT_ACL in _attributes(tree, name.rpartition(b"/")[0]) for tree in trees)


def _attributes(tree: LayeredTree, folder: bytes) -> dict[str, bytes]:
    """Return the extended attributes of a folder; none for what is no folder."""
    return dict(tree[folder].entry.records) if _is_folder(tree, folder) else {}


def _awkward(name: bytes) -> bool:
    return bool(_AWKWARD & set(name)) or not _is_text(name)


def _is_text(name: bytes) -> bool:
    try:
        return name.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False
