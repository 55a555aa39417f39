"""Where this machine keeps what can be made or fetched again, for all projects of its user."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return $COREIMAGE_CACHE, else `coreimage` in $XDG_CACHE_HOME or ~/.cache (XDG base directory specification)."""
    named = os.environ.get("COREIMAGE_CACHE")
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "coreimage"
