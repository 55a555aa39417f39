"""The operations of the commands `channel`, `device`, `import`, `promote` and their like as flows, one for each.

Each flow is a form in Prefect's UI, and its runs are the record of who changed what. An operation that is run again,
or after a kill, does only what is missing. The parameters `channel`, `source`, `target` and `device` name what exists
already; `name` names something new.
"""

from __future__ import annotations

from typing import Annotated

import structlog
from prefect import flow
from prefect.artifacts import create_table_artifact
from pydantic import Field

from coreimage import logs, system_image
from coreimage.operations.import_channel import ImportResult
from coreimage.operations.import_channel import import_channel as import_newest
from coreimage.system_image import Change, ChannelTree
from tasks.console import artifact_key
from tasks.site import Site

log = structlog.get_logger("coreimage.changes")

Percentage = Annotated[int, Field(ge=0, le=100)]


def open_tree() -> ChannelTree:
    """Open the channels of the worker's store, and publish their keyrings: clients verify what is written with them."""
    logs.configure()
    tree = Site.here().channel_tree()
    system_image.publish_keyrings(tree)
    return tree


def told(change: Change) -> Change:
    """Log what an operation changed, and return it."""
    outcome = "changed" if change.changed else "nothing to change"
    log.info(outcome, channel=change.channel, device=change.device or "all", version=change.version or "none")
    return change


def bases_of(channel: str, delta_bases: int | None) -> int:
    """Return from how many versions a new version gets deltas: `delta_bases`, or what the project says for None."""
    return Site.here().project().delta_bases(channel) if delta_bases is None else delta_bases


@flow(name="create-channel", flow_run_name="{name}")
def create_channel(name: str) -> Change:
    """Create a channel without devices.

    Args:
        name: The name of the new channel, such as debian-core/13/edge.
    """
    return told(system_image.create_channel(open_tree(), name))


@flow(name="remove-channel", flow_run_name="{channel}")
def remove_channel(channel: str) -> Change:
    """Remove a channel, an alias or a redirect.

    Args:
        channel: The name to remove.
    """
    return told(system_image.remove_channel(open_tree(), channel))


@flow(name="rename-channel", flow_run_name="{channel} to {name}")
def rename_channel(channel: str, name: str) -> Change:
    """Rename a channel, and redirect its devices to the new name.

    Args:
        channel: The present name.
        name: The new name.
    """
    return told(system_image.rename_channel(open_tree(), channel, name))


@flow(name="hide-channel", flow_run_name="{channel}")
def hide_channel(channel: str) -> Change:
    """Hide a channel from listings; devices that follow it still get its updates.

    Args:
        channel: The channel to hide.
    """
    return told(system_image.hide_channel(open_tree(), channel))


@flow(name="show-channel", flow_run_name="{channel}")
def show_channel(channel: str) -> Change:
    """Show a hidden channel in listings again.

    Args:
        channel: The channel to show.
    """
    return told(system_image.show_channel(open_tree(), channel))


@flow(name="alias-channel", flow_run_name="{name} of {channel}")
def alias_channel(name: str, channel: str) -> Change:
    """Create an alias, a second name of a channel, or point an existing alias at another channel.

    Args:
        name: The alias.
        channel: The channel that the alias follows.
    """
    return told(system_image.alias_channel(open_tree(), name, channel))


@flow(name="redirect-channel", flow_run_name="{name} to {channel}")
def redirect_channel(name: str, channel: str, device: str = "") -> Change:
    """Redirect devices from one channel to another.

    Args:
        name: The channel that the devices ask for.
        channel: The channel that they get.
        device: The only device to redirect; empty redirects all.
    """
    return told(system_image.redirect_channel(open_tree(), name, channel, device=device or None))


@flow(name="create-device", flow_run_name="{device} in {channel}")
def create_device(channel: str, device: str) -> Change:
    """Add a device without versions to a channel.

    Args:
        channel: The channel.
        device: The device to add.
    """
    return told(system_image.create_device(open_tree(), channel, device))


