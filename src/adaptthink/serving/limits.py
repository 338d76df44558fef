"""How many requests a client may send in a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

MINUTE = 60.0  # seconds
MOST_OWNERS = 10_000  # after which those that may send all of their requests again are forgotten


class RateLimit:
    """At most `per_minute` requests of each owner, all of them at once if it was quiet before.

    The generic cell rate algorithm (ITU-T I.371): each request takes its share of a minute, one after the other, and
    none may end more than a minute ahead.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.share, self.clock = MINUTE / per_minute, clock
        self.taken: dict[Hashable, float] = {}  # the time until which each owner's minute is taken

    def take(self, owner: Hashable) -> float:
        """Count a request and return 0; or count nothing, and return the seconds after which one is accepted."""
        now = self.clock()
        taken = max(self.taken.get(owner, now), now) + self.share
        wait = taken - now - MINUTE
        if wait > 1e-6:  # more than rounding
            return wait
        if len(self.taken) >= MOST_OWNERS:
            self.taken = {one: until for one, until in self.taken.items() if until > now}
        self.taken[owner] = taken
        return 0.0
