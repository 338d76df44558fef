"""Figures as inline SVG strings that take their colours and font from the page, so one drawing serves light and dark.

Matplotlib knows no CSS variables. Everything is therefore drawn in placeholder colours, one for each name in
`PALETTE`, and `embed` turns them into `var(--name)`. Titles and legends are left to the page: they wrap there.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from adaptthink.report.folder import as_object, level_order, number
from adaptthink.report.tables import Interval, Row, wilson

MAX_LEVEL_COLOURS = 40
PALETTE = ("ink", "muted", "rule", "think", "no-think", "adapt", *(f"level-{i}" for i in range(MAX_LEVEL_COLOURS)))
PLACEHOLDER = {name: f"#0101{index + 1:02x}" for index, name in enumerate(PALETTE)}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "adaptthink",  # the same run gives the same bytes
    "font.size": 9.5,
    "text.parse_math": False,  # a level's name may hold a dollar sign
    "text.color": PLACEHOLDER["ink"],
    "axes.edgecolor": PLACEHOLDER["muted"],
    "axes.labelcolor": PLACEHOLDER["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": PLACEHOLDER["rule"],
    "grid.linewidth": 0.7,
    "xtick.color": PLACEHOLDER["muted"],
    "ytick.color": PLACEHOLDER["muted"],
    "xtick.labelcolor": PLACEHOLDER["ink"],
    "ytick.labelcolor": PLACEHOLDER["ink"],
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
}
PANEL_SIZE = (320, 196)  # points: about the width of a phone, where one point shows as one CSS pixel
MARGINS = {"left": 44, "right": 16, "bottom": 34, "top": 14}
EASY_TO_HARD = {"light": ("#ee9a52", "#4d2303"), "dark": ("#ffdcb8", "#a9550f")}


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a panel; a value is NaN where the run says that there is none."""

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]  # (step, value)
    label: str = ""  # written at the line's end
    smoothed: bool = True


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing of the training section."""

    title: str
    unit: str
    curves: tuple[Curve, ...]
    bottom: float | None = 0.0
    top: float | None = None


def training_panels(steps: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Arrange the metrics of a run into panels; a metric that was never written leaves its curve empty."""

    def by_mode(name: str, scale: float = 1.0) -> tuple[Curve, ...]:
        return tuple(
            Curve(mode, mode.replace("_", "-"), column(steps, f"{name}_{mode}", scale)) for mode in ("think", "no_think")
        )

    def one(name: str, metric: str, colour: str = "ink", scale: float = 1.0) -> Curve:
        return Curve(name, colour, column(steps, metric, scale), smoothed=not metric.startswith("probe_"))

    probes = [
        {"step": step["step"]} | as_object(step["probe_no_think_by_level"])
        for step in steps
        if "probe_no_think_by_level" in step
    ]
    levels = sorted({key for probe in probes for key in probe} - {"step"}, key=level_order)
    graded = tuple(
        Curve(level_name(level), level_colour(index), column(probes, level, 100), label=level, smoothed=False)
        for index, level in enumerate(levels)
    )
    every_level = one("all levels", "probe_no_think_share", "adapt", 100)
    return [
        Panel("Reward", "mean per response", by_mode("reward"), top=1),
        Panel("P(no_think), held-out problems", "%", (*graded, every_level), top=100),
        Panel("log P(no_think), held-out problems", "nats", (one("mean", "probe_no_think_logprob"),), bottom=None),
        Panel("Probability on either mode's first token", "%", (one("mean", "probe_mode_mass", scale=100),), top=100),
        Panel("Response length", "mean tokens", by_mode("mean_tokens")),
        Panel("Truncated responses", "%", by_mode("truncated_share", 100)),
        Panel("Responses beyond the clip", "%", by_mode("clip_share", 100)),
        Panel("Loss", "", (one("loss", "loss"),), bottom=None),
        Panel("Gradient norm", "", (one("gradient norm", "grad_norm"),)),
    ]


def column(records: Sequence[Mapping[str, Any]], key: str, scale: float = 1.0) -> tuple[tuple[float, float], ...]:
    """Return (step, value) of each record that has `key`; its value may be null: a gap in the line."""
    found = [(float(record["step"]), number(record[key])) for record in records if key in record]
    return tuple((step, np.nan if value is None else scale * value) for step, value in found)


