"""What every client of a web server shares: which errors are transient, and how long to wait before a retry."""

from __future__ import annotations

import math
import time
from email.utils import parsedate_to_datetime

import httpx2 as httpx
from tenacity import RetryCallState, wait_random_exponential

from adaptthink.errors import UserError

ATTEMPTS = 6  # of each call
BACKOFF = wait_random_exponential(multiplier=0.5, max=20)  # seconds between two attempts, without a Retry-After
QUOTA = "insufficient_quota"  # OpenAI's name of a fault
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


def is_busy(error: BaseException) -> bool:
    """Return whether a server refuses because it has too much to do, and will take the call later.

    That is 429, Anthropic's 529, and a 503 that says when; a used-up quota is 429 too, but does not pass.
    """
    if not isinstance(error, httpx.HTTPStatusError):
        return False
    response = error.response
    if response.status_code == 429 and QUOTA in response.text:
        return False
    return response.status_code in (429, 529) or (response.status_code == 503 and "Retry-After" in response.headers)


def choose_wait(state: RetryCallState) -> float:
    """Return the seconds until the next attempt: the server's Retry-After, else an exponential back-off with jitter."""
    requested = parse_retry_after(state.outcome.exception() if state.outcome else None)
    return BACKOFF(state) if requested is None else requested


def parse_retry_after(error: BaseException | None) -> float | None:
    """Return the seconds of a server's Retry-After, at most `LONGEST_WAIT`; None if it gives none.

    It may be a number of seconds or a date (RFC 9110, 10.2.3).
    """
    requested = error.response.headers.get("Retry-After", "") if isinstance(error, httpx.HTTPStatusError) else ""
    try:
        seconds = float(requested)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(requested).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else None


def shorten(text: str) -> str:
    """Return a text as one line of at most 200 characters."""
    return " ".join(text.split())[:200]
