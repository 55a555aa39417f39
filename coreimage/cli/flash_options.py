"""The options of `coreimage flash core`, and the checks of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coreimage.cli.output import check_output, login_key_files, login_with
from coreimage.errors import UsageError

if TYPE_CHECKING:
    from coreimage.disk_image import Compression, Customisation, Form, UserData
    from coreimage.operations.tree_source import TreeSource


@dataclass(frozen=True)
class FlashOptions:
    """The command line of `coreimage flash core`."""

    series: str
    channel: str
    output: Path | None
    source: TreeSource
    device: str | None
    oem: str | None
    revision: int
    size: int | None
    rootfs_part: Path | None
    device_part: Path | None
    image_version: int | None
    offline: bool
    require_signed: bool
    developer_mode: bool
    enable_ssh: bool
    cloud: bool
    login_key: Path | None
    cloud_init: Path | None
    network_config: Path | None
    hostname: str | None
    form: Form
    compress: Compression | None
    bmap: bool
    download_only: bool
    clean_cache: bool
    verbose: bool
    host_tools: bool
    force: bool

    @property
    def needs_no_server(self) -> bool:
        """Whether all of the image comes from this machine."""
        return self.rootfs_part is not None and self.device_part is not None

    def check(self) -> None:
        """Check the command line and the files that it names, before any server is asked.

        Raises:
            ConfigError: Something is wrong in a file of cloud-init.
            UsageError: The options contradict each other, or one of them cannot be used.
        """
        if self.output is None and not self.download_only:
            raise click.UsageError("Missing option '-o' / '--output'.")
        if not self.download_only:
            check_output(self.output, force=self.force)
        if self.cloud and (self.enable_ssh or self.developer_mode):
            raise UsageError("--cloud and --enable-ssh or --developer-mode cannot be used together")
        if self.compress and self.form != "raw":
            raise UsageError(f"{self.form} is small already", resolution="leave out --compress, or use --format raw")
        if self.offline and not self.needs_no_server:
            raise UsageError("--offline needs --rootfs-part and --device-part", resolution="or leave out --offline")
        if self.image_version is not None and not self.needs_no_server:
            raise UsageError(
                "--image-version needs --rootfs-part and --device-part", resolution="--revision chooses the server's"
            )
        if self.require_signed and (self.rootfs_part or self.device_part):
            raise UsageError(
                "nobody signed a part of this machine", resolution="leave out --require-signed, or the parts"
            )
        self.customisation()
        key_files = login_key_files(self.login_key)
        login_with(key_files)
        if self.developer_mode and not key_files:
            raise UsageError(
                "developer mode wants an SSH key, and ~/.ssh has none",
                resolution="make one with `ssh-keygen -t ed25519`, or name one with --login-key",
            )

    def customisation(self) -> tuple[Customisation, UserData]:
        """Read how the image is customised, from the options and the files that they name.

        Raises:
            ConfigError: Something is wrong in one of the files.
            UsageError: The host name is not valid.
        """
        from coreimage.disk_image import (  # noqa: PLC0415
            Customisation,
            UserData,
            joined,
            parse_network_config,
            parse_user_data,
        )

        user = UserData()
        if self.cloud_init:
            user = parse_user_data(self.cloud_init.read_text("utf-8"), str(self.cloud_init))
        network = Customisation()
        if self.network_config:
            network = parse_network_config(self.network_config.read_text("utf-8"), str(self.network_config))
        try:
            own = Customisation(hostname=self.hostname or "", ssh_passwords=True if self.enable_ssh else None)
        except ValueError as error:
            raise UsageError(f"{self.hostname!r} is not a host name", resolution="use a-z, 0-9 and -") from error
        return joined([Customisation(ssh_passwords=False), user.customisation, network, own]), user
