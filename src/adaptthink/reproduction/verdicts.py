"""One claim of the paper as numbers: an estimate with its interval, every seed's own, a bound, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import special

from adaptthink.evaluation.scores import compare_accuracy, compare_length, group_no_think
from adaptthink.evaluation.statistics import High, Interval, Levels, Low, share_interval
from adaptthink.reproduction.runs import BySeed, Outcomes, pool_seeds, select_outcomes


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of the paper and what came of it. Numbers are in `unit`; `bound` is where the claim begins to hold."""

    name: str
    statement: str
    paper: str  # the paper's own figures
    measured: str  # what `estimate` is
    unit: str
    estimate: float
    low: Low
    high: High
    by_seed: tuple[float, ...]
    bound: float
    above: bool  # whether the claim is that the number lies above the bound

    @property
    def verdict(self) -> str:
        """Return "reproduced", "not reproduced" or "undecided".

        Reproduced: the interval lies on the claim's side of the bound, and so does every seed. Not reproduced: the
        interval lies on the other side.
        """
        found = judge(self.low, self.high, self.by_seed, self.bound, above=self.above)
        return "undecided" if found is None else "reproduced" if found else "not reproduced"


def judge(low: float, high: float, by_seed: Sequence[float], bound: float, *, above: bool) -> bool | None:
    """Return whether a number lies on the claimed side of a bound: its interval does, and so does every seed.

    False: the interval lies on the other side. None: anything else.
    """
    sign = 1 if above else -1
    low, high = sorted((sign * (low - bound), sign * (high - bound)))
    if low > 0 and all(sign * (value - bound) > 0 for value in by_seed):
        return True
    return False if high < 0 else None


def make_claim(
    name: str,
    statement: str,
    paper: str,
    measured: str,
    interval: Interval,
    by_seed: Sequence[float],
    *,
    above: bool,
    bound: float = 0.0,
    unit: str = "points",
) -> Claim:
    """Put a claim together; shares and accuracies become points, relative changes per cent."""
    scale = 1.0 if unit == "nats" else 100.0
    low, high = sorted((scale * interval.low, scale * interval.high))
    numbers = tuple(scale * value for value in by_seed)
    return Claim(
        name, statement, paper, measured, unit, scale * interval.estimate, low, high, numbers, scale * bound, above
    )


def make_auto_claim(
    by_seed: BySeed,
    measure: Callable[[Outcomes], Interval],
    name: str,
    statement: str,
    paper: str,
    measured: str,
    *,
    above: bool,
    bound: float = 0.0,
    unit: str = "points",
) -> Claim:
    """A claim on what the trained models do when left to choose: of all seeds together, and of each."""
    return make_claim(
        name,
        statement,
        paper,
        measured,
        measure(pool_seeds(by_seed, "auto")),
        [measure(select_outcomes(outcomes, "auto")).estimate for outcomes in by_seed.values()],
        above=above,
        bound=bound,
        unit=unit,
    )


def compare_trainings(
    new: BySeed, old: BySeed, measure: Callable[[Outcomes, Outcomes], Interval]
) -> tuple[Interval, list[float]]:
    """One training against another, each left to choose: all seeds together, and the estimate of each seed."""
    by_seed = [measure(select_outcomes(new[seed], "auto"), select_outcomes(old[seed], "auto")).estimate for seed in new]
    return measure(pool_seeds(new, "auto"), pool_seeds(old, "auto")), by_seed


def measure_accuracy_change(new: Outcomes, old: Outcomes, levels: Levels | None = None) -> Interval:
    """ΔAcc with levels, else the difference over all problems."""
    return compare_accuracy(new, old, levels).interval


def measure_length_change(new: Outcomes, old: Outcomes, levels: Levels | None = None) -> Interval:
    """ΔLength with levels, else the relative change over all problems; raises ValueError for a single problem."""
    change = compare_length(new, old, levels)
    if change is None:
        raise ValueError("a level with a single problem has no interval of its length; evaluate more problems")
    return change.interval


def measure_no_think(outcomes: Outcomes) -> Interval:
    """Share of the responses that did not think."""
    return share_interval(group_no_think(outcomes))


def average_seeds(numbers: Sequence[float]) -> Interval:
    """Mean of one number a seed with Student's t interval: where only seeds vary. Infinite for a single seed."""
    mean = fmean(numbers)
    if len(numbers) < 2:
        return Interval(mean, -math.inf, math.inf, 0.95, len(numbers))
    half = special.stdtrit(len(numbers) - 1, 0.975) * stdev(numbers) / math.sqrt(len(numbers))
    return Interval(mean, mean - half, mean + half, 0.95, len(numbers))
