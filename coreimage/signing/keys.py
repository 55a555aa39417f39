"""Private keys: one GnuPG home per role, and signatures made with them.

Each signature runs in a throw-away GnuPG home that links to the role's keys: its path is short (an agent's socket
path ends at 107 bytes), signers side by side share no agent, and the agent ends with the one command it serves.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import structlog

from coreimage.errors import HostError, ProcessError, UsageError
from coreimage.process import Run
from coreimage.process import run as run_process
from coreimage.signing.folder import KEY_FILES, PUBLIC, KeyFolder
from coreimage.signing.roles import Role

log = structlog.get_logger("coreimage.signing")

KEY_BITS: Mapping[Role, int] = {
    Role.ARCHIVE_MASTER: 4096,
    Role.IMAGE_MASTER: 4096,
    Role.IMAGE_SIGNING: 3072,
    Role.CDIMAGE: 3072,
}
_WITH_AGENT = 'cd /; "$@"; status=$?; gpgconf --kill gpg-agent; exit $status'
_SOCKET_FOLDERS = ("/run/user", "/run/gnupg/user", "/var/run/user", "/var/run/gnupg/user")


class GnupgSigner:
    """Signs with RSA primary keys below `keys_folder` (the original client refuses subkeys, system-image §1.4)."""

    def __init__(self, keys_folder: Path, run: Run = run_process) -> None:
        self._folder, self._run = KeyFolder(keys_folder), run
        self._public_keys: dict[Role, bytes] = {}
        self._fingerprints: dict[Role, str] = {}

    def detached(self, role: Role, content: bytes) -> bytes:
        return self._sign(role, content, "--armor", "--detach-sign")

    def detached_file(self, role: Role, path: Path) -> bytes:
        return self._sign(role, path, "--armor", "--detach-sign")

    def inline(self, role: Role, content: bytes) -> bytes:
        return self._sign(role, content, "--compress-algo", "none", "--sign")

    def has(self, role: Role) -> bool:
        return self._folder.has(role)

    def fingerprint(self, role: Role) -> str:
        """40 hexadecimal digits, upper case, of the key that signs. It is read once."""
        if role not in self._fingerprints:
            home, public = self._folder.home(role), self._folder.public_file(role)
            if not home.is_dir() and public.is_file():
                self._fingerprints[role] = _shown_fingerprint(public, self._run)
            else:
                self._fingerprints[role] = _listed_fingerprint(self._key_home(role), self._run)
        return self._fingerprints[role]

    def public_key(self, role: Role) -> bytes:
        """The binary export of all keys that count for the role, the current one first. It is read once."""
        if role not in self._public_keys:
            home, public = self._folder.home(role), self._folder.public_file(role)
            current = public.read_bytes() if not home.is_dir() and public.is_file() else self._exported(role)
            others = [key.home for key in self._folder.overlapping(role)]
            others += [self._folder.next_home(role)] if self._folder.next_home(role).is_dir() else []
            self._public_keys[role] = current + b"".join(exported_key(other, self._run) for other in others)
        return self._public_keys[role]

    def _exported(self, role: Role) -> bytes:
        return exported_key(self._key_home(role), self._run)

    def _sign(self, role: Role, content: bytes | Path, *command: str) -> bytes:
        with _gnupg_home(self._key_home(role)) as home:
            options: tuple[str | Path, ...] = (
                "--trust-model",
                "always",
                "--digest-algo",
                "SHA512",
                "--output",
                home / "out",
                *command,
            )
            if isinstance(content, Path):
                with content.open("rb") as file:
                    _gpg(home, *options, stdin=file, run=self._run)
            else:
                _gpg(home, *options, stdin=content, run=self._run)
            return (home / "out").read_bytes()

    def _key_home(self, role: Role) -> Path:
        home = self._folder.home(role)
        if not home.is_dir() and self._folder.public_file(role).is_file():
            raise HostError(
                f"the private {role.value} key is kept elsewhere",
                where=str(home),
                resolution="write what it must sign to a medium with `coreimage keys export FOLDER`",
            )
        if not home.is_dir():
            raise HostError(
                f"the {role.value} key is not on this machine",
                where=str(home),
                resolution="make keys with `coreimage keys init`, or bring the folder from where they are kept",
            )
        return home


def create_keys(
    folder: Path, *, bits: Mapping[Role, int] = KEY_BITS, label: str = "coreimage", run: Run = run_process
) -> list[Role]:
    """Makes the keys that `folder` lacks, without passphrase or expiry, and gives their roles.

    A key appears whole or not at all; what a killed run left is removed. Validity in time is the keyrings' matter
    (system-image §1.7).
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
    """Makes the key that will take the place of the role's current one, unless it is there already."""
    keys = KeyFolder(folder)
    keys.next_home(role).parent.mkdir(mode=0o700, exist_ok=True)
    if _create_key(folder, keys.next_home(role), role, bits, label=label, run=run):
        log.info("next key made", role=role.value, bits=bits)
    _finish_switch(keys, role)


