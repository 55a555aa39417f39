"""cloud-init's user-data and network-config, as far as an image without cloud-init can do what they ask.

The formats are cloud-init's (cloud-config, a script, network-config version 2). What is not supported is refused here,
before an image is made, rather than ignored by the device. docs/flash.md lists what is.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from coreimage.disk_image.customise.customisation import Customisation, HostName, TimeZone, WrittenFile
from coreimage.errors import ConfigError, Problem
from coreimage.model import Value
from coreimage.project.yaml_document import load_yaml

_CLOUD_CONFIG = "#cloud-config"
_RESOLUTION = "leave it out, or use an image with cloud-init; docs/flash.md lists what is supported"
_UNSUPPORTED = "is not supported"


def _shell_line(value: Any) -> Any:
    """Make a shell line of a list of words, which is the other form of a command."""
    return shlex.join(map(str, value)) if isinstance(value, list) else value


def _octal(value: Any) -> Any:
    if isinstance(value, int):
        return value
    text = str(value).removeprefix("0o")
    if not re.fullmatch("[0-7]{3,5}", text):
        raise ValueError("permissions are octal digits in quotes, such as '0644'")
    return int(text, 8)


def _direct_path(path: str) -> str:
    if {".", ".."} & set(path.split("/")):
        raise ValueError("has `.` or `..` in it")
    return path


class _File(Value):
    path: Annotated[str, Field(pattern=r"^/[^\x00\n]+$"), AfterValidator(_direct_path)]
    content: str = ""
    permissions: Annotated[int, BeforeValidator(_octal)] = 0o644
    encoding: str = Field(default="", pattern=r"^(|text/plain|b64|base64)$")
    owner: str = Field(default="root:root", pattern=r"^root(:root)?$")

    @model_validator(mode="after")
    def _is_decodable(self) -> _File:
        self.written()
        return self

    def written(self) -> WrittenFile:
        if not self.encoding.startswith("b"):
            return WrittenFile(path=self.path, content=self.content.encode(), mode=self.permissions)
        try:
            content = base64.b64decode(self.content, validate=True)
        except binascii.Error as error:
            raise ValueError(f"content is not base64: {error}") from error
        return WrittenFile(path=self.path, content=content, mode=self.permissions)


class _CloudConfig(Value):
    hostname: HostName = ""
    ssh_authorized_keys: tuple[str, ...] = ()
    ssh_pwauth: bool | None = None
    password: str = ""
    timezone: TimeZone = ""
    write_files: tuple[_File, ...] = ()
    runcmd: tuple[Annotated[str, BeforeValidator(_shell_line)], ...] = ()


class UserData(Value):
    """What user-data asks for: a login, and everything else."""

    ssh_keys: tuple[str, ...] = ()
    password: str = Field(default="", repr=False)
    customisation: Customisation = Customisation()


def parse_user_data(text: str, name: str) -> UserData:
    """Parse user-data: a cloud-config, or a script that the first boot runs.

    Args:
        text: The content of the file.
        name: What error messages call it.

    Raises:
        ConfigError: Everything that is wrong in it, or that only cloud-init could do.
    """
    if text.startswith("#!"):
        script = WrittenFile(path="/etc/coreimage/first-boot/user-script", content=text.encode(), mode=0o700)
        return UserData(customisation=Customisation(files=(script,), commands=(script.path,)))
    if text.splitlines()[:1] != [_CLOUD_CONFIG]:
        problem = Problem("(file)", f"its first line is neither {_CLOUD_CONFIG} nor `#!…`", 1)
        raise ConfigError(name, [problem], resolution=_RESOLUTION)
    document = load_yaml(text, name, resolution=_RESOLUTION)
    config = document.validate(_CloudConfig, unknown_key=_UNSUPPORTED, secret=True)
    return UserData(
        ssh_keys=config.ssh_authorized_keys,
        password=config.password,
        customisation=Customisation(
            hostname=config.hostname,
            ssh_passwords=config.ssh_pwauth,
            timezone=config.timezone,
            files=tuple(file.written() for file in config.write_files),
            commands=config.runcmd,
        ),
    )


class _Match(Value):
    name: str = ""
    macaddress: str = ""
    driver: str = ""


class _Route(Value):
    to: str
    via: str
    metric: int | None = None


class _NameServers(Value):
    addresses: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


class _Ethernet(Value):
    match: _Match | None = None
    dhcp4: bool = False
    dhcp6: bool = False
    addresses: tuple[str, ...] = ()
    gateway4: str = ""
    gateway6: str = ""
    routes: tuple[_Route, ...] = ()
    nameservers: _NameServers = _NameServers()
    mtu: int | None = None
    optional: bool = False


class _Network(Value):
    version: int = Field(ge=2, le=2)
    renderer: str = Field(default="networkd", pattern="^networkd$")
    ethernets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")], _Ethernet] = Field(min_length=1)


def parse_network_config(text: str, name: str) -> Customisation:
    """Parse a network-config of version 2, with or without `network` at its top, into files of systemd-networkd.

    Args:
        text: The content of the file.
        name: What error messages call it.

    Raises:
        ConfigError: Everything that is wrong in it, or that only cloud-init could do.
    """
    document = load_yaml(text, name, resolution=_RESOLUTION)
    if isinstance(document.value, dict) and "network" in document.value:
        document = document.part("network")
    network = document.validate(_Network, unknown_key=_UNSUPPORTED)
    return Customisation(
        networks={f"10-{key}.network": network_unit(key, ethernet) for key, ethernet in network.ethernets.items()}
    )


def network_unit(key: str, ethernet: _Ethernet) -> str:
    """Return the text of a systemd.network(5) file."""
    match = ethernet.match or _Match(name=key)
    dhcp = {(True, True): "yes", (True, False): "ipv4", (False, True): "ipv6"}.get((ethernet.dhcp4, ethernet.dhcp6))
    gateways = [gateway for gateway in (ethernet.gateway4, ethernet.gateway6) if gateway]
    sections = [
        _section("Match", [("Name", match.name), ("MACAddress", match.macaddress), ("Driver", match.driver)]),
        _section("Link", [("MTUBytes", ethernet.mtu), ("RequiredForOnline", "no" if ethernet.optional else "")]),
        _section(
            "Network",
            [
                ("DHCP", dhcp or "no"),
                *(("Address", address) for address in ethernet.addresses),
                *(("Gateway", gateway) for gateway in gateways),
                *(("DNS", address) for address in ethernet.nameservers.addresses),
                ("Domains", " ".join(ethernet.nameservers.search)),
            ],
        ),
        *(_section("Route", _route(route)) for route in ethernet.routes),
    ]
    return "\n".join(section for section in sections if section)


def _route(route: _Route) -> list[tuple[str, object]]:
    destination = "" if route.to == "default" else route.to
    return [("Destination", destination), ("Gateway", route.via), ("Metric", route.metric)]


def _section(name: str, values: Sequence[tuple[str, object]]) -> str:
    lines = [f"{key}={value}\n" for key, value in values if value not in {"", None}]
    return f"[{name}]\n{''.join(lines)}" if lines else ""
