"""The artifacts of Prefect's UI about boot tests. They hold pictures and texts: a reader may not reach the store."""

from __future__ import annotations

import base64
import re

from prefect.artifacts import create_image_artifact, create_markdown_artifact

from coreimage.errors import BootError
from coreimage.model import BootReport
from coreimage.storage import Store, read_blob


def show_console(channel: str, device: str, boot: BootReport, store: Store) -> None:
    """Show the last screenshot of a boot test, if there is one."""
    if boot.screenshot is None:
        return
    picture = base64.b64encode(read_blob(store, boot.screenshot)).decode()
    create_image_artifact(
        f"data:image/png;base64,{picture}",
        key=artifact_key("console", channel, device, boot.firmware),
        description=f"The console of {device} under {boot.firmware} when {boot.reason}",
    )


def show_failed_boot(channel: str, device: str, error: BootError) -> None:
    """Show why an image was not released."""
    text = f"# {channel} for {device} was not released\n\nThe channel is as it was.\n\n```\n{error}\n```\n"
    create_markdown_artifact(text, key=artifact_key("boot", channel), description="Why nothing was released")


def artifact_key(*words: str) -> str:
    """Join words to the key of an artifact, in which Prefect allows `[a-z0-9-]` only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")
