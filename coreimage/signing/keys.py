"""Private keys: one GnuPG home per role, and signatures made with them.

Each signature runs in a throw-away GnuPG home that links to the role's keys: its path is short (an agent's socket
path ends at 107 bytes), signers side by side share no agent, and the agent ends with the one command it serves.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import structlog

from coreimage.errors import HostError, ProcessError
from coreimage.process import Run
from coreimage.process import run as run_process
from coreimage.signing.roles import Role

log = structlog.get_logger("coreimage.signing")

KEY_BITS: Mapping[Role, int] = {
    Role.ARCHIVE_MASTER: 4096,
    Role.IMAGE_MASTER: 4096,
    Role.IMAGE_SIGNING: 3072,
    Role.CDIMAGE: 3072,
}
_KEPT = ("pubring.kbx", "private-keys-v1.d")
_WITH_AGENT = 'cd /; "$@"; status=$?; gpgconf --kill gpg-agent; exit $status'
_SOCKET_FOLDERS = ("/run/user", "/run/gnupg/user", "/var/run/user", "/var/run/gnupg/user")


class GnupgSigner:
    """Signs with RSA primary keys below `keys_folder` (the original client refuses subkeys, system-image §1.4)."""

    def __init__(self, keys_folder: Path, run: Run = run_process) -> None:
        self._keys_folder, self._run = keys_folder, run
        self._public_keys: dict[Role, bytes] = {}

    def detached(self, role: Role, content: bytes) -> bytes:
        return self._sign(role, content, "--armor", "--detach-sign")

    def detached_file(self, role: Role, path: Path) -> bytes:
        return self._sign(role, path, "--armor", "--detach-sign")

    def inline(self, role: Role, content: bytes) -> bytes:
        return self._sign(role, content, "--compress-algo", "none", "--sign")

    def fingerprint(self, role: Role) -> str:
        """40 hexadecimal digits, upper case."""
        with _gnupg_home(self._key_home(role)) as home:
            listing = _gpg(home, "--with-colons", "--list-keys", run=self._run)
        records = (line.split(":") for line in listing.splitlines())
        return next(record[9] for record in records if record[0] == "fpr")

    def public_key(self, role: Role) -> bytes:
        """The binary export, which is what a `keyring.gpg` holds. It is read once: a role keeps its key."""
        if role not in self._public_keys:
            with _gnupg_home(self._key_home(role)) as home:
                _gpg(home, "--output", home / "out", "--export", run=self._run)
                self._public_keys[role] = (home / "out").read_bytes()
        return self._public_keys[role]

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
        home = self._keys_folder / role.value
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
        created = [role for role in Role if _create_key(folder, role, bits[role], label, run)]
    except OSError as error:
        raise HostError(
            f"cannot write keys: {error.strerror}", where=str(folder), resolution="name a folder that you own"
        ) from error
    for role in created:
        log.info("key made", role=role.value, bits=bits[role], folder=str(folder / role.value))
    return created


def _create_key(folder: Path, role: Role, bits: int, label: str, run: Run) -> bool:
    target = folder / role.value
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
            if path.name not in (*_KEPT, "openpgp-revocs.d"):
                path.unlink()
        new.rename(target)
    return True


@contextmanager
def _gnupg_home(key_home: Path) -> Iterator[Path]:
    """A private home whose keys are links to those of `key_home`."""
    with tempfile.TemporaryDirectory(prefix="gnupg-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        for name in _KEPT:
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