@flow(name="remove-device", flow_run_name="{device} of {channel}")
def remove_device(channel: str, device: str) -> Change:
    """Remove a device and its versions from a channel.

    Args:
        channel: The channel.
        device: The device to remove.
    """
    return told(system_image.remove_device(open_tree(), channel, device))


@flow(name="set-keyring", flow_run_name="{device} of {channel}")
def set_keyring(channel: str, device: str, keyring: str = "") -> Change:
    """Give a device of a channel a keyring of its own, or remove that keyring.

    Args:
        channel: The channel.
        device: The device.
        keyring: The path of the keyring below the web root; empty removes the device's keyring.
    """
    return told(system_image.set_device_keyring(open_tree(), channel, device, keyring or None))


@flow(name="promote-version", flow_run_name="{device} from {source} to {target}")
def promote_version(
    source: str,
    target: str,
    device: str,
    version: int | None = None,
    percentage: Percentage | None = None,
    delta_bases: int | None = None,
) -> Change:
    """Publish a version of one channel, with the same bytes, as the next version of another channel.

    Args:
        source: The channel that the version comes from.
        target: The channel that gets the version.
        device: The device whose version it is.
        version: The version of the source; the newest when empty.
        percentage: The share of devices that the version is offered to, in percent; all when empty.
        delta_bases: From how many versions of the target deltas are made; what the project file says when empty.
    """
    bases = bases_of(target, delta_bases)
    return told(
        system_image.promote(open_tree(), source, target, device, version=version, phase=percentage, delta_bases=bases)
    )


@flow(name="roll-back", flow_run_name="{device} of {channel} to {version}")
def roll_back(
    channel: str, device: str, version: int, percentage: Percentage | None = None, delta_bases: int | None = None
) -> Change:
    """Publish an older version of a channel again, as its next version.

    Args:
        channel: The channel.
        device: The device whose version it is.
        version: The older version.
        percentage: The share of devices that the version is offered to, in percent; all when empty.
        delta_bases: From how many versions deltas are made; what the project file says when empty.
    """
    bases = bases_of(channel, delta_bases)
    return told(system_image.roll_back(open_tree(), channel, device, version, phase=percentage, delta_bases=bases))


@flow(name="tag-version", flow_run_name="{device} of {channel} as {tag}")
def tag_version(channel: str, device: str, tag: str = "", delta_bases: int | None = None) -> Change:
    """Publish the newest version of a channel again, with a tag that devices show.

    Args:
        channel: The channel.
        device: The device whose version it is.
        tag: The tag; empty publishes the version without one.
        delta_bases: From how many versions deltas are made; what the project file says when empty.
    """
    return told(system_image.tag_image(open_tree(), channel, device, tag, delta_bases=bases_of(channel, delta_bases)))


@flow(name="phase-version", flow_run_name="{device} of {channel} to {percentage} %")
def phase_version(channel: str, device: str, percentage: Percentage, version: int | None = None) -> Change:
    """Change the share of devices that the newest version of a channel is offered to.

    Args:
        channel: The channel.
        device: The device whose version it is.
        percentage: The share of devices, in percent.
        version: The version that must still be the newest, or nothing is changed; not checked when empty.
    """
    return told(system_image.set_phase(open_tree(), channel, device, percentage, version=version))


@flow(name="import-channel", flow_run_name="{channel}")
def import_channel(channel: str, devices: tuple[str, ...] = ()) -> tuple[ImportResult, ...]:
    """Import the newest published build that the channel may take as its next version.

    The version is released at once unless the channel's boot test must pass first.

    Args:
        channel: The channel.
        devices: The only devices to import for; empty imports for all devices of the channel.
    """
    logs.configure()
    site = Site.here(channel=channel)
    tree, project = site.channel_tree(), site.project()
    chosen = project.devices_of(channel, devices)
    imported = import_newest(tree, project, channel, chosen, fetch=site.fetch())
    rows = [
        {"device": each.candidate.device, "version": each.candidate.version, "released": each.release is not None}
        for each in imported
    ]
    create_table_artifact(rows, key=artifact_key("imported", channel), description=channel)
    return imported