@mpl.rc_context(STYLE)
def draw_bars(levels: Sequence[str], rows: Sequence[Row], metric: str) -> str:
    """Draw one metric of `Score` as a group of bars for each level; shares get their 95% interval."""
    figure, axes = open_panel()
    share = metric != "mean_tokens"
    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        for x, score in enumerate(row.scores):
            value = getattr(score, metric)
            if value is None:
                continue
            scale = 100 if share else 1
            left = x - 0.4 + (place + 0.5) * width
            colour = PLACEHOLDER[row.colour]
            axes.bar(left, scale * value, width * 0.92, color=colour, edgecolor=colour, linewidth=0.8)
            # a forced mode has its no_think share by construction: nothing was estimated
            if metric == "accuracy" or (share and row.mode == "adaptthink"):
                draw_interval(axes, left, value, wilson(value, score.n))
    axes.set_xticks(range(len(levels)), list(levels))
    axes.set_xlim(-0.6, max(len(levels), 1) - 0.4)
    axes.set_xlabel("level" if all(level.isdecimal() for level in levels) else "")
    axes.set_ylim(0, 102 if share else None)
    return embed(figure, f"bars-{metric}")


@mpl.rc_context(STYLE)
def draw_panel(panel: Panel, name: str) -> str:
    """Draw training curves: each step faint and a running mean on top, or the points alone where they are few."""
    figure, axes = open_panel()
    ends: list[tuple[float, Curve]] = []
    for curve in panel.curves:
        if not curve.points:
            continue
        steps, values = np.array(curve.points).T
        colour = PLACEHOLDER[curve.colour]
        window = smoothing_window(len(steps)) if curve.smoothed else 1
        if window > 1:
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
        marker = "." if len(steps) <= 40 else ""
        axes.plot(steps, running_mean(values, window), color=colour, linewidth=1.6, marker=marker, markersize=4)
        present = values[~np.isnan(values)]
        if curve.label and len(present):
            ends.append((float(present[-1]), curve))
    fit_vertically(axes, panel)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("step")
    if not any(np.isfinite(value) for curve in panel.curves for _, value in curve.points):
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=PLACEHOLDER["muted"])
        axes.set_xticks([])
        axes.set_yticks([])
    for y, (_, curve) in zip(spread([end for end, _ in ends], axes, 10), ends, strict=True):
        axes.annotate(
            curve.label, (1, y), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
            va="center", color=PLACEHOLDER[curve.colour], annotation_clip=False,
        )  # fmt: skip
    return embed(figure, name)


@mpl.rc_context(STYLE)
def draw_scatter(rows: Sequence[Row]) -> str:
    """Draw accuracy against tokens, a labelled point for each mode; hollow points are forced modes after training.

    The dashed line joins the original model's two modes: what choosing between them by lot would give.
    """
    figure, axes = open_panel((420, 300))
    points = [
        (row, row.overall.mean_tokens, 100 * row.overall.accuracy)
        for row in rows
        if row.overall.mean_tokens is not None and row.overall.accuracy is not None
    ]
    lot = [(x, y) for row, x, y in points if row.mode.startswith("original")]
    axes.plot(*np.array(lot or [(np.nan, np.nan)]).T, color=PLACEHOLDER["muted"], linestyle=(0, (3, 3)), linewidth=0.9)
    lows, highs = [], []
    for row, x, y in points:
        interval = wilson(row.overall.accuracy, row.overall.n)
        draw_interval(axes, x, y / 100, interval, PLACEHOLDER[row.colour])
        lows.append(100 * interval[0] if interval else y)
        highs.append(100 * interval[1] if interval else y)
        hollow = row.mode.startswith("adaptthink_")
        axes.plot(
            x, y, marker="o" if row.mode != "adaptthink" else "D", markersize=7, linestyle="", markeredgewidth=1.6,
            color=PLACEHOLDER[row.colour], fillstyle="none" if hollow else "full",
        )  # fmt: skip
    right = 1.08 * max((x for _, x, _ in points), default=0) or 1.0
    low, high = min(lows, default=0.0), max(highs, default=100.0)
    room = 0.1 * max(high - low, 4.0)
    axes.set_xlim(0, right)
    axes.set_ylim(max(low - room, -1), min(high + room, 102))
    heights = spread([y for _, _, y in points], axes, 14)
    for (row, x, y), height in zip(points, heights, strict=True):
        to_right = x < right / 2
        axes.annotate(
            row.name, (x, y), xytext=(x + (0.03 if to_right else -0.03) * right, height), va="center",
            ha="left" if to_right else "right", color=PLACEHOLDER["ink"], annotation_clip=False,
        )  # fmt: skip
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("mean tokens")
    axes.set_ylabel("accuracy, %")
    return embed(figure, "scatter")


