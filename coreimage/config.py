"""Project YAML to `ProjectConfig`. All problems of a file are reported at once, each with its line.

docs/project-file.md describes every key for users.
"""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from coreimage.errors import ConfigError, NotFoundError, Problem, UsageError
from coreimage.model import Architecture, Compression, Firmware, Server, Value

DELTA_BASES = 1


def _channel_name(name: str) -> str:
    """Channel names become paths and INI values (system-image §1.1, §2.6)."""
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts) or parts[0] in {"pool", "gpg"} or "%" in name or " " in name:
        raise ValueError("a channel name is `/`-separated words; the first is not `pool` or `gpg`; no `%`, no blanks")
    return name


def _cron(text: str) -> str:
    try:
        CronSim(text, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"no cron expression of five fields, such as `17 3 * * *`: {error}") from None
    return text


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("no time zone; it is named like `UTC` or `Europe/Berlin`") from None
    return name


ChannelName = Annotated[str, AfterValidator(_channel_name)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]


class ArchiveConfig(Value):
    """A package archive. Without `uri`, the host's own apt sources for the first suite are used."""

    uri: str | None = None
    suites: tuple[Word, ...] = Field(min_length=1)
    components: tuple[Word, ...] = ("main",)
    key: str | None = None
    """Keyring file (binary or armoured), relative to the project file; default: the distribution's own."""


class ExtraArchiveConfig(Value):
    """2015's EXTRA_PPAS: one more archive with its own key and, when wanted, a pin."""

    uri: str
    suite: Word
    components: tuple[Word, ...] = ("main",)
    key: str
    pin_priority: int | None = Field(default=None, ge=-1, le=2000)
    may_replace: tuple[str, ...] = ()
    """Packages of `archives` that this one may take the place of; `*`: any."""


class RootfsConfig(Value):
    packages: tuple[str, ...] = Field(min_length=1)
    overlay: str | None = None
    """Folder whose files are laid over the rootfs after the packages are installed."""
    hooks: tuple[str, ...] = ()
    """Scripts run in the rootfs, in this order, after the overlay."""


class CustomConfig(Value):
    """The custom tarball of a product: files of one's own that are no package."""

    overlay: str
    """Folder of files, as the image's root has them."""


class SeriesConfig(Value):
    distribution: Literal["debian", "ubuntu"] = "debian"
    codename: Word
    product: Word = "core"
    archives: tuple[ArchiveConfig, ...] = Field(min_length=1)
    extra_archives: tuple[ExtraArchiveConfig, ...] = ()
    rootfs: RootfsConfig
    custom: CustomConfig | None = None
    """What each build publishes beside rootfs and device parts, and each version lays over them."""


class ToolsConfig(Value):
    """Where the tools tree comes from: the programs that shape bytes, so that the machine's own do not."""

    distribution: Literal["debian", "ubuntu"] = "debian"
    archives: tuple[ArchiveConfig, ...] = Field(
        default=(ArchiveConfig(suites=("trixie", "trixie-updates")), ArchiveConfig(suites=("trixie-security",))),
        min_length=1,
    )


class DeviceConfig(Value):
    architecture: Architecture
    gadget: str
    """Folder with meta/gadget.yaml and the boot assets it names, relative to the project file."""
    packages: tuple[str, ...] = Field(min_length=1)
    """Kernel and firmware packages; they end up in the device tarball."""


class ScheduleConfig(Value):
    """When something runs by itself."""

    cron: Annotated[str, AfterValidator(_cron)]
    timezone: Annotated[str, AfterValidator(_time_zone)] = "UTC"


class PromotionConfig(Value):
    """What a channel takes over from another by itself, and what must hold before."""

    source: ChannelName
    schedule: ScheduleConfig
    min_age_hours: float = Field(default=0, ge=0)
    """So long the version must have stood in `source`."""
    phase: int = Field(default=100, ge=0, le=100)
    """Percentage of devices that are offered the version at once."""


