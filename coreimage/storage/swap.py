"""The one compare-and-swap loop: how small objects change while other writers may change them too."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from coreimage.errors import ConflictError, LostWriteError, NotFoundError
from coreimage.storage.store import Store

T = TypeVar("T")

ATTEMPTS = 50
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.5


def read_bytes(store: Store, key: str, *, stop: int | None = None) -> bytes | None:
    """Return the object at `key`, up to byte `stop` if that is given, or `None` when the store has none."""
    try:
        with store.open(key, stop=stop) as file:
            return file.read()
    except NotFoundError:
        return None


def swap(store: Store, key: str, decide: Callable[[bytes | None], bytes], *, media_type: str) -> bool:
    """Replace the object at `key` by what `decide` makes of it, unless that is the same.

    Args:
        decide: Gets the present bytes, `None` when there is no object, and returns the bytes to be stored. It is
            called again, with what the winner wrote, whenever another writer was faster.

    Returns:
        Whether anything was written.

    Raises:
        ConflictError: Other writers were faster in every attempt.
    """

    def attempt() -> bool:
        # The etag is read before the bytes: a write in between makes the conditional put fail, never succeed wrongly.
        info = store.head(key)
        present = read_bytes(store, key) if info else None
        wanted = decide(present)
        if wanted == present:
            return False
        store.put_bytes(
            key, wanted, media_type=media_type, if_absent=info is None, if_match=info.etag if info else None
        )
        return True

    return retry_lost_writes(attempt, where=f"{store.url}/{key}")


def retry_lost_writes(attempt: Callable[[], T], *, where: str, pause: Callable[[float], object] = time.sleep) -> T:
    """Call `attempt` until its conditional write wins, and return what it returns.

    Before each further attempt there is a random pause, up to a limit that doubles from 10 to 500 ms, so that many
    writers do not go on losing in step.

    Args:
        attempt: Reads the present state, decides, and writes with `if_absent` or `if_match`. As it starts over after
            each lost write, the loser decides from what the winner wrote.
        where: What is being written, for the error.
        pause: Waits so many seconds.

    Raises:
        ConflictError: Other writers were faster in every attempt.
    """
    for number in range(ATTEMPTS):
        try:
            return attempt()
        except LostWriteError:
            pause(random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**number)))  # noqa: S311
    raise ConflictError(
        f"other writers were faster {ATTEMPTS} times in a row", where=where, resolution="run the same command again"
    )
