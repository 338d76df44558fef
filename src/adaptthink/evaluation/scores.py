"""Scores of graded responses: by level and over all, and the change from one model to another.

Every table, page and comparison takes its numbers from here. The problem is the unit, as in `statistics`: each weighs
the same however many responses it has. Responses to problems whose reference answer cannot be parsed count nowhere, and
neither do responses that could not be graded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from adaptthink.evaluation.levels import rank_level
from adaptthink.evaluation.statistics import (
    CONFIDENCE,
    Difference,
    High,
    Interval,
    Levels,
    Values,
    mean_interval,
    relative_change,
    share_difference,
    share_interval,
)
from adaptthink.evaluation.store import Outcome
from adaptthink.grading import Verdict
from adaptthink.modes import Mode

Ends = tuple[float, float]  # of a 95% interval, clustered by problem


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a set of responses; shares and accuracy in [0, 1], tokens of a whole response."""

    accuracy: float  # avg@k, with k responses to each problem
    accuracy_interval: Ends
    mean_tokens: float
    tokens_interval: Ends | None  # None for a single problem
    no_think_share: float
    no_think_interval: Ends
    truncated_share: float
    n: int  # responses
    verdicts: dict[str, int]  # how many responses got each verdict
    tokens_per_correct: float | None = None  # all tokens / correct responses; None where none is correct
    tokens_per_correct_interval: tuple[float, High] | None = None  # None for a single problem

    def share_of(self, *verdicts: Verdict) -> float:
        """Return the share of the responses that got one of these verdicts."""
        return sum(self.verdicts.get(verdict, 0) for verdict in verdicts) / self.n


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast responses came; None where it was not measured."""

    median_seconds: float | None = None  # of a request to a chat endpoint, beside the others that were in flight
    p95_seconds: float | None = None
    tokens_per_second: float | None = None  # of all responses that an engine generates at once


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores by level (as text, "1" to "5"; "all" where problems have no level), in order, and over everything."""

    levels: dict[str, Scores]
    overall: Scores
    ungradable: int = 0  # responses to problems whose reference answer cannot be parsed; they count nowhere else
    unknown: int = 0  # responses that could not be graded this time; they count nowhere else
    speed: Speed = Speed()


@dataclass(frozen=True, slots=True)
class Change:
    """New against old on the same problems: ΔAcc and ΔLength of the paper, as fractions.

    `tokens` is the relative change of the mean length, None where a level has a single problem.
    """

    accuracy: Difference
    tokens: Difference | None


# ---- one model ------------------------------------------------------------------------------------------------------


def summarise(outcomes: Iterable[Outcome], tokens_per_second: float | None = None) -> Evaluation:
    """Score responses by level and over all; raises ValueError for none that could be graded."""
    everything = list(outcomes)
    graded = select_gradable(everything)
    if not graded:
        raise ValueError("no graded responses to summarise")
    by_level: dict[str, list[Outcome]] = {}
    for outcome in graded:
        by_level.setdefault(outcome.level, []).append(outcome)
    levels = {level: score(by_level[level]) for level in sorted(by_level, key=rank_level)}
    left_out = Counter(one.verdict for one in everything if not one.verdict.has_reward)
    ungradable, unknown = left_out[Verdict.REFERENCE_UNPARSABLE], left_out[Verdict.UNKNOWN]
    return Evaluation(levels, score(graded), ungradable, unknown, measure_speed(everything, tokens_per_second))


def score(outcomes: Sequence[Outcome]) -> Scores:
    """Score one non-empty group of graded responses."""
    rewards = group_rewards(outcomes)
    accuracy = share_interval(rewards)
    no_think = share_interval(group_no_think(outcomes))
    tokens = group_tokens(outcomes)
    within = (1.0, float(max(one.max_tokens for one in outcomes)))
    spread = mean_interval(tokens, within=within) if len(tokens) > 1 else None
    truncated = group_by_problem(outcomes, lambda one: one.verdict is Verdict.TRUNCATED)
    cost = compute_tokens_per_correct(tokens, rewards)
    return Scores(
        accuracy=accuracy.estimate,
        accuracy_interval=(accuracy.low, accuracy.high),
        mean_tokens=average_problems(tokens),
        tokens_interval=(spread.low, spread.high) if spread else None,
        no_think_share=no_think.estimate,
        no_think_interval=(no_think.low, no_think.high),
        truncated_share=average_problems(truncated),
        n=len(outcomes),
        verdicts=dict(sorted(Counter(str(one.verdict) for one in outcomes).items())),
        tokens_per_correct=cost.estimate if cost else None,
        tokens_per_correct_interval=(cost.low, cost.high) if cost and len(tokens) > 1 else None,
    )


