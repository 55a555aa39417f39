"""cloud-init's user-data and network-config, as far as an image without cloud-init can do what they say.

The formats are cloud-init's (cloud-config, a script, network-config version 2). What is not supported is refused here,
before an image is made, rather than ignored by the device. docs/flash.md lists what is.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from coreimage.config import did_you_mean
from coreimage.disk_image.customisation import Customisation, WrittenFile
from coreimage.errors import ConfigError, Problem
from coreimage.model import Value

_CLOUD_CONFIG = "#cloud-config"
_RESOLUTION = "leave it out, or use an image with cloud-init; docs/flash.md lists what is supported"


def _lines(value: Any) -> Any:
    """A command is a line for the shell, or a list of words."""
    return shlex.join(map(str, value)) if isinstance(value, list) else value


def _octal(value: Any) -> Any:
    if isinstance(value, int):
        return value
    text = str(value).removeprefix("0o")
    if not re.fullmatch("[0-7]{3,5}", text):
        raise ValueError("permissions are octal digits in quotes, such as '0644'")
    return int(text, 8)


class _File(Value):
    path: str = Field(pattern=r"^/[^\x00\n]+$")
    content: str = ""
    permissions: Annotated[int, BeforeValidator(_octal)] = 0o644
    encoding: str = Field(default="", pattern=r"^(|text/plain|b64|base64)$")
    owner: str = Field(default="root:root", pattern=r"^root(:root)?$")

    @property
    def octets(self) -> bytes:
        return base64.b64decode(self.content, validate=True) if self.encoding.startswith("b") else self.content.encode()


class _UserData(Value):
    hostname: str = ""
    ssh_authorized_keys: tuple[str, ...] = ()
    ssh_pwauth: bool | None = None
    password: str = ""
    timezone: str = ""
    write_files: tuple[_File, ...] = ()
    runcmd: tuple[Annotated[str, BeforeValidator(_lines)], ...] = ()


class UserData(Value):
    """What user-data says: whom to let in, and all else."""

    ssh_keys: tuple[str, ...] = ()
    password: str = Field(default="", repr=False)
    customisation: Customisation = Customisation()


def parse_user_data(text: str, name: str) -> UserData:
    """Raises ConfigError with everything that is wrong in it, or that only cloud-init could do."""
    if text.startswith("#!"):
        script = WrittenFile(path="/etc/coreimage/first-boot/user-script", content=text.encode(), mode=0o700)
        return UserData(customisation=Customisation(files=(script,), commands=(script.path,)))
    if text.splitlines()[:1] != [_CLOUD_CONFIG]:
        raise _refused(name, [Problem("(file)", f"its first line is neither {_CLOUD_CONFIG} nor `#!…`", 1)])
    said = _parsed(_UserData, text, name)
    try:
        files = tuple(
            WrittenFile(path=file.path, content=file.octets, mode=file.permissions) for file in said.write_files
        )
        customisation = Customisation(
            hostname=said.hostname,
            ssh_passwords=said.ssh_pwauth,
            timezone=said.timezone,
            files=files,
            commands=said.runcmd,
        )
    except (ValidationError, binascii.Error) as error:
        raise _refused(name, _problems(error)) from error
    bad = [file.path for file in files if any(part in {".", ".."} for part in file.path.split("/"))]
    if bad:
        raise _refused(name, [Problem("write_files", f"{path} has `.` or `..` in it") for path in bad])
    return UserData(ssh_keys=said.ssh_authorized_keys, password=said.password, customisation=customisation)


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
    """systemd-networkd's files for a network-config of version 2. Raises ConfigError as `parse_user_data` does."""
    network = _parsed(_Network, text, name, lambda data: data.get("network", data))
    return Customisation(
        networks={f"10-{key}.network": network_unit(key, ethernet) for key, ethernet in network.ethernets.items()}
    )


def network_unit(key: str, ethernet: _Ethernet) -> str:
    """Pure: a systemd.network(5) file."""
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
        *(
            _section("Route", [("Destination", _destination(r.to)), ("Gateway", r.via), ("Metric", r.metric)])
            for r in ethernet.routes
        ),
    ]
    return "\n".join(section for section in sections if section)


def _destination(to: str) -> str:
    return "" if to == "default" else to


def _section(name: str, values: Sequence[tuple[str, object]]) -> str:
    lines = [f"{key}={value}\n" for key, value in values if value not in {"", None}]
    return f"[{name}]\n{''.join(lines)}" if lines else ""


def _parsed(
    model: type[Any], text: str, name: str, inner: Callable[[Mapping[str, Any]], Any] = lambda data: data
) -> Any:
    try:
        data = yaml.safe_load(text)
        if not isinstance(data, dict):
            raise _refused(name, [Problem("(top)", "is not a mapping of keys to values")])
        return model.model_validate(inner(data))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _refused(name, [Problem("yaml", str(error), mark.line + 1 if mark else 0)]) from error
    except ValidationError as error:
        raise _refused(name, _problems(error, list(model.model_fields))) from error


def _problems(error: Exception, known: Sequence[str] = ()) -> list[Problem]:
    if not isinstance(error, ValidationError):
        return [Problem("write_files", f"content is not base64: {error}")]
    problems = []
    for detail in error.errors():
        path = [str(part) for part in detail["loc"] if part != "[key]"]
        message = str(detail["msg"]).removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            message = f"is not supported{did_you_mean(path[-1], known if len(path) == 1 else ())}"
        problems.append(Problem(".".join(path) or "(top)", message))
    return problems


def _refused(name: str, problems: list[Problem]) -> ConfigError:
    return ConfigError(name, problems, resolution=_RESOLUTION)
