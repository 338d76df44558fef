"""Statistics of evaluations: intervals clustered by problem, paired differences, Holm, pass@k, calibration.

Every function takes outcomes by problem id: `{"p1": [1, 0, 1, 1], "p2": [1, 1, 1, 1]}`, one number per sampled
response (the samples themselves: a mean of them would count as one sample). **The problem is the unit.** Samples of
one problem resemble each other, so k of them never count as k problems; each problem weighs the same however many
samples it has. Intervals speak of problems like these, not of these problems only. Two models are compared on the
same problems, pair by pair.

Left out: unpaired comparisons (which have little power), Bayesian models, control of the false discovery rate.
docs/explanation/statistics.md has the formulae, the sources and the coverage that was measured. No result depends on
the order of problems or samples: problems are taken in order of their ids, and the samples of one are averaged by
`math.fsum`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from scipy import special

Array = NDArray[np.float64]
Values = Mapping[str, Sequence[float]]  # problem id -> one number per response
Levels = Mapping[str, object]  # problem id -> its level
# Ends of an interval. JSON has no infinity, and null stands for it (see `records`).
Low = Annotated[float, Field(allow_inf_nan=True), BeforeValidator(lambda value: -math.inf if value is None else value)]
High = Annotated[float, Field(allow_inf_nan=True), BeforeValidator(lambda value: math.inf if value is None else value)]
Range = tuple[float, float]  # the least and the largest that a number can be
K = TypeVar("K")

ANYWHERE = (-math.inf, math.inf)
FEWEST_FOR_SKEWNESS = 5  # problems; below, the correction is noise, and covered less than t on the logarithm does
MAX_LOG = 700.0  # whose exponential is finite
CONFIDENCE = 0.95
POWER = 0.80  # of the smallest detectable difference
NUM_FLIPS = 9_999  # sign flips sampled where 2^problems is more than this
FLIPS_AT_ONCE = 500  # bounds memory
SEED = 0  # the same data give the same p-value

# Shrinks the spread between problems towards the largest possible, by 0.15 on the sum of squares. Few failures show
# little of how failures cluster: without it, intervals for 16 correlated samples of each of 30 problems at a share
# of 0.95 covered 86-91%.
CLUSTERING = 0.15


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate from `num_problems` problems and the ends of its interval."""

    estimate: float
    low: Low
    high: High
    confidence: float
    num_problems: int


@dataclass(frozen=True, slots=True)
class Difference:
    """New against old on the same problems.

    `p_value` is two-sided. `smallest_detectable` is the size of a true difference that data of this size and spread
    would show with a probability of 80%, in the units of the interval.
    """

    interval: Interval
    p_value: float
    smallest_detectable: High

    @property
    def verdict(self) -> str:
        """Return "higher", "lower" or "not distinguishable".

        A difference is claimed only if the p-value is below 1 − confidence *and* the interval leaves out 0: they come
        from different methods and may disagree at the edge.
        """
        if self.p_value < round(1 - self.interval.confidence, 12):  # 1 - 0.95 is a little more than 0.05
            if self.interval.low > 0:
                return "higher"
            if self.interval.high < 0:
                return "lower"
        return "not distinguishable"


@dataclass(frozen=True, slots=True)
class Bin:
    """Problems with a P(no_think) from `low` to `high`, and what no_think really cost them."""

    low: float
    high: float
    num_problems: int
    probability: float  # mean P(no_think)
    pays: Interval  # share of the problems where no_think costs at most delta
    gap: Interval  # mean accuracy of think minus that of no_think


@dataclass(frozen=True, slots=True)
class Calibration:
    """`error`: expected calibration error. `error_if_calibrated`: its mean if P(no_think) were exactly right."""

    error: float
    error_if_calibrated: float
    bins: tuple[Bin, ...]  # those that hold problems, in order


# ---- one model ------------------------------------------------------------------------------------------------------


