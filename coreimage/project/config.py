"""The values of a project file, one class for each of its tables. `loading` reads the file.

docs/project-file.md describes every key for users. deployments/project.schema.json is made of these classes.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, ByteSize, Field, model_validator

from coreimage.errors import NotFoundError, did_you_mean
from coreimage.model import Architecture, Compression, Firmware, Server, Size, Value

DELTA_BASES = 1
"""From how many of its newest versions a channel's next one gets deltas, if it does not say so."""
LEGACY_VERSIONS = 200
"""How many versions a channel that clients of 2015 follow may keep."""
POOL_SIZE = ByteSize(20 * 10**9)
"""What the store's blobs may take, if the project does not say so."""


def _channel_name(name: str) -> str:
    """Refuse a name that is no path below the web root or no INI value (system-image §1.1, §2.6)."""
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts) or parts[0] in {"pool", "gpg"} or "%" in name or " " in name:
        raise ValueError("a channel name is `/`-separated words; the first is not `pool` or `gpg`; no `%`, no blanks")
    return name


def _cron(text: str) -> str:
    try:
        CronSim(text, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"is no cron expression of five fields, such as `17 3 * * *`: {error}") from None
    return text


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is no time zone, such as `UTC` or `Europe/Berlin`") from None
    return name


ChannelName = Annotated[str, AfterValidator(_channel_name)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
"""A name that can be part of a file's name and of a key in the store."""


class ArchiveConfig(Value):
    """A package archive of the distribution."""

    uri: str | None = None
    """Default: the mirror that the building machine's own apt sources name for the first suite."""
    suites: tuple[Word, ...] = Field(min_length=1)
    components: tuple[Word, ...] = ("main",)
    key: str | None = None
    """Keyring file (binary or armoured), relative to the project file; default: the distribution's own."""


class ExtraArchiveConfig(Value):
    """One more package archive, with a key of its own (EXTRA_PPAS of 2015)."""

    uri: str
    suite: Word
    components: tuple[Word, ...] = ("main",)
    key: str
    """Keyring file (binary or armoured), relative to the project file."""
    pin_priority: int | None = Field(default=None, ge=-1, le=2000)
    may_replace: tuple[str, ...] = ()
    """Packages of `archives` that this one may replace; `*`: any."""


class RootfsConfig(Value):
    """What the rootfs of a series is made of."""

    packages: tuple[str, ...] = Field(min_length=1)
    overlay: str | None = None
    """Folder whose files are laid over the rootfs after the packages are installed; relative to the project file."""
    hooks: tuple[str, ...] = ()
    """Scripts that run in the rootfs, in this order, after the overlay was laid; relative to the project file."""


class CustomConfig(Value):
    """The custom tarball of a product: files of its own that are in no package."""

    overlay: str
    """Folder with the files as the image's root has them, relative to the project file."""


class SeriesConfig(Value):
    """One series of the project, such as Debian 13: what all its devices share."""

    distribution: Literal["debian", "ubuntu"] = "debian"
    codename: Word
    product: Word = "core"
    archives: tuple[ArchiveConfig, ...] = Field(min_length=1)
    extra_archives: tuple[ExtraArchiveConfig, ...] = ()
    rootfs: RootfsConfig
    custom: CustomConfig | None = None


class ToolsConfig(Value):
    """The archives of the tools tree: the programs that images are made with, the same on every machine."""

    distribution: Literal["debian", "ubuntu"] = "debian"
    archives: tuple[ArchiveConfig, ...] = Field(
        default=(ArchiveConfig(suites=("trixie", "trixie-updates")), ArchiveConfig(suites=("trixie-security",))),
        min_length=1,
    )


class DeviceConfig(Value):
    """One kind of machine that images are made for. Its name may be anything, whatever its architecture."""

    architecture: Architecture
    gadget: str
    """Folder with meta/gadget.yaml and the boot assets it names, relative to the project file."""
    packages: tuple[str, ...] = Field(min_length=1)
    """The kernel and the firmware, which go to the device tarball."""


class ScheduleConfig(Value):
    """When something is run without being asked for."""

    cron: Annotated[str, AfterValidator(_cron)]
    timezone: Annotated[str, AfterValidator(_time_zone)] = "UTC"


class PromotionConfig(Value):
    """The promotion of another channel's versions to this one, on a schedule."""

    source: ChannelName
    schedule: ScheduleConfig
    min_age_hours: float = Field(default=0, ge=0)
    """How long a version must have been in `source` before it is promoted."""
    phase: int = Field(default=100, ge=0, le=100)
    """Percentage of devices that are offered the version at once."""


class RetentionConfig(Value):
    """Which builds, versions and images stay: the newest `keep_count`, and all that is younger than `keep_days`."""

    keep_count: int = Field(default=10, ge=1)
    keep_days: int = Field(default=14, ge=0)
    schedule: ScheduleConfig = ScheduleConfig(cron="41 4 * * *")


class ArchitectureConfig(Value):
    """What a failure of one architecture means for a channel's builds, and how long it may take."""

    required: bool = True
    """Whether the run fails when this architecture fails. If not, the others go on, and the build has the files that
    the newest build made for this architecture has."""
    deadline_minutes: float = Field(default=360, gt=0)
    """How long a run may work for it, from planning to releasing, before it counts as failed."""


class ImageSourceConfig(Value):
    """A file of the newest version of another channel, in this store or on another system-image server."""

    channel: ChannelName
    device: str = ""
    """Default: the device that the version is made for."""
    component: str = ""
    """How that file is called there, such as `custom`; default: as here."""
    server: str = ""
    """Web root of the other server, as an address or a folder; default: this store."""
    keyring: str = ""
    """The other server's archive-master.tar.xz, which is trusted; relative to the project file."""
    legacy: bool = False
    """Whether it is a server of 2015, whose documents do not say how old they are."""

    @model_validator(mode="after")
    def _trusted(self) -> ImageSourceConfig:
        if bool(self.server) != bool(self.keyring):
            raise ValueError("`server` and `keyring` go together: a server is trusted by its archive-master only")
        return self


class ComponentConfig(Value):
    """One more tarball of a channel's versions, unpacked over the rootfs and the device tarball.

    It comes from one of `file`, `url`, `keyring` and `image`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    devices: tuple[Word, ...] = ()
    """The devices that get it; none named: all of the channel."""
    file: str | None = None
    """A tarball, relative to the project file."""
    url: str | None = None
    """The address of a tarball on a web server."""
    monitor: str = ""
    """The address of a text of one line. `url` is fetched again when the text changes."""
    keyring: Literal["archive-master", "image-master", "image-signing"] | None = None
    """A keyring of this store; it goes where images have the keyring that they trust."""
    image: ImageSourceConfig | None = None

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
    """One channel: what it is built from, how its versions are made, and when."""

    series: str
    devices: tuple[Word, ...] = Field(min_length=1)
    image_type: Word = "daily-preinstalled"
    description: str = ""
    boot_test: tuple[Firmware, ...] = ("bios", "uefi")
    """The firmwares under which a candidate must boot before it is released; empty: it is released untested."""
    architectures: dict[Architecture, ArchitectureConfig] = Field(default_factory=dict)
    """Architectures of the channel's devices that are not treated by default."""
    compression: Compression = "default"
    delta_bases: int = Field(default=DELTA_BASES, ge=0, le=20)
    """From how many of the channel's newest versions a new one gets compact deltas. Clients of 2015 get one delta to
    each version: they try every chain of deltas, and would try for ever where several lead to each."""
    schedule: ScheduleConfig | None = None
    """When the channel is built; without a schedule, only when somebody asks for it."""
    type: Literal["auto", "manual"] = "auto"
    """`auto`: published builds are imported; `manual`: versions come by promotion only."""
    import_policy: Literal["any", "good"] = "any"
    """Which published builds may be imported: any, or those that are marked good."""
    promotion: PromotionConfig | None = None
    retention: RetentionConfig | None = RetentionConfig()
    """What is removed of the channel's builds, versions and images; null keeps everything."""
    components: tuple[ComponentConfig, ...] = ()
    """More tarballs of each version, applied in this order after the rootfs and the device tarball."""
    server: Server | None = None
    """Where the channel's devices look for updates; default: where all devices of the project do."""

    @model_validator(mode="after")
    def _bounded_for_clients_of_2015(self) -> ChannelConfig:
        """They read all of an index, and walk along every version that they lack, delta by delta."""
        kept = self.retention.keep_count if self.retention else None
        if self.compression != "zstd" and (kept is None or kept > LEGACY_VERSIONS):
            raise ValueError(
                f"`retention` must keep {LEGACY_VERSIONS} versions at most while clients of 2015 are served, as these "
                "search the whole index with every update: set `keep_count`, or `compression: zstd` to serve ours only"
            )
        return self

    @model_validator(mode="after")
    def _components_once(self) -> ChannelConfig:
        names = [component.name for component in self.components]
        if len(set(names)) != len(names):
            raise ValueError("two components have the same name")
        return self


class WebhookConfig(Value):
    """An address that notifications are posted to, as JSON."""

    url: str = ""
    url_env: str = ""
    """The environment variable that has the address, for addresses that hold a secret."""

    @model_validator(mode="after")
    def _one(self) -> WebhookConfig:
        if bool(self.url) == bool(self.url_env):
            raise ValueError("name the address with one of `url` and `url_env`")
        return self


class MailConfig(Value):
    """The mail server, sender and recipients of notifications."""

    server: str
    port: int = Field(default=587, ge=1, le=65535)
    encryption: Literal["starttls", "tls", "none"] = "starttls"
    sender: str
    recipients: tuple[str, ...] = Field(min_length=1)
    user: str = ""
    password_env: str = ""
    """The environment variable that has the password when the deployments are made."""


class NotificationsConfig(Value):
    """Who is told of runs that failed, crashed or did not start in time, and of what the daily check finds."""

    webhook: WebhookConfig | None = None
    mail: MailConfig | None = None
    late_after_minutes: int = Field(default=15, ge=1)

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that the notifications need."""
        named = (self.webhook.url_env if self.webhook else "", self.mail.password_env if self.mail else "")
        return tuple(filter(None, named))


class MaintenanceConfig(Value):
    """The daily maintenance: keys, signatures, and room on the disks."""

    schedule: ScheduleConfig = ScheduleConfig(cron="23 5 * * *")
    key_expiry_days: int = Field(default=90, ge=1)
    """Keys and signatures that end within so many days are reported."""
    free_disk_gb: float = Field(default=10, ge=0)
    """Less room than this (10^9 bytes) on a disk of the machine that checks is reported."""
    pool_size: Size = POOL_SIZE
    """What packages and artifacts may take in the store before the oldest that nothing needs are removed."""
    run_history_days: int = Field(default=90, ge=1)
    """How many days Prefect's server keeps runs that have ended."""


class ProjectConfig(Value):
    """The whole project file."""

    project: Word
    web: str = ""
    """The public address of the store's web roots, for links."""
    server: Server = Server()
    """Where devices look for updates, unless their channel names another server."""
    remote_tasks: bool = False
    """Whether building and booting are runs of their own, side by side, on workers that have no signing keys."""
    notifications: NotificationsConfig | None = None
    maintenance: MaintenanceConfig = MaintenanceConfig()
    series: dict[Word, SeriesConfig] = Field(min_length=1)
    devices: dict[Word, DeviceConfig] = Field(min_length=1)
    channels: dict[ChannelName, ChannelConfig] = Field(min_length=1)
    tools: ToolsConfig = ToolsConfig()


class Project(Value):
    """A loaded project: what its file says, and the folder that the file's relative paths start from."""

    config: ProjectConfig
    folder: Path

    def channel(self, name: str) -> ChannelConfig:
        """Return the configuration of a channel.

        Raises:
            NotFoundError: The project does not have the channel; the error names the nearest one.
        """
        channels = self.config.channels
        if name not in channels:
            raise NotFoundError(
                f"channel {name!r} is not in project {self.config.project}{did_you_mean(name, channels)}",
                resolution=f"known channels: {', '.join(channels)}",
            )
        return channels[name]

    def devices_of(self, channel: str, chosen: Collection[str] = ()) -> tuple[str, ...]:
        """Return the chosen devices of a channel, or all of them when none is chosen, in the channel's order.

        Raises:
            NotFoundError: The project does not have the channel, or the channel does not have a chosen device.
        """
        devices = self.channel(channel).devices
        for name in chosen:
            if name not in devices:
                raise NotFoundError(
                    f"device {name!r} is not in channel {channel}{did_you_mean(name, devices)}",
                    resolution=f"its devices: {', '.join(devices)}",
                )
        return tuple(device for device in devices if not chosen or device in chosen)

    def delta_bases(self, channel: str) -> int:
        """Return from how many of its newest versions the next version of a channel gets deltas.

        The channel need not be one of the project: versions are also promoted to channels that people made by hand.
        """
        config = self.config.channels.get(channel)
        return DELTA_BASES if config is None else config.delta_bases

    def server(self, channel: str) -> Server:
        """Return the server on which the devices of a channel look for updates.

        Raises:
            NotFoundError: The project does not have the channel.
        """
        return self.channel(channel).server or self.config.server

    def path(self, relative: str) -> Path:
        """Return the place on this machine of a path that the project file names."""
        return self.folder / relative
