"""Keys over time: replaced while both count, revoked at once, and everything signed anew by the key that signs now.

Each operation is a row of steps of which every one can be repeated: after a kill, the same command goes on.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import structlog

from coreimage.client import primary_fingerprints
from coreimage.client.fetch import SIGNATURE_LIMIT_BYTES
from coreimage.errors import HostError, NotFoundError, UsageError, VerificationError
from coreimage.host.process import Run
from coreimage.host.process import run as run_process
from coreimage.model import OPENPGP_MESSAGE, OPENPGP_SIGNATURE, Value
from coreimage.signing import (
    KEY_BITS,
    GnupgSigner,
    KeyFolder,
    RetiredKey,
    Role,
    adopt_lost_key,
    create_next_key,
    exported_key,
    issuer_of,
    make_keyring,
    open_inline,
    switch_keys,
)
from coreimage.storage import Store, read_bytes
from coreimage.system_image.channels.candidates import waiting_candidates
from coreimage.system_image.channels.changes import change_channels
from coreimage.system_image.channels.document import heal_pair, read_channels
from coreimage.system_image.documents import layout
from coreimage.system_image.keys.keyrings import (
    SIGNED_BY,
    blacklisted_keys,
    is_right,
    publish_keyrings,
    published_keys,
    put_keyring,
)
from coreimage.system_image.keys.owner import require_own_store
from coreimage.system_image.server import ChannelTree

log = structlog.get_logger("coreimage.system_image")

OVERLAP = timedelta(days=90)
"""How long a former key counts beside the new one: devices that are off meanwhile still find what they can verify."""
_BUILDS = "cdimage/"
_BUILD_SIGNATURE = "/SHA256SUMS.gpg"


class Rotation(Value):
    """What a rotation or a revocation did.

    `fingerprint` is of the key that signs now; `until`, in UNIX seconds, is how long the one before counts beside it;
    `signed_anew` counts the signatures that were replaced.
    """

    role: str
    changed: bool
    fingerprint: str
    until: int | None = None
    signed_anew: int = 0


def rotate_key(
    tree: ChannelTree,
    role: Role,
    keys_folder: Path,
    *,
    overlap: timedelta = OVERLAP,
    within_overlap: bool = False,
    bits: int | None = None,
    run: Run = run_process,
) -> Rotation:
    """Replace the key of a role: clients are told of both first, then the new one signs, and all is signed anew.

    Doing it again while the overlap lasts finishes what a kill left, and begins no other rotation.

    Args:
        tree: Its signer is not used: after each step the keys are read again from `keys_folder`.
        overlap: How long the former key counts beside the new one.
        within_overlap: Begin a rotation though the overlap of another one lasts.
        bits: The size of the new key; None: what the role has by default.

    Raises:
        UsageError: The role is archive-master, which only a new image can replace; or the store has another one.
        HostError: The key, or the master that must sign its keyring, is not on this machine.
    """
    keys = KeyFolder(keys_folder)
    if keys.knows(Role.ARCHIVE_MASTER):
        require_own_store(tree.store, GnupgSigner(keys_folder, run))
    _adopt_lost_keys(_with_keys(tree, keys_folder, run), keys, role, overlap)
    bits = bits or KEY_BITS[role]
    if not keys.has(role) and keys.overlapping(role):
        create_next_key(keys_folder, role, bits=bits, run=run)
    if role is Role.ARCHIVE_MASTER:
        raise UsageError(
            "archive-master is in every image: a new one needs new images",
            resolution="docs/keys.md says how; what you can replace are image-master, image-signing and cdimage",
        )
    if not keys.has(role):
        raise HostError(
            f"the private {role.value} key is not on this machine",
            where=str(keys.home(role)),
            resolution="rotate it where it is kept, or make keys with `coreimage keys init`",
        )
    is_overlapping = any((key.until or 0) > tree.now().timestamp() for key in keys.overlapping(role))
    is_new = within_overlap or not is_overlapping
    if is_new:
        end_overlaps(tree, keys_folder, run=run)
        create_next_key(keys_folder, role, bits=bits, run=run)
        if role.value in SIGNED_BY:
            _publish_both_keys(_with_keys(tree, keys_folder, run), role)
        switch_keys(keys_folder, role, int((tree.now() + overlap).timestamp()), run=run)
    tree = _with_keys(tree, keys_folder, run)
    publish_keyrings(tree)
    signed_anew = sign_anew(tree)
    former, *_ = keys.overlapping(role)
    return Rotation(
        role=role.value,
        changed=is_new,
        fingerprint=tree.signer.fingerprint(role),
        until=former.until,
        signed_anew=signed_anew,
    )


def end_overlaps(tree: ChannelTree, keys_folder: Path, *, run: Run = run_process) -> tuple[str, ...]:
    """Let former keys whose overlap is over count no more; everything is signed anew before.

    Returns:
        The fingerprints of these keys.
    """
    keys = KeyFolder(keys_folder)
    over = [key for role in Role for key in keys.overlapping(role) if (key.until or 0) <= tree.now().timestamp()]
    if not over:
        return ()
    sign_anew(_with_keys(tree, keys_folder, run))
    for key in over:
        (key.home / "until").unlink(missing_ok=True)
        log.info("former key counts no more", role=key.role.value, fingerprint=key.fingerprint)
    publish_keyrings(_with_keys(tree, keys_folder, run))
    return tuple(key.fingerprint for key in over)


def overlaps(keys_folder: Path) -> tuple[RetiredKey, ...]:
    """Return the former keys that still count."""
    keys = KeyFolder(keys_folder)
    return tuple(key for role in Role for key in keys.overlapping(role))


def revoke_key(
    tree: ChannelTree,
    fingerprint: str,
    keys_folder: Path,
    *,
    public_key: bytes | None = None,
    bits: int | None = None,
    run: Run = run_process,
) -> Rotation:
    """Let clients refuse a key from now on. One that signs is replaced first, and all it signed is signed anew.

    Args:
        tree: Its signer is not used: after each step the keys are read again from `keys_folder`.
        fingerprint: 40 hexadecimal digits, upper case.
        public_key: The binary export of a key that is not in `keys_folder`.
        bits: The size of a new key; None: what its role has by default.

    Raises:
        NotFoundError: The public key is neither in `keys_folder` nor given.
        UsageError: The store has another archive-master.
    """
    keys = KeyFolder(keys_folder)
    signer = GnupgSigner(keys_folder, run)
    require_own_store(tree.store, signer)
    current = next((role for role in Role if keys.has(role) and signer.fingerprint(role) == fingerprint), None)
    if current is not None:
        rotate_key(tree, current, keys_folder, within_overlap=True, bits=bits, run=run)
    retired = next((key for role in Role for key in keys.retired(role) if key.fingerprint == fingerprint), None)
    exported = public_key or (exported_key(retired.home, run) if retired else None)
    if exported is None or fingerprint not in primary_fingerprints(exported):
        raise NotFoundError(
            f"the public key {fingerprint} is not at hand", resolution="name it with --key FILE, a binary export"
        )
    signed_anew = sign_anew(_with_keys(tree, keys_folder, run))
    if retired is not None:
        (retired.home / "until").unlink(missing_ok=True)
    tree = _with_keys(tree, keys_folder, run)
    listed = blacklisted_keys(tree.store)
    is_new = fingerprint not in primary_fingerprints(listed)
    if is_new:
        tarball = make_keyring("blacklist", listed + exported)
        put_keyring(tree, "blacklist", tarball, tree.signer.detached(SIGNED_BY["blacklist"], tarball))
        log.info("key revoked", fingerprint=fingerprint)
    publish_keyrings(tree)
    role = current or (retired.role if retired else Role.IMAGE_SIGNING)
    return Rotation(role=role.value, changed=is_new, fingerprint=tree.signer.fingerprint(role), signed_anew=signed_anew)


def sign_anew(tree: ChannelTree) -> int:
    """Replace signatures by former keys with signatures by the keys that sign now, and renew the channels' end.

    Nothing is signed that did not verify before. Candidates that can still be released are signed anew, too.

    Returns:
        How many signatures were replaced.

    Raises:
        VerificationError: A signature is not right. What was signed before stays signed.
    """
    due = [key for key in _signature_keys(tree.store) if _is_by_former_key(tree, key)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as executor:
        jobs = [executor.submit(copy_context().run, _replace_signature, tree, key) for key in due]
        for job in jobs:
            job.result()
    current = read_channels(tree)
    candidates = [key for key in waiting_candidates(current, tree.store) if _sign_candidate_anew(tree, key)]
    if current.etag is not None:
        change_channels(tree, lambda current: current.channels, anew=True)
        heal_pair(tree)
    return len(due) + len(candidates)


def _with_keys(tree: ChannelTree, keys_folder: Path, run: Run) -> ChannelTree:
    """Return the tree with a signer that reads the keys as they are now: a signer reads each of them once."""
    return replace(tree, signer=GnupgSigner(keys_folder, run))


def _adopt_lost_keys(tree: ChannelTree, keys: KeyFolder, role: Role, overlap: timedelta) -> None:
    """Keep the public half of keys that only the published keyring still knows: what they signed can be verified by it,
    and signed anew."""
    if role is Role.ARCHIVE_MASTER or role.value not in SIGNED_BY or not keys.knows(SIGNED_BY[role.value]):
        return
    published = published_keys(tree, role.value)
    known = primary_fingerprints(tree.signer.public_key(role)) if keys.knows(role) else frozenset()
    lost = primary_fingerprints(published) - known - {key.fingerprint for key in keys.retired(role)}
    for fingerprint in lost:
        adopt_lost_key(keys.path, role, fingerprint, published, int((tree.now() + overlap).timestamp()))


def _publish_both_keys(tree: ChannelTree, role: Role) -> None:
    """Publish the keyring of the former and the new key, before the new one signs anything."""
    master = SIGNED_BY[role.value]
    if not tree.signer.has(master) and not is_right(tree, role.value):
        raise HostError(
            f"{master.value}, which must sign the keyring of the new key, is elsewhere",
            resolution="`coreimage keys export FOLDER`, sign that there, `coreimage keys import FOLDER`; rotate again",
        )
    publish_keyrings(tree)


def _signature_keys(store: Store) -> Iterator[str]:
    """Yield the store's keys of detached signatures, those of keyrings aside."""
    for info in store.list(layout.ROOT):
        if info.key.endswith(".asc") and not info.key.startswith(layout.key("gpg/")):
            yield info.key
    for info in store.list(_BUILDS):
        if info.key.endswith(_BUILD_SIGNATURE):
            yield info.key


