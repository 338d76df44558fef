"""What the reports draw: rows and numbers become a `Plot` each. Titles and keys are left to the page."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adaptthink.dial.curve import Point
from adaptthink.evaluation.formats import ACCURACY, NO_THINK, TOKENS, Measure
from adaptthink.evaluation.levels import is_number, rank_level
from adaptthink.evaluation.scores import Scores
from adaptthink.evaluation.statistics import Bin, Interval
from adaptthink.grading import Verdict
from adaptthink.report.drawing import BOTTOM, LEFT, NUM_LEVEL_COLOURS, Key, Paint, Plot, mark_empty
from adaptthink.report.folder import as_number, as_object
from adaptthink.report.tables import Row

SCATTER_SIZE = (360, 270)
SQUARE_SIZE = (320, 250)
UNDECIDED = {  # verdicts of answers that are neither right nor wrong, with their colours; truncation has a panel
    Verdict.UNPARSED: "adapt", Verdict.UNCLOSED: "think", Verdict.TIMEOUT: "no-think", Verdict.ERROR: "wrong",
}  # fmt: skip
MAX_POINTS = 400  # of a line: more would be drawn within the same pixels
Box = tuple[float, float, float, float]  # left, bottom, right, top in points
LABEL_HEIGHT = 15  # of a name beside a point, in points


@dataclass(frozen=True, slots=True)
class LevelChart:
    """A picture of one measure by level."""

    name: str
    title: str
    column: str  # of the numbers in the CSV
    measure: Measure

    @property
    def unit(self) -> str:
        """What is written beside the title."""
        return "%" if self.measure.is_share else ""


LEVEL_CHARTS = (
    LevelChart("accuracy-by-level", "Accuracy", "accuracy_percent", ACCURACY),
    LevelChart("tokens-by-level", "Mean tokens", "mean_tokens", TOKENS),
    LevelChart("no-think-by-level", "Answered without thinking", "no_think_percent", NO_THINK),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a training panel; a value is NaN where the run has none."""

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]  # (step, value)
    probe: bool = False  # measured now and then without sampling noise: not smoothed

    @property
    def values(self) -> list[float]:
        """The values that exist."""
        return [value for _, value in self.points if not np.isnan(value)]

    @property
    def window(self) -> int:
        """How many steps the running mean averages, an odd number."""
        return 1 if self.probe or len(self.points) < 20 else len(self.points) // 40 * 2 + 3

    def select_points(self) -> list[tuple[float, float, float]]:
        """The steps that are drawn, each with its value and the running mean there."""
        if not self.values:
            return []
        steps, values = np.array(self.points).T
        thin = slice(None, None, 1 + len(steps) // MAX_POINTS)
        columns = steps[thin], values[thin], average_neighbours(values, self.window)[thin]
        return [(float(step), float(value), float(mean)) for step, value, mean in zip(*columns, strict=True)]


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing of the training section; a limit of None follows the data."""

    name: str
    title: str
    unit: str
    curves: tuple[Curve, ...]
    bottom: float | None = 0.0
    top: float | None = None


@dataclass(frozen=True, slots=True)
class DialCurve:
    """A model's dial, as many of its points as are drawn."""

    name: str
    colour: str
    points: tuple[Point, ...]
    in_use: float | None  # the threshold; None if none was certified


@dataclass(frozen=True, slots=True)
class Bins:
    """A model's bins of P(no_think)."""

    key: Key
    bins: tuple[Bin, ...]


# ---- by level -------------------------------------------------------------------------------------------------------


def plot_levels(levels: Sequence[str], rows: Sequence[Row], chart: LevelChart, prefix: str = "") -> Plot:
    """One measure as a group of bars for each level, with 95% intervals as far as something was estimated.

    `prefix` distinguishes the files of several such pictures on a page.
    """
    table = [
        (level, row.key.name, *scale_score(chart.measure, score, row))
        for row in rows
        for level, score in zip(levels, row.scores, strict=True)
    ]
    return Plot(
        name=f"{prefix}{chart.name}",
        title=chart.title,
        unit=chart.unit,
        keys=tuple(Key(row.key.name, row.key.colour) for row in rows),
        columns=("level", "row", chart.column, "low", "high"),
        rows=tuple(table),
        draw=partial(draw_levels, levels, rows, chart.measure),
    )


def scale_score(measure: Measure, score: Scores | None, row: Row) -> tuple[float | None, float | None, float | None]:
    """Value and interval as they are drawn. A forced mode's share is so by construction: it has no interval."""
    value = None if score is None else measure.value_of(score)
    if score is None or value is None:
        return None, None, None
    interval = None if row.forced and measure is NO_THINK else measure.interval_of(score)
    return scale_ends(value, interval, measure.scale)


def draw_levels(levels: Sequence[str], rows: Sequence[Row], measure: Measure, axes: Axes, paint: Paint) -> None:
    """Draw the bars of `plot_levels`."""
    width = 0.8 / max(len(rows), 1)
    for position, row in enumerate(rows):
        for index, score in enumerate(row.scores):
            value, low, high = scale_score(measure, score, row)
            if value is not None:
                x, colour = index + (position - (len(rows) - 1) / 2) * width, paint[row.key.colour]
                axes.bar(x, value, 0.9 * width, color=colour, edgecolor=colour, linewidth=0.8)
                draw_whisker(axes, x, value, low, high, paint["ink"])
    axes.set_xticks(range(len(levels)), levels)
    axes.set_xlim(-0.6, max(len(levels), 1) - 0.4)
    axes.set_xlabel("level" if all(map(is_number, levels)) else "")
    axes.set_ylim(0, 102 if measure.is_share else None)
    axes.yaxis.set_major_formatter("{x:,g}")
    if all(scale_score(measure, score, row)[0] is None for row in rows for score in row.scores):
        mark_empty(axes, paint)


# ---- accuracy and tokens --------------------------------------------------------------------------------------------


def plot_accuracy_and_tokens(
    rows: Sequence[Row], mixtures: Sequence[tuple[Row, Row]], dials: Sequence[DialCurve], keys: Sequence[Key]
) -> Plot:
    """Accuracy against tokens: a point for each row, a curve for each dial, a dashed line for each of `mixtures`.

    A mixture joins the two modes of one model: what choosing between them at random would give. Points are labelled
    unless `keys` describe them.
    """
    table: list[tuple[str | float | None, ...]] = [
        ("mode", row.key.name, None, *list_numbers(row.overall)) for row in rows
    ]
    table += [("dial", dial.name, point.threshold, *list_numbers(point)) for dial in dials for point in dial.points]
    return Plot(
        name="accuracy-and-tokens",
        title="Accuracy and tokens",
        unit="",
        keys=tuple(keys),
        columns=(
            "kind", "name", "threshold", "mean_tokens", "tokens_low", "tokens_high",
            "accuracy_percent", "accuracy_low", "accuracy_high",
        ),
        rows=tuple(table),
        draw=partial(draw_accuracy_and_tokens, rows, mixtures, dials, not keys),
        size=SCATTER_SIZE,
    )  # fmt: skip


def list_numbers(one: Scores | Point | None) -> tuple[float | None, ...]:
    """Mean tokens and accuracy in percent, each with the ends of its interval."""
    if one is None:
        return (None,) * 6
    return (
        *scale_ends(one.mean_tokens, one.tokens_interval),
        *scale_ends(one.accuracy, one.accuracy_interval, 100),
    )


def scale_ends(
    value: float, interval: tuple[float, float] | None, scale: float = 1.0
) -> tuple[float, float | None, float | None]:
    """A value and the ends of its interval, scaled."""
    low, high = interval or (None, None)
    return scale * value, None if low is None else scale * low, None if high is None else scale * high


def draw_accuracy_and_tokens(
    rows: Sequence[Row],
    mixtures: Sequence[tuple[Row, Row]],
    dials: Sequence[DialCurve],
    labelled: bool,
    axes: Axes,
    paint: Paint,
) -> None:
    """Draw the points and lines of `plot_accuracy_and_tokens`."""
    scored = [(row, row.overall) for row in rows if row.overall]
    # from the highest down, so that of two close points the upper one gets the upper label
    scored.sort(key=lambda pair: -pair[1].accuracy)
    for mixture in mixtures:
        joined = [(overall.mean_tokens, 100 * overall.accuracy) for row, overall in scored if row in mixture]
        if len(joined) == 2:
            axes.plot(*zip(*joined, strict=True), color=paint["muted"], linestyle=(0, (4, 3)), linewidth=0.9)
    for dial in dials:
        line = [(point.mean_tokens, 100 * point.accuracy) for point in dial.points]
        axes.plot(*zip(*line, strict=True), color=paint[dial.colour], linewidth=1.4)
        for point in dial.points:
            if point.threshold == dial.in_use:
                style: dict[str, Any] = {"color": paint[dial.colour], "ms": 11, "mew": 1.4}
                axes.plot(point.mean_tokens, 100 * point.accuracy, "+", **style)
    for row, overall in scored:
        colour = paint[row.key.colour]
        x, left, right = scale_ends(overall.mean_tokens, overall.tokens_interval)
        y, low, high = scale_ends(overall.accuracy, overall.accuracy_interval, 100)
        draw_whisker(axes, x, y, low, high, colour)
        draw_whisker(axes, y, x, left, right, colour, upright=False)
        inside = paint["page"] if row.key.hollow else colour
        axes.plot(x, y, row.key.mark, ms=7, mew=1.6, color=colour, markerfacecolor=inside)
    axes.margins(0.1)
    axes.set(xlabel="mean tokens", ylabel="accuracy, %", xlim=(0, None))
    axes.set_ylim(max(axes.get_ylim()[0], -2), min(axes.get_ylim()[1], 102))
    axes.xaxis.set_major_formatter("{x:,g}")
    if not scored and not dials:
        mark_empty(axes, paint)
    if labelled:
        curves = [(point.mean_tokens, 100 * point.accuracy) for dial in dials for point in dial.points]
        label_points(axes, scored, curves, paint)


def label_points(
    axes: Axes, scored: Sequence[tuple[Row, Scores]], curves: Sequence[tuple[float, float]], paint: Paint
) -> None:
    """Write each point's name beside it, where it covers neither a point, its whiskers, a curve nor another name."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    to_points = figure.dpi_scale_trans.inverted().transform

    def locate(x: float, y: float) -> tuple[float, float]:
        left, bottom = 72 * to_points(axes.transData.transform((x, y)))
        return float(left), float(bottom)

    taken: list[Box] = []
    for _, overall in scored:
        x, y = overall.mean_tokens, 100 * overall.accuracy
        (low, high), (left, bottom) = overall.tokens_interval or (x, x), locate(x, y)
        taken.append((min(locate(low, y)[0], left - 6), bottom - 8, max(locate(high, y)[0], left + 6), bottom + 8))
    own = list(taken)
    taken += [(x - 2, y - 2, x + 2, y + 2) for x, y in (locate(*point) for point in curves)]
    names: list[Box] = []
    leader = {"arrowstyle": "-", "color": paint["muted"], "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4}
    behind = {"facecolor": paint["page"], "edgecolor": "none", "pad": 0.5}  # a line may pass there
    frame = (LEFT, BOTTOM, *SCATTER_SIZE)
    for (row, overall), beside in zip(scored, own, strict=True):
        x, y, name = overall.mean_tokens, 100 * overall.accuracy, row.key.name
        side, up, box = position_label(locate(x, y), beside, 6.2 * len(name), taken, names, frame)
        names.append(box)
        near = {"relpos": (0.0 if side > 0 else 1.0, 0.5)}  # the line ends where the name begins
        axes.annotate(
            name, (x, y), xytext=(side, up), textcoords="offset points", color=paint["ink"], va="center",
            ha="left" if side > 0 else "right", arrowprops=leader | near if up else None, bbox=behind,
        )  # fmt: skip


def position_label(
    point: tuple[float, float], own: Box, width: float, taken: Sequence[Box], names: Sequence[Box], frame: Box
) -> tuple[float, float, Box]:
    """Return where a label starts, relative to its point, and its box: the nearest free position beside `own`.

    It covers nothing that is `taken` and none of the other `names`, and the line to it crosses none of them. Where no
    position is free, the one inside of the frame that covers the fewest names, then covers and crosses least.
    """
    x, y = point
    heights = (0, *(sign * step * (LABEL_HEIGHT + 1) for step in range(1, 8) for sign in (-1, 1)))
    inside: list[tuple[float, float, Box]] = []
    for up, side in itertools.product(heights, (own[2] - x + 4, own[0] - x - 4)):
        left = x + side - (width if side < 0 else 0)
        box = (left, y + up - LABEL_HEIGHT / 2, left + width, y + up + LABEL_HEIGHT / 2)
        if frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]:
            inside.append((side, up, box))

    def count_faults(place: tuple[float, float, Box]) -> tuple[int, int]:
        names_covered, covered = (sum(overlap(place[2], other) for other in boxes) for boxes in (names, taken))
        return names_covered, covered + sum(any(overlap(step, one) for step in walk(point, place[:2])) for one in names)

    return min(inside, key=count_faults, default=(own[2] - x + 4, 0.0, own))


def overlap(one: Box, other: Box) -> bool:
    """Return whether two boxes share an area."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def walk(point: tuple[float, float], way: tuple[float, float]) -> Iterator[Box]:
    """Yield small boxes along a straight line from a point."""
    for step in range(1, 20):
        x, y = (start + step / 20 * change for start, change in zip(point, way, strict=True))
        yield x - 0.5, y - 0.5, x + 0.5, y + 0.5


# ---- P(no_think) ----------------------------------------------------------------------------------------------------


def plot_reliability(models: Sequence[Bins]) -> Plot:
    """P(no_think) against the share of problems where answering at once really pays; on the diagonal they agree."""
    return Plot(
        name="reliability",
        title="Does P(no_think) predict where no_think pays?",
        unit="",
        keys=tuple(model.key for model in models) if len(models) > 1 else (),
        columns=("row", "probability_percent", "pays_percent", "low", "high", "num_problems"),
        rows=tuple(
            (model.key.name, 100 * one.probability, *scale_interval(one.pays), one.num_problems)
            for model in models
            for one in model.bins
        ),
        draw=partial(draw_reliability, models),
        size=SQUARE_SIZE,
    )


def scale_interval(share: Interval) -> tuple[float, float | None, float | None]:
    """A share and the ends of its interval in percent."""
    return scale_ends(share.estimate, (share.low, share.high), 100)


def draw_reliability(models: Sequence[Bins], axes: Axes, paint: Paint) -> None:
    """Draw the bins of `plot_reliability`."""
    axes.plot([0, 100], [0, 100], color=paint["muted"], linestyle=(0, (4, 3)), linewidth=0.9)
    largest = max(one.num_problems for model in models for one in model.bins)
    for model in models:
        colour = paint[model.key.colour]
        for one in model.bins:
            x, (y, low, high) = 100 * one.probability, scale_interval(one.pays)
            draw_whisker(axes, x, y, low, high, colour)
            # the area shows how many problems: a bin with few has a long whisker, which would dominate
            axes.plot(x, y, "o", color=colour, ms=3 + 7 * (one.num_problems / largest) ** 0.5, clip_on=False)
    axes.set(xlim=(-2, 102), ylim=(-2, 102), xlabel="P(no_think), %, mean of the bin", ylabel="no_think pays, %")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


# ---- training -------------------------------------------------------------------------------------------------------


def make_training_panels(steps: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Arrange the metrics of a run into panels; a metric that was never written leaves its curve empty."""

    def by_mode(name: str, scale: float = 1.0) -> tuple[Curve, ...]:
        modes = {"think": "think", "no_think": "no-think"}
        return tuple(Curve(mode, colour, read_column(steps, f"{name}_{mode}", scale)) for mode, colour in modes.items())

    def one(metric: str, colour: str = "ink", scale: float = 1.0, name: str = "") -> Curve:
        return Curve(name, colour, read_column(steps, metric, scale), probe=metric.startswith("probe_"))

    probes = [{**as_object(step.get("probe_no_think_by_level")), "step": step["step"]} for step in steps]
    levels = sorted({key for probe in probes for key in probe} - {"step"}, key=rank_level)
    by_level = [
        Curve(level, choose_level_colour(index, len(levels)), read_column(probes, level, 100), probe=True)
        for index, level in enumerate(levels)
    ]
    every_level = one("probe_no_think_share", "adapt", 100, "all")
    by_verdict = tuple(
        one(f"verdict_share_{verdict}", colour, 100, str(verdict)) for verdict, colour in UNDECIDED.items()
    )
    held_out = "held-out problems"
    return [
        Panel("reward", "Reward", "mean", by_mode("reward"), top=1),
        Panel("probe-no-think", f"P(no_think), {held_out}", "%, by level", (*by_level, every_level), top=100),
        Panel("probe-logprob", f"log P(no_think), {held_out}", "nats", (one("probe_no_think_logprob"),), bottom=None),
        Panel("probe-mass", f"P(think) + P(no_think), {held_out}", "%", (one("probe_mode_mass", scale=100),), top=100),
        Panel("length", "Response length", "mean tokens", by_mode("mean_tokens")),
        Panel("verdicts", "Answers neither right nor wrong", "%", by_verdict),
        Panel("truncated", "Truncated responses", "%", by_mode("truncated_share", 100)),
        Panel("clipped", "Responses whose ratio was clipped", "%", by_mode("clip_share", 100)),
        Panel("loss", "Loss", "", (one("loss"),), bottom=None),
        Panel("gradient-norm", "Gradient norm", "", (one("grad_norm"),)),
    ]


def plot_training(panel: Panel) -> Plot:
    """Training curves: single steps faint and a running mean on top; probes as they are."""
    keys = tuple(Key(curve.name, curve.colour) for curve in panel.curves)
    return Plot(
        name=f"training-{panel.name}",
        title=panel.title,
        unit=panel.unit,
        keys=keys if len(keys) > 1 else (),
        columns=("step", "curve", "value", "running_mean"),
        rows=tuple(
            (step, curve.name, *(None if np.isnan(one) else one for one in values))
            for curve in panel.curves
            for step, *values in curve.select_points()
        ),
        draw=partial(draw_panel, panel),
    )


def draw_panel(panel: Panel, axes: Axes, paint: Paint) -> None:
    """Draw the curves of `plot_training`."""
    drawn = [curve for curve in panel.curves if curve.values]
    for curve in drawn:
        steps, values, means = zip(*curve.select_points(), strict=True)
        style: dict[str, Any] = {"color": paint[curve.colour], "clip_on": False}
        if curve.window > 1:
            axes.plot(steps, values, linewidth=0.7, alpha=0.4, **style)
        axes.plot(steps, means, marker="." if len(curve.points) <= 40 else "", markersize=4, **style)
    if drawn:
        axes.set_ylim(panel.bottom, panel.top)
        if "tokens" in panel.unit:
            axes.yaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("step")
    else:
        mark_empty(axes, paint)


def read_column(records: Sequence[Mapping[str, Any]], key: str, scale: float = 1.0) -> tuple[tuple[float, float], ...]:
    """Return (step, value) of each record that has `key`; where it is null the line gets a gap."""
    found = [(float(record["step"]), as_number(record[key])) for record in records if key in record]
    return tuple((step, np.nan if value is None else scale * value) for step, value in found)


def average_neighbours(values: Any, window: int) -> Any:
    """Average each value with its neighbours, an odd number of them; gaps stay gaps and do not spread."""
    present = ~np.isnan(values)
    inner = slice(window // 2, window // 2 + len(values))
    total = np.convolve(np.where(present, values, 0.0), np.ones(window))[inner]
    return np.where(present, total / np.maximum(np.convolve(present, np.ones(window))[inner], 1), np.nan)


# ---- details --------------------------------------------------------------------------------------------------------


def draw_whisker(
    axes: Axes, at: float, value: float, low: float | None, high: float | None, colour: str, *, upright: bool = True
) -> None:
    """Draw an interval around a value as an error bar, at a position on the other axis."""
    if low is not None and high is not None:
        reach = [[max(0.0, value - low)], [max(0.0, high - value)]]  # rounding may put an end beyond the value
        x, y = (at, value) if upright else (value, at)
        errors: dict[str, Any] = {"yerr": reach} if upright else {"xerr": reach}
        axes.errorbar(x, y, fmt="none", ecolor=colour, elinewidth=0.9, capsize=1.8, **errors)


def choose_level_colour(index: int, count: int) -> str:
    """Return the colour of the level at `index` of `count`: the easiest and the hardest get the ends of the scale."""
    return f"level-{round(index * (NUM_LEVEL_COLOURS - 1) / max(count - 1, 1))}"
