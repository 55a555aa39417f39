"""Keys over time: replaced while both count, revoked at once, and everything signed anew by the key that signs now.

Each operation is a row of steps of which every one can be repeated: after a kill, the same command goes on.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path

import structlog

from coreimage.client import primary_fingerprints
from coreimage.client.session import SIGNATURE_LIMIT_BYTES
from coreimage.errors import HostError, NotFoundError, UsageError
from coreimage.model import OPENPGP_SIGNATURE, Value
from coreimage.process import Run
from coreimage.process import run as run_process
from coreimage.signing import (
    KEY_BITS,
    GnupgSigner,
    KeyFolder,
    Retired,
    Role,
    Signer,
    adopt_lost_key,
    create_next_key,
    exported_key,
    issuer_of,
    make_keyring,
    switch_keys,
    verify_detached,
)
from coreimage.storage import Store
from coreimage.system_image import layout
from coreimage.system_image.channels import Now, change_channels
from coreimage.system_image.keyrings import (
    SIGNED_BY,
    blacklisted_keys,
    is_right,
    publish_keyrings,
    published_keys,
    put_keyring,
)
from coreimage.system_image.tree import heal_pair, read_channels

log = structlog.get_logger("coreimage.system_image")

OVERLAP = timedelta(days=90)
"""How long a former key counts beside the new one: devices that are off meanwhile still find what they can verify."""
_BUILDS = "cdimage/"
_BUILD_SIGNATURE = "/SHA256SUMS.gpg"


class Rotation(Value):
    """`fingerprint` is of the key that signs now; `until` is UNIX seconds: how long the one before counts beside it."""

    role: str
    changed: bool
    fingerprint: str
    until: int | None = None
    signed_anew: int = 0


def rotate_key(
    role: Role,
    keys_folder: Path,
    *,
    store: Store,
    now: Now,
    overlap: timedelta = OVERLAP,
    within_overlap: bool = False,
    bits: int | None = None,
    run: Run = run_process,
) -> Rotation:
    """A new key takes the place of the role's: clients are told of both first, then it signs, and all is signed anew.

    While the overlap of a rotation lasts, no other begins, unless it may lie `within_overlap`: doing it again finishes
    what a kill left. Raises UsageError for archive-master, which only a new image can replace; HostError when the
    master that must sign is elsewhere.
    """
    keys = KeyFolder(keys_folder)
    _adopt_lost(keys, role, store, now, overlap, run=run)
    if not keys.has(role) and keys.overlapping(role):
        create_next_key(keys_folder, role, bits=bits or KEY_BITS[role], run=run)
    _require_rotatable(keys, role)
    overlapping = [key for key in keys.overlapping(role) if (key.until or 0) > now().timestamp()]
    replaced = within_overlap or not overlapping
    if replaced:
        end_overlaps(keys_folder, store=store, now=now, run=run)
        create_next_key(keys_folder, role, bits=bits or KEY_BITS[role], run=run)
        if role.value in SIGNED_BY:
            _require_published(role, GnupgSigner(keys_folder, run), store, now)
        switch_keys(keys_folder, role, int((now() + overlap).timestamp()), run=run)
    signer = GnupgSigner(keys_folder, run)
    publish_keyrings(store=store, signer=signer, now=now)
    signed_anew = sign_anew(store=store, signer=signer, now=now)
    (kept, *_) = keys.overlapping(role)
    return Rotation(
        role=role.value,
        changed=replaced,
        fingerprint=signer.fingerprint(role),
        until=kept.until,
        signed_anew=signed_anew,
    )


def _adopt_lost(keys: KeyFolder, role: Role, store: Store, now: Now, overlap: timedelta, *, run: Run) -> None:
    """A key that only the published keyring still knows was lost: what it signed is verified by it, and signed anew."""
    signer = GnupgSigner(keys.path, run)
    if role is Role.ARCHIVE_MASTER or role.value not in SIGNED_BY or not keys.knows(SIGNED_BY[role.value]):
        return
    published = published_keys(role.value, store=store, signer=signer)
    known = primary_fingerprints(signer.public_key(role)) if keys.knows(role) else frozenset()
    lost = primary_fingerprints(published) - known - {key.fingerprint for key in keys.retired(role)}
    for fingerprint in lost:
        adopt_lost_key(keys.path, role, fingerprint, published, int((now() + overlap).timestamp()))


def _require_rotatable(keys: KeyFolder, role: Role) -> None:
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


def _require_published(role: Role, signer: GnupgSigner, store: Store, now: Now) -> None:
    """Both keys, before the new one signs anything. Raises HostError where the master must sign that elsewhere."""
    if not signer.has(SIGNED_BY[role.value]) and not is_right(role.value, store=store, signer=signer, now=now()):
        raise HostError(
            f"{SIGNED_BY[role.value].value}, which must sign the keyring of the new key, is elsewhere",
            resolution="`coreimage keys export FOLDER`, sign that there, `coreimage keys import FOLDER`; rotate again",
        )
    publish_keyrings(store=store, signer=signer, now=now)


def end_overlaps(keys_folder: Path, *, store: Store, now: Now, run: Run = run_process) -> tuple[str, ...]:
    """Former keys whose time is over count no more; everything is signed anew before. Gives their fingerprints."""
    keys = KeyFolder(keys_folder)
    over = [key for role in Role for key in keys.overlapping(role) if (key.until or 0) <= now().timestamp()]
    if not over:
        return ()
    sign_anew(store=store, signer=GnupgSigner(keys_folder, run), now=now)
    for key in over:
        (key.home / "until").unlink(missing_ok=True)
        log.info("former key counts no more", role=key.role.value, fingerprint=key.fingerprint)
    publish_keyrings(store=store, signer=GnupgSigner(keys_folder, run), now=now)
    return tuple(key.fingerprint for key in over)


def revoke_key(
    fingerprint: str,
    keys_folder: Path,
    *,
    store: Store,
    now: Now,
    public_key: bytes | None = None,
    bits: int | None = None,
    run: Run = run_process,
) -> Rotation:
    """Clients refuse the key from now on. One that signs is replaced first, and everything it signed is signed anew.

    `public_key` is the binary export of a key that is not in `keys_folder`. Raises NotFoundError without it.
    """
    keys = KeyFolder(keys_folder)
    signer = GnupgSigner(keys_folder, run)
    current = next((role for role in Role if keys.has(role) and signer.fingerprint(role) == fingerprint), None)
    if current is not None:
        rotate_key(current, keys_folder, store=store, now=now, within_overlap=True, bits=bits, run=run)
    retired = next((key for role in Role for key in keys.retired(role) if key.fingerprint == fingerprint), None)
    exported = public_key or (exported_key(retired.home, run) if retired else None)
    if exported is None or fingerprint not in primary_fingerprints(exported):
        raise NotFoundError(
            f"the public key {fingerprint} is not at hand", resolution="name it with --key FILE, a binary export"
        )
    signed_anew = sign_anew(store=store, signer=GnupgSigner(keys_folder, run), now=now)
    if retired is not None:
        (retired.home / "until").unlink(missing_ok=True)
    signer = GnupgSigner(keys_folder, run)
    changed = _blacklist(fingerprint, exported, signer, store)
    publish_keyrings(store=store, signer=signer, now=now)
    role = current or (retired.role if retired else Role.IMAGE_SIGNING)
    return Rotation(role=role.value, changed=changed, fingerprint=signer.fingerprint(role), signed_anew=signed_anew)


def _blacklist(fingerprint: str, exported: bytes, signer: GnupgSigner, store: Store) -> bool:
    listed = blacklisted_keys(store)
    if fingerprint in primary_fingerprints(listed):
        return False
    tarball = make_keyring("blacklist", listed + exported)
    put_keyring("blacklist", tarball, signer.detached(SIGNED_BY["blacklist"], tarball), store=store)
    log.info("key revoked", fingerprint=fingerprint)
    return True


def sign_anew(*, store: Store, signer: Signer, now: Now) -> int:
    """Puts signatures of the keys that sign now where former keys' are; gives how many. Renews the channels' end.

    Nothing is signed that did not verify before: raises VerificationError, naming it, and what was done stays done.
    """
    due = [key for key in _signatures(store) if _is_due(store, key, signer)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        jobs = [pool.submit(copy_context().run, _sign_one, store, key, signer) for key in due]
        for job in jobs:
            job.result()
    if read_channels(store, signer).etag is not None:
        change_channels(lambda found: found.document, store=store, signer=signer, now=now, anew=True)
        heal_pair(store=store, signer=signer)
    return len(due)


def _signatures(store: Store) -> Iterator[str]:
    """Keys of the detached signatures that are not the keyrings' own."""
    for info in store.list(layout.ROOT):
        if info.key.endswith(".asc") and not info.key.startswith(layout.key("gpg/")):
            yield info.key
    for info in store.list(_BUILDS):
        if info.key.endswith(_BUILD_SIGNATURE):
            yield info.key


