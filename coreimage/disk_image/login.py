"""A login on an image of one's own: written into `writable` only, so that what is published has none.

Storage on `writable` (as the image's initramfs mounts it): `user-data` is /home, `system-data/<path>` any other
persistent path, `overlays/etc/upper` what /etc has on top of the image. Accounts come through libnss-extrausers.
"""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import Field, field_validator, model_validator

from coreimage.disk_image.filesystems import debugfs
from coreimage.disk_image.table import read_partitions
from coreimage.errors import BuildError, UsageError
from coreimage.model import Value
from coreimage.process import Run

USER, USER_ID = "admin", 1000
_SUDO_GROUP_ID, _SHADOW_GROUP_ID = 27, 42
_KEY = re.compile(
    r"^(ssh-(rsa|ed25519)|ecdsa-sha2-nistp(256|384|521)|sk-[a-z0-9@.-]+) [A-Za-z0-9+/]{40,}={0,3}( [^\r\n]*)?$"
)
_PASSWORD_BYTES = 12
_EXTRAUSERS = "system-data/var/lib/extrausers"
_ETC = "overlays/etc/upper"


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


@dataclass(frozen=True)
class SeedFile:
    """A file (or, with `content` None, a folder) on `writable`; `mode` as in chmod."""

    path: str
    content: bytes | None
    mode: int
    uid: int = 0
    gid: int = 0


def generated_password() -> str:
    return secrets.token_urlsafe(_PASSWORD_BYTES)


def personalise(image: Path, login: Login, epoch: int, *, run: Run, work_folder: Path) -> None:
    """Adds the user `admin` to a raw image in place. Raises UsageError when the image has a login already."""
    hashed = _hashed(login.password, run=run) if login.password else "*"
    writable = next((entry for entry in read_partitions(image) if entry.name == "writable"), None)
    if writable is None:
        raise BuildError("has no partition called writable", where=str(image), resolution="is this one of our images?")
    place = f"{image}?offset={writable.offset_bytes}"
    if _present(place, SeedFile(f"{_EXTRAUSERS}/passwd", None, 0), run=run):
        raise UsageError("the image has a login already", where=str(image), resolution="start from a fresh image")
    with tempfile.TemporaryDirectory(prefix="login-", dir=work_folder) as folder:
        files = [file for file in seed(login, hashed) if file.content is not None or not _present(place, file, run=run)]
        commands = debugfs_commands(files, Path(folder))
        debugfs(place, commands, epoch, run=run)


def seed(login: Login, hashed_password: str) -> tuple[SeedFile, ...]:
    """What the login is made of, parents before their content."""
    sudo = f"{USER} ALL=(ALL:ALL) {'NOPASSWD: ' if login.ssh_keys else ''}ALL\n"
    keys = "".join(f"{key}\n" for key in login.ssh_keys)
    home, owner = f"user-data/{USER}", {"uid": USER_ID, "gid": USER_ID}
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
        SeedFile(f"{_ETC}/sudoers.d", None, 0o750),
        SeedFile(f"{_ETC}/sudoers.d/90-{USER}", sudo.encode(), 0o440),
        SeedFile("overlays/etc/work", None, 0o755),
        SeedFile(home, None, 0o700, **owner),
        *([SeedFile(f"{home}/.ssh", None, 0o700, **owner)] if keys else []),
        *([SeedFile(f"{home}/.ssh/authorized_keys", keys.encode(), 0o600, **owner)] if keys else []),
    ]
    named = {file.path for file in files}
    parents = {str(parent) for file in files for parent in PurePosixPath(file.path).parents} - named - {"."}
    folders = [SeedFile(parent, None, 0o755) for parent in parents]
    return tuple(sorted([*folders, *files], key=lambda file: file.path))


def debugfs_commands(files: Sequence[SeedFile], folder: Path) -> str:
    """The batch that makes these files; their contents are put into `folder` for it."""
    lines = []
    for number, file in enumerate(files):
        kind = 0o040000 if file.content is None else 0o100000
        if file.content is None:
            lines.append(f"mkdir /{file.path}")
        else:
            source = folder / str(number)
            source.write_bytes(file.content)
            lines.append(f"write {source} /{file.path}")
        fields = {"mode": f"0{kind | file.mode:o}", "uid": file.uid, "gid": file.gid}
        lines += [f"set_inode_field /{file.path} {field} {value}" for field, value in fields.items()]
    return "".join(f"{line}\n" for line in lines)


def _present(place: str, file: SeedFile, *, run: Run) -> bool:
    return "Inode:" in run(["debugfs", "-R", f"stat /{file.path}", place]).output


def _line(*fields: object) -> bytes:
    return (":".join(str(field) for field in fields) + "\n").encode()


def _hashed(password: str, *, run: Run) -> str:
    return run(["openssl", "passwd", "-6", "-stdin"], stdin=f"{password}\n".encode()).output.strip()
