"""A login on an image of one's own: written into `writable` only, so that what is published has none.

Accounts come through libnss-extrausers.
"""

from __future__ import annotations

import re
import secrets
from functools import partial
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from coreimage.disk_image.customisation import Customisation, customised
from coreimage.disk_image.seed import ETC, HOMES, SeedFile, present, with_parents, writable_place, write_seed
from coreimage.errors import UsageError
from coreimage.model import Value
from coreimage.process import Run
from coreimage.process import run as run_on_machine

USER, USER_ID = "admin", 1000
_SUDO_GROUP_ID, _SHADOW_GROUP_ID = 27, 42
_KEY = re.compile(
    r"^(ssh-(rsa|ed25519)|ecdsa-sha2-nistp(256|384|521)|sk-[a-z0-9@.-]+) [A-Za-z0-9+/]{40,}={0,3}( [^\r\n]*)?$"
)
_PASSWORD_BYTES = 12
_EXTRAUSERS = "system-data/var/lib/extrausers"


class Login(Value):
    """Who may log in as `admin`: holders of these SSH keys, or whoever knows the password; at least one of both."""

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
    def _some(self) -> Login:
        if not self.ssh_keys and not self.password:
            raise ValueError("a login needs an SSH key or a password")
        return self


def generated_password() -> str:
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
    """Adds the user `admin`, if anybody may log in, and what else is wanted, to a raw image in place.

    Raises UsageError when the image has a login already.
    """
    place = writable_place(image)
    if present(place, [f"{_EXTRAUSERS}/passwd"], run=run):
        raise UsageError("the image has a login already", where=str(image), resolution="start from a fresh image")
    files = list(customised(customisation))
    if login:
        files += seed(login, _hashed(login.password) if login.password else "*")
    if files:
        write_seed(place, files, epoch, run=run, work_folder=work_folder)


def seed(login: Login, hashed_password: str) -> tuple[SeedFile, ...]:
    """What the login is made of, parents before their content."""
    sudo = f"{USER} ALL=(ALL:ALL) {'NOPASSWD: ' if login.ssh_keys else ''}ALL\n"
    keys = "".join(f"{key}\n" for key in login.ssh_keys)
    home, own = f"{HOMES}/{USER}", partial(SeedFile, uid=USER_ID, gid=USER_ID)
    files = [
        SeedFile(
            f"{_EXTRAUSERS}/passwd", _line(USER, "x", USER_ID, USER_ID, USER, f"/home/{USER}", "/bin/bash"), 0o644
        ),
        SeedFile(
            f"{_EXTRAUSERS}/group", _line(USER, "x", USER_ID, "") + _line("sudo", "x", _SUDO_GROUP_ID, USER), 0o644
        ),
        SeedFile(
            f"{_EXTRAUSERS}/shadow",
            _line(USER, hashed_password, "", "", "", "", "", "", ""),
            0o640,
            gid=_SHADOW_GROUP_ID,
        ),
        SeedFile(
            f"{_EXTRAUSERS}/gshadow",
            _line(USER, "*", "", "") + _line("sudo", "*", "", USER),
            0o640,
            gid=_SHADOW_GROUP_ID,
        ),
        SeedFile(f"{ETC}/sudoers.d", None, 0o750),
        SeedFile(f"{ETC}/sudoers.d/90-{USER}", sudo.encode(), 0o440),
        SeedFile("overlays/etc/work", None, 0o755),
        own(home, None, 0o700),
        *([own(f"{home}/.ssh", None, 0o700)] if keys else []),
        *([own(f"{home}/.ssh/authorized_keys", keys.encode(), 0o600)] if keys else []),
    ]
    return with_parents(files)


def _line(*fields: object) -> bytes:
    return (":".join(str(field) for field in fields) + "\n").encode()


def _hashed(password: str) -> str:
    """By the machine's OpenSSL: with its random salt, no two images with a password are equal anyway."""
    return run_on_machine(["openssl", "passwd", "-6", "-stdin"], stdin=f"{password}\n".encode()).output.strip()
