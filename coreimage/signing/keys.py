"""The keys of a machine: their roles, the folder that holds them, and how they are made, replaced and backed up."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from coreimage.errors import HostError, UsageError, VerificationError
from coreimage.host.durable import sync_folder, sync_tree
from coreimage.host.process import Run
from coreimage.host.process import run as run_process
from coreimage.signing.gnupg import PUBLIC_KEY_FILE, fingerprint_in_home, run_gpg, short_home

log = structlog.get_logger("coreimage.signing")

_FINGERPRINT_DIGITS = 40


class Role(StrEnum):
    """What a key signs (system-image §1.2); `cdimage` signs the SHA256SUMS of published builds."""

    ARCHIVE_MASTER = "archive-master"
    IMAGE_MASTER = "image-master"
    IMAGE_SIGNING = "image-signing"
    CDIMAGE = "cdimage"


KEY_BITS: Mapping[Role, int] = {
    Role.ARCHIVE_MASTER: 4096,
    Role.IMAGE_MASTER: 4096,
    Role.IMAGE_SIGNING: 3072,
    Role.CDIMAGE: 3072,
}


@dataclass(frozen=True)
class RetiredKey:
    """A former key of a role.

    Until `until` (UNIX seconds) it counts beside the current key; `None` once its time is over or it was revoked.
    """

    role: Role
    fingerprint: str
    home: Path
    until: int | None


@dataclass(frozen=True)
class KeyFolder:
    """The folder of a machine's keys:

    <role>/                          the GnuPG home of the current key
    public/<role>.gpg                the public key of a role whose private key is kept elsewhere
    next/<role>/                     a new key that clients are being told of, and that signs nothing yet
    retired/<role>-<fingerprint>/    a former key; its file `until` says how long it counts beside the current one,
                                     and is gone once the key counts no more
    """

    path: Path

    def home(self, role: Role) -> Path:
        """Return the GnuPG home of the current key, whether it exists or not."""
        return self.path / role.value

    def next_home(self, role: Role) -> Path:
        """Return the GnuPG home of the key that will replace the current one."""
        return self.path / "next" / role.value

    def public_file(self, role: Role) -> Path:
        """Return the file with the public key of a role whose private key is kept elsewhere."""
        return self.path / "public" / f"{role.value}.gpg"

    def retired_home(self, role: Role, fingerprint: str) -> Path:
        """Return the GnuPG home of a former key."""
        return self.path / "retired" / f"{role.value}-{fingerprint}"

    def has(self, role: Role) -> bool:
        """Return whether this machine can sign as `role`."""
        return self.home(role).is_dir()

    def knows(self, role: Role) -> bool:
        """Return whether this machine has at least the public key of `role`."""
        return self.has(role) or self.public_file(role).is_file()

    def retired(self, role: Role) -> tuple[RetiredKey, ...]:
        """Return all former keys of `role`, sorted by fingerprint."""
        homes = sorted((self.path / "retired").glob(f"{role.value}-*"))
        named = [(home, home.name.removeprefix(f"{role.value}-")) for home in homes]
        return tuple(
            RetiredKey(role, fingerprint, home, _read_until(home / "until"))
            for home, fingerprint in named
            if len(fingerprint) == _FINGERPRINT_DIGITS
        )

    def overlapping(self, role: Role) -> tuple[RetiredKey, ...]:
        """Return the former keys of `role` that still count beside the current one."""
        return tuple(key for key in self.retired(role) if key.until is not None)


def create_keys(
    folder: Path, *, bits: Mapping[Role, int] = KEY_BITS, label: str = "coreimage", run: Run = run_process
) -> list[Role]:
    """Make the keys that `folder` lacks, without passphrase or expiry, and return their roles.

    A key appears whole or not at all; what a killed run left is removed. How long keys are valid is the matter of the
    keyrings (system-image §1.7).

    Args:
        label: The beginning of the keys' user ids.

    Raises:
        HostError: The folder cannot be written, or GnuPG failed.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder.parent)
        for leftover in folder.glob(".new-*"):
            shutil.rmtree(leftover)
        keys = KeyFolder(folder)
        for role in Role:
            _finish_switch(keys, role)
        missing = [role for role in Role if not keys.knows(role)]
        created = [
            role for role in missing if _create_key(folder, keys.home(role), role, bits[role], label=label, run=run)
        ]
    except OSError as error:
        raise HostError(
            f"cannot write keys: {error.strerror}", where=str(folder), resolution="name a folder that you own"
        ) from error
    for role in created:
        log.info("key made", role=role.value, bits=bits[role], folder=str(folder / role.value))
    return created