class RetentionConfig(Value):
    """What is kept: the newest `keep_count`, and all that is younger than `keep_days`."""

    keep_count: int = Field(default=10, ge=1)
    keep_days: int = Field(default=14, ge=0)
    schedule: ScheduleConfig = ScheduleConfig(cron="41 4 * * *")


class ArchitectureConfig(Value):
    """How much one architecture matters to a channel."""

    required: bool = True
    """Whether a run fails with it; if not, the others go on, and its files are those of the last build that had it."""
    deadline_minutes: float = Field(default=360, gt=0)
    """So long a run may work for it, from choosing packages to releasing; then it has failed."""


class ImageSourceConfig(Value):
    """A part of the newest version of another channel: of this store, or of another system-image server."""

    channel: ChannelName
    device: str = ""
    """Default: the device that the version is made for."""
    component: str = ""
    """What the part is called there, such as `custom`; default: as here."""
    server: str = ""
    """Web root of the other server, an address or a folder; default: this store."""
    keyring: str = ""
    """The server's archive-master.tar.xz: whom to trust."""
    legacy: bool = False
    """Whether it is a server of 2015, which cannot tell old channels from new ones."""

    @model_validator(mode="after")
    def _trusted(self) -> ImageSourceConfig:
        if bool(self.server) != bool(self.keyring):
            raise ValueError("`server` and `keyring` go together: without its archive-master, no server is believed")
        return self


class ComponentConfig(Value):
    """One more tarball of a channel's versions, laid over rootfs and device part. One of four sources is named."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    devices: tuple[Word, ...] = ()
    """Only for these; empty: for all."""
    file: str | None = None
    """A tarball, relative to the project file."""
    url: str | None = None
    """A tarball on a web server."""
    monitor: str = ""
    """Address of a text of one line: `url` is fetched again when it changes."""
    keyring: Literal["archive-master", "image-master", "image-signing"] | None = None
    """A keyring of this store, put where images have the one that they trust."""
    image: ImageSourceConfig | None = None
    """A part of another channel's newest version."""

    @model_validator(mode="after")
    def _one_source(self) -> ComponentConfig:
        if self.name in {"ubuntu", "device", "version"}:
            raise ValueError(f"`{self.name}` is what every version has already: choose another name")
        if sum(source is not None for source in (self.file, self.url, self.keyring, self.image)) != 1:
            raise ValueError("name one source: `file`, `url`, `keyring` or `image`")
        if self.monitor and self.url is None:
            raise ValueError("`monitor` says when `url` is fetched again")
        return self


class ChannelConfig(Value):
    series: str
    devices: tuple[Word, ...] = Field(min_length=1)
    image_type: Word = "daily-preinstalled"
    description: str = ""
    boot_test: tuple[Firmware, ...] = ("bios", "uefi")
    """Firmwares under which a candidate must boot before it is released; empty: no gate."""
    architectures: dict[Architecture, ArchitectureConfig] = Field(default_factory=dict)
    """What holds for an architecture of the channel's devices, where it is not the default."""
    compression: Compression = "default"
    delta_bases: int = Field(default=DELTA_BASES, ge=0, le=20)
    """From how many of the channel's newest versions a new one gets deltas."""
    schedule: ScheduleConfig | None = None
    """When the channel is built by itself; without, only when asked."""
    type: Literal["auto", "manual"] = "auto"
    """`auto` takes published builds, `manual` is filled by promotion only."""
    import_policy: Literal["any", "good"] = "any"
    """Which published builds the channel may take: any, or those that are marked good."""
    promotion: PromotionConfig | None = None
    retention: RetentionConfig | None = None
    components: tuple[ComponentConfig, ...] = ()
    """Further tarballs of each version, applied in this order after rootfs and device part."""
    server: Server | None = None
    """Where the channel's devices look for updates, if not where all do."""

    @model_validator(mode="after")
    def _components_once(self) -> ChannelConfig:
        names = [component.name for component in self.components]
        if len(set(names)) != len(names):
            raise ValueError("two components have the same name")
        return self


