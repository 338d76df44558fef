"""Figures as inline SVG strings that take their colours and font from the page, so one drawing serves light and dark.

Matplotlib knows no CSS variables. Everything is therefore drawn in placeholder colours, one for each name of a
variable, and `embed` turns them into `var(--name)`. Titles and legends are left to the page: they wrap there.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adaptthink.report.folder import as_object, level_order, number
from adaptthink.report.tables import Interval, Row, wilson

NUM_LEVEL_COLOURS = 11  # from easy to hard, mixed by the page
COLOURS = ("ink", "muted", "rule", "think", "no-think", "adapt", *(f"level-{i}" for i in range(NUM_LEVEL_COLOURS)))
PAINT = {name: f"#0101{index + 1:02x}" for index, name in enumerate(COLOURS)}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "adaptthink",  # the same run gives the same bytes
    "font.sans-serif": ["DejaVu Sans"],  # measures the labels; it is wide, so the page's own font will fit
    "font.size": 10.5,
    "text.parse_math": False,  # a level's name may hold a dollar sign
    "axes.edgecolor": PAINT["muted"],
    "axes.labelcolor": PAINT["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": PAINT["rule"],
    "xtick.color": PAINT["muted"],
    "xtick.labelcolor": PAINT["ink"],
    "ytick.labelcolor": PAINT["ink"],
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
}
PANEL_SIZE = (320, 196)  # points: about the width of a phone, where one point shows as one CSS pixel
SCATTER_SIZE = (360, 270)
MAX_POINTS = 400  # of a line: more would be drawn within the same pixels
Box = tuple[float, float, float, float]  # left, bottom, right, top in points
LEFT, RIGHT, BOTTOM, TOP = 46, 10, 37, 12  # margins in points, the same everywhere: neighbours line up


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a panel; a value is NaN where the run says that there is none."""

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]  # (step, value)
    probe: bool = False  # measured now and then without sampling noise: not smoothed

    @property
    def values(self) -> list[float]:
        """The values that exist."""
        return [value for _, value in self.points if not np.isnan(value)]


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing of the training section; a limit of None follows the data."""

    title: str
    unit: str
    curves: tuple[Curve, ...]
    bottom: float | None = 0.0
    top: float | None = None


def training_panels(steps: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Arrange the metrics of a run into panels; a metric that was never written leaves its curve empty."""

    def by_mode(name: str, scale: float = 1.0) -> tuple[Curve, ...]:
        modes = {"think": "think", "no_think": "no-think"}
        return tuple(Curve(mode, colour, column(steps, f"{name}_{mode}", scale)) for mode, colour in modes.items())

    def one(metric: str, colour: str = "ink", scale: float = 1.0, name: str = "") -> Curve:
        return Curve(name, colour, column(steps, metric, scale), probe=metric.startswith("probe_"))

    probes = [{**as_object(step.get("probe_no_think_by_level")), "step": step["step"]} for step in steps]
    levels = sorted({key for probe in probes for key in probe} - {"step"}, key=level_order)
    by_level = [
        Curve(level, level_colour(index, len(levels)), column(probes, level, 100), probe=True)
        for index, level in enumerate(levels)
    ]
    every_level = one("probe_no_think_share", "adapt", 100, "all")
    return [
        Panel("Reward", "mean", by_mode("reward"), top=1),
        Panel("P(no_think), held-out problems", "%, by level", (*by_level, every_level), top=100),
        Panel("log P(no_think), held-out problems", "nats", (one("probe_no_think_logprob"),), bottom=None),
        Panel("P(think) + P(no_think), held-out problems", "%", (one("probe_mode_mass", scale=100),), top=100),
        Panel("Response length", "mean tokens", by_mode("mean_tokens")),
        Panel("Truncated responses", "%", by_mode("truncated_share", 100)),
        Panel("Responses whose ratio was clipped", "%", by_mode("clip_share", 100)),
        Panel("Loss", "", (one("loss"),), bottom=None),
        Panel("Gradient norm", "", (one("grad_norm"),)),
    ]


