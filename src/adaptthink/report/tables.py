"""The rows of the tables and pictures, and how the modes of a training run differ from the original model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adaptthink.report.drawing import Key
from adaptthink.report.evaluation import MODES, EvaluationFolder
from adaptthink.report.folder import Interval, Score
from adaptthink.report.run import RunFolder

REFERENCE = "original_think"
RUN_MODES = {  # mode -> how it is shown
    "original_think": Key("Original, Thinking", "think", "o"),
    "original_no_think": Key("Original, NoThinking", "no-think", "o"),
    "adaptthink": Key("AdaptThink", "adapt", "D"),
    "adaptthink_think": Key("Forced to think", "think", "o", hollow=True),
    "adaptthink_no_think": Key("Forced to no_think", "no-think", "o", hollow=True),
}
MODE_COLOURS = {"auto": "adapt", "think": "think", "no_think": "no-think"}
MODE_MARKS = {"auto": "D", "think": "o", "no_think": "s"}


@dataclass(frozen=True, slots=True)
class Change:
    """How a mode differs from the reference, as the paper counts it; None where a level is missing on either side."""

    points: float | None = None  # mean over the levels of the differences in accuracy
    points_interval: Interval | None = None
    percent: float | None = None  # mean over the levels of the relative changes of the mean tokens
    percent_interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table, one point of the picture of accuracy and tokens."""

    mode: str
    key: Key
    scores: tuple[Score, ...]  # one for each level
    overall: Score
    forced: bool  # into its mode: how often it does not think was not estimated
    evaluated: bool = True
    change: Change = Change()


def run_rows(folder: RunFolder) -> list[Row]:
    """Return the five rows of a training run, in order, with an empty score wherever something was not evaluated."""
    rows = []
    for mode, key in RUN_MODES.items():
        by_level = folder.scores.get(mode, {})
        change = Change() if mode == REFERENCE else compare(by_level, folder.scores.get(REFERENCE, {}))
        points, percent = folder.intervals.get(mode, (None, None))
        change = replace(change, points_interval=points, percent_interval=percent)
        overall = folder.overall.get(mode, Score())
        scores = tuple(by_level.get(level, Score()) for level in folder.levels)
        rows.append(Row(mode, key, scores, overall, mode != "adaptthink", mode in folder.scores, change))
    return rows


def evaluation_rows(folder: EvaluationFolder, levels: Sequence[str], model_colour: str | None = None) -> list[Row]:
    """Return a row for each mode that was asked; with a `model_colour` of its own if it stands beside others."""
    return [
        Row(
            mode,
            Key(
                mode if model_colour is None else f"{folder.name}, {mode}",
                model_colour or MODE_COLOURS[mode],
                MODE_MARKS[mode],
                hollow=mode != "auto",
            ),
            tuple(folder.scores[mode].get(level, Score()) for level in levels),
            folder.overall.get(mode, Score()),
            forced=mode != "auto",
        )
        for mode in MODES
        if mode in folder.scores
    ]


def compare(scores: Mapping[str, Score], reference: Mapping[str, Score]) -> Change:
    """Return ΔAcc and ΔLength of `scores`; a mean over fewer levels than the reference has would mislead: None."""
    pairs = [(scores.get(level, Score()), score) for level, score in reference.items()]
    points = [None if a.accuracy is None or b.accuracy is None else 100 * (a.accuracy - b.accuracy) for a, b in pairs]
    percent = [
        None if a.mean_tokens is None or not b.mean_tokens else 100 * (a.mean_tokens / b.mean_tokens - 1)
        for a, b in pairs
    ]
    return Change(mean(points), None, mean(percent))


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, or None if there is nothing to average or anything is missing."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present and len(present) == len(values) else None
