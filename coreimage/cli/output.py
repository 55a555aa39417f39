"""The image that a command leaves: its file, the login that is put in, and what is told of it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coreimage.errors import UsageError

if TYPE_CHECKING:
    from coreimage.disk_image import Login
    from coreimage.operations.finish_image import RawImage

_KEY_NAMES = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")


@dataclass(frozen=True)
class Access:
    """How to get into an image: its login, the files that the login's keys are from, and what to type."""

    login: Login | None
    key_files: tuple[Path, ...]
    launch: str
    boot: str


def check_output(output: Path | None, *, force: bool) -> None:
    """Refuse a file that the image could not be written to, before any work is done.

    Raises:
        UsageError: It exists and is not to be replaced, is a folder, or its folder cannot be written to.
    """
    if output is None:
        return
    folder = output.absolute().parent
    if output.is_dir():
        raise UsageError("is a folder", where=str(output), resolution="name a file in it")
    if output.exists() and not force:
        raise UsageError("exists already", where=str(output), resolution="name another file, or use --force")
    if not folder.is_dir():
        raise UsageError("its folder does not exist", where=str(output), resolution="make the folder first")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        problem = f"its folder cannot be written to: {error.strerror}"
        raise UsageError(problem, where=str(output), resolution="name one of yours") from error


def login_key_files(login_key: Path | None) -> tuple[Path, ...]:
    """Return the file of SSH public keys that was named, else the usual ones that ~/.ssh has."""
    usual = [Path.home() / ".ssh" / name for name in _KEY_NAMES]
    return (login_key,) if login_key else tuple(path for path in usual if path.is_file())


def login_with(key_files: tuple[Path, ...], more_keys: tuple[str, ...] = (), password: str = "") -> Login:
    """Return a login with all keys of some files and others, and a password; one made at random where there is no key.

    Raises:
        UsageError: A file has something else than SSH public keys.
    """
    from coreimage.disk_image import Login, generated_password  # noqa: PLC0415

    try:
        lines = [line.strip() for path in key_files for line in path.read_text("utf-8").splitlines()]
        keys = (*filter(None, lines), *more_keys)
        return Login(ssh_keys=keys, password=password or ("" if keys else generated_password()))
    except (ValueError, OSError) as error:
        names = ", ".join(str(path) for path in key_files)
        raise UsageError("not an SSH public key", where=names, resolution="name one with --login-key FILE") from error


def summary(output: Path, image: RawImage, access: Access) -> str:
    """Return the summary of 2015, in its words and order, and the login, which is new."""
    short = image.channel.rpartition("/")[2]
    if access.login is None:
        login = "none"
    elif access.login.password:
        login = f"admin, password {access.login.password} (chosen at random, not kept anywhere else)"
    else:
        files = ", ".join(str(path) for path in access.key_files)
        login = f"admin, with {files}: ssh -p 2222 admin@localhost"
    return "\n".join(
        [
            "New image complete",
            "Summary:",
            f" Output: {output}",
            f" Architecture: {image.architecture}",
            f" Channel: {short}" + (f" ({image.channel})" if short != image.channel else ""),
            f" Version: {image.version}",
            f" Login: {login}",
            f"Launch by running: {access.launch}",
            *([f"or: {access.boot}"] if access.boot else []),
        ]
    )


def document(output: Path, image: RawImage, access: Access) -> dict[str, Any]:
    """Return the same as `summary`, for programs."""
    login: dict[str, Any] | None = None
    if access.login and access.login.password:
        login = {"user": "admin", "password": access.login.password}
    elif access.login:
        login = {"user": "admin", "ssh_keys": [str(path) for path in access.key_files]}
    return {
        "output": str(output.absolute()),
        "architecture": image.architecture,
        "channel": image.channel,
        "version": image.version,
        "tools": image.tools.tree_sha256,
        "login": login,
        "launch": access.launch,
    }
