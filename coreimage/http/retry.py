"""When a request is tried again, and how long to wait before."""

from __future__ import annotations

import random

from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

ATTEMPTS = 5
BACKOFF_S, LONGEST_PAUSE_S = 0.5, 60.0
RETRIED_STATUSES = {429, 500, 502, 503, 504}


class AgainError(Exception):
    """An attempt failed in a way that another one may not."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a Retry-After header (RFC 9110 §10.2.3, seconds or a date) asks for; None when it says nothing."""
    try:
        return float(Retry().parse_retry_after(header)) if header else None
    except InvalidHeader:
        return None


def pause_s(attempt: int, asked_s: float | None, *, backoff_s: float = BACKOFF_S) -> float:
    """How long to wait after the `attempt`-th failure (from 1): what the server asked for, else doubling with jitter.

    Never longer than LONGEST_PAUSE_S.
    """
    own_s = backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311
    return min(LONGEST_PAUSE_S, own_s if asked_s is None else max(0.0, asked_s))
