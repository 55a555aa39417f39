"""What a user may ask of an image besides a login, and the files on `writable` that do it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from coreimage.disk_image.customise.seed import ETC, SeedFile
from coreimage.model import Value

FIRST_BOOT = f"{ETC}/coreimage/first-boot"
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


def _host_name(name: str) -> str:
    if name and not re.fullmatch(r"(?!-)[a-z0-9-]{1,63}(?<!-)", name):
        raise ValueError("a host name has up to 63 of a-z, 0-9 and -, and no - at its ends")
    return name


HostName = Annotated[str, AfterValidator(_host_name)]
"""Empty, or the label of a DNS name (RFC 1123 §2.1)."""
TimeZone = Annotated[str, Field(pattern=r"^([A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*)?$")]
"""Empty, or the name of a file below /usr/share/zoneinfo."""


class WrittenFile(Value):
    """A file that the user brings. `path` is absolute, on the device; `mode` as in chmod."""

    path: str
    content: bytes
    mode: int = 0o644


class Customisation(Value):
    """What is asked of an image. Whatever is empty stays as the image has it.

    Attributes:
        ssh_passwords: Whether the SSH server accepts passwords; None leaves it as it is.
        networks: Files of systemd-networkd by name.
        commands: Shell lines, run once as root at the first boot.
    """

    hostname: HostName = ""
    ssh_passwords: bool | None = None
    timezone: TimeZone = ""
    files: tuple[WrittenFile, ...] = ()
    networks: Mapping[str, str] = Field(default_factory=dict)
    commands: tuple[str, ...] = ()


def customisation_files(wanted: Customisation) -> tuple[SeedFile, ...]:
    """Return the files that do what is asked; none for an empty customisation."""
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
    for file in wanted.files:
        if file.path.startswith("/etc/"):
            files.append(SeedFile(ETC + file.path.removeprefix("/etc"), file.content, file.mode))
    return (*files, *_first_boot(wanted))


def _first_boot(wanted: Customisation) -> tuple[SeedFile, ...]:
    """Return what the first boot does: commands, and files outside of /etc, where nothing can be put beforehand."""
    later = [file for file in wanted.files if not file.path.startswith("/etc/")]
    lines = [
        f"install -D -m {file.mode:o} /etc/coreimage/first-boot/files/{number} {shlex.quote(file.path)}"
        for number, file in enumerate(later)
    ]
    if not lines and not wanted.commands:
        return ()
    # As with cloud-init, a command that fails does not keep the next one from running.
    script = "".join(f"{line}\n" for line in ["set -e", *lines, "set +e", *wanted.commands])
    wants = f"{ETC}/systemd/system/multi-user.target.wants/{_UNIT}"
    return (
        *(SeedFile(f"{FIRST_BOOT}/files/{number}", file.content, 0o600) for number, file in enumerate(later)),
        SeedFile(f"{FIRST_BOOT}/run", script.encode(), 0o700),
        SeedFile(f"{ETC}/systemd/system/{_UNIT}", _UNIT_TEXT.encode(), 0o644),
        SeedFile(wants, None, 0o777, link=f"/etc/systemd/system/{_UNIT}"),
    )


def joined(parts: Sequence[Customisation]) -> Customisation:
    """Join customisations: of single values the last one counts; files, networks and commands add up."""
    result = Customisation()
    for part in parts:
        result = Customisation(
            hostname=part.hostname or result.hostname,
            ssh_passwords=result.ssh_passwords if part.ssh_passwords is None else part.ssh_passwords,
            timezone=part.timezone or result.timezone,
            files=(*result.files, *part.files),
            networks={**result.networks, **part.networks},
            commands=(*result.commands, *part.commands),
        )
    return result