def create_next_key(folder: Path, role: Role, *, bits: int, label: str = "coreimage", run: Run = run_process) -> None:
    """Make the key that will replace the current one of `role`, unless it exists already."""
    keys = KeyFolder(folder)
    keys.next_home(role).parent.mkdir(mode=0o700, exist_ok=True)
    sync_folder(keys.path)
    if _create_key(folder, keys.next_home(role), role, bits, label=label, run=run):
        log.info("next key made", role=role.value, bits=bits)
    _finish_switch(keys, role)


def switch_keys(folder: Path, role: Role, until: int, *, run: Run = run_process) -> None:
    """Let the next key of `role` sign from now on, and retire the current one.

    Args:
        until: How long the retired key counts beside the new one, in UNIX seconds.
    """
    keys = KeyFolder(folder)
    former = fingerprint_in_home(keys.home(role), run)
    retired = keys.retired_home(role, former)
    retired.parent.mkdir(mode=0o700, exist_ok=True)
    (keys.home(role) / "until").write_text(f"{until}\n")
    sync_tree(keys.home(role))
    keys.home(role).rename(retired)
    sync_folder(retired.parent)
    sync_folder(keys.path)
    _finish_switch(keys, role)
    log.info("keys switched", role=role.value, retired=former)


def adopt_lost_key(folder: Path, role: Role, fingerprint: str, public_key: bytes, until: int) -> None:
    """Let a key that clients know, and whose private part nobody has, count beside the current one of `role`.

    Args:
        until: How long it counts, in UNIX seconds.
    """
    home = KeyFolder(folder).retired_home(role, fingerprint)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / PUBLIC_KEY_FILE).write_bytes(public_key)
    (home / "until").write_text(f"{until}\n")
    sync_tree(home)
    sync_folder(home.parent)
    sync_folder(folder)
    log.warning("lost key counts on for a while", role=role.value, fingerprint=fingerprint)


def write_backup(folder: Path, file: Path) -> tuple[Role, ...]:
    """Write all keys of `folder` to `file`, a tar archive that only its owner can read.

    Returns:
        The roles whose private keys it holds.

    Raises:
        UsageError: `file` exists, or `folder` has no private keys.
        HostError: `file` cannot be written.
    """
    roles = tuple(role for role in Role if KeyFolder(folder).has(role))
    if not roles:
        raise UsageError("holds no keys", where=str(folder), resolution="name the keys with COREIMAGE_KEYS")
    if file.exists():
        raise UsageError("exists already", where=str(file), resolution="name another file: it may be the only backup")
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
            with tarfile.open(fileobj=target, mode="w") as tar:
                tar.add(folder, arcname=".", filter=lambda member: None if "/.new-" in member.name else member)
            target.flush()
            os.fsync(target.fileno())
        partial.rename(file)
        sync_folder(file.absolute().parent)
    except OSError as error:
        raise HostError(
            f"cannot write the backup: {error.strerror}", where=str(file), resolution="name a folder with space"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return roles


def _create_key(folder: Path, home: Path, role: Role, bits: int, *, label: str, run: Run) -> bool:
    """Make a key with the GnuPG home `home`, and return whether it had to be made."""
    if home.exists():
        return False
    with tempfile.TemporaryDirectory(prefix=f".new-{role.value}-", dir=folder) as staging:
        new = Path(staging) / "key"
        new.mkdir(mode=0o700)
        with short_home(new) as short:
            user_id = f"{label} {role.value}"
            run_gpg(short, "--passphrase", "", "--quick-generate-key", user_id, f"rsa{bits}", "sign", "never", run=run)
        sync_tree(new)
        new.rename(home)
        sync_folder(home.parent)
    return True


def _finish_switch(keys: KeyFolder, role: Role) -> None:
    """Give the next key its place, also when a run was killed between the two renames of a switch."""
    if keys.next_home(role).is_dir() and not keys.home(role).exists() and keys.retired(role):
        keys.next_home(role).rename(keys.home(role))
        sync_folder(keys.path)


def _read_until(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise VerificationError(
            "names no time",
            where=str(path),
            resolution="write UNIX seconds there, or remove the file to end the overlap",
        ) from None
