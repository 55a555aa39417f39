"""What a console showed, for Prefect's UI: in the artifact itself, as whoever reads the UI need not reach the store."""

from __future__ import annotations

import base64
import re

from prefect.artifacts import create_image_artifact

from coreimage.model import BootReport
from coreimage.storage import Store, read_blob


def show_console(channel: str, device: str, boot: BootReport, store: Store) -> None:
    if boot.screenshot is None:
        return
    picture = base64.b64encode(read_blob(store, boot.screenshot)).decode()
    create_image_artifact(
        f"data:image/png;base64,{picture}",
        key=artifact_key("console", channel, device, boot.firmware),
        description=f"The console of {device} under {boot.firmware} when {boot.reason}",
    )


def artifact_key(*words: str) -> str:
    """Prefect's artifact keys know `[a-z0-9-]` only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")