class WebhookConfig(Value):
    """Where a JSON document is posted to. An address that holds a secret is named by an environment variable."""

    url: str = ""
    url_env: str = ""

    @model_validator(mode="after")
    def _one(self) -> WebhookConfig:
        if bool(self.url) == bool(self.url_env):
            raise ValueError("name the address with one of `url` and `url_env`")
        return self


class MailConfig(Value):
    server: str
    port: int = Field(default=587, ge=1, le=65535)
    encryption: Literal["starttls", "tls", "none"] = "starttls"
    sender: str
    recipients: tuple[str, ...] = Field(min_length=1)
    user: str = ""
    password_env: str = ""
    """The environment variable with the password, where the deployments are made."""


class NotificationsConfig(Value):
    """Who hears of runs that failed, crashed, or did not start in time, and of what the daily check finds."""

    webhook: WebhookConfig | None = None
    mail: MailConfig | None = None
    late_after_minutes: int = Field(default=15, ge=1)

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that it names."""
        named = (self.webhook.url_env if self.webhook else "", self.mail.password_env if self.mail else "")
        return tuple(filter(None, named))


class MaintenanceConfig(Value):
    """The daily look after keys, signatures and space."""

    schedule: ScheduleConfig = ScheduleConfig(cron="23 5 * * *")
    key_expiry_days: int = Field(default=90, ge=1)
    """A key or signature that ends within so many days is reported."""
    free_disk_gb: float = Field(default=10, ge=0)
    """Less free space than this, on the machine that checks, is reported."""
    pool_size: str = "20G"
    """What `coreimage gc` leaves of the pool."""
    run_history_days: int = Field(default=90, ge=1)
    """So long Prefect's server remembers runs that have ended."""


class ProjectConfig(Value):
    project: Word
    web: str = ""
    """Public address of the store's web roots, for links."""
    server: Server = Server()
    """Where devices look for updates, unless their channel says another one."""
    spread: bool = False
    """Building and booting are runs of their own, side by side, on workers that have no signing keys."""
    notifications: NotificationsConfig | None = None
    maintenance: MaintenanceConfig = MaintenanceConfig()
    series: dict[Word, SeriesConfig] = Field(min_length=1)
    devices: dict[Word, DeviceConfig] = Field(min_length=1)
    channels: dict[ChannelName, ChannelConfig] = Field(min_length=1)
    tools: ToolsConfig = ToolsConfig()

    @model_validator(mode="after")
    def _references_exist(self) -> ProjectConfig:
        problems = [
            _Reference(("channels", name, key), wanted, table)
            for name, channel in self.channels.items()
            for key, wanted, table in _references(channel, list(self.series), list(self.devices))
            if wanted not in table
        ]
        problems += [
            _Reference(("channels", name, "promotion", "source"), channel.promotion.source, list(self.channels))
            for name, channel in self.channels.items()
            if channel.promotion and channel.promotion.source not in self.channels
        ]
        problems += [
            _Reference(("channels", name, "architectures"), architecture, sorted(known))
            for name, channel in self.channels.items()
            for known in ({self.devices[device].architecture for device in channel.devices if device in self.devices},)
            for architecture in channel.architectures
            if architecture not in known
        ]
        if problems:
            raise _BadReferences(problems)
        return self


def _references(channel: ChannelConfig, series: list[str], devices: list[str]) -> list[tuple[str, str, list[str]]]:
    return [("series", channel.series, series), *(("devices", device, devices) for device in channel.devices)]


class _Reference:
    def __init__(self, path: tuple[str, ...], wanted: str, table: list[str]) -> None:
        self.path, self.message = path, f"{wanted!r} is not defined{did_you_mean(wanted, table)}"


class _BadReferences(Exception):  # noqa: N818
    def __init__(self, references: list[_Reference]) -> None:
        super().__init__()
        self.references = references


