"""The arithmetic of the headline table: differences to the original model's thinking, and 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptthink.report.folder import RunFolder, Score

REFERENCE = "original_think"
MODES = {  # mode -> (row in the table, colour)
    "original_think": ("Original, Thinking", "think"),
    "original_no_think": ("Original, NoThinking", "no-think"),
    "adaptthink": ("AdaptThink", "adapt"),
    "adaptthink_think": ("Forced to think", "think"),
    "adaptthink_no_think": ("Forced to no_think", "no-think"),
}
Z_95 = 1.959964

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Change:
    """How a mode differs from the reference, as the paper counts it; None where a level is missing on either side."""

    points: float | None = None  # mean over the levels of the differences in accuracy
    points_interval: Interval | None = None
    percent: float | None = None  # mean over the levels of the relative changes of the mean tokens


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the headline table."""

    mode: str
    name: str
    colour: str
    scores: tuple[Score, ...]  # one for each level
    overall: Score
    change: Change
    evaluated: bool


def headline_rows(folder: RunFolder) -> list[Row]:
    """Return the five rows, in order, with an empty score wherever something was not evaluated."""
    rows = []
    for mode, (name, colour) in MODES.items():
        by_level = folder.scores.get(mode, {})
        scores = tuple(by_level.get(level, Score()) for level in folder.levels)
        change = Change() if mode == REFERENCE else compare(by_level, folder.scores.get(REFERENCE, {}))
        rows.append(Row(mode, name, colour, scores, folder.overall.get(mode, Score()), change, mode in folder.scores))
    return rows


def compare(scores: Mapping[str, Score], reference: Mapping[str, Score]) -> Change:
    """Return ΔAcc and ΔLength of `scores`; a mean over fewer levels than the reference has would mislead: None."""
    pairs = [(scores.get(level, Score()), score) for level, score in reference.items()]
    points = [None if a.accuracy is None or b.accuracy is None else 100 * (a.accuracy - b.accuracy) for a, b in pairs]
    percent = [
        None if a.mean_tokens is None or not b.mean_tokens else 100 * (a.mean_tokens / b.mean_tokens - 1)
        for a, b in pairs
    ]
    return Change(mean(points), points_interval(pairs), mean(percent))


def points_interval(pairs: Sequence[tuple[Score, Score]]) -> Interval | None:
    """Return the 95% interval of ΔAcc: Newcombe's combination of the Wilson intervals, which stays honest at 100%.

    Both sides count as independent samples. They answer the same problems, so this is rather too wide.
    """
    total = below = above = 0.0
    for a, b in pairs:
        interval_a, interval_b = wilson(a.accuracy, a.n), wilson(b.accuracy, b.n)
        if a.accuracy is None or b.accuracy is None or interval_a is None or interval_b is None:
            return None
        total += a.accuracy - b.accuracy
        below += (a.accuracy - interval_a[0]) ** 2 + (interval_b[1] - b.accuracy) ** 2
        above += (interval_a[1] - a.accuracy) ** 2 + (b.accuracy - interval_b[0]) ** 2
    scale = 100 / max(len(pairs), 1)
    return (scale * (total - math.sqrt(below)), scale * (total + math.sqrt(above))) if pairs else None


def wilson(share: float | None, n: float | None) -> Interval | None:
    """Return the Wilson 95% interval of a share seen in `n` trials, both ends in [0, 1]."""
    if share is None or not n or not 0 <= share <= 1:
        return None
    centre = share + Z_95**2 / (2 * n)
    half = Z_95 * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    scale = 1 + Z_95**2 / n
    # it holds the share itself and stays in [0, 1]; rounding must not undo that
    return max(0.0, min(share, (centre - half) / scale)), min(1.0, max(share, (centre + half) / scale))


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, or None if there is nothing to average or anything is missing."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present and len(present) == len(values) else None
