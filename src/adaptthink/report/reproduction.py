"""The report of the paper's experiments: its rows, and the pictures that only it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from adaptthink.evaluation.scores import Evaluation
from adaptthink.evaluation.statistics import Interval
from adaptthink.report.drawing import Key, Paint, Plot
from adaptthink.report.tables import Row, make_row
from adaptthink.reproduction.paper import DELTA_SWEEP
from adaptthink.reproduction.tables import DeltaPoint, ProbePoint, Reproduction
from adaptthink.storage.records import read_record_file

FILE = "reproduction.json"
ROWS = {  # as the tables name them
    "original_think": Key("Original, Thinking", "think", "o"),
    "original_no_think": Key("Original, NoThinking", "no-think", "o"),
    "main": Key("AdaptThink, δ = 0.05", "adapt", "D"),
    "main_think": Key("AdaptThink, forced to think", "think", "o", hollow=True),
    "main_no_think": Key("AdaptThink, forced to no_think", "no-think", "o", hollow=True),
    "delta_0": Key("AdaptThink, δ = 0", "model-0", "D"),
    "delta_0.01": Key("AdaptThink, δ = 0.01", "model-0", "D"),
    "delta_0.02": Key("AdaptThink, δ = 0.02", "model-0", "D"),
    "delta_0.075": Key("AdaptThink, δ = 0.075", "model-0", "D"),
    "delta_0.1": Key("AdaptThink, δ = 0.1", "model-0", "D"),
    "grpo": Key("GRPO, plain", "model-2", "s"),
    "ratio_sequence": Key("60 steps of Eq. 9 literally", "model-3", "s"),
    "ratio_token": Key("60 steps of a ratio for each token", "model-4", "s"),
}
Curves = Mapping[str, Mapping[int, Sequence[ProbePoint]]]  # training -> seed -> what was measured while it ran
Ends = tuple[float, float, float]  # estimate, low, high


@dataclass(frozen=True, slots=True)
class CurveMeasure:
    """What a picture shows of trainings."""

    file: str
    title: str
    unit: str
    value_of: Callable[[ProbePoint], float | None]
    scale: float = 1.0

    def read(self, point: ProbePoint) -> float | None:
        """The value as it is drawn; None where it was not measured."""
        value = self.value_of(point)
        return None if value is None else self.scale * value


TOKENS = CurveMeasure("mean-tokens", "Mean tokens", "", lambda point: point.mean_tokens)
ACCURACY = CurveMeasure("accuracy", "Accuracy", "%", lambda point: point.accuracy, 100.0)
NO_THINK = CurveMeasure("no-think-share", "Answered without thinking", "%", lambda point: point.no_think_share, 100.0)
LOGPROB = CurveMeasure("no-think-logprob", "log P(no_think)", "nats", lambda point: point.no_think_logprob)


def is_reproduction(path: Path) -> bool:
    """Whether a folder is one of `adaptthink reproduce`."""
    return (path / FILE).is_file()


def read_reproduction(path: Path) -> Reproduction:
    """Read the result; raises UserError for a file that is malformed."""
    return read_record_file(Reproduction, path / FILE, remedy="run adaptthink reproduce again, nothing is lost")


def make_rows(evaluations: Mapping[str, Evaluation], levels: Sequence[str]) -> dict[str, Row]:
    """The rows of a table, in the order in which they are shown."""
    return {
        name: make_row(name, key, evaluations[name], levels, forced="think" in name.split("_"))
        for name, key in ROWS.items()
        if name in evaluations
    }


# ---- pictures -------------------------------------------------------------------------------------------------------


def plot_deltas(deltas: Sequence[DeltaPoint]) -> list[Plot]:
    """ΔAcc, ΔLength and the share of no_think over δ, with the paper's figures beside them."""
    lengths = [one.change.tokens.interval for one in deltas if one.change.tokens]
    shown = (
        (
            "delta-accuracy",
            "ΔAcc against the original thinking",
            "points",
            [one.change.accuracy.interval for one in deltas],
        ),
        ("delta-length", "ΔLength against the original thinking", "%", lengths),
        ("delta-no-think", "Answered without thinking", "%", [one.no_think_share for one in deltas]),
    )
    keys = (Key("here", "adapt", "D"), Key("paper, 1.5B", "muted", "o", hollow=True))
    plots = []
    for index, (name, title, unit, intervals) in enumerate(shown):
        ours = {one.delta: scale_percent(interval) for one, interval in zip(deltas, intervals, strict=True)}
        theirs = {delta: figures[index] for delta, figures in DELTA_SWEEP.items()}
        rows = (
            *(("here", delta, *ends) for delta, ends in ours.items()),
            *(("paper", delta, value, None, None) for delta, value in theirs.items()),
        )
        columns = ("where", "delta", "value", "low", "high")
        plots.append(Plot(name, title, unit, keys, columns, rows, partial(draw_deltas, ours, theirs, not index)))
    return plots