def open_panel(size: tuple[int, int] = PANEL_SIZE) -> tuple[Figure, Axes]:
    """Return an empty drawing. Its margins are fixed, so that neighbours line up."""
    width, height = size
    figure = Figure(figsize=(width / 72, height / 72))
    inside = (width - MARGINS["left"] - MARGINS["right"], height - MARGINS["bottom"] - MARGINS["top"])
    axes = figure.add_axes(
        (MARGINS["left"] / width, MARGINS["bottom"] / height, inside[0] / width, inside[1] / height)
    )
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes


def draw_interval(axes: Axes, x: float, share: float, interval: Interval | None, colour: str = "ink") -> None:
    """Draw a share's interval as an error bar, in percent."""
    if interval is not None:
        reach = [[100 * (share - interval[0])], [100 * (interval[1] - share)]]
        axes.errorbar(x, 100 * share, yerr=reach, ecolor=PLACEHOLDER[colour], elinewidth=0.9, capsize=1.8, fmt="none")


def fit_vertically(axes: Axes, panel: Panel) -> None:
    """Set the panel's limits, with a little room so that a line at a limit is not cut in half."""
    low, high = axes.get_ylim()
    bottom = low if panel.bottom is None else panel.bottom
    values = [value for curve in panel.curves for _, value in curve.points]
    flat_zero = panel.bottom is not None and not np.nansum(np.abs(values))  # nothing happened: show an empty scale
    top = panel.top if panel.top is not None else bottom + 1 if flat_zero else high
    axes.set_ylim(bottom - 0.02 * (top - bottom), top + 0.02 * (top - bottom))


def smoothing_window(count: int) -> int:
    """Return how many steps one smoothed point averages: odd, about a twentieth of the run, 1 for a short run."""
    return 1 if count < 20 else count // 40 * 2 + 3


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Average each value with its neighbours; gaps stay gaps and do not spread."""
    present = ~np.isnan(values)
    ones = np.ones(window)
    total = np.convolve(np.where(present, values, 0.0), ones, "full")
    count = np.convolve(present.astype(float), ones, "full")
    inner = slice(window // 2, window // 2 + len(values))
    return np.where(present, total[inner] / np.maximum(count[inner], 1), np.nan)


def spread(values: Sequence[float], axes: Axes, gap_points: float) -> list[float]:
    """Move label heights as little as possible so that they are `gap_points` apart and inside the axes.

    With the gaps subtracted this is isotonic regression: neighbours that are out of order pool to their mean.
    """
    bottom, top = axes.get_ylim()
    gap = gap_points * (top - bottom) / (axes.get_window_extent().height * 72 / axes.figure.dpi)
    order = sorted(range(len(values)), key=lambda index: values[index])
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([values[index] - rank * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    levelled = [float(np.mean(pool)) for pool in pools for _ in pool]
    room = max(bottom, top - gap * (len(values) - 1))
    placed = [0.0] * len(values)
    for rank, index in enumerate(order):
        placed[index] = min(max(levelled[rank], bottom), room) + rank * gap
    return placed


def level_name(level: str) -> str:
    """Return how a level is called in prose."""
    return f"level {level}" if level.isdecimal() else level


def level_colour(index: int) -> str:
    """Return the colour of the level at `index`."""
    return f"level-{min(index, MAX_LEVEL_COLOURS - 1)}"


def level_palette(count: int) -> dict[str, list[tuple[str, str]]]:
    """Return, for the light and the dark page, (name, value) of `count` colours from easy to hard."""
    grades = np.linspace(0, 1, max(count, 2))[: min(count, MAX_LEVEL_COLOURS)]
    return {
        theme: [
            (level_colour(index), to_hex((1 - grade) * np.array(to_rgb(easy)) + grade * np.array(to_rgb(hard))))
            for index, grade in enumerate(grades)
        ]
        for theme, (easy, hard) in EASY_TO_HARD.items()
    }


def embed(figure: Figure, name: str) -> str:
    """Return the figure as an SVG element fit for a page: ids of its own, no fixed size, the page's font and colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", svg, count=0)
    return svg