def mean_interval(values: Values, confidence: float = CONFIDENCE, within: Range = ANYWHERE) -> Interval:
    """Mean of any number (tokens, seconds) with an interval: Student's t on problem means, corrected for skewness.

    `within` is the range that the numbers can have, such as from 1 token to max_tokens; the interval lies in it.

    The correction is Hall's (1992) cubic transformation of t, as token counts have a long tail. In simulation with
    log-normal problem means of log-deviation up to 0.6 and 10 to 500 problems, the interval covered 93.2-95.3% (plain
    t: 90.5-95.1%); at 1.0, 91.4-94.6% (83.9-94.0%). If all problem means are equal, it has no width: for shares use
    `share_interval`. Raises ValueError for fewer than two problems and for values that are not finite.
    """
    means, _ = _problem_means(values, "values")
    low, high = mean_limits(means, _checked(confidence), within)
    return Interval(average(means), float(low), float(high), confidence, len(means))


def share_interval(values: Values, confidence: float = CONFIDENCE) -> Interval:
    """Share (accuracy, avg@k, no_think) with an interval that stays honest at 0 and 1; values in [0, 1].

    The mid-P interval of a binomial with as many independent trials as the data amount to: between one for each
    problem and one for each response, by the spread of the problem means. With one 0/1 sample per problem it is the
    textbook mid-P interval; if every response is correct, each problem counts once. In simulation (10 to 500 problems,
    1 to 16 samples, shares 0.05 to 0.99) it covered 92.9% at the least; from 100 problems on and up to a share of
    0.95, 93-97%, save 98% with 16 samples that do not cluster. Elsewhere it errs on the wide side, up to 100% at ten
    problems, as discrete data leave no choice but that or too narrow. Raises ValueError for
    values outside [0, 1] and for no problems.
    """
    means, per_trial = _problem_means(values, "values", unit=True)
    return _share(means, per_trial, confidence)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Probability that at least one of k responses is right, unbiased from `num_samples` of which some were right.

    1 − C(n−c, k) / C(n, k), as the product of Chen et al. (2021), which neither overflows nor cancels. Raises
    ValueError unless 1 ≤ k ≤ num_samples and 0 ≤ num_correct ≤ num_samples.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples of every problem (k >= 1), got {num_samples}: lower k")
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"{num_correct} right out of {num_samples} samples cannot be; count again")
    if num_samples - num_correct < k:
        return 1.0
    # log1p and expm1 keep a small pass@k exact to the last digits
    failures = np.arange(num_samples - num_correct + 1, num_samples + 1)
    return float(-np.expm1(np.log1p(-k / failures).sum()))


def pass_interval(values: Values, k: int, confidence: float = CONFIDENCE) -> Interval:
    """Mean pass@k over problems, with the interval of `share_interval`; values 0 or 1, k samples or more of each.

    avg@k is `share_interval` itself. Raises ValueError for values other than 0 and 1 and for fewer than k samples.
    """
    _problem_means(values, "values", unit=True)
    scores, per_trial = [], []
    for problem, outcomes in sorted(values.items()):
        if set(outcomes) - {0, 1}:
            raise ValueError(f"pass@k counts right and wrong; problem {problem!r} has other values than 0 and 1")
        scores.append(pass_at_k(len(outcomes), int(sum(outcomes)), k))
        per_trial.append(k / len(outcomes))
    return _share(np.array(scores), average(per_trial), confidence)


def mean_over_levels(intervals: Sequence[Interval]) -> Interval:
    """Return the mean of estimates from separate problems, with an interval: ends add up in squares.

    This is MOVER (Zou & Donner 2008), Newcombe's square-and-add: it keeps the asymmetry of each interval. Raises
    ValueError for no intervals and for different confidences.
    """
    if not intervals:
        raise ValueError("no intervals to average: give one for each level")
    confidences = {interval.confidence for interval in intervals}
    if len(confidences) > 1:
        raise ValueError(f"intervals of different confidence cannot be averaged: {sorted(confidences)}")
    estimate = math.fsum(i.estimate for i in intervals) / len(intervals)
    below = math.sqrt(math.fsum((i.estimate - i.low) ** 2 for i in intervals)) / len(intervals)
    above = math.sqrt(math.fsum((i.high - i.estimate) ** 2 for i in intervals)) / len(intervals)
    num_problems = sum(i.num_problems for i in intervals)
    return Interval(estimate, estimate - below, estimate + above, confidences.pop(), num_problems)