def scale_percent(interval: Interval) -> Ends:
    """Estimate and ends in points or percent."""
    return 100 * interval.estimate, 100 * interval.low, 100 * interval.high


def draw_deltas(
    ours: Mapping[float, Ends], theirs: Mapping[float, float], around_zero: bool, axes: Axes, paint: Paint
) -> None:
    """Draw one plot of `plot_deltas`."""
    style: dict[str, Any] = {"color": paint["muted"], "linewidth": 1.0, "ms": 5.5, "markerfacecolor": paint["page"]}
    axes.plot(list(theirs), list(theirs.values()), "o", linestyle=(0, (4, 3)), **style)
    ends = np.array(list(ours.values()))
    reach = np.abs(ends[:, 1:] - ends[:, :1]).T
    axes.errorbar(list(ours), ends[:, 0], reach, fmt="D-", color=paint["adapt"], ms=5.5, elinewidth=1.2)
    axes.set_xlabel("δ")
    axes.set_xticks([0, 0.02, 0.05, 0.075, 0.1])
    axes.margins(0.05, 0.12)
    if around_zero:
        axes.axhline(0, color=paint["rule"], linewidth=1)


def plot_sampling(curves: Curves) -> list[Plot]:
    """AdaptThink against plain GRPO while they train."""
    shown = {name: curves[name] for name in ("main", "grpo")}
    return [
        plot_curves(f"sampling-{measure.file}", measure, shown) for measure in (TOKENS, ACCURACY, NO_THINK, LOGPROB)
    ]


def plot_ratios(curves: Curves) -> Plot:
    """The three ratios from a cold start, over the steps that all of them took."""
    names = ("main", "ratio_sequence", "ratio_token")
    last = min(points[-1].step for name in names for points in curves[name].values() if points)
    shown = {
        name: {seed: [point for point in points if point.step <= last] for seed, points in curves[name].items()}
        for name in names
    }
    return plot_curves("ratios", LOGPROB, shown, RATIO_NAMES)


RATIO_NAMES = {"main": "length-normalised", "ratio_sequence": "Eq. 9 literally", "ratio_token": "each token's"}
CURVE_NAMES = {"main": "AdaptThink", "grpo": "GRPO"}


def plot_curves(file: str, measure: CurveMeasure, curves: Curves, names: Mapping[str, str] = CURVE_NAMES) -> Plot:
    """One measure of held-out problems over the steps: a thin line for each seed, a thick one for their mean."""
    lines = {
        (name, str(seed)): [
            (float(point.step), value) for point in points if (value := measure.read(point)) is not None
        ]
        for name, by_seed in curves.items()
        for seed, points in by_seed.items()
    }
    return Plot(
        file,
        f"{measure.title}, held-out problems",
        measure.unit,
        tuple(Key(names[name], ROWS[name].colour) for name in curves),
        ("training", "seed", "step", "value"),
        tuple((name, seed, step, value) for (name, seed), points in lines.items() for step, value in points),
        partial(draw_curves, lines, measure.unit),
    )


def draw_curves(
    lines: Mapping[tuple[str, str], Sequence[tuple[float, float]]], unit: str, axes: Axes, paint: Paint
) -> None:
    """Draw the lines of `plot_curves`."""
    by_name: dict[str, list[Any]] = {}
    for (name, _), points in lines.items():
        if points:
            by_name.setdefault(name, []).append(np.array(points))
    for name, seeds in by_name.items():
        colour = paint[ROWS[name].colour]
        for points in seeds:
            axes.plot(*points.T, color=colour, linewidth=0.7, alpha=0.55)
        shortest = min(len(points) for points in seeds)
        axes.plot(
            seeds[0][:shortest, 0],
            np.mean([points[:shortest, 1] for points in seeds], axis=0),
            color=colour,
            linewidth=2,
        )
    axes.set_xlabel("step")
    axes.yaxis.set_major_formatter("{x:,g}")
    if unit == "%":
        axes.set_ylim(-2, 102)