class Project(Value):
    """A loaded project: what its file says, and the folder that its relative paths start from."""

    config: ProjectConfig
    folder: Path

    def channel(self, name: str) -> ChannelConfig:
        """Raises NotFoundError, naming the near miss."""
        found = self.config.channels.get(name)
        if found is None:
            known = ", ".join(self.config.channels)
            raise NotFoundError(
                f"channel {name!r} is not in project {self.config.project}{did_you_mean(name, self.config.channels)}",
                resolution=f"known channels: {known}",
            )
        return found

    def delta_bases(self, channel: str) -> int:
        """From how many of its newest versions the next one gets deltas; the default for a channel that is not here."""
        found = self.config.channels.get(channel)
        return DELTA_BASES if found is None else found.delta_bases

    def server(self, channel: str) -> Server:
        """Where the devices of a channel look for updates. Raises NotFoundError for an unknown channel."""
        return self.channel(channel).server or self.config.server

    def path(self, relative: str) -> Path:
        return self.folder / relative


def load_project(path: Path) -> Project:
    """Reads a project file. Raises UsageError when it cannot be read, ConfigError with all that is wrong in it."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the project file: {error}", resolution="name one with --project FILE") from error
    return Project(config=parse_project(text, str(path)), folder=path.absolute().parent)


def parse_project(text: str, name: str) -> ProjectConfig:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(name, [Problem("yaml", error.problem or "not YAML", line)]) from error
    except yaml.YAMLError as error:
        raise ConfigError(name, [Problem("yaml", str(error))]) from error
    try:
        return ProjectConfig.model_validate(data, strict=False)
    except ValidationError as error:
        raise ConfigError(name, [_problem(detail, root) for detail in error.errors()]) from error
    except _BadReferences as error:
        problems = [Problem(".".join(r.path), r.message, _line(root, r.path)) for r in error.references]
        raise ConfigError(name, problems) from None


def did_you_mean(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _problem(detail: Any, root: yaml.Node | None) -> Problem:
    path = tuple(str(part) for part in detail["loc"] if part != "[key]")
    message = str(detail["msg"])
    if detail["type"] == "extra_forbidden":
        message = f"unknown key{did_you_mean(path[-1], _keys_at(path[:-1]))}"
    elif detail["type"] != "missing":
        message = f"{message} (found {detail['input']!r})"
    return Problem(".".join(path) or "(top)", message, _line(root, path))


def _line(node: yaml.Node | None, path: tuple[str, ...]) -> int:
    """The line of the innermost part of `path` that the document has."""
    line = node.start_mark.line + 1 if node else 0
    for part in path:
        found = _child(node, part)
        if found is None:
            break
        line, node = found
    return line


def _child(node: yaml.Node | None, part: str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if str(key.value) == part:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        item = node.value[int(part)]
        return item.start_mark.line + 1, item
    return None


_TABLES: dict[str, type[BaseModel]] = {"series": SeriesConfig, "devices": DeviceConfig, "channels": ChannelConfig}
_PARTS: dict[str, type[BaseModel]] = {
    "architectures": ArchitectureConfig,
    "schedule": ScheduleConfig,
    "promotion": PromotionConfig,
    "retention": RetentionConfig,
    "components": ComponentConfig,
    "image": ImageSourceConfig,
    "notifications": NotificationsConfig,
    "webhook": WebhookConfig,
    "mail": MailConfig,
    "maintenance": MaintenanceConfig,
    "tools": ToolsConfig,
    "server": Server,
    "archives": ArchiveConfig,
    "extra_archives": ExtraArchiveConfig,
    "rootfs": RootfsConfig,
    "custom": CustomConfig,
}


def _keys_at(path: tuple[str, ...]) -> list[str]:
    """The keys that the schema knows at this place."""
    if not path:
        return list(ProjectConfig.model_fields)
    named = [_PARTS[part] for part in path if part in _PARTS]
    model = named[-1] if named else _TABLES.get(path[0])
    return list(model.model_fields) if model else []
