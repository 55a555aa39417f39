"""The server side of system-image as one value: what every operation on the channels works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from coreimage.signing import Signer
from coreimage.storage import Store


@dataclass(frozen=True)
class ChannelTree:
    """One published tree of channels: the store that holds it, the signer of its documents, and the clock that dates
    them (timezone-aware)."""

    store: Store
    signer: Signer
    now: Callable[[], datetime]