def compute_tokens_per_correct(tokens: Values, correct: Values) -> Interval | None:
    """Tokens for each correct answer, those of other responses included, with Fieller's interval; None without any."""
    right, length = average_problems(correct), average_problems(tokens)
    if not right or not length:
        return None
    if len(tokens) < 2:
        return Interval(length / right, 0.0, math.inf, CONFIDENCE, len(tokens))
    ratio = relative_change(tokens, correct).interval
    return replace(ratio, estimate=1 + ratio.estimate, low=1 + ratio.low, high=1 + ratio.high)


def measure_speed(outcomes: Iterable[Outcome], tokens_per_second: float | None = None) -> Speed:
    """Return the median and the 95th percentile of the responses that were timed, and an engine's throughput."""
    seconds = [one.seconds for one in outcomes if one.seconds is not None]
    median, p95 = map(float, np.quantile(seconds, (0.5, 0.95))) if seconds else (None, None)
    return Speed(median, p95, tokens_per_second)


# ---- two models, the same problems ----------------------------------------------------------------------------------


def compare_scores(new: Sequence[Outcome], old: Sequence[Outcome], levels: Levels | None = None) -> Change:
    """Both changes on the same problems; with `levels` (or sets) their means over those, as the paper has them."""
    return Change(compare_accuracy(new, old, levels), compare_length(new, old, levels))


def compare_accuracy(new: Sequence[Outcome], old: Sequence[Outcome], levels: Levels | None = None) -> Difference:
    """Accuracy of `new` minus that of `old`; with levels, the mean of the differences: ΔAcc of the paper, as a share.

    Raises ValueError where the problems differ.
    """
    return share_difference(group_rewards(new), group_rewards(old), levels)


def compare_length(new: Sequence[Outcome], old: Sequence[Outcome], levels: Levels | None = None) -> Difference | None:
    """Relative change of the mean tokens; with levels, the mean of the changes: ΔLength of the paper, as a fraction.

    None where there is a single problem (in a level), which has no interval. Raises ValueError where the problems
    differ.
    """
    longer, shorter = group_tokens(new), group_tokens(old)
    sizes = Counter("" if levels is None else levels[problem] for problem in longer)
    return relative_change(longer, shorter, levels) if min(sizes.values()) > 1 else None


def map_levels(outcomes: Iterable[Outcome]) -> dict[str, str]:
    """Return the level of each problem."""
    return {one.problem_id: one.level for one in outcomes}


# ---- values by problem ----------------------------------------------------------------------------------------------


def group_by_problem(outcomes: Iterable[Outcome], value: Callable[[Outcome], float]) -> dict[str, list[float]]:
    """Values of outcomes, grouped by problem, as `statistics` takes them."""
    values: dict[str, list[float]] = {}
    for outcome in outcomes:
        values.setdefault(outcome.problem_id, []).append(value(outcome))
    return values


def group_rewards(outcomes: Iterable[Outcome]) -> dict[str, list[float]]:
    """1 for a correct response, else 0, by problem."""
    return group_by_problem(outcomes, lambda one: one.correct)


def group_tokens(outcomes: Iterable[Outcome]) -> dict[str, list[float]]:
    """Tokens of each response, by problem."""
    return group_by_problem(outcomes, lambda one: float(one.tokens))


def group_no_think(outcomes: Iterable[Outcome]) -> dict[str, list[float]]:
    """1 for a response that did not think, else 0, by problem."""
    return group_by_problem(outcomes, lambda one: float(one.mode is Mode.NO_THINK))


def average_problems(values: Mapping[str, Sequence[float]]) -> float:
    """Return the mean of the problems' means."""
    return fmean(fmean(numbers) for numbers in values.values())


def select_gradable(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes that were graded, on problems whose reference answer can be parsed.

    A problem that has no graded response in a mode in which it was requested is left out in all modes: comparisons
    need both.
    """
    everything = list(outcomes)
    lost = find_lost(everything)
    return [one for one in everything if one.verdict.has_reward and one.problem_id not in lost]


def find_lost(outcomes: Iterable[Outcome]) -> set[str]:
    """Return the problems none of whose responses in some requested mode could be graded."""
    graded: dict[tuple[str, str], bool] = {}
    for one in outcomes:
        key = one.problem_id, one.requested
        graded[key] = graded.get(key, False) or one.verdict is not Verdict.UNKNOWN
    return {problem for (problem, _), any_graded in graded.items() if not any_graded}
