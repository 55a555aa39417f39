"""What `coreimage channel`, `device`, `import`, `promote`, `keys` and `verify` do, as runs that are recorded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import structlog
from prefect import flow
from prefect.artifacts import create_table_artifact

from coreimage import intake, logs, system_image
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.errors import AttentionError, UsageError
from coreimage.image_server import StoreWeb
from coreimage.project_bundle import open_project
from coreimage.signing import Role, create_keys, write_backup
from coreimage.system_image import Change, Rotation, layout
from tasks.console import artifact_key
from tasks.site import DEFAULT_PROJECT, PROJECT, Site, named, now

log = structlog.get_logger("coreimage.tree")

Operation = Literal[
    "create-channel",
    "remove-channel",
    "rename-channel",
    "hide-channel",
    "show-channel",
    "alias-channel",
    "redirect-channel",
    "create-device",
    "remove-device",
    "set-keyring",
    "promote",
    "roll-back",
    "tag",
    "phase",
]
_NEEDS: dict[Operation, tuple[str, ...]] = {
    "rename-channel": ("target",),
    "alias-channel": ("target",),
    "redirect-channel": ("target",),
    "create-device": ("device",),
    "remove-device": ("device",),
    "set-keyring": ("device",),
    "promote": ("target", "device"),
    "roll-back": ("device", "version"),
    "tag": ("device",),
    "phase": ("device", "percentage"),
}
"""What an operation cannot do without, besides its channel."""


@flow(name="change-tree", flow_run_name="{operation} {channel}")
def change_tree(
    operation: Operation,
    channel: str,
    target: str = "",
    device: str = "",
    version: int | None = None,
    percentage: int | None = None,
    tag: str = "",
    keyring: str = "",
    delta_bases: int | None = None,
) -> Change:
    """Changes the channels, once: done again, or after a kill, it only does what is missing.

    Args:
        operation: What is done.
        channel: To which channel; of a promotion, the one that it comes from.
        target: The other channel: the new name, what is followed or led to, or where a version goes.
        device: Which device; of a redirect, the only one.
        version: Which version; of a promotion, the newest when none is named.
        percentage: To how many of the devices the version is offered.
        tag: What devices show; empty takes it away.
        keyring: Path of a device's keyring below the web root; empty takes it away.
        delta_bases: From how many of the channel's versions a new one gets deltas; what the project says when none is
            named.
    """
    logs.configure()
    given = {"target": target, "device": device, "version": version, "percentage": percentage}
    missing = [name for name in _NEEDS.get(operation, ()) if given[name] in {"", None}]
    if missing:
        raise UsageError(f"{operation} needs {' and '.join(missing)}", where=channel, resolution="fill in the form")
    site = Site.here(channel=channel)
    effects: dict[str, Any] = {"store": site.store(), "signer": site.signer(), "now": now}
    system_image.publish_keyrings(**effects)

    def grown(by: str) -> dict[str, Any]:
        if delta_bases is not None:
            return {"delta_bases": delta_bases, **effects}
        project = open_project(named("", PROJECT, DEFAULT_PROJECT), store=site.store())
        return {"delta_bases": project.delta_bases(by), **effects}

    operations: dict[Operation, Callable[[], Change]] = {
        "create-channel": lambda: system_image.create_channel(channel, **effects),
        "remove-channel": lambda: system_image.remove_channel(channel, **effects),
        "rename-channel": lambda: system_image.rename_channel(channel, target, **effects),
        "hide-channel": lambda: system_image.hide_channel(channel, **effects),
        "show-channel": lambda: system_image.show_channel(channel, **effects),
        "alias-channel": lambda: system_image.alias_channel(channel, target, **effects),
        "redirect-channel": lambda: system_image.redirect_channel(channel, target, device=device or None, **effects),
        "create-device": lambda: system_image.create_device(channel, device, **effects),
        "remove-device": lambda: system_image.remove_device(channel, device, **effects),
        "set-keyring": lambda: system_image.set_device_keyring(channel, device, keyring or None, **effects),
        "promote": lambda: system_image.promote(
            channel, target, device, version=version, phase=percentage, **grown(target)
        ),
        "roll-back": lambda: system_image.roll_back(channel, device, version or 0, phase=percentage, **grown(channel)),
        "tag": lambda: system_image.tag_image(channel, device, tag, **grown(channel)),
        "phase": lambda: system_image.set_phase(channel, device, percentage or 0, version=version, **effects),
    }
    change = operations[operation]()
    log.info("done" if change.changed else "it was so already", operation=operation, channel=channel)
    return change


@flow(name="import-channel", flow_run_name="{channel}")
def import_channel(channel: str, devices: tuple[str, ...] = ()) -> tuple[intake.Intake, ...]:
    """Makes the channel's next version of the newest published build that it may take, and releases what need not boot.

    Args:
        channel: Whose version.
        devices: Only these; none named: all of the channel.
    """
    logs.configure()
    site = Site.here(channel=channel)
    project = open_project(named("", PROJECT, DEFAULT_PROJECT), store=site.store())
    effects: dict[str, Any] = {"store": site.store(), "signer": site.signer(), "now": now}
    system_image.publish_keyrings(**effects)
    wanted = devices or project.channel(channel).devices
    done = tuple(intake.import_channel(project, channel, device, fetch=site.fetch(), **effects) for device in wanted)
    rows = [
        {"device": each.candidate.device, "version": each.candidate.version, "released": each.release is not None}
        for each in done
    ]
    create_table_artifact(rows, key=artifact_key("imported", channel), description=channel)
    return done


KeysOperation = Literal["init", "publish", "rotate", "revoke", "re-sign", "backup"]


@flow(name="change-keys", flow_run_name="{operation} {key}")
def change_keys(operation: KeysOperation, key: str = "", overlap_days: int = 90) -> Rotation | tuple[str, ...]:
    """Looks after the keys: makes those that are missing, publishes keyrings, replaces a key, makes clients refuse one,
    signs anew what former keys signed and renews the channels' end, writes a backup.

    Gives the new key of a rotation or a revocation, else the names of what something was done with.

    Args:
        operation: What is done.
        key: The role of the key that is rotated, the fingerprint of the one that is revoked, the file of the backup on
            the worker's machine.
        overlap_days: How long a rotated key counts beside its successor.
    """
    logs.configure()
    site = Site.here()
    keys = Path(site.keys_folder)
    if operation in {"rotate", "revoke", "backup"} and not key:
        raise UsageError(f"{operation} needs a key", resolution="fill in the form: `key` says what is to be named")
    effects: dict[str, Any] = {"store": site.store(), "now": now}
    operations: dict[KeysOperation, Callable[[], Rotation | tuple[str, ...]]] = {
        "init": lambda: tuple(role.value for role in create_keys(keys)),
        "publish": lambda: _publish_keyrings(keys, site),
        "rotate": lambda: system_image.rotate_key(_role(key), keys, overlap=timedelta(days=overlap_days), **effects),
        "revoke": lambda: system_image.revoke_key(key.replace(" ", "").upper(), keys, **effects),
        "re-sign": lambda: (f"{system_image.sign_anew(signer=site.signer(), **effects)} signatures",),
        "backup": lambda: tuple(role.value for role in write_backup(keys, Path(key))),
    }
    done = operations[operation]()
    log.info("done", operation=operation, what=done.fingerprint if isinstance(done, Rotation) else ", ".join(done))
    return done


def _role(key: str) -> Role:
    try:
        return Role(key)
    except ValueError:
        roles = ", ".join(role.value for role in Role)
        raise UsageError(f"{key!r} is no role of a key", resolution=f"the roles: {roles}") from None


def _publish_keyrings(keys: Path, site: Site) -> tuple[str, ...]:
    """Those that are missing, of other keys, or near their end; keys whose overlap is over leave them."""
    system_image.end_overlaps(keys, store=site.store(), now=now)
    return tuple(system_image.publish_keyrings(store=site.store(), signer=site.signer(), now=now))


@flow(name="verify-tree")
def verify_tree(repair: bool = False) -> int:
    """Checks every signature, digest, size and reference of the tree; gives how many objects were looked at.

    Raises AttentionError naming what a client would refuse.

    Args:
        repair: Make documents and signatures that a kill left torn agree again, first.
    """
    logs.configure()
    site = Site.here()
    store = site.store()
    if repair:
        system_image.repair_tree(store=store, signer=site.signer())
    archive_master = StoreWeb(store).read(layout.keyring("archive-master"), KEYRING_LIMIT_BYTES)
    found = system_image.verify_store(store, archive_master)
    if found.errors:
        said = "; ".join(f"{finding.where}: {finding.problem}" for finding in found.errors)
        raise AttentionError(said, where=store.url, resolution="`coreimage verify` says what to do about each")
    return found.checked
