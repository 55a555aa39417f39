"""Promotion by schedule: a channel takes over the versions of another one that have been there long enough."""

from __future__ import annotations

import structlog
from prefect import flow
from prefect.artifacts import create_table_artifact

from coreimage import logs, system_image
from coreimage.errors import UsageError
from coreimage.pages import write_pages
from coreimage.system_image import Takeover
from flows.running.schedule import drop_missed
from tasks.console import artifact_key
from tasks.site import Site

log = structlog.get_logger("coreimage.promotion")


@flow(name="promote-channel", flow_run_name="{channel}", on_running=[drop_missed])
def promote_channel(channel: str) -> None:
    """Promote versions to the channel from the source that its `promotion` names, once they are old enough there.

    Each device gets the newest version that is old enough, unless the channel has it already.

    Args:
        channel: The channel that gets new versions.
    """
    logs.configure()
    site = Site.here(channel=channel)
    config = site.project().channel(channel)
    if config.promotion is None:
        raise UsageError(
            "the channel has no `promotion`", where=channel, resolution="add one to the project file, and deploy it"
        )
    tree = site.channel_tree()
    system_image.create_channel(tree, channel)
    rows = []
    for device in config.devices:
        takeover = system_image.take_over(tree, channel, device, config.promotion, delta_bases=config.delta_bases)
        outcome = _outcome(takeover, config.promotion.source)
        log.info(outcome, channel=channel, device=device)
        rows.append({"device": device, "": outcome})
    write_pages(store=site.store(), channels=[channel], trees=[])
    create_table_artifact(rows, key=artifact_key("promoted", channel), description=f"From {config.promotion.source}")


def _outcome(takeover: Takeover, source: str) -> str:
    """Describe what was done for a device, for people."""
    if not takeover.offered:
        return f"{source} has no version yet"
    if takeover.change is None:
        return f"version {takeover.offered} of {source} is too young"
    how = f"taken over from version {takeover.offered} of {source}" if takeover.change.changed else "as before"
    return f"version {takeover.change.version}, {how}"