def column(records: Sequence[Mapping[str, Any]], key: str, scale: float = 1.0) -> tuple[tuple[float, float], ...]:
    """Return (step, value) of each record that has `key`; where it is null the line gets a gap."""
    found = [(float(record["step"]), number(record[key])) for record in records if key in record]
    return tuple((step, np.nan if value is None else scale * value) for step, value in found)


@mpl.rc_context(STYLE)
def draw_bars(levels: Sequence[str], rows: Sequence[Row], metric: str) -> str:
    """Draw one metric of `Score` as a group of bars for each level; shares get their 95% interval."""
    figure, axes = open_panel()
    scale = 1 if metric == "mean_tokens" else 100
    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        # the share of a forced mode is so by construction: nothing was estimated
        estimated = metric == "accuracy" or (metric == "no_think_share" and row.mode == "adaptthink")
        for index, score in enumerate(row.scores):
            value, x = getattr(score, metric), index + (place - (len(rows) - 1) / 2) * width
            if value is not None:
                colour = PAINT[row.colour]
                axes.bar(x, scale * value, 0.9 * width, color=colour, edgecolor=colour, linewidth=0.8)
                draw_interval(axes, x, value, wilson(value, score.n) if estimated else None)
    axes.set_xticks(range(len(levels)), levels)
    axes.set_xlim(-0.6, max(len(levels), 1) - 0.4)
    axes.set_xlabel("level" if all(level.isdecimal() for level in levels) else "")
    axes.set_ylim(0, None if metric == "mean_tokens" else 102)
    axes.yaxis.set_major_formatter("{x:,g}")
    if all(getattr(score, metric) is None for row in rows for score in row.scores):
        mark_empty(axes)
    return embed(figure, f"{metric} by level")


