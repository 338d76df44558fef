"""The curve of the dial: answer without thinking where P(no_think) is at least a threshold, think otherwise.

Both forced modes of the same problems, sampled once, give the result of every threshold, from always thinking to never.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from adaptthink.errors import UserError
from adaptthink.evaluation.scores import select_gradable
from adaptthink.evaluation.statistics import mean_limits, ratio_limits, share_difference_limits, share_limits
from adaptthink.evaluation.store import Decision, Outcome
from adaptthink.modes import Mode, choose_mode
from adaptthink.storage.records import Probability

Array = NDArray[np.float64]
Ends = tuple[float, float]  # of a 95% interval

ALWAYS_THINK = 2.0  # a threshold that no probability reaches; 1 would not do, as P(no_think) may round to it
Threshold = Annotated[float, Field(ge=0, le=ALWAYS_THINK)]
ROUND_DOWN = Context(prec=6, rounding=ROUND_FLOOR)  # the digits of a threshold
MIN_PROBLEMS = 4  # two in each half, as a spread needs
POINTS_AT_ONCE = 256  # thresholds times problems are held in memory
STORED_POINTS = 100


@dataclass(frozen=True, slots=True)
class Measured:
    """One problem, answered in both forced modes; one number per sample."""

    problem_id: str
    level: str
    no_think_probability: float
    think_correct: tuple[float, ...]
    no_think_correct: tuple[float, ...]
    think_tokens: tuple[float, ...]
    no_think_tokens: tuple[float, ...]
    max_tokens: float = math.inf  # that a response can have


@dataclass(frozen=True, slots=True)
class Point:
    """Result of one threshold: shares in [0, 1], tokens of a response, 95% intervals clustered by problem.

    Differences are to always thinking on the same problems. A relative change may have no upper end.
    """

    threshold: Threshold
    no_think_share: Probability
    no_think_interval: Ends
    accuracy: float
    accuracy_interval: Ends
    mean_tokens: float
    tokens_interval: Ends
    accuracy_difference: float
    accuracy_difference_interval: Ends
    token_change: float  # -0.5: half as many tokens as always thinking
    token_change_interval: tuple[float, float | None]


# ---- what was measured ----------------------------------------------------------------------------------------------


def measure(outcomes: Iterable[Outcome], decisions: Mapping[str, Decision]) -> tuple[Measured, ...]:
    """Join the forced samples of each problem and its decision, leaving out unparsable reference answers.

    Raises UserError that names the first problem that lacks samples in a mode or a decision, and for fewer than
    four problems.
    """
    by_problem: dict[str, list[Outcome]] = {}
    for outcome in select_gradable(outcomes):
        by_problem.setdefault(outcome.problem_id, []).append(outcome)
    if len(by_problem) < MIN_PROBLEMS:
        raise UserError(
            f"{len(by_problem)} problems with a parsable reference answer are too few for a calibration: half of them "
            f"choose the threshold and half check it; give at least {MIN_PROBLEMS}, better a thousand"
        )
    measured = []
    for problem_id, found in sorted(by_problem.items()):
        rows = sorted(found, key=lambda row: row.index)
        forced = {mode: [row for row in rows if row.requested == mode] for mode in Mode}
        lacking = [f"forced {mode} sample" for mode in Mode if not forced[mode]]
        decision = decisions.get(problem_id, Decision(math.nan, math.nan))
        if not math.isfinite(decision.no_think_probability):
            lacking.append("decision (P(no_think))")
        if lacking:
            raise UserError(
                f"problem '{problem_id}' has no {' and no '.join(lacking)}; complete the folder: "
                "adaptthink calibrate MODEL --output FOLDER"
            )
        think, no_think = forced[Mode.THINK], forced[Mode.NO_THINK]
        measured.append(
            Measured(
                problem_id,
                rows[0].level,
                decision.no_think_probability,
                tuple(row.correct for row in think),
                tuple(row.correct for row in no_think),
                tuple(float(row.tokens) for row in think),
                tuple(float(row.tokens) for row in no_think),
                max(row.max_tokens for row in rows),
            )
        )
    return tuple(measured)


def select_answers(outcomes: Iterable[Outcome], decisions: Mapping[str, Decision], threshold: float) -> list[Outcome]:
    """Return what a threshold answers with: of each problem the forced samples of the mode that it chooses."""
    return [
        one
        for one in outcomes
        if one.requested == choose_mode(decisions[one.problem_id].no_think_probability, threshold)
    ]


def floor_digits(probability: float) -> float:
    """Round down to six digits, as they are written; what reaches a number of six digits does so rounded down too."""
    return float(ROUND_DOWN.create_decimal(repr(float(probability))))


def list_thresholds(problems: Iterable[Measured]) -> list[float]:
    """Return the thresholds that separate these problems, from always thinking down to the smallest P(no_think)."""
    seen = {floor_digits(problem.no_think_probability) for problem in problems}
    return [ALWAYS_THINK, *sorted(seen, reverse=True)]


# ---- the curve ------------------------------------------------------------------------------------------------------


def compute_curve(problems: Sequence[Measured]) -> tuple[Point, ...]:
    """Return the point of every threshold, from always think to always no_think (a threshold of 0)."""
    found = list_thresholds(problems)
    return compute_points(problems, found if found[-1] == 0 else [*found, 0.0])


def compute_points(problems: Sequence[Measured], thresholds: Sequence[float]) -> tuple[Point, ...]:
    """Return the points of thresholds on `problems`."""
    parts = (thresholds[start : start + POINTS_AT_ONCE] for start in range(0, len(thresholds), POINTS_AT_ONCE))
    return tuple(point for part in parts for point in _points(problems, np.array(part)))


def _points(problems: Sequence[Measured], threshold_T: Array) -> list[Point]:
    probability_P = np.array([problem.no_think_probability for problem in problems])
    think_P, no_think_P = compute_means(problems, "think_correct"), compute_means(problems, "no_think_correct")
    think_tokens_P, no_think_tokens_P = (
        compute_means(problems, "think_tokens"),
        compute_means(problems, "no_think_tokens"),
    )
    think_trial_P = np.array([1 / len(problem.think_correct) for problem in problems])
    no_think_trial_P = np.array([1 / len(problem.no_think_correct) for problem in problems])
    direct_TP = probability_P >= threshold_T[:, None]  # `choose_mode` on arrays
    accuracy_TP = np.where(direct_TP, no_think_P, think_P)
    tokens_TP = np.where(direct_TP, no_think_tokens_P, think_tokens_P)
    per_trial_T = np.where(direct_TP, no_think_trial_P, think_trial_P).mean(-1)
    share_ends = _ends(share_limits(direct_TP.astype(float), 1.0))
    accuracy_ends = _ends(share_limits(accuracy_TP, per_trial_T))
    tokens_ends = _ends(mean_limits(tokens_TP, within=(1.0, max(problem.max_tokens for problem in problems))))
    per_pair_T = (per_trial_T + think_trial_P.mean()) / 2
    difference_ends = _ends(share_difference_limits(accuracy_TP, think_P, per_pair_T))
    change_T, *change_limits = ratio_limits(tokens_TP, think_tokens_P)
    return [
        Point(
            threshold=float(threshold),
            no_think_share=float(direct_TP[t].mean()),
            no_think_interval=share_ends[t],
            accuracy=float(accuracy_TP[t].mean()),
            accuracy_interval=accuracy_ends[t],
            mean_tokens=float(tokens_TP[t].mean()),
            tokens_interval=tokens_ends[t],
            accuracy_difference=float((accuracy_TP[t] - think_P).mean()),
            accuracy_difference_interval=difference_ends[t] if threshold <= 1 else (0.0, 0.0),
            token_change=float(change_T[t]),
            token_change_interval=(low, high if math.isfinite(high) else None),
        )
        for t, (threshold, (low, high)) in enumerate(zip(threshold_T, _ends(change_limits), strict=True))
    ]


def compute_means(problems: Sequence[Measured], name: str) -> Array:
    """Return the mean of each problem's samples; `name` is a field of `Measured`."""
    samples = (getattr(problem, name) for problem in problems)
    return np.array([math.fsum(numbers) / len(numbers) for numbers in samples])


def _ends(limits: Sequence[Array]) -> list[Ends]:
    return [(float(low), float(high)) for low, high in zip(*limits, strict=True)]


def thin_curve(curve: Sequence[Point], keep: Iterable[float], count: int = STORED_POINTS) -> tuple[Point, ...]:
    """Return about `count` points, evenly spread over the problems that a threshold moves, and those at `keep`."""
    indices = set(range(len(curve)))
    if len(curve) > count:
        indices = set(np.linspace(0, len(curve) - 1, count).round().astype(int).tolist())
    wanted = set(keep)
    return tuple(point for index, point in enumerate(curve) if index in indices or point.threshold in wanted)
