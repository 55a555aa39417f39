"""The retries of requests: after which answers, and after which pauses."""

from __future__ import annotations

import random

from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

ATTEMPTS = 5
BACKOFF_S, LONGEST_PAUSE_S = 0.5, 60.0
RETRIED_STATUSES = {429, 500, 502, 503, 504}


class RetryError(Exception):
    """An attempt failed in a way in which another attempt may not fail."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def retry_after_s(header: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110 §10.2.3: seconds or a date).

    `None` when there is no header, or it cannot be read: servers write dates of any year, and numbers of any length.
    """
    try:
        return float(Retry().parse_retry_after(header)) if header else None
    except (InvalidHeader, ValueError, OverflowError):
        return None


def pause_s(attempt: int, asked_s: float | None, *, backoff_s: float = BACKOFF_S) -> float:
    """Return how long to wait after a failure, at most LONGEST_PAUSE_S.

    Args:
        attempt: The number of the attempt that failed, from 1.
        asked_s: What the server asked for; otherwise the pause doubles with each attempt, with jitter.
    """
    own_s = backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311
    return min(LONGEST_PAUSE_S, own_s if asked_s is None else max(0.0, asked_s))