def _is_by_former_key(tree: ChannelTree, signature_key: str) -> bool:
    """Return whether another key of the role than the one that signs now made a signature; one by a device's maker is
    not ours."""
    role = _role_of(signature_key)
    with tree.store.open(signature_key, stop=SIGNATURE_LIMIT_BYTES) as file:
        issuer = issuer_of(file.read())
    ours = primary_fingerprints(tree.signer.public_key(role))
    return issuer in ours and issuer != tree.signer.fingerprint(role)


def _replace_signature(tree: ChannelTree, signature_key: str) -> None:
    role, signed_key = _role_of(signature_key), signature_key.removesuffix(".asc").removesuffix(".gpg")
    with tempfile.TemporaryDirectory(prefix="sign-") as folder:
        path = Path(folder) / "signed"
        with tree.store.open(signature_key) as file:
            signature = file.read()
        with tree.store.open(signed_key) as source, path.open("wb") as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
        tree.signer.verify(role, path, signature, where=signed_key)
        tree.store.put_bytes(signature_key, tree.signer.detached_file(role, path), media_type=OPENPGP_SIGNATURE)


def _sign_candidate_anew(tree: ChannelTree, key: str) -> bool:
    """Sign a candidate's document anew, if a former key did; remove one that nobody could release any more."""
    message = read_bytes(tree.store, key)
    if message is None:
        return False
    try:
        maker, content = open_inline(message, [tree.signer.public_key(Role.IMAGE_SIGNING)], where=key)
    except VerificationError as error:
        log.warning("candidate removed: import its build again", candidate=key, reason=error.problem)
        tree.store.delete([key])
        return False
    if maker == tree.signer.fingerprint(Role.IMAGE_SIGNING):
        return False
    tree.store.put_bytes(key, tree.signer.inline(Role.IMAGE_SIGNING, content), media_type=OPENPGP_MESSAGE)
    return True


def _role_of(signature_key: str) -> Role:
    return Role.CDIMAGE if signature_key.startswith(_BUILDS) else Role.IMAGE_SIGNING
