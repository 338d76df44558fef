"""How scores are written: one style for the console, Markdown and HTML, and one list of the measures that tables show.

94.8 (91.8–96.8) is an estimate with its 95% interval, +1.2 (−0.4 to +2.8) a difference with its own. A dash stands for
what is not known. Minus signs are true ones, as a hyphen beside a dash cannot be read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from adaptthink.evaluation.scores import Change, Ends, Scores, Speed
from adaptthink.evaluation.statistics import Interval
from adaptthink.grading import Verdict

DASH = "–"


def write_number(value: float | None, digits: int = 1, unit: str = "", *, signed: bool = False) -> str:
    """Return a number with so many decimals: 1,234.5; if `signed`, a difference with its sign: +4.5, −60.6%, 0.0."""
    if value is None:
        return DASH
    if math.isinf(value):
        return ("∞" if value > 0 else "−∞") + unit
    rounded = round(value, digits) or 0.0  # or a value just below 0 would be written as −0.0
    sign = "+" if signed and rounded > 0 else ""
    return f"{sign}{rounded:,.{digits}f}{unit}".replace("-", "−")


def write_range(
    ends: tuple[float, float | None] | None, digits: int = 1, *, scale: float = 1.0, signed: bool = False
) -> str:
    """Return the ends of an interval: 91.8–96.8; of a difference's: −0.4 to +2.8. An upper end of None is infinite."""
    if ends is None:
        return DASH
    low, high = (math.inf if end is None else scale * end for end in ends)
    joint = " to " if signed else "–"
    return f"{write_number(low, digits, signed=signed)}{joint}{write_number(high, digits, signed=signed)}"


def write_estimate(interval: Interval | None, scale: float = 1.0, unit: str = "", *, signed: bool = False) -> str:
    """Return an estimate with its interval: 94.8 (91.8–96.8); a difference with its own: +1.2 points (−0.4 to +2.8)."""
    if interval is None:
        return DASH
    ends = write_range((interval.low, interval.high), scale=scale, signed=signed)
    return f"{write_number(scale * interval.estimate, 1, unit, signed=signed)} ({ends})"


def write_deltas(change: Change | None) -> tuple[str, str]:
    """Return ΔAcc and ΔLength: +2.4, −53.0%."""
    tokens = change.tokens if change else None
    return (
        write_number(100 * change.accuracy.interval.estimate if change else None, signed=True),
        write_number(100 * tokens.interval.estimate if tokens else None, 1, "%", signed=True),
    )


def write_speed(speed: Speed) -> str:
    """Return what is known of how fast responses came: median 1.2 s, 95th percentile 3.4 s; empty if nothing is."""
    parts = {
        f"median {write_number(speed.median_seconds)} s": speed.median_seconds,
        f"95th percentile {write_number(speed.p95_seconds)} s": speed.p95_seconds,
        f"{write_number(speed.tokens_per_second, 0)} tokens per second": speed.tokens_per_second,
    }
    return ", ".join(text for text, value in parts.items() if value is not None)


def escape_markdown(text: str) -> str:
    """Return a text escaped for a Markdown table, heading or paragraph."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(escaped.split()))


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of `Scores` as tables and pictures show it; shares in percent."""

    heading: str  # of a column
    short: str  # the heading where columns are narrow
    meaning: str  # of the short heading, where it needs an explanation
    value_of: Callable[[Scores], float | None]
    interval_of: Callable[[Scores], Ends | None] = lambda scores: None
    is_share: bool = True

    @property
    def scale(self) -> float:
        """What the value is multiplied with to be shown."""
        return 100.0 if self.is_share else 1.0

    def write(self, scores: Scores | None, token_digits: int, unit: str = "") -> str:
        """Return the value; `token_digits` are the decimals of what is no share."""
        digits = 1 if self.is_share else token_digits
        value = None if scores is None else self.value_of(scores)
        return write_number(None if value is None else self.scale * value, digits, unit)

    def write_interval(self, scores: Scores | None, token_digits: int) -> str:
        """Return the 95% interval alone."""
        digits = 1 if self.is_share else token_digits
        return write_range(None if scores is None else self.interval_of(scores), digits, scale=self.scale)

    def write_both(self, scores: Scores | None, token_digits: int) -> str:
        """Return the value with its interval, where it has one."""
        value = self.write(scores, token_digits)
        has_interval = scores is not None and self.interval_of(scores) is not None
        return f"{value} ({self.write_interval(scores, token_digits)})" if has_interval else value


ACCURACY = Measure(
    "accuracy, %", "Acc", "accuracy, %", lambda scores: scores.accuracy, lambda scores: scores.accuracy_interval
)
TOKENS = Measure(
    "mean tokens", "Tokens", "", lambda scores: scores.mean_tokens, lambda scores: scores.tokens_interval,
    is_share=False,
)  # fmt: skip
NO_THINK = Measure(
    "no_think, %", "NT", "answered without thinking (no_think), %",
    lambda scores: scores.no_think_share, lambda scores: scores.no_think_interval,
)  # fmt: skip
TRUNCATED = Measure("truncated, %", "Cut", "truncated responses, %", lambda scores: scores.truncated_share)
UNPARSED = Measure(
    "unparsed, %",
    "Unp",
    "answers that could not be found or parsed, %",
    lambda scores: scores.share_of(Verdict.UNPARSED),
)
UNCLOSED = Measure(
    "unclosed, %", "Open", "ended inside the thinking, %", lambda scores: scores.share_of(Verdict.UNCLOSED)
)
FAILED = Measure(
    "failed, %", "Fail", "grading timed out or failed, %",
    lambda scores: scores.share_of(Verdict.TIMEOUT, Verdict.ERROR),
)  # fmt: skip
TOKENS_PER_CORRECT = Measure(
    "tokens per correct answer", "Per correct", "tokens per correct answer, those of other responses included",
    lambda scores: scores.tokens_per_correct, is_share=False,
)  # fmt: skip
MEASURES = (ACCURACY, TOKENS, TOKENS_PER_CORRECT, NO_THINK)
FAULTS = (UNPARSED, TRUNCATED, UNCLOSED, FAILED)  # why responses were not graded as right or wrong


def choose_token_digits(scores: Iterable[Scores | None]) -> int:
    """Return the decimals of token counts: one where all are short, none beside long ones, as a column must align."""
    return int(max((one.mean_tokens for one in scores if one is not None), default=0) < 1000)
