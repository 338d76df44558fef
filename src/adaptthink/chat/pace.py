"""How fast questions are sent to an endpoint: a refusal for too many calls pauses all, and halves their rate."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

PATIENCE_SECONDS = 600.0  # of refusals without an answer in between
LONGEST_BACKOFF = 60.0  # seconds; where the server gives no Retry-After
LONGEST_INTERVAL = 60.0  # seconds between two questions
FASTER = 0.98  # of the interval, after each answer
REPORT_SECONDS = 60.0  # at least between two messages

clock, sleep = time.monotonic, asyncio.sleep  # tests move the time


@dataclass(slots=True)
class Pace:
    """The rate at which all questions to one endpoint are sent; nothing is held back before the first refusal.

    Questions that were in flight together when the endpoint refused are one refusal. The rate grows by 2% with each
    answer, so that it stays near what the endpoint allows.
    """

    endpoint: str
    on_message: Callable[[str], None] = lambda message: None
    began: float = field(default_factory=lambda: clock())  # noqa: PLW0108  (read when it is called)
    sent: int = 0
    interval: float = 0.0  # seconds between two questions
    next_turn: float = -math.inf
    paused_until: float = -math.inf
    refusals: int = 0  # in a row
    refused_since: float | None = None
    refused_last: float = -math.inf
    reported: float = -math.inf

    async def wait_turn(self) -> float:
        """Wait until the next question may be sent; return the time."""
        while True:
            turn = max(clock(), self.next_turn, self.paused_until)
            self.next_turn = turn + self.interval
            if (seconds := turn - clock()) > 0:
                await sleep(seconds)
            if clock() >= self.paused_until:  # nobody was refused meanwhile
                self.sent += 1
                return clock()

    def slow_down(self, sent: float, retry_after: float | None) -> bool:
        """Take that a question that was sent at `sent` was refused; return whether to send it again.

        `retry_after` is the wait in seconds that the endpoint requests, if it does.
        """
        now = clock()
        if self.refused_since is None:
            self.refused_since = now
        is_news = sent >= self.refused_last
        if is_news:
            self.refusals += 1
            self.interval = min(2 * (self.interval or (now - self.began) / self.sent), LONGEST_INTERVAL)
            self.refused_last = now
        wait = min(2.0 ** (self.refusals - 1), LONGEST_BACKOFF) if retry_after is None else retry_after
        self.paused_until = max(self.paused_until, now + wait)
        if self.paused_until - self.refused_since > PATIENCE_SECONDS:
            return False
        if is_news and now - self.reported >= REPORT_SECONDS:
            self.reported = now
            rate = f", then at most {60 / self.interval:,.3g} questions a minute" if self.interval else ""
            self.on_message(f"{self.endpoint} refuses, for too many calls: waiting {wait:.0f} s{rate}")
        return True

    def speed_up(self) -> None:
        """Take that a question was answered."""
        self.refusals, self.refused_since = 0, None
        self.interval *= FASTER