def difference_of_groups(one: Interval, other: Interval) -> Interval:
    """Return one − other for estimates from separate problems, with an interval: square-and-add, as above."""
    negated = replace(other, estimate=-other.estimate, low=-other.high, high=-other.low)
    half = mean_over_levels([one, negated])
    return replace(half, estimate=2 * half.estimate, low=2 * half.low, high=2 * half.high)


# ---- two models, the same problems ----------------------------------------------------------------------------------


def mean_difference(
    new: Values, old: Values, levels: Levels | None = None, confidence: float = CONFIDENCE
) -> Difference:
    """Difference of two means (tokens, seconds), paired by problem; with levels, its mean over the levels.

    Interval: as `mean_interval`, on the differences of the problem means. p-value: see `sign_flip_p_value`. Sample
    counts may differ. Raises ValueError where the problems differ and for fewer than two problems (in a level).
    """
    intervals, weighted = [], []
    for a, b, _ in _pairs(new, old, levels):
        low, high = mean_limits(a - b, _checked(confidence))
        intervals.append(Interval(float(np.mean(a - b)), float(low), float(high), confidence, len(a)))
        weighted.append((a - b) / len(a))
    return _difference(intervals, weighted)


def share_difference(
    new: Values, old: Values, levels: Levels | None = None, confidence: float = CONFIDENCE
) -> Difference:
    """Difference of two shares (accuracy), paired by problem; with levels, its mean over the levels (ΔAcc).

    Interval: Bonett & Price's (2012) for paired shares, which adds one disagreement each way, on as many independent
    pairs as the data amount to (as in `share_interval`), so that it has a width even if nothing disagrees. In
    simulation it covered 94% at the least; 94-97% from 30 problems on where shares are not both near 1, up to 100%
    elsewhere. p-value: see `sign_flip_p_value`.
    Raises ValueError where the problems differ and for values outside [0, 1].
    """
    intervals, weighted = [], []
    for a, b, per_trial in _pairs(new, old, levels, unit=True):
        low, high = share_difference_limits(a, b, per_trial, _checked(confidence))
        intervals.append(Interval(float(np.mean(a - b)), float(low), float(high), confidence, len(a)))
        weighted.append((a - b) / len(a))
    return _difference(intervals, weighted)


def relative_change(
    new: Values, old: Values, levels: Levels | None = None, confidence: float = CONFIDENCE
) -> Difference:
    """Relative change of a positive mean, mean(new)/mean(old) − 1, paired by problem; over levels, ΔLength.

    −0.53 is 53% shorter. Interval: Fieller's. In simulation with log-normal tokens of log-deviation 0.3 to 1 and 10
    to 500 problems it covered 94.5-96.3%. Its upper end is infinite where the old mean is too unsure to divide by
    (13% of the evaluations of 10 problems at 1, below 1% otherwise). p-value: see `sign_flip_p_value`, each level's
    differences divided by the mean of both models, which no swap changes. Raises ValueError for negative values, for a
    mean of 0 and as `mean_difference` does.
    """
    intervals, weighted = [], []
    for a, b, _ in _pairs(new, old, levels):
        if a.min() < 0 or b.min() < 0:
            raise ValueError("a relative change needs values >= 0; use mean_difference")
        if not a.mean() > 0 or not b.mean() > 0:
            raise ValueError("a mean of 0 has no relative change with an interval; use mean_difference")
        change, low, high = ratio_limits(a, b, _checked(confidence))
        intervals.append(Interval(float(change), float(low), float(high), confidence, len(a)))
        weighted.append((a - b) / len(a) / ((a.mean() + b.mean()) / 2))
    return _difference(intervals, weighted)


