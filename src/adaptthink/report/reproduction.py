"""What `reproduction.json` says, and the pictures that only this report has: the δ sweep, several trainings at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from adaptthink.errors import UserError
from adaptthink.report.drawing import Key, Paint, Plot
from adaptthink.report.folder import all_levels, number, read_levels, read_object, read_overall
from adaptthink.report.tables import Row

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
# arXiv 2505.13417, 1.5B: δ -> ΔAcc in points, ΔLength in percent, no_think in percent (mean of the three sets)
PAPER = {
    0.0: (5.5, -32.8, 40.2), 0.01: (2.8, -36.1, 47.5), 0.02: (2.9, -38.6, 53.2), 0.05: (2.4, -53.0, 68.0),
    0.075: (1.2, -52.4, 73.4), 0.1: (-0.5, -64.5, 88.5),
}  # fmt: skip
CURVES = {  # of a look -> title, unit, scale
    "mean_tokens": ("Mean tokens", "", 1.0),
    "accuracy": ("Accuracy", "%", 100.0),
    "no_think_share": ("Answered without thinking", "%", 100.0),
    "no_think_logprob": ("log P(no_think)", "nats", 1.0),
}
Ends = tuple[float, float, float]  # estimate, low, high


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim, with its numbers as text-ready values."""

    name: str
    statement: str
    paper: str
    measured: str
    unit: str
    verdict: str
    estimate: float | None
    low: float | None
    high: float | None
    by_seed: tuple[float, ...]
    bound: float
    above: bool


@dataclass(frozen=True, slots=True)
class Sweep:
    """One δ: (estimate, low, high) of what it came to, in points and percent."""

    delta: float
    points: Ends
    percent: Ends
    no_think: Ends


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Everything that the report shows; curves are training -> seed -> looks."""

    claims: tuple[Claim, ...]
    seeds: tuple[int, ...]
    levels: tuple[str, ...]
    chain: Mapping[str, Row]
    story: Mapping[str, Row]
    deltas: tuple[Sweep, ...]
    curves: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


def is_reproduction(path: Path) -> bool:
    """Whether a folder is one of `adaptthink reproduce`."""
    return (path / FILE).is_file()


def read_reproduction(path: Path) -> Reproduction:
    """Read the result; raises UserError for a file that is malformed."""
    content = read_object(path / FILE)
    try:
        tables = content["tables"]
        levels = all_levels(read_levels(tables["chain"]).values())
        return Reproduction(
            claims=tuple(
                Claim(**{name: claim[name] for name in Claim.__slots__} | {"by_seed": tuple(claim["by_seed"])})
                for claim in content["claims"]
            ),
            seeds=tuple(content["design"]["seeds"]),
            levels=levels,
            chain=read_rows(tables["chain"], levels),
            story=read_rows(tables["story"], levels),
            deltas=tuple(read_sweep(point) for point in tables["deltas"]),
            curves=tables["curves"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path / FILE}: damaged ({error!r}); run adaptthink reproduce again, nothing is lost"
        ) from None


def read_rows(rows: Mapping[str, Any], levels: Sequence[str]) -> dict[str, Row]:
    """The rows of a table, in the order in which they are shown."""
    scores, overall = read_levels(rows), read_overall(rows)
    return {
        name: Row(
            name, key, tuple(scores[name][level] for level in levels), overall[name], forced="think" in name.split("_")
        )
        for name, key in ROWS.items()
        if name in scores
    }


def read_sweep(point: Mapping[str, Any]) -> Sweep:
    """One δ, in points and percent."""

    def ends(name: str) -> Ends:
        return tuple(100 * (number(point[name][end]) or 0.0) for end in ("estimate", "low", "high"))  # type: ignore[return-value]

    return Sweep(point["delta"], ends("points"), ends("percent"), ends("no_think_share"))


# ---- pictures -------------------------------------------------------------------------------------------------------


def delta_plots(deltas: Sequence[Sweep]) -> list[Plot]:
    """ΔAcc, ΔLength and the share of no_think over δ, with the paper's figures beside them."""
    shown = (
        ("delta-accuracy", "ΔAcc against the original thinking", "points", [one.points for one in deltas]),
        ("delta-length", "ΔLength against the original thinking", "%", [one.percent for one in deltas]),
        ("delta-no-think", "Answered without thinking", "%", [one.no_think for one in deltas]),
    )
    keys = (Key("here", "adapt", "D"), Key("paper, 1.5B", "muted", "o", hollow=True))
    return [
        Plot(
            name,
            title,
            unit,
            keys,
            ("where", "delta", "value", "low", "high"),
            (
                *(("here", one.delta, *ends) for one, ends in zip(deltas, found, strict=True)),
                *(("paper", delta, figures[index], None, None) for delta, figures in PAPER.items()),
            ),
            partial(draw_deltas, deltas, found, index),
        )
        for index, (name, title, unit, found) in enumerate(shown)
    ]


