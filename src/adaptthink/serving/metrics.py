"""What the server counts, as text that Prometheus reads (its exposition format, version 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # upper bounds of the histogram


@dataclass(slots=True)
class Metrics:
    """Counters since the server began; all are changed on the event loop alone."""

    answers: Counter[int] = field(default_factory=Counter)  # by HTTP status
    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)  # choices, by mode and by what decided it
    tokens: Counter[str] = field(default_factory=Counter)  # by part: prompt, thinking, answer
    tokens_saved: int = 0
    first_token: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))  # by bucket
    first_token_seconds: float = 0.0  # in all

    def observe_first_token(self, seconds: float) -> None:
        """Count the time from a request's arrival to its first text."""
        self.first_token[bisect_left(SECONDS, seconds)] += 1
        self.first_token_seconds += seconds

    def write(self, *, waiting: int, running: int) -> str:
        """Return all metrics, and the number of requests that wait for their first token, and that have one."""
        lines: list[str] = []

        def add(name: str, kind: str, meaning: str, *values: tuple[str, float]) -> None:
            full = f"adaptthink_{name}"
            lines.extend([f"# HELP {full} {meaning}", f"# TYPE {full} {kind}"])
            lines.extend(
                f"{full}{suffix} {value:g}" if value % 1 else f"{full}{suffix} {int(value)}" for suffix, value in values
            )

        answers = ((f'{{status="{status}"}}', count) for status, count in sorted(self.answers.items()))
        add("answers_total", "counter", "Answers, by HTTP status; 499: the client left.", *answers)
        decisions = ((f'{{mode="{mode}",by="{by}"}}', count) for (mode, by), count in sorted(self.decisions.items()))
        add("decisions_total", "counter", "Choices, by mode and by what decided it.", *decisions)
        tokens = ((f'{{part="{part}"}}', count) for part, count in sorted(self.tokens.items()))
        add("tokens_total", "counter", "Tokens of answers that ended, by part.", *tokens)
        meaning = "Tokens that direct answers saved, against the mean thought of the dial's calibration."
        add("tokens_saved_total", "counter", meaning, ("", self.tokens_saved))
        bounds = [*(f"{bound:g}" for bound in SECONDS), "+Inf"]
        sums = [sum(self.first_token[: index + 1]) for index in range(len(bounds))]
        buckets = ((f'_bucket{{le="{bound}"}}', count) for bound, count in zip(bounds, sums, strict=True))
        total = (("_sum", self.first_token_seconds), ("_count", sums[-1]))
        add("first_token_seconds", "histogram", "Time from arrival to the first text.", *buckets, *total)
        add("waiting_requests", "gauge", "Requests whose prompt waits or is being read.", ("", waiting))
        add("running_requests", "gauge", "Requests that are being answered.", ("", running))
        return "\n".join(lines) + "\n"
