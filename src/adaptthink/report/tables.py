"""The rows and columns of tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from adaptthink.evaluation.formats import (
    ACCURACY,
    FAULTS,
    NO_THINK,
    TOKENS,
    TOKENS_PER_CORRECT,
    Measure,
    write_deltas,
    write_number,
    write_range,
    write_speed,
)
from adaptthink.evaluation.scores import Change, Evaluation, Scores
from adaptthink.evaluation.statistics import Difference
from adaptthink.evaluation.store import REQUESTED_MODES
from adaptthink.report.drawing import Key
from adaptthink.report.evaluation import EvaluationFolder
from adaptthink.report.run import RunFolder

DIAL_ROW = "adaptthink_dial"  # the trained model at a certified threshold, where there is one
RUN_ROWS = {  # row of a training run -> how it is shown
    "original_think": Key("Original, Thinking", "think", "o"),
    "original_no_think": Key("Original, NoThinking", "no-think", "o"),
    DIAL_ROW: Key("AdaptThink, dial", "adapt", "D"),
    "adaptthink": Key("AdaptThink", "adapt", "s"),
    "adaptthink_think": Key("Forced to think", "think", "o", hollow=True),
    "adaptthink_no_think": Key("Forced to no_think", "no-think", "o", hollow=True),
}
MODE_COLOURS = {"auto": "adapt", "think": "think", "no_think": "no-think"}
MODE_MARKS = {"auto": "D", "think": "o", "no_think": "s"}


# ---- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table, one point of the picture of accuracy and tokens."""

    mode: str
    key: Key
    scores: tuple[Scores | None, ...]  # one for each level; None where it was not evaluated
    overall: Scores | None
    forced: bool  # into its mode: how often it does not think was not estimated
    change: Change | None = None  # against the original model thinking
    speed: str = ""  # of the responses; empty where it was not measured

    @property
    def evaluated(self) -> bool:
        """Whether there are scores."""
        return self.overall is not None

    @property
    def deltas(self) -> tuple[str, str]:
        """ΔAcc and ΔLength as text."""
        return write_deltas(self.change)


def make_row(
    mode: str,
    key: Key,
    evaluation: Evaluation | None,
    levels: Sequence[str],
    *,
    forced: bool,
    change: Change | None = None,
) -> Row:
    """A row with a score for each level."""
    scores = tuple(evaluation.levels.get(level) if evaluation else None for level in levels)
    overall, speed = (evaluation.overall, write_speed(evaluation.speed)) if evaluation else (None, "")
    return Row(mode, key, scores, overall, forced, change, speed)


def make_run_rows(folder: RunFolder) -> list[Row]:
    """The rows of a training run, in order: the original model's two, the headline's, and the others of its model."""
    return [
        make_row(
            mode,
            key,
            folder.evaluations.get(mode),
            folder.levels,
            forced=mode not in ("adaptthink", DIAL_ROW),
            change=folder.changes.get(mode),
        )
        for mode, key in RUN_ROWS.items()
        if mode != DIAL_ROW or mode in folder.evaluations
    ]


def make_evaluation_rows(folder: EvaluationFolder, levels: Sequence[str], model_colour: str | None = None) -> list[Row]:
    """A row for each mode that was requested; with a `model_colour` of its own if it stands beside others."""
    rows = []
    for mode in REQUESTED_MODES:
        if mode in folder.evaluations:
            name = mode if model_colour is None else f"{folder.name}, {mode}"
            key = Key(name, model_colour or MODE_COLOURS[mode], MODE_MARKS[mode], hollow=mode != "auto")
            rows.append(make_row(mode, key, folder.evaluations[mode], levels, forced=mode != "auto"))
    return rows


# ---- columns --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One column of scores, in HTML and in Markdown."""

    heading: str
    short: str  # the heading in HTML
    meaning: str  # of the short heading, where it needs an explanation
    write: Callable[[Scores | None], str]


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of each table of scores."""

    overall: tuple[Column, ...]
    by_level: tuple[Column, ...]
    intervals: tuple[Column, ...]


def make_columns(token_digits: int) -> Columns:
    """The columns, with so many decimals of token counts."""

    def value(measure: Measure) -> Column:
        return Column(
            measure.heading, measure.short, measure.meaning, partial(measure.write, token_digits=token_digits)
        )

    def interval(measure: Measure, heading: str) -> Column:
        return Column(heading, heading, "", partial(measure.write_interval, token_digits=token_digits))

    responses = Column("n", "n", "", lambda scores: write_number(scores.n if scores else None, 0))
    return Columns(
        overall=(
            value(ACCURACY),
            interval(ACCURACY, "95%"),
            value(TOKENS),
            interval(TOKENS, "95%"),
            value(TOKENS_PER_CORRECT),
            value(NO_THINK),
            *map(value, FAULTS),
            responses,
        ),
        by_level=(value(ACCURACY), value(TOKENS), value(NO_THINK)),
        intervals=(interval(ACCURACY, ACCURACY.short), interval(TOKENS, TOKENS.short)),
    )


# ---- the headline ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Headline:
    """How the trained model differs from the original one thinking, as text."""

    accuracy: str
    accuracy_interval: str
    length: str
    length_interval: str


def make_headline(folder: RunFolder) -> Headline:
    """The changes with their intervals; where the summary has none, what it states of them."""
    change = folder.changes.get(DIAL_ROW, folder.changes.get("adaptthink"))
    points, percent = folder.summary.delta_accuracy_points, folder.summary.delta_length_percent
    if change:
        points = 100 * change.accuracy.interval.estimate
        percent = 100 * change.tokens.interval.estimate if change.tokens else None
    return Headline(
        write_number(points, 1, " points", signed=True),
        describe_interval(change.accuracy if change else None),
        write_number(percent, 1, "%", signed=True),
        describe_interval(change.tokens if change else None),
    )


def describe_interval(difference: Difference | None) -> str:
    """A change's interval in words."""
    if difference is None:
        return "no interval: summary.json has none"
    ends = write_range((difference.interval.low, difference.interval.high), scale=100, signed=True)
    unclear = difference.verdict == "not distinguishable"
    return f"95% interval {ends}{': not distinguishable from no change' if unclear else ''}"