def sign_flip_p_value(differences: Sequence[float] | Array) -> float:
    """Two-sided p-value of one difference for each problem: is their sum further from 0 than expected at random?

    If the models are alike, new and old may be swapped on any problem, which flips its sign. All flips are tried
    where up to 13 problems differ, 9,999 seeded ones beyond. Unlike t, this is right however few problems there are
    and however skewed or discrete the differences: a false positive has at most the probability p (with unequal sample
    counts, nearly so). Where few problems differ no p can be small: with five, 0.0625 at best. Problems weigh as
    their differences are scaled. Raises ValueError for none and for values that are not finite.
    """
    array = np.asarray(differences, dtype=float)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError("a sign-flip test needs one finite difference for each problem, and at least one problem")
    disagreeing = array[array != 0]  # flipping a zero changes nothing
    if disagreeing.size < 2:  # one disagreement is as likely as its opposite
        return 1.0
    observed = disagreeing.sum()
    sums = np.concatenate([(disagreeing * signs).sum(-1) for signs in _flip_signs(disagreeing.size)])
    rounding = 100 * np.finfo(float).eps * abs(observed)
    extreme = min((sums <= observed + rounding).sum(), (sums >= observed - rounding).sum())
    itself = int(sums.size == NUM_FLIPS)  # beside sampled flips, what was observed counts as one of them
    return min(1.0, 2 * float(extreme + itself) / (sums.size + itself))


def _flip_signs(size: int) -> Iterator[Array]:
    """Yield all vectors of `size` signs, or NUM_FLIPS random ones: those of scipy.stats.permutation_test."""
    if size < NUM_FLIPS.bit_length():
        yield np.array(list(product((1.0, -1.0), repeat=size)))
        return
    rng, pairs = np.random.default_rng(SEED), np.tile((1.0, -1.0), (FLIPS_AT_ONCE, size, 1))
    for start in range(0, NUM_FLIPS, FLIPS_AT_ONCE):
        yield rng.permuted(pairs, axis=-1)[: NUM_FLIPS - start, :, 0]


def holm(differences: Mapping[K, Difference]) -> dict[K, Difference]:
    """Return the same differences with p-values adjusted for their number (Holm 1979): verdicts over several sets.

    Whatever the dependence, the probability of any false positive among the sets is below 1 − confidence. Intervals
    are those of each set alone.
    """
    order = sorted(differences, key=lambda name: differences[name].p_value)
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * differences[name].p_value))
        adjusted[name] = largest
    return {name: replace(difference, p_value=adjusted[name]) for name, difference in differences.items()}


# ---- calibration ----------------------------------------------------------------------------------------------------


def measure_calibration(
    probabilities: Mapping[str, float],
    think: Values,
    no_think: Values,
    delta: float,
    *,
    num_bins: int = 10,
    confidence: float = CONFIDENCE,
) -> Calibration:
    """How well P(no_think) agrees with what no_think costs, measured by forcing both modes on the same problems.

    no_think *pays* on a problem if its accuracy is at most `delta` below that of think. With a calibrated model it pays
    on 80% of the problems with P(no_think) = 0.8. The error is Σ (bin's share of problems)·|mean P − share where it
    pays| over `num_bins` bins of equal width (Guo et al. 2017); the last bin includes 1. Being a sum of absolute
    values, it is above 0 for a calibrated model too: `error_if_calibrated` is its mean then (2,000 seeded samples).
    Whether it pays is itself measured, with few samples coarsely. Raises ValueError where the problems differ, for
    accuracies or probabilities outside [0, 1] and for no bins.
    """
    if num_bins < 1:
        raise ValueError(f"a reliability table needs at least one bin, got {num_bins}")
    [(with_thought, without, per_trial)] = _pairs(think, no_think, None, unit=True, names=("think", "no_think"))
    _same_problems(probabilities, think, ("probabilities", "think"))
    probability_P = np.array([probabilities[problem] for problem in sorted(think)], dtype=float)
    if not ((probability_P >= 0) & (probability_P <= 1)).all():
        raise ValueError("P(no_think) must lie in [0, 1]: give probabilities, not their logarithms")
    pays = (without + delta - with_thought >= -1e-12).astype(float)
    indices = np.minimum((probability_P * num_bins).astype(int), num_bins - 1)
    sampled = np.random.default_rng(SEED).random((2_000, len(probability_P))) < probability_P
    bins, error, by_chance = [], 0.0, 0.0
    for index in np.unique(indices):
        here = indices == index
        error += abs((probability_P[here] - pays[here]).sum())
        by_chance += np.abs((probability_P[here] - sampled[:, here]).sum(1)).mean()
        low, high = share_difference_limits(with_thought[here], without[here], per_trial, _checked(confidence))
        num_here = int(here.sum())
        bins.append(
            Bin(
                low=float(index / num_bins),
                high=float((index + 1) / num_bins),
                num_problems=num_here,
                probability=float(probability_P[here].mean()),
                pays=_share(pays[here], 1.0, confidence),
                gap=Interval(
                    float((with_thought - without)[here].mean()), float(low), float(high), confidence, num_here
                ),
            )
        )
    return Calibration(float(error / len(probability_P)), float(by_chance / len(probability_P)), tuple(bins))


