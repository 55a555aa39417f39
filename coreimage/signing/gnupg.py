"""How gpg is run: every command in a throw-away GnuPG home that links to the keys it needs.

The path of such a home is short, as the path of an agent's socket ends at 107 bytes; signers side by side share no
agent; and the agent ends with the one command that it serves. gpg is started by `host.process` as everything else is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from coreimage.errors import HostError, ProcessError
from coreimage.host.process import Run
from coreimage.host.process import run as run_process

PUBLIC_KEY_FILE = "public.gpg"
"""In the home of a key whose private part is lost: its public key."""
KEY_FILES = ("pubring.kbx", "private-keys-v1.d")
_WITH_AGENT = 'cd /; "$@"; status=$?; gpgconf --kill gpg-agent; exit $status'
_SOCKET_FOLDERS = ("/run/user", "/run/gnupg/user", "/var/run/user", "/var/run/gnupg/user")


@contextmanager
def linked_home(key_home: Path) -> Iterator[Path]:
    """Make a GnuPG home whose keys are links to those of `key_home`."""
    with tempfile.TemporaryDirectory(prefix="gnupg-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        for name in KEY_FILES:
            (home / name).symlink_to((key_home / name).absolute())
        yield home


@contextmanager
def short_home(new_home: Path) -> Iterator[Path]:
    """Give the folder `new_home`, in which keys are to be made, a short path, and remove what is no key afterwards."""
    with tempfile.TemporaryDirectory(prefix="gnupg-") as folder:
        home = Path(folder) / "home"
        home.symlink_to(new_home.absolute())
        yield home
    for path in new_home.iterdir():
        if path.name not in (*KEY_FILES, "openpgp-revocs.d"):
            path.unlink()


def run_gpg(home: Path, *command: str | Path, stdin: bytes | IO[bytes] | None = None, run: Run = run_process) -> str:
    """Run one gpg command with an agent of its own, which has ended when this returns, and return the output.

    Raises:
        HostError: gpg failed; its last lines are in the message.
    """
    agent = ("gpg-agent", "--homedir", home, "--disable-scdaemon", "--quiet", "--daemon", "--")
    gpg = ("gpg", "--homedir", home, "--no-autostart", "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback")
    try:
        completed = run(
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
    # GnuPG puts sockets below /run/user where that exists, in a folder named after the home.
    if any(Path(folder, str(os.getuid())).is_dir() for folder in _SOCKET_FOLDERS):
        run(["gpgconf", "--homedir", home, "--remove-socketdir"], accept=(0, 1, 2))
    return completed.output


def exported_key(home: Path, run: Run = run_process) -> bytes:
    """Return the binary export of the public keys in a GnuPG home, or the kept public key of a lost one."""
    if (home / PUBLIC_KEY_FILE).is_file():
        return (home / PUBLIC_KEY_FILE).read_bytes()
    with linked_home(home) as linked:
        run_gpg(linked, "--output", linked / "out", "--export", run=run)
        return (linked / "out").read_bytes()


def fingerprint_in_home(home: Path, run: Run) -> str:
    """Return the fingerprint of the key in a GnuPG home: 40 hexadecimal digits, upper case."""
    with linked_home(home) as linked:
        return _fingerprint(run_gpg(linked, "--with-colons", "--list-keys", run=run))


def fingerprint_in_file(public_key: Path, run: Run) -> str:
    """Return the fingerprint of the first public key in a file: 40 hexadecimal digits, upper case."""
    with tempfile.TemporaryDirectory(prefix="gnupg-") as home:
        return _fingerprint(run_gpg(Path(home), "--with-colons", "--show-keys", public_key.absolute(), run=run))


def _fingerprint(listing: str) -> str:
    records = (line.split(":") for line in listing.splitlines())
    return next(record[9] for record in records if record[0] == "fpr")
