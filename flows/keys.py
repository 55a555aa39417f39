"""The operations of `coreimage keys` as flows, one for each. They run on workers that have the signing keys."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import structlog
from prefect import flow

from coreimage import logs, system_image
from coreimage.signing import Role, write_backup
from coreimage.signing import create_keys as create_missing_keys
from coreimage.system_image import Rotation
from tasks.site import Site

log = structlog.get_logger("coreimage.keys")


@flow(name="create-keys")
def create_keys() -> tuple[str, ...]:
    """Create the signing keys that are missing, and return their roles."""
    logs.configure()
    roles = tuple(role.value for role in create_missing_keys(Path(Site.here().keys_folder)))
    log.info("all signing keys exist", created=", ".join(roles) or "none")
    return roles


@flow(name="publish-keyrings")
def publish_keyrings() -> tuple[str, ...]:
    """Publish the keyrings that are missing, hold other keys than now, or expire soon, and return their names.

    Former keys whose overlap is over are left out of them.
    """
    logs.configure()
    site = Site.here()
    system_image.end_overlaps(site.channel_tree(), Path(site.keys_folder))
    names = tuple(system_image.publish_keyrings(site.channel_tree()))
    log.info("all keyrings are published", anew=", ".join(names) or "none")
    return names


@flow(name="rotate-key", flow_run_name="{role}")
def rotate_key(role: Role, overlap_days: int = 90) -> Rotation:
    """Replace the key of a role by a new one.

    Args:
        role: The role of the key.
        overlap_days: For how many days clients accept the former key beside the new one.
    """
    logs.configure()
    site = Site.here()
    overlap = timedelta(days=overlap_days)
    rotation = system_image.rotate_key(site.channel_tree(), role, Path(site.keys_folder), overlap=overlap)
    log.info("the key was rotated", role=role.value, fingerprint=rotation.fingerprint)
    return rotation


@flow(name="revoke-key", flow_run_name="{fingerprint}")
def revoke_key(fingerprint: str) -> Rotation:
    """Make clients refuse a key, and replace it by a new one.

    Args:
        fingerprint: The fingerprint of the key, with or without spaces.
    """
    logs.configure()
    site = Site.here()
    revoked = fingerprint.replace(" ", "").upper()
    rotation = system_image.revoke_key(site.channel_tree(), revoked, Path(site.keys_folder))
    log.info("the key was revoked", revoked=revoked, fingerprint=rotation.fingerprint)
    return rotation


@flow(name="sign-anew")
def sign_anew() -> int:
    """Sign again what former keys signed, renew the end of the channels, and return how many signatures were made."""
    logs.configure()
    signatures = system_image.sign_anew(Site.here().channel_tree())
    log.info("all signatures are by the present keys", anew=signatures)
    return signatures


@flow(name="back-up-keys")
def back_up_keys(path: str) -> tuple[str, ...]:
    """Write all signing keys to one file, and return their roles.

    Args:
        path: The file, on the machine of the worker. Anyone who has this file can sign updates.
    """
    logs.configure()
    roles = tuple(role.value for role in write_backup(Path(Site.here().keys_folder), Path(path)))
    log.info("the signing keys are backed up", path=path, roles=", ".join(roles))
    return roles