def switch_keys(folder: Path, role: Role, until: int, *, run: Run = run_process) -> None:
    """The next key signs from now on; the current one retires, and counts beside it until then (UNIX seconds)."""
    keys = KeyFolder(folder)
    old = _listed_fingerprint(keys.home(role), run)
    retired = keys.retired_home(role, old)
    retired.parent.mkdir(mode=0o700, exist_ok=True)
    (keys.home(role) / "until").write_text(f"{until}\n")
    keys.home(role).rename(retired)
    _finish_switch(keys, role)
    log.info("keys switched", role=role.value, retired=old)


def adopt_lost_key(folder: Path, role: Role, fingerprint: str, public_key: bytes, until: int) -> None:
    """A key that clients know and nobody has any more counts until then beside the current one."""
    home = KeyFolder(folder).retired_home(role, fingerprint)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / PUBLIC).write_bytes(public_key)
    (home / "until").write_text(f"{until}\n")
    log.warning("lost key counts on for a while", role=role.value, fingerprint=fingerprint)


def _finish_switch(keys: KeyFolder, role: Role) -> None:
    """Also after a kill between the two renames."""
    if keys.next_home(role).is_dir() and not keys.home(role).exists() and keys.retired(role):
        keys.next_home(role).rename(keys.home(role))


def write_backup(folder: Path, file: Path) -> tuple[Role, ...]:
    """Everything in the keys folder as a tar archive that only its owner can read; gives the roles whose private keys
    it holds. Raises UsageError when `file` exists or nothing is there to keep, HostError when it cannot be written."""
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
    except OSError as error:
        raise HostError(
            f"cannot write the backup: {error.strerror}", where=str(file), resolution="name a folder with space"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return roles


def exported_key(home: Path, run: Run = run_process) -> bytes:
    """The binary export of the public keys in a GnuPG home, or what is known of a lost one."""
    if (home / PUBLIC).is_file():
        return (home / PUBLIC).read_bytes()
    with _gnupg_home(home) as linked:
        _gpg(linked, "--output", linked / "out", "--export", run=run)
        return (linked / "out").read_bytes()


def _listed_fingerprint(home: Path, run: Run) -> str:
    with _gnupg_home(home) as linked:
        return _fingerprint_in(_gpg(linked, "--with-colons", "--list-keys", run=run))


def _shown_fingerprint(public: Path, run: Run) -> str:
    with tempfile.TemporaryDirectory(prefix="gnupg-") as home:
        return _fingerprint_in(_gpg(Path(home), "--with-colons", "--show-keys", public.absolute(), run=run))


def _fingerprint_in(listing: str) -> str:
    records = (line.split(":") for line in listing.splitlines())
    return next(record[9] for record in records if record[0] == "fpr")


def _create_key(folder: Path, target: Path, role: Role, bits: int, *, label: str, run: Run) -> bool:
    if target.exists():
        return False
    with tempfile.TemporaryDirectory(prefix=f".new-{role.value}-", dir=folder) as staging:
        new = Path(staging) / "key"
        new.mkdir(mode=0o700)
        with tempfile.TemporaryDirectory(prefix="gnupg-") as short:
            home = Path(short) / "home"
            home.symlink_to(new.absolute())
            name = f"{label} {role.value}"
            _gpg(home, "--passphrase", "", "--quick-generate-key", name, f"rsa{bits}", "sign", "never", run=run)
            _remove_socket_folder(home, run)
        for path in new.iterdir():
            if path.name not in (*KEY_FILES, "openpgp-revocs.d"):
                path.unlink()
        new.rename(target)
    return True


@contextmanager
def _gnupg_home(key_home: Path) -> Iterator[Path]:
    """A private home whose keys are links to those of `key_home`."""
    with tempfile.TemporaryDirectory(prefix="gnupg-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        for name in KEY_FILES:
            (home / name).symlink_to((key_home / name).absolute())
        yield home


def _gpg(home: Path, *command: str | Path, stdin: bytes | IO[bytes] | None = None, run: Run) -> str:
    """Runs one gpg command with an agent of its own, which has ended when this returns."""
    agent = ("gpg-agent", "--homedir", home, "--disable-scdaemon", "--quiet", "--daemon", "--")
    gpg = ("gpg", "--homedir", home, "--no-autostart", "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback")
    try:
        done = run(
            [*agent, "sh", "-c", _WITH_AGENT, "gpg", *gpg, *command],
            env={"GNUPGHOME": str(home)},
            stdin=stdin,
        )
    except ProcessError as error:
        raise HostError(
            "GnuPG failed:\n" + "\n".join(error.last_lines),
            where=str(home.resolve()),
            resolution="check the key with `coreimage keys show`",
        ) from error
    _remove_socket_folder(home, run)
    return done.output


def _remove_socket_folder(home: Path, run: Run) -> None:
    """GnuPG puts sockets below /run/user when that exists, in a folder named after the home."""
    if any(Path(folder, str(os.getuid())).is_dir() for folder in _SOCKET_FOLDERS):
        run(["gpgconf", "--homedir", home, "--remove-socketdir"], accept=(0, 1, 2))
