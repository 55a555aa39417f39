"""The image that a command leaves: a login put in, then moved to its name, then said what it is."""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coreimage.cli.boot import launch_line
from coreimage.cli.settings import Settings
from coreimage.errors import UsageError

if TYPE_CHECKING:
    from coreimage.disk_image import Login

_KEY_NAMES = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")


def check_output(output: Path | None, *, force: bool) -> None:
    """Raises UsageError now rather than after the work."""
    if output is None:
        return
    if output.exists() and not force:
        raise UsageError("exists already", where=str(output), resolution="name another file, or use --force")
    if not output.absolute().parent.is_dir():
        raise UsageError("its folder does not exist", where=str(output), resolution="make the folder first")
    try:
        with tempfile.TemporaryFile(dir=output.absolute().parent):
            pass
    except OSError as error:
        reason = f"its folder cannot be written to: {error.strerror}"
        raise UsageError(reason, where=str(output), resolution="name a file in a folder of yours") from error


def leave_image(
    settings: Settings,
    output: Path,
    facts: Callable[[Path, Path], dict[str, str]],
    login_key: Path | None,
) -> None:
    """`facts` makes the raw image at the given path, in the given work folder, and gives the lines of the summary."""
    from coreimage.boot_test import probe_accelerator  # noqa: PLC0415
    from coreimage.disk_image import personalise  # noqa: PLC0415
    from coreimage.process import run  # noqa: PLC0415

    login = login_of(login_key)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.absolute().parent) as name:
        work = Path(name)
        found = facts(work / "disk.img", work)
        personalise(work / "disk.img", login, int(time.time()), run=run, work_folder=work)
        accelerator = probe_accelerator(run=run, work_folder=work)
        (work / "disk.img").replace(output)
    launch = shlex.join(launch_line(output, accelerator))
    found = {"Output": str(output), **found}
    click.echo(document(found, login, launch) if settings.as_json else summary(found, login, launch))


def login_of(login_key: Path | None) -> Login:
    """The key that was named, else all usual ones in ~/.ssh, else a password that nobody knows yet."""
    from coreimage.disk_image import Login, generated_password  # noqa: PLC0415

    usual = [Path.home() / ".ssh" / name for name in _KEY_NAMES]
    files = [login_key] if login_key else [path for path in usual if path.is_file()]
    keys = tuple(line.strip() for path in files for line in path.read_text("utf-8").splitlines() if line.strip())
    try:
        return Login(ssh_keys=keys, password="" if keys else generated_password())
    except ValueError as error:
        names = ", ".join(str(path) for path in files)
        raise UsageError(f"not an SSH public key: {error}", where=names, resolution="name one: --login-key") from error


def summary(facts: dict[str, str], login: Login, launch: str) -> str:
    """In the words of 2015."""
    how = f"password {login.password}" if login.password else f"{len(login.ssh_keys)} SSH key(s) of yours"
    lines = ["New image complete", "Summary:", *(f" {key}: {value}" for key, value in facts.items())]
    lines += [f" Login: admin, with {how}", f"Launch by running: {launch}", f"or: coreimage boot {facts['Output']}"]
    return "\n".join(lines)


def document(facts: dict[str, str], login: Login, launch: str) -> str:
    password = {"password": login.password} if login.password else {}
    return json.dumps({**{key.lower(): value for key, value in facts.items()}, "launch": launch, **password})
