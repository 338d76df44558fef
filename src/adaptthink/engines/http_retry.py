"""What every client of a web server shares: which errors are transient, and how long to wait before a retry."""

from __future__ import annotations

import httpx2 as httpx
from tenacity import RetryCallState, wait_random_exponential

from adaptthink.errors import UserError

ATTEMPTS = 6  # of each call
BACKOFF = wait_random_exponential(multiplier=0.5, max=20)  # seconds between two attempts, without a Retry-After
LONGEST_WAIT = 120  # seconds, whatever a server's Retry-After requests


def check_url(url: str) -> None:
    """Raise UserError unless `url` is a URL of http or https."""
    try:
        scheme = httpx.URL(url).scheme
    except httpx.InvalidURL:
        scheme = ""
    if scheme not in ("http", "https"):
        raise UserError(f"endpoint '{url}' is not a URL of http or https; give one like http://localhost:8000")


def is_transient(error: BaseException) -> bool:
    """Return whether another attempt may succeed: after a broken connection, or a transient status."""
    if isinstance(error, httpx.HTTPStatusError):
        return is_transient_status(error.response.status_code)
    broken = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout, httpx.PoolTimeout)
    return isinstance(error, broken)


def is_transient_status(status: int) -> bool:
    """Return whether a status is transient: 408 (too slow), 429 (too many calls), or a fault of the server (5xx)."""
    return status in (408, 429) or httpx.codes.is_server_error(status)


def choose_wait(state: RetryCallState) -> float:
    """Return the seconds until the next attempt: the server's Retry-After, else an exponential back-off with jitter."""
    requested = parse_retry_after(state.outcome.exception() if state.outcome else None)
    return BACKOFF(state) if requested is None else requested


def parse_retry_after(error: BaseException | None) -> float | None:
    """Return the seconds of a server's Retry-After, at most `LONGEST_WAIT`; None if it gives none."""
    requested = error.response.headers.get("Retry-After", "") if isinstance(error, httpx.HTTPStatusError) else ""
    return min(float(requested), LONGEST_WAIT) if requested.isdecimal() else None


def shorten(text: str) -> str:
    """Return a text as one line of at most 200 characters."""
    return " ".join(text.split())[:200]
