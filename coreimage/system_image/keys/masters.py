"""Master keys that are kept offline: what they must sign goes there on a medium, and comes back signed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from coreimage.client import primary_fingerprints
from coreimage.errors import HostError, UsageError, VerificationError
from coreimage.host.durable import sync_folder, sync_tree
from coreimage.model import Value
from coreimage.signing import GnupgSigner, KeyFolder, Role, Signer
from coreimage.system_image.keys.keyrings import SIGNED_BY, publish_signed_keyring, unsigned_keyrings
from coreimage.system_image.server import ChannelTree

MASTERS = (Role.ARCHIVE_MASTER, Role.IMAGE_MASTER)
_REQUEST = "to-sign.json"


class Medium(Value):
    """What a medium holds: the kinds of the keyrings on it, and whether all of them are signed."""

    keyrings: tuple[str, ...]
    signed: bool


def export_keyrings(tree: ChannelTree, folder: Path) -> Medium:
    """Write the keyrings that a master elsewhere must sign, and a list of them, into `folder`.

    Nothing else is needed there but coreimage and GnuPG. Nothing is written when nothing is to be signed.
    """
    wanted = unsigned_keyrings(tree)
    if wanted:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, tarball in wanted.items():
            _tarball(folder, kind).write_bytes(tarball)
            _signature(folder, kind).unlink(missing_ok=True)
        (folder / _REQUEST).write_text(json.dumps({"keyrings": sorted(wanted)}) + "\n")
    return Medium(keyrings=tuple(sorted(wanted)), signed=not wanted)


def sign_keyrings(folder: Path, *, signer: Signer) -> Medium:
    """Sign what is on the medium, where the masters are. Raises HostError where a master is missing."""
    kinds = _requested(folder)
    for kind in kinds:
        signature = signer.detached_file(SIGNED_BY[kind], _tarball(folder, kind))
        _signature(folder, kind).write_bytes(signature)
    return Medium(keyrings=kinds, signed=True)


def import_keyrings(tree: ChannelTree, folder: Path) -> Medium:
    """Publish the keyrings that come back signed.

    Raises:
        UsageError: A keyring is not signed yet.
        VerificationError: A keyring was not signed by its master, or holds other keys than those that count now.
    """
    kinds = _requested(folder)
    for kind in [kind for kind in SIGNED_BY if kind in kinds]:
        tarball, signature = _tarball(folder, kind), _signature(folder, kind)
        if not signature.is_file():
            raise UsageError(
                "the keyring is not signed yet",
                where=str(tarball),
                resolution=f"where the masters are: `coreimage keys sign {folder}`",
            )
        publish_signed_keyring(tree, kind, tarball.read_bytes(), signature.read_bytes())
    return Medium(keyrings=kinds, signed=True)


def move_masters(keys_folder: Path, target: Path) -> tuple[Role, ...]:
    """Move the private master keys to `target`, a keys folder of its own. Their public halves stay.

    Each key is copied whole before it is removed from `keys_folder`.

    Returns:
        The roles of the keys that were moved.

    Raises:
        UsageError: `target` has other masters.
    """
    keys, copies = KeyFolder(keys_folder), KeyFolder(target)
    roles = tuple(role for role in MASTERS if keys.has(role))
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for role in roles:
            _copy_key(keys, copies, role)
        for role in roles:
            shutil.rmtree(keys.home(role))
    except OSError as error:
        raise HostError(
            f"cannot move the keys: {error.strerror}", where=str(target), resolution="nothing was removed; try again"
        ) from error
    return roles


def _copy_key(keys: KeyFolder, copies: KeyFolder, role: Role) -> None:
    """Copy a private key, and write its public half to a file beside the original."""
    if copies.has(role):
        if GnupgSigner(copies.path).fingerprint(role) != GnupgSigner(keys.path).fingerprint(role):
            raise UsageError(
                f"another {role.value} key is there", where=str(copies.path), resolution="name an empty folder"
            )
    else:
        partial = copies.path / f".new-{role.value}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(keys.home(role), partial)
        partial.chmod(0o700)
        sync_tree(partial)
        partial.rename(copies.home(role))
        sync_folder(copies.path)
    public = GnupgSigner(keys.path).public_key(role)
    if GnupgSigner(copies.path).fingerprint(role) not in primary_fingerprints(public):
        raise VerificationError(
            "the copy is another key", where=str(copies.home(role)), resolution="try another medium"
        )
    keys.public_file(role).parent.mkdir(mode=0o700, exist_ok=True)
    keys.public_file(role).write_bytes(public)
    sync_tree(keys.public_file(role).parent)
    sync_folder(keys.path)


def _requested(folder: Path) -> tuple[str, ...]:
    """Return the kinds of the keyrings that the medium's list names."""
    try:
        kinds = json.loads((folder / _REQUEST).read_bytes())["keyrings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"the folder holds no {_REQUEST}",
            where=str(folder),
            resolution="name the folder that `coreimage keys export` wrote",
        ) from error
    if not isinstance(kinds, list) or not set(kinds) <= SIGNED_BY.keys():
        raise VerificationError(
            "the list names keyrings that do not exist",
            where=str(folder / _REQUEST),
            resolution="write the medium again with `coreimage keys export`",
        )
    return tuple(kinds)


def _tarball(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.tar.xz"


def _signature(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.tar.xz.asc"
