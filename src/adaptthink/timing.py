"""Time of a training by phase: a clock, and the profile that `adaptthink train --profile` shows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WITHIN = {"generate": "rollout", "grade": "rollout"}  # phases that are part of another
PHASES = ("rollout", "generate", "grade", "update", "load_weights", "probe", "checkpoint")
TOKENS = {"rollout": "response_tokens", "generate": "response_tokens", "update": "update_tokens"}


class Clock:
    """Adds up seconds by phase."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside to a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call, as metrics, and start again at 0."""
        taken = {f"{name}_seconds": seconds for name, seconds in self.seconds.items()}
        self.seconds.clear()
        return taken


@dataclass(frozen=True, slots=True)
class Phase:
    """One line of a profile, over all steps."""

    name: str
    seconds: float
    share: float  # of the seconds of all phases
    tokens: int | None
    roofline_share: float | None  # seconds that the roofline allows / seconds; None if it was not measured

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second of the phase itself."""
        return None if self.tokens is None or not self.seconds else self.tokens / self.seconds


def profile(rows: Sequence[Mapping[str, Any]]) -> list[Phase]:
    """Return the phases of all steps in a metrics log, in the order in which they happen."""

    def total(key: str) -> float:
        return sum(row.get(key) or 0 for row in rows)

    whole = sum(total(f"{name}_seconds") for name in PHASES if name not in WITHIN)
    phases = []
    for name in PHASES:
        seconds = total(f"{name}_seconds")
        if not seconds:
            continue
        roofline = total(f"{name}_roofline_seconds")
        phases.append(
            Phase(
                name,
                seconds,
                seconds / whole,
                int(total(TOKENS[name])) if name in TOKENS else None,
                roofline / seconds if roofline else None,
            )
        )
    return phases
