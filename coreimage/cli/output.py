"""The image that a command leaves: a login put in, then moved to its name, then said what it is."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.boot import launch_line
from coreimage.cli.settings import Settings
from coreimage.errors import ProcessError, UsageError

if TYPE_CHECKING:
    from coreimage.cli.tools import Tools
    from coreimage.disk_image import Compression, Customisation, Form, Login
    from coreimage.model import Architecture
    from coreimage.process import Run

_KEY_NAMES = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")


@dataclass(frozen=True)
class Facts:
    """What an image is, however it was made; `channel` is the whole name, `tools` are what it was made with."""

    architecture: Architecture
    channel: str
    version: int
    tools: Tools
    epoch: int | None = None
    """Seconds, UTC: the time that everything added gets; now, where it is not known."""


@dataclass(frozen=True)
class Access:
    """How to get into an image: its login, the files that its keys are from, and what to type."""

    login: Login | None
    key_files: tuple[Path, ...]
    launch: str
    boot: str


def check_output(output: Path | None, *, force: bool) -> None:
    """Raises UsageError now rather than after the work."""
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


@dataclass(frozen=True)
class Finish:
    """What is done to an image once it is made. `ssh_keys` and `password` come from user-data, and add to the login."""

    form: Form = "raw"
    compression: Compression | None = None
    bmap: bool = False
    login: bool = True
    ssh_keys: tuple[str, ...] = ()
    password: str = ""
    customisation: Customisation | None = None


def leave_image(
    settings: Settings,
    output: Path,
    make: Callable[[Path, Path], Facts],
    login_key: Path | None,
    finish: Finish = Finish(),
) -> tuple[Facts, Access]:
    """`make` makes the raw image at the given path, in the given work folder. Nothing is left when it fails."""
    from coreimage.boot_test import probe_accelerator  # noqa: PLC0415
    from coreimage.disk_image import Customisation, personalise  # noqa: PLC0415
    from coreimage.process import run  # noqa: PLC0415
    from coreimage.workspace import workspace  # noqa: PLC0415

    key_files = login_key_files(login_key)
    login = login_of(key_files, finish.ssh_keys, finish.password) if finish.login else None
    with _told_when_full(output), workspace("image", parent=output.absolute().parent) as work:
        facts = make(work / "disk.img", work)
        personalise(
            work / "disk.img",
            login,
            int(time.time()) if facts.epoch is None else facts.epoch,
            run=facts.tools.run,
            work_folder=work,
            customisation=finish.customisation or Customisation(),
        )
        accelerator = probe_accelerator(facts.architecture, run=run, work_folder=work)
        _hand_out(work / "disk.img", output, finish, work, facts.tools.run)
    access = Access(login, key_files, *how_to_launch(output, accelerator, facts.architecture, finish))
    if not settings.as_json:
        click.echo(summary(output, facts, access))
    return facts, access


@contextmanager
def _told_when_full(output: Path) -> Iterator[None]:
    from coreimage.disk_image import full_disk  # noqa: PLC0415

    try:
        yield
    except (OSError, ProcessError) as error:
        if full := full_disk(error, output):
            raise full from error
        raise


def _hand_out(image: Path, output: Path, finish: Finish, work: Path, run: Run) -> None:
    """The last act: whatever was made takes its name, the image itself last."""
    from coreimage.disk_image import write_bmap, write_form  # noqa: PLC0415

    map_of = output.with_name(f"{output.name}.bmap")
    made_map = write_bmap(image, work / "disk.bmap", run=run) if finish.bmap else None
    made = write_form(image, work / "disk.out", finish.form, finish.compression, run=run)
    if made_map:
        made_map.replace(map_of)
    try:
        made.replace(output)
    except BaseException:
        if made_map:
            map_of.unlink(missing_ok=True)
        raise


_UNPACK = {"xz": "xz -dk", "zst": "zstd -d", "gz": "gzip -dk"}


def how_to_launch(output: Path, accelerator: str, architecture: Architecture, finish: Finish) -> tuple[str, str]:
    """What to type: QEMU's line, and our own."""
    if finish.compression:
        return f"{_UNPACK[finish.compression]} {shlex.quote(str(output))}, then boot what comes out", ""
    boot = shlex.join([*own_command(), "boot", str(output)])
    return shlex.join(launch_line(output, accelerator, architecture, finish.form)), boot


def login_key_files(login_key: Path | None) -> tuple[Path, ...]:
    """The one that was named, else all usual ones in ~/.ssh."""
    usual = [Path.home() / ".ssh" / name for name in _KEY_NAMES]
    return (login_key,) if login_key else tuple(path for path in usual if path.is_file())


def login_of(key_files: tuple[Path, ...], more_keys: tuple[str, ...] = (), password: str = "") -> Login:
    """All keys of the files and `more_keys`, and the `password`; without any, one that nobody knows yet."""
    from coreimage.disk_image import Login, generated_password  # noqa: PLC0415

    names = ", ".join(str(path) for path in key_files)
    try:
        keys = tuple(
            line.strip() for path in key_files for line in path.read_text("utf-8").splitlines() if line.strip()
        )
        keys = (*keys, *more_keys)
        return Login(ssh_keys=keys, password=password or ("" if keys else generated_password()))
    except (ValueError, OSError) as error:
        raise UsageError("not an SSH public key", where=names, resolution="name one with --login-key FILE") from error


def own_command() -> list[str]:
    """What to type here to run us: `coreimage` when the shell would find it, else the way to it."""
    started = Path(sys.argv[0])
    if started.name != "coreimage":
        return [sys.executable, "-m", "coreimage.cli"]
    found = shutil.which("coreimage")
    if found and Path(found).resolve() == started.resolve():
        return ["coreimage"]
    absolute = started.absolute()
    return [str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)]


def summary(output: Path, facts: Facts, access: Access) -> str:
    """In the words and the order of 2015, then what is new: a login of one's own."""
    short = facts.channel.rpartition("/")[2]
    return "\n".join(
        [
            "New image complete",
            "Summary:",
            f" Output: {output}",
            f" Architecture: {facts.architecture}",
            f" Channel: {short}" + (f" ({facts.channel})" if short != facts.channel else ""),
            f" Version: {facts.version}",
            f" Login: {_login_line(access)}",
            f"Launch by running: {access.launch}",
            *([f"or: {access.boot}"] if access.boot else []),
        ]
    )


def document(output: Path, facts: Facts, access: Access) -> dict[str, Any]:
    """The same for programs."""
    login: dict[str, Any] | None = {"user": "admin"} if access.login else None
    if login is None or access.login is None:
        pass
    elif access.login.password:
        login["password"] = access.login.password
    else:
        login["ssh_keys"] = [str(path) for path in access.key_files]
    return {
        "output": str(output.absolute()),
        "architecture": facts.architecture,
        "channel": facts.channel,
        "version": facts.version,
        "tools": facts.tools.tree,
        "login": login,
        "launch": access.launch,
    }


def _login_line(access: Access) -> str:
    if access.login is None:
        return "none"
    if access.login.password:
        return f"admin, password {access.login.password} (chosen at random, not kept anywhere else)"
    files = ", ".join(str(path) for path in access.key_files)
    return f"admin, with {files}: ssh -p 2222 admin@localhost"
