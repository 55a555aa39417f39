"""What a user may say about an image of one's own besides its login: all of it becomes files on `writable`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import Field, field_validator

from coreimage.disk_image.seed import ETC, SeedFile
from coreimage.model import Value

FIRST_BOOT = f"{ETC}/coreimage/first-boot"
_HOSTNAME = re.compile(r"^(?!-)[a-z0-9-]{1,63}(?<!-)$")
_UNIT = "coreimage-first-boot.service"
_UNIT_TEXT = """[Unit]
Description=What this image was told to do once
ConditionPathExists=!/etc/coreimage/first-boot/done
Wants=network-online.target
After=network.target ssh.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /etc/coreimage/first-boot/run
ExecStartPost=/bin/touch /etc/coreimage/first-boot/done

[Install]
WantedBy=multi-user.target
"""


class WrittenFile(Value):
    """`path` is absolute, on the device; `mode` as in chmod."""

    path: str
    content: bytes
    mode: int = 0o644


class Customisation(Value):
    """`commands` are shell lines, run once as root at the first boot; `networks` are systemd-networkd's files by name.

    `ssh_passwords` says whether the SSH server takes passwords; None leaves it as the image has it.
    """

    hostname: str = ""
    ssh_passwords: bool | None = None
    timezone: str = Field(default="", pattern=r"^([A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*)?$")
    files: tuple[WrittenFile, ...] = ()
    networks: Mapping[str, str] = Field(default_factory=dict)
    commands: tuple[str, ...] = ()

    @field_validator("hostname")
    @classmethod
    def _host_name(cls, name: str) -> str:
        if name and not _HOSTNAME.match(name):
            raise ValueError("a host name has up to 63 of a-z, 0-9 and -, and no - at its ends")
        return name


def customised(wanted: Customisation) -> tuple[SeedFile, ...]:
    """The files that do it; none for a customisation that says nothing."""
    files: list[SeedFile] = []
    if wanted.hostname:
        files.append(SeedFile(f"{ETC}/hostname", f"{wanted.hostname}\n".encode(), 0o644))
        hosts = f"127.0.0.1 localhost\n127.0.1.1 {wanted.hostname}\n::1 localhost ip6-localhost ip6-loopback\n"
        files.append(SeedFile(f"{ETC}/hosts", hosts.encode(), 0o644))
    if wanted.ssh_passwords is not None:
        answer = "yes" if wanted.ssh_passwords else "no"
        text = f"PasswordAuthentication {answer}\nKbdInteractiveAuthentication no\n"
        files.append(SeedFile(f"{ETC}/ssh/sshd_config.d/50-coreimage.conf", text.encode(), 0o644))
    if wanted.timezone:
        files.append(SeedFile(f"{ETC}/localtime", None, 0o777, link=f"/usr/share/zoneinfo/{wanted.timezone}"))
    for name, text in wanted.networks.items():
        files.append(SeedFile(f"{ETC}/systemd/network/{name}", text.encode(), 0o644))
    return (*files, *_first_boot(wanted))


def _first_boot(wanted: Customisation) -> tuple[SeedFile, ...]:
    in_etc = [file for file in wanted.files if file.path.startswith("/etc/")]
    later = [file for file in wanted.files if file not in in_etc]
    written = [SeedFile(ETC + file.path.removeprefix("/etc"), file.content, file.mode) for file in in_etc]
    lines = [
        f"install -D -m {file.mode:o} /etc/coreimage/first-boot/files/{number} {quoted(file.path)}"
        for number, file in enumerate(later)
    ]
    if not lines and not wanted.commands:
        return tuple(written)
    # As with cloud-init, a command that fails does not keep the next one from running.
    script = "".join(f"{line}\n" for line in ["set -e", *lines, "set +e", *wanted.commands])
    wants = f"{ETC}/systemd/system/multi-user.target.wants/{_UNIT}"
    return (
        *written,
        *(SeedFile(f"{FIRST_BOOT}/files/{number}", file.content, 0o600) for number, file in enumerate(later)),
        SeedFile(f"{FIRST_BOOT}/run", script.encode(), 0o700),
        SeedFile(f"{ETC}/systemd/system/{_UNIT}", _UNIT_TEXT.encode(), 0o644),
        SeedFile(wants, None, 0o777, link=f"/etc/systemd/system/{_UNIT}"),
    )


def quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def joined(parts: Sequence[Customisation]) -> Customisation:
    """Later ones win; files, networks and commands add up."""
    fields: dict[str, object] = {}
    for part in parts:
        said = part.model_dump(exclude_defaults=True)
        for key in ("files", "commands"):
            said[key] = (*fields.get(key, ()), *said.get(key, ()))  # type: ignore[misc]
        said["networks"] = {**fields.get("networks", {}), **said.get("networks", {})}  # type: ignore[dict-item]
        fields |= said
    return Customisation.model_validate(fields)