# ---- the limits, on arrays of problem means (..., P) ----------------------------------------------------------------


def mean_limits(means: Array, confidence: float = CONFIDENCE, within: Range = ANYWHERE) -> tuple[Array, Array]:
    """Ends of the interval of the mean over the last axis: t through Hall's transformation (1992, his g₁).

    g(t) = t + at²/3 + a²t³/27 + a/6 with a = skewness/√P has a distribution nearer to t's than t itself where data
    are skewed; it is increasing, so its inverse at t's quantiles gives the ends. Fewer than five problems show no
    skewness: where all values are positive, the ends are then x̄·exp(±t·s/(√P·x̄)), t on the logarithm of the mean. Ends
    beyond the range `within` are cut off, which loses no coverage, as no mean lies there.
    """
    num = means.shape[-1]
    if num < 2:
        raise ValueError("one problem says nothing about the spread between problems; give at least two")
    error = means.std(-1, ddof=1) / math.sqrt(num)
    a = _skewness(means) / math.sqrt(num)
    t = special.stdtrit(num - 1, (1 + confidence) / 2)
    centre = means.mean(-1)
    if num < FEWEST_FOR_SKEWNESS and within[0] > 0:
        factor = np.exp(np.minimum(t * error / centre, MAX_LOG))
        low, high = centre / factor, centre * factor
    else:
        low, high = centre - _hall_inverse(t, a) * error, centre - _hall_inverse(-t, a) * error
    # A range that the data themselves leave is none: estimated lengths may exceed max_tokens.
    lowest, highest = np.minimum(within[0], means.min(-1)), np.maximum(within[1], means.max(-1))
    return np.clip(low, lowest, highest), np.clip(high, lowest, highest)


def share_limits(means: Array, per_trial: float | Array, confidence: float = CONFIDENCE) -> tuple[Array, Array]:
    """Ends of the interval of a share over the last axis; `per_trial` is the mean of 1/(samples of a problem).

    Effective trials N = P / ρ, with ρ = (Σ(m−m̄)²·P/(P−1) + c) / (P·m̄(1−m̄) + c) kept within [per_trial, 1]: the
    variance of a problem mean as a part of what it would be if all samples of a problem agreed. The mid-P ends solve
    ½·[P(X ≥ x) + P(X > x)] = α/2 and 1 − α/2 for X ~ Binomial(N, ·), x = N·m̄, continued to real N by the beta
    distribution.
    """
    share = means.mean(-1)
    num_effective = _effective(means, share * (1 - share), per_trial)
    right = share * num_effective
    wrong = num_effective - right
    alpha = 1 - confidence

    def excess(p: Array, right: Array, wrong: Array, target: Array) -> Array:
        at_least = np.where(right > 1e-9, special.betainc(np.maximum(right, 1e-9), wrong + 1, p), 1.0)
        more = np.where(wrong > 1e-9, special.betainc(right + 1, np.maximum(wrong, 1e-9), p), 0.0)
        return (at_least + more) / 2 - target

    def solve(target: float) -> Array:
        from scipy.optimize import elementwise  # noqa: PLC0415  (slow to import)

        found = elementwise.find_root(
            excess, (np.zeros_like(share), np.ones_like(share)), args=(right, wrong, np.full_like(share, target))
        )
        return np.asarray(found.x)

    low = np.where(right > 1e-9, solve(alpha / 2), 0.0)
    high = np.where(wrong > 1e-9, solve(1 - alpha / 2), 1.0)
    return low, high


