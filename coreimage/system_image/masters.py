"""Master keys that are kept offline: what they must sign goes there on a medium, and comes back signed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from coreimage.client import primary_fingerprints
from coreimage.errors import HostError, UsageError, VerificationError
from coreimage.model import Value
from coreimage.signing import GnupgSigner, KeyFolder, Role, Signer
from coreimage.storage import Store
from coreimage.system_image.keyrings import SIGNED_BY, publish_signed_keyring, unsigned_keyrings

log = structlog.get_logger("coreimage.system_image")

MASTERS = (Role.ARCHIVE_MASTER, Role.IMAGE_MASTER)
_REQUEST = "to-sign.json"


class Medium(Value):
    """What a medium holds: the types of the keyrings on it, and whether all are signed."""

    keyrings: tuple[str, ...]
    signed: bool


def export_keyrings(folder: Path, *, store: Store, signer: Signer, now: Callable[[], datetime]) -> Medium:
    """Writes the keyrings that a master elsewhere must sign into `folder`, and a list of them. Nothing else is needed
    there but coreimage and GnuPG. Gives an empty medium, and writes nothing, when nothing is to be signed."""
    wanted = unsigned_keyrings(store=store, signer=signer, now=now())
    if wanted:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, tarball in wanted.items():
            _file(folder, kind).write_bytes(tarball)
            _signature(folder, kind).unlink(missing_ok=True)
        (folder / _REQUEST).write_text(json.dumps({"keyrings": sorted(wanted)}) + "\n")
    return Medium(keyrings=tuple(sorted(wanted)), signed=not wanted)


def sign_keyrings(folder: Path, *, signer: Signer) -> Medium:
    """Signs what is on the medium, where the masters are. Raises HostError where one is missing."""
    kinds = _listed(folder)
    for kind in kinds:
        path = _signature(folder, kind)
        path.write_bytes(signer.detached_file(SIGNED_BY[kind], _file(folder, kind)))
    return Medium(keyrings=kinds, signed=True)


def import_keyrings(folder: Path, *, store: Store, signer: Signer, now: Callable[[], datetime]) -> Medium:
    """Publishes what comes back signed. Raises VerificationError for what its master did not sign, or what holds other
    keys than those that count now; UsageError for what is not signed yet."""
    kinds = _listed(folder)
    for kind in [kind for kind in SIGNED_BY if kind in kinds]:
        if not _signature(folder, kind).is_file():
            raise UsageError(
                "is not signed yet",
                where=str(_file(folder, kind)),
                resolution=f"where the masters are: `coreimage keys sign {folder}`",
            )
        tarball, signature = _file(folder, kind).read_bytes(), _signature(folder, kind).read_bytes()
        publish_signed_keyring(kind, tarball, signature, store=store, signer=signer, now=now())
    return Medium(keyrings=kinds, signed=True)


def move_masters(keys_folder: Path, target: Path) -> tuple[Role, ...]:
    """Moves the private master keys to `target`, a keys folder of its own; their public halves stay. Gives their roles.

    Each is copied whole before it is removed here. Raises UsageError when `target` has other masters.
    """
    keys, there = KeyFolder(keys_folder), KeyFolder(target)
    here = tuple(role for role in MASTERS if keys.has(role))
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for role in here:
            _copy_home(keys, there, role)
        for role in here:
            shutil.rmtree(keys.home(role))
    except OSError as error:
        raise HostError(
            f"cannot move the keys: {error.strerror}", where=str(target), resolution="nothing was removed; try again"
        ) from error
    return here


def _copy_home(keys: KeyFolder, there: KeyFolder, role: Role) -> None:
    if there.has(role):
        if GnupgSigner(there.path).fingerprint(role) != GnupgSigner(keys.path).fingerprint(role):
            raise UsageError(
                f"another {role.value} key is there", where=str(there.path), resolution="name an empty folder"
            )
    else:
        partial = there.path / f".new-{role.value}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(keys.home(role), partial)
        partial.chmod(0o700)
        partial.rename(there.home(role))
    public = GnupgSigner(keys.path).public_key(role)
    if GnupgSigner(there.path).fingerprint(role) not in primary_fingerprints(public):
        raise VerificationError("the copy is another key", where=str(there.home(role)), resolution="try another medium")
    keys.public_file(role).parent.mkdir(mode=0o700, exist_ok=True)
    keys.public_file(role).write_bytes(public)


def _listed(folder: Path) -> tuple[str, ...]:
    try:
        kinds = json.loads((folder / _REQUEST).read_bytes())["keyrings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"holds no {_REQUEST}", where=str(folder), resolution="name the folder that `coreimage keys export` wrote"
        ) from error
    if not isinstance(kinds, list) or not set(kinds) <= SIGNED_BY.keys():
        raise VerificationError("names keyrings that there are not", where=str(folder / _REQUEST))
    return tuple(kinds)


def _file(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.tar.xz"


def _signature(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.tar.xz.asc"
