"""Problems that an installation will have soon: keys and signatures that expire, a disk that fills up."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from coreimage import system_image
from coreimage.host.cache_folder import cache_folder
from coreimage.logs import decimal_size
from coreimage.project.config import MaintenanceConfig
from coreimage.storage import Store

_GB = 10**9


def problems(config: MaintenanceConfig, store: Store, now: datetime) -> tuple[str, ...]:
    """Return the problems that need attention, one sentence each.

    The disks are those of the temporary folder, the cache folder, and the store where it is a folder.

    Args:
        config: How soon an expiry is reported, and how much disk has to be free.
        store: The store with the published keyrings.
        now: The present time.
    """
    ending = system_image.endings(store=store, within=timedelta(days=config.key_expiry_days), now=now)
    folders = [Path(tempfile.gettempdir()), cache_folder()]
    if store.url.startswith("file:"):
        folders.append(Path(url2pathname(urlsplit(store.url).path)))
    return (*ending, *low_disks(config.free_disk_gb, folders))


def low_disks(wanted_gb: float, folders: Sequence[Path]) -> tuple[str, ...]:
    """Return a problem for each file system of the folders that has less than `wanted_gb` (10^9 bytes) free.

    A folder that is not there yet counts as the one that it will be made in.
    """
    problems: dict[int, str] = {}
    for folder in folders:
        existing = next(each for each in (folder, *folder.parents) if each.exists())
        free_bytes = shutil.disk_usage(existing).free
        if free_bytes < wanted_gb * _GB:
            problem = f"{decimal_size(free_bytes)} of disk are free at {folder}, less than {wanted_gb:g} GB"
            problems.setdefault(existing.stat().st_dev, problem)
    return tuple(problems.values())
