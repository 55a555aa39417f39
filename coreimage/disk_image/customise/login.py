"""The user `admin` of an image, whom libnss-extrausers finds on `writable`. Published images have no login."""

from __future__ import annotations

import re
import secrets
from functools import partial
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from coreimage.disk_image.customise.customisation import Customisation, customisation_files
from coreimage.disk_image.customise.seed import (
    ETC,
    HOMES,
    SeedFile,
    existing_paths,
    with_parents,
    writable_place,
    write_seed,
)
from coreimage.errors import UsageError
from coreimage.host.process import Run
from coreimage.host.process import run as run_on_machine
from coreimage.model import Value

USER, USER_ID = "admin", 1000
_SUDO_GROUP_ID, _SHADOW_GROUP_ID = 27, 42
_KEY = re.compile(
    r"^(ssh-(rsa|ed25519)|ecdsa-sha2-nistp(256|384|521)|sk-[a-z0-9@.-]+) [A-Za-z0-9+/]{40,}={0,3}( [^\r\n]*)?$"
)
_PASSWORD_BYTES = 12
_EXTRAUSERS = "system-data/var/lib/extrausers"


class Login(Value):
    """Who may log in as `admin`: holders of the SSH keys, and whoever knows the password. One of both is given."""

    ssh_keys: tuple[str, ...] = ()
    password: str = Field(default="", repr=False)

    @field_validator("ssh_keys")
    @classmethod
    def _well_formed(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        bad = [number for number, key in enumerate(keys, start=1) if not _KEY.match(key.strip())]
        if bad:
            raise ValueError(f"SSH key {bad[0]} is not one line like `ssh-ed25519 AAAA… comment`")
        return tuple(key.strip() for key in keys)

    @field_validator("password")
    @classmethod
    def _one_line(cls, password: str) -> str:
        if "\n" in password or "\0" in password:
            raise ValueError("a password is one line")
        return password

    @model_validator(mode="after")
    def _is_possible(self) -> Login:
        if not self.ssh_keys and not self.password:
            raise ValueError("a login needs an SSH key or a password")
        return self


def generated_password() -> str:
    """Return a random password."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


def personalise(
    image: Path,
    login: Login | None,
    epoch: int,
    *,
    run: Run,
    work_folder: Path,
    customisation: Customisation = Customisation(),  # noqa: B008
) -> None:
    """Add a login and a customisation to a raw image in place.

    Args:
        image: The image.
        login: Who may log in as `admin`; None for no login.
        epoch: The time of all files, in seconds, UTC.
        run: Starts programs.
        work_folder: For files on the way.
        customisation: What else is asked of the image.

    Raises:
        UsageError: The image has a login already.
        BuildError: The image has no filesystem `writable`, or it cannot be written.
    """
    place = writable_place(image)
    if existing_paths(place, [f"{_EXTRAUSERS}/passwd"], run=run):
        raise UsageError("the image has a login already", where=str(image), resolution="start from a fresh image")
    files = list(customisation_files(customisation))
    if login:
        files += login_files(login, _hashed(login.password) if login.password else "*")
    if files:
        write_seed(place, files, epoch, run=run, work_folder=work_folder)


def login_files(login: Login, hashed_password: str) -> tuple[SeedFile, ...]:
    """Return the files of a login, parents before their content.

    Args:
        login: Who may log in.
        hashed_password: As in shadow(5); `*` for none.
    """
    home, own = f"{HOMES}/{USER}", partial(SeedFile, uid=USER_ID, gid=USER_ID)
    sudo = f"{USER} ALL=(ALL:ALL) {'NOPASSWD: ' if login.ssh_keys else ''}ALL\n"
    files = [
        _account_file("passwd", f"{USER}:x:{USER_ID}:{USER_ID}:{USER}:/home/{USER}:/bin/bash\n"),
        _account_file("group", f"{USER}:x:{USER_ID}:\nsudo:x:{_SUDO_GROUP_ID}:{USER}\n"),
        _account_file("shadow", f"{USER}:{hashed_password}:::::::\n", secret=True),
        _account_file("gshadow", f"{USER}:*::\nsudo:*::{USER}\n", secret=True),
        SeedFile(f"{ETC}/sudoers.d", None, 0o750),
        SeedFile(f"{ETC}/sudoers.d/90-{USER}", sudo.encode(), 0o440),
        SeedFile("overlays/etc/work", None, 0o755),
        own(home, None, 0o700),
    ]
    if login.ssh_keys:
        keys = "".join(f"{key}\n" for key in login.ssh_keys)
        files += [own(f"{home}/.ssh", None, 0o700), own(f"{home}/.ssh/authorized_keys", keys.encode(), 0o600)]
    return with_parents(files)


def _account_file(name: str, text: str, *, secret: bool = False) -> SeedFile:
    mode, group_id = (0o640, _SHADOW_GROUP_ID) if secret else (0o644, 0)
    return SeedFile(f"{_EXTRAUSERS}/{name}", text.encode(), mode, gid=group_id)


def _hashed(password: str) -> str:
    """Hash a password with the machine's OpenSSL. Its salt is random, so two images with a password always differ."""
    return run_on_machine(["openssl", "passwd", "-6", "-stdin"], stdin=f"{password}\n".encode()).output.strip()