def share_difference_limits(
    new: Array, old: Array, per_trial: float | Array, confidence: float = CONFIDENCE
) -> tuple[Array, Array]:
    """Ends of the interval of a difference of paired shares over the last axis; see `share_limits` for `per_trial`.

    With b and c the shares of pairs that only new, or only old, got right (one response sampled from each), N effective
    pairs by their variance b + c − (b−c)², and one disagreement added each way: d = N(b−c)/(N+2), and
    d ± z·√(((N(b+c) + 2)/(N+2) − d²)/(N+2)), cut at ±1.
    """
    only_new, only_old = (new * (1 - old)).mean(-1), ((1 - new) * old).mean(-1)
    num = _effective(new - old, only_new + only_old - (only_new - only_old) ** 2, per_trial)
    centre = num * (only_new - only_old) / (num + 2)
    variance = ((num * (only_new + only_old) + 2) / (num + 2) - centre**2) / (num + 2)
    half = special.ndtri((1 + confidence) / 2) * np.sqrt(variance)
    return np.maximum(centre - half, -1.0), np.minimum(centre + half, 1.0)


def ratio_limits(new: Array, old: Array, confidence: float = CONFIDENCE) -> tuple[Array, Array, Array]:
    """Relative change of the mean over the last axis and the ends of its interval, by Fieller's theorem.

    Every ratio θ is in it for which a t test does not tell the mean of y − θx from 0. With u = y/ȳ and v = x/x̄ and
    t² times their (co)variances over P: A = 1 − vv, B = 1 − uv, C = 1 − uu, the ends are ȳ/x̄ · (B ± √(B² − AC)) / A.
    With A ≤ 0, x̄ is too unsure to bound the ratio above.
    """
    num = new.shape[-1]
    if num < 2:
        raise ValueError("one problem says nothing about the spread between problems; give at least two")
    mean_new, mean_old = new.mean(-1, keepdims=True), old.mean(-1, keepdims=True)
    u, v = new / mean_new - 1, old / mean_old - 1
    scale = special.stdtrit(num - 1, (1 + confidence) / 2) ** 2 / (num * (num - 1))
    uu, vv, uv = scale * (u * u).sum(-1), scale * (v * v).sum(-1), scale * (u * v).sum(-1)
    root = np.sqrt(np.maximum(scale * ((u - v) ** 2).sum(-1) + uv**2 - uu * vv, 0.0))  # √(B² − AC), without cancelling
    bounded = vv < 1
    safe = np.where(bounded, 1 - vv, 1.0)
    # low: (B − root)/A, written so that it holds for A ≤ 0 too; 0 where the new mean could be 0
    low = np.where(uu < 1, (1 - uu) / np.where(uu < 1, 1 - uv + root, 1.0), 0.0)
    high = np.where(bounded, (1 - uv + root) / safe, np.inf)
    ratio = (mean_new / mean_old)[..., 0]
    return ratio - 1, ratio * low - 1, ratio * high - 1


# ---- details --------------------------------------------------------------------------------------------------------


def _share(means: Array, per_trial: float, confidence: float) -> Interval:
    low, high = share_limits(means, per_trial, _checked(confidence))
    return Interval(float(means.mean()), float(low), float(high), confidence, len(means))


def _difference(intervals: Sequence[Interval], weighted: Sequence[Array]) -> Difference:
    """From one interval for each level and the differences, scaled so that they add up to the estimate (times L)."""
    whole = mean_over_levels(intervals)
    z = special.ndtri((1 + whole.confidence) / 2)
    detectable = (whole.high - whole.low) / 2 * (z + special.ndtri(POWER)) / z
    return Difference(whole, sign_flip_p_value(np.concatenate(list(weighted))), float(detectable))