@mpl.rc_context(STYLE)
def draw_panel(panel: Panel) -> str:
    """Draw training curves: single steps faint and a running mean on top; probes as they are."""
    figure, axes = open_panel()
    drawn = [curve for curve in panel.curves if curve.values]
    for curve in drawn:
        steps, values = np.array(curve.points).T
        window = 1 if curve.probe or len(steps) < 20 else len(steps) // 40 * 2 + 3
        thin = slice(None, None, 1 + len(steps) // MAX_POINTS)
        look: dict[str, Any] = {"color": PAINT[curve.colour], "clip_on": False}
        if window > 1:
            axes.plot(steps[thin], values[thin], linewidth=0.7, alpha=0.4, **look)
        marker = "." if len(steps) <= 40 else ""
        axes.plot(steps[thin], running_mean(values, window)[thin], marker=marker, markersize=4, **look)
    if drawn:
        axes.set_ylim(panel.bottom, panel.top)
        if "tokens" in panel.unit:
            axes.yaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("step")
    else:
        mark_empty(axes)
    return embed(figure, panel.title)


@mpl.rc_context(STYLE)
def draw_scatter(rows: Sequence[Row]) -> str:
    """Draw accuracy against tokens, a labelled point for each mode; hollow points are forced modes after training.

    The dashed line joins the original model's two modes: what choosing between them by lot would give.
    """
    figure, axes = open_panel(SCATTER_SIZE)
    points = [  # from the highest down, so that of two close points the upper one gets the upper label
        (row, row.overall.mean_tokens, 100 * row.overall.accuracy)
        for row in sorted(rows, key=lambda row: -(row.overall.accuracy or 0))
        if row.overall.mean_tokens is not None and row.overall.accuracy is not None
    ]
    lot = [(x, y) for row, x, y in points if row.mode.startswith("original")]
    if len(lot) == 2:
        axes.plot(*zip(*lot, strict=True), color=PAINT["muted"], linestyle=(0, (4, 3)), linewidth=0.9)
    leader = {"arrowstyle": "-", "color": PAINT["muted"], "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4}
    for row, x, y in points:
        draw_interval(axes, x, y / 100, wilson(y / 100, row.overall.n), row.colour)
        fill, shape = "none" if row.mode.startswith("adaptthink_") else "full", "D" if row.colour == "adapt" else "o"
        axes.plot(x, y, shape, ms=7, mew=1.6, color=PAINT[row.colour], fillstyle=fill)
    axes.margins(0.1)
    axes.set(xlabel="mean tokens", ylabel="accuracy, %", xlim=(0, None))
    axes.set_ylim(max(axes.get_ylim()[0], -2), min(axes.get_ylim()[1], 102))
    axes.xaxis.set_major_formatter("{x:,g}")
    if not points:
        mark_empty(axes)
    to_points = figure.dpi_scale_trans.inverted().transform
    places = [72 * to_points(axes.transData.transform((x, y))) for _, x, y in points]
    taken: list[Box] = [(x - 6, y - 8, x + 6, y + 8) for x, y in places]
    for (row, x, y), (left, bottom) in zip(points, places, strict=True):
        side, up, box = place_label(left, bottom, 6.2 * len(row.name), taken, (LEFT, BOTTOM, *SCATTER_SIZE))
        taken.append(box)
        axes.annotate(
            row.name, (x, y), xytext=(side, up), textcoords="offset points", color=PAINT["ink"], va="center",
            ha="left" if side > 0 else "right", arrowprops=leader if up else None,
        )  # fmt: skip
    return embed(figure, "accuracy and tokens of each mode")


def open_panel(size: tuple[int, int] = PANEL_SIZE) -> tuple[Figure, Axes]:
    """Return an empty drawing of `size` points."""
    width, height = size
    figure = Figure(figsize=(width / 72, height / 72))
    inside = ((width - LEFT - RIGHT) / width, (height - BOTTOM - TOP) / height)
    axes = figure.add_axes((LEFT / width, BOTTOM / height, *inside))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes


def mark_empty(axes: Axes) -> None:
    """Say that there is nothing to draw, and drop the scales, which would mean nothing."""
    axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=PAINT["muted"])
    axes.set(xticks=[], yticks=[])


def draw_interval(axes: Axes, x: float, share: float, interval: Interval | None, colour: str = "ink") -> None:
    """Draw a share's interval as an error bar, in percent."""
    if interval is not None:
        reach = [[100 * (share - interval[0])], [100 * (interval[1] - share)]]
        axes.errorbar(x, 100 * share, yerr=reach, fmt="none", ecolor=PAINT[colour], elinewidth=0.9, capsize=1.8)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Average each value with its neighbours, an odd number of them; gaps stay gaps and do not spread."""
    present = ~np.isnan(values)
    inner = slice(window // 2, window // 2 + len(values))
    total = np.convolve(np.where(present, values, 0.0), np.ones(window))[inner]
    return np.where(present, total / np.maximum(np.convolve(present, np.ones(window))[inner], 1), np.nan)


def place_label(x: float, y: float, width: float, taken: Sequence[Box], frame: Box) -> tuple[int, int, Box]:
    """Return where the label of the point (x, y) starts, relative to it, and its box: the nearest free place."""
    box, side, up = frame, 0, 0
    for up, side in itertools.product((0, -15, 15, -30, 30, -45, 45, -60), (10, -10)):
        left = x + side - (width if side < 0 else 0)
        box = (left, y + up - 6, left + width, y + up + 6)
        inside = frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
        if inside and not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
        ):
            break
    return side, up, box


def level_name(level: str) -> str:
    """Return how a level is called in headings and legends."""
    return f"Level {level}" if level.isdecimal() else level


def level_colour(index: int, count: int) -> str:
    """Return the colour of the level at `index` of `count`: the easiest and the hardest get the ends of the scale."""
    return f"level-{round(index * (NUM_LEVEL_COLOURS - 1) / max(count - 1, 1))}"


def embed(figure: Figure, title: str) -> str:
    """Return the figure as an SVG element for the page: ids of its own, no fixed size, the page's font and colours."""
    name = re.sub(r"\W+", "-", title)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    head, _, body = buffer.getvalue().partition("</metadata>")
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href", "href")
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    for colour, placeholder in PAINT.items():
        body = body.replace(placeholder, f"var(--{colour})")
    view_box = re.findall(r'viewBox="[^"]*"', head)[0]
    return f'<svg role="img" aria-label="{title}" {view_box}>' + re.sub(r"\n\s*", "\n", body)
