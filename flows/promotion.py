"""Channels that take over from others by themselves."""

from __future__ import annotations

from datetime import timedelta

import structlog
from prefect import flow
from prefect.artifacts import create_table_artifact

from coreimage import logs, system_image
from coreimage.config import PromotionConfig
from coreimage.errors import UsageError
from coreimage.pages import write_pages
from coreimage.project_bundle import open_project
from coreimage.storage import Store
from coreimage.system_image import layout
from flows.schedule import drop_missed
from tasks.console import artifact_key
from tasks.site import DEFAULT_PROJECT, PROJECT, Site, named, now
from tasks.system_image import newest_version

log = structlog.get_logger("coreimage.promotion")


@flow(name="promote-channel", flow_run_name="{channel}", on_running=[drop_missed])
def promote_channel(channel: str) -> None:
    """Takes over what the channel's `promotion` names, for each device, once it has stood there long enough.

    What the channel has already is not published again.

    Args:
        channel: The channel that gets new versions.
    """
    logs.configure()
    site = Site.here(channel=channel)
    store, signer = site.store(), site.signer()
    config = open_project(named("", PROJECT, DEFAULT_PROJECT), store=store).channel(channel)
    if config.promotion is None:
        raise UsageError("has no `promotion`", where=channel, resolution="add one to the project file, and deploy it")
    system_image.create_channel(channel, store=store, signer=signer, now=now)
    rows = [
        {"device": device, "": _take_over(channel, device, config.promotion, config.delta_bases, site)}
        for device in config.devices
    ]
    write_pages(store=store, channels=[channel], trees=[])
    create_table_artifact(rows, key=artifact_key("promoted", channel), description=f"From {config.promotion.source}")


def _take_over(channel: str, device: str, promotion: PromotionConfig, delta_bases: int, site: Site) -> str:
    """What was done for a device, for people."""
    store, signer = site.store(), site.signer()
    version = newest_version(promotion.source, device, site)
    wanted = timedelta(hours=promotion.min_age_hours)
    age = _age(promotion.source, device, version, store) if version else timedelta()
    if not version or age < wanted:
        said = f"version {version} of {promotion.source} is too young" if version else "nothing there yet"
    else:
        change = system_image.promote(
            promotion.source,
            channel,
            device,
            version=version,
            phase=promotion.phase,
            delta_bases=delta_bases,
            store=store,
            signer=signer,
            now=now,
        )
        said = f"version {change.version}, {f'from {version}' if change.changed else 'as before'}"
    log.info(said, channel=channel, device=device)
    return said


def _age(channel: str, device: str, version: int, store: Store) -> timedelta:
    found = store.head(layout.key(layout.version_tarball(channel, device, version)))
    return now() - found.modified if found else timedelta()