def _effective(means: Array, variance: Array, per_trial: float | Array) -> Array:
    """Number of independent trials with `variance` each whose mean would vary as much as the mean of `means`."""
    num = means.shape[-1]
    spread = means.var(-1) * num * (num / (num - 1) if num > 1 else 1.0)
    return num / np.clip((spread + CLUSTERING) / (num * variance + CLUSTERING), per_trial, 1.0)


def _skewness(values: Array) -> Array:
    """Adjusted Fisher-Pearson skewness over the last axis; 0 where there are fewer than three values or no spread."""
    num = values.shape[-1]
    centred = values - values.mean(-1, keepdims=True)
    second = (centred**2).mean(-1)
    flat = second <= (1e-9 * np.abs(values).max(-1)) ** 2
    if num < 3:
        return np.zeros_like(second)
    skewness = (centred**3).mean(-1) / np.where(flat, 1.0, second) ** 1.5 * math.sqrt(num * (num - 1)) / (num - 2)
    return np.where(flat, 0.0, skewness)


def _hall_inverse(t: float, a: Array) -> Array:
    small = np.abs(a) < 1e-6  # there it is t itself, and the formula divides by a
    safe = np.where(small, 1.0, a)
    return np.where(small, t, 3 / safe * (np.cbrt(1 + safe * (t - safe / 6)) - 1))


def average(numbers: Sequence[float] | Array) -> float:
    """Return the mean, rounded once, so that it does not depend on the order of the numbers."""
    return math.fsum(numbers) / len(numbers)


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, as 0.95 does; got {confidence}")
    return confidence


def _problem_means(values: Values, name: str, *, unit: bool = False) -> tuple[Array, float]:
    """Mean of each problem, in order of their ids, and the mean of 1/(number of responses) over the problems."""
    if not values:
        raise ValueError(f"{name}: no problems; give at least one with a response")
    means, per_trial = [], []
    for problem, numbers in sorted(values.items()):
        row = np.asarray(numbers, dtype=float)
        if row.ndim != 1 or not row.size:
            raise ValueError(f"{name}: problem {problem!r} needs a list of at least one number; leave it out otherwise")
        if not np.isfinite(row).all():
            raise ValueError(f"{name}: problem {problem!r} has a value that is not a finite number; leave it out")
        if unit and not ((row >= 0) & (row <= 1)).all():
            raise ValueError(f"{name}: problem {problem!r} has a value outside [0, 1]; use the functions for means")
        means.append(average(row))
        per_trial.append(1 / row.size)
    return np.array(means), average(per_trial)


def _same_problems(one: Mapping[str, object], other: Mapping[str, object], names: tuple[str, str]) -> None:
    alone = sorted(set(one) ^ set(other), key=str)
    if alone:
        holder = names[0] if alone[0] in one else names[1]
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same problems: {len(alone)} are in one only (first: {alone[0]!r},"
            f" in {holder}); keep those that both have"
        )


def _pairs(
    new: Values, old: Values, levels: Levels | None, *, unit: bool = False, names: tuple[str, str] = ("new", "old")
) -> list[tuple[Array, Array, float]]:
    """Problem means of both sides in order of their ids, and their mean 1/samples: one triple for each level."""
    _same_problems(new, old, names)
    missing = [problem for problem in sorted(new) if levels is not None and problem not in levels]
    if missing:
        raise ValueError(f"{len(missing)} problems have no level (first: {missing[0]!r}); give every problem one")
    groups: dict[object, list[str]] = {}
    for problem in sorted(new):
        groups.setdefault(None if levels is None else levels[problem], []).append(problem)
    pairs = []
    for problems in groups.values() or [[]]:
        a, per_trial_a = _problem_means({problem: new[problem] for problem in problems}, names[0], unit=unit)
        b, per_trial_b = _problem_means({problem: old[problem] for problem in problems}, names[1], unit=unit)
        pairs.append((a, b, (per_trial_a + per_trial_b) / 2))
    return pairs