def _is_due(store: Store, key: str, signer: Signer) -> bool:
    """A signature of the role by another key than the one that signs now; one by a device's maker is not ours."""
    role = _role(key)
    with store.open(key, stop=SIGNATURE_LIMIT_BYTES) as file:
        issuer = issuer_of(file.read())
    ours = primary_fingerprints(signer.public_key(role))
    return issuer in ours and issuer != signer.fingerprint(role)


def _sign_one(store: Store, key: str, signer: Signer) -> None:
    role, signed = _role(key), key.removesuffix(".asc").removesuffix(".gpg")
    with tempfile.TemporaryDirectory(prefix="sign-") as folder:
        path = Path(folder) / "signed"
        with store.open(key) as file:
            signature = file.read()
        with store.open(signed) as source, path.open("wb") as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
        verify_detached(path, signature, [signer.public_key(role)], where=signed)
        store.put_bytes(key, signer.detached_file(role, path), media_type=OPENPGP_SIGNATURE)


def _role(key: str) -> Role:
    return Role.CDIMAGE if key.startswith(_BUILDS) else Role.IMAGE_SIGNING


def overlaps(keys_folder: Path) -> tuple[Retired, ...]:
    """The former keys that still count."""
    keys = KeyFolder(keys_folder)
    return tuple(key for role in Role for key in keys.overlapping(role))