def draw_deltas(deltas: Sequence[Sweep], found: Sequence[Ends], index: int, axes: Axes, paint: Paint) -> None:
    """Draw one plot of `delta_plots`."""
    x = [one.delta for one in deltas]
    theirs = [figures[index] for figures in PAPER.values()]
    look: dict[str, Any] = {"color": paint["muted"], "linewidth": 1.0, "ms": 5.5}
    axes.plot(list(PAPER), theirs, "o", linestyle=(0, (4, 3)), markerfacecolor=paint["page"], **look)
    ours = np.array(found)
    axes.errorbar(
        x, ours[:, 0], np.abs(ours[:, 1:] - ours[:, :1]).T, fmt="D-", color=paint["adapt"], ms=5.5, elinewidth=1.2
    )
    axes.set_xlabel("δ")
    axes.set_xticks([0, 0.02, 0.05, 0.075, 0.1])
    axes.margins(0.05, 0.12)
    if not index:
        axes.axhline(0, color=paint["rule"], linewidth=1)


def sampling_plots(curves: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> list[Plot]:
    """AdaptThink against plain GRPO while they train."""
    shown = {name: curves[name] for name in ("main", "grpo")}
    return [curve_plot(f"sampling-{name.replace('_', '-')}", name, shown) for name in CURVES]


def ratio_plot(curves: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Plot:
    """The three ratios from a cold start, over the steps that all of them took."""
    names = ("main", "ratio_sequence", "ratio_token")
    last = min(look["step"] for name in names for looks in curves[name].values() for look in looks[-1:])
    shown = {
        name: {seed: [look for look in looks if look["step"] <= last] for seed, looks in curves[name].items()}
        for name in names
    }
    return curve_plot("ratios", "no_think_logprob", shown, RATIO_NAMES)


RATIO_NAMES = {"main": "length-normalised", "ratio_sequence": "Eq. 9 literally", "ratio_token": "each token's"}
CURVE_NAMES = {"main": "AdaptThink", "grpo": "GRPO"}


def curve_plot(
    file: str,
    measure: str,
    curves: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
    names: Mapping[str, str] = CURVE_NAMES,
) -> Plot:
    """One measure of held-out problems over the steps: a thin line for each seed, a thick one for their mean."""
    title, unit, scale = CURVES[measure]
    lines = {
        (name, seed): [
            (float(look["step"]), scale * value) for look in looks if (value := number(look[measure])) is not None
        ]
        for name, by_seed in curves.items()
        for seed, looks in by_seed.items()
    }
    return Plot(
        file,
        f"{title}, held-out problems",
        unit,
        tuple(Key(names[name], ROWS[name].colour) for name in curves),
        ("training", "seed", "step", "value"),
        tuple((name, seed, step, value) for (name, seed), points in lines.items() for step, value in points),
        partial(draw_curves, lines, unit),
    )


def draw_curves(
    lines: Mapping[tuple[str, str], Sequence[tuple[float, float]]], unit: str, axes: Axes, paint: Paint
) -> None:
    """Draw the lines of `curve_plot`."""
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
