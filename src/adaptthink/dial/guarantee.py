"""Thresholds chosen with a guarantee on one half of the problems, and checked on the other half.

The guarantee holds although many thresholds are tried. It is that of fixed-sequence testing (Angelopoulos et al. 2021,
"Learn then Test"): thresholds are tested one after the other, from the safe end on, and the first that fails ends it. A
wrong one can only be certified if the first wrong one of the sequence is, so each test takes the whole of
1 - confidence. The sequence is every number of six digits: two that no problem lies between have the same p-value, so
only those that occur need computing. docs/how-to/dial.md explains how to read the results.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from adaptthink.dial.curve import Array, Measured, Point, Threshold, compute_means, compute_points, list_thresholds
from adaptthink.evaluation.statistics import CONFIDENCE, share_difference
from adaptthink.modes import Mode, choose_mode
from adaptthink.storage.records import Count, Probability

NUM_BETS = 100


class Kind(StrEnum):
    """What a threshold was chosen for."""

    ACCURACY_LOSS = "accuracy_loss"  # as few tokens as possible, accuracy at most `tolerance` below always thinking
    TOKEN_BUDGET = "token_budget"  # as much thinking as possible, `token_budget` tokens a response at most


class HeldOutVerdict(StrEnum):
    """Result of a certified limit on the held-out half."""

    CONFIRMED = "confirmed"  # the whole 95% interval lies within the limit
    CONSISTENT = "consistent"  # the interval contains the limit: this half alone does not decide
    CONTRADICTED = "contradicted"  # the whole interval lies beyond it


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A certified threshold on the problems that had no part in choosing it."""

    num_problems: int
    point: Point
    verdict: HeldOutVerdict  # on the limit
    against_thinking: str  # accuracy: "higher", "lower" or "not distinguishable"; no proof of sameness


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen threshold: no_think where P(no_think) is at least `no_think_probability`.

    If nothing could be certified, there is none, and `problems_needed` estimates how many problems like these would do
    for the first step; None if no number would. A certified `ALWAYS_THINK` is one that no probability reaches.
    """

    kind: Kind
    no_think_probability: Threshold | None  # None if nothing could be certified
    tolerance: float | None  # of accuracy, in [0, 1]
    token_budget: float | None
    confidence: Probability
    certified: bool
    num_problems: Count  # of the half that it was chosen on
    problems_needed: int | None
    held_out: HeldOut | None


def describe_limit(choice: Choice) -> str:
    """Return what a threshold was chosen to keep."""
    if choice.tolerance is not None:
        points = f"{100 * choice.tolerance:g}"
        return f"at most {points} point{'' if points == '1' else 's'} below always thinking"
    return f"at most {choice.token_budget:g} tokens a response"


def describe_rule(threshold: float | None) -> str:
    """Return what a threshold does; without one the model samples its mode."""
    if threshold is None:
        return "the model's own choice"
    return "always thinks" if threshold > 1 else f"no_think where P(no_think) >= {threshold:g}"


def describe_shortage(choice: Choice) -> str:
    """Return why nothing was certified, and what would be needed."""
    half = f"nothing certified on {choice.num_problems} problems"
    if choice.problems_needed is None:
        return f"{half} (no number of problems like these would suffice)"
    return f"{half} (it takes at least {choice.problems_needed:,} problems like these in all, half of them to check)"


# ---- the halves -----------------------------------------------------------------------------------------------------


def split_halves(problems: Sequence[Measured]) -> tuple[list[Measured], list[Measured]]:
    """Split problems at random, the same way each time: each level's, by a hash of their ids, in turn.

    Returns those to choose on and those held out; no problem's outcome has a part in where it goes.
    """

    def order(problem: Measured) -> tuple[str, str]:
        return problem.level, hashlib.sha256(f"dial/{problem.problem_id}".encode()).hexdigest()

    ordered = sorted(problems, key=order)
    return ordered[::2], ordered[1::2]


# ---- the tests ------------------------------------------------------------------------------------------------------


def compute_bet_logs(values: Array, limit: float, high: float) -> Array:
    """Return the log of each of 100 bets on each value, (…, bets): log(1 + λ·(limit − value)), λ < 1/(high − limit).

    If the mean of independent values, none above `high`, is `limit` or more, no product over them is expected to
    exceed 1: that of the expectations does not, by the inequality of the means, even if they differ from value to
    value, as between levels. By Markov, the mean of such products over fixed λ reaches 1/α with probability at most α,
    whatever the distribution: a p-value. Betting as in Waudby-Smith & Ramdas (2024), but with bets that no order
    of the problems has a part in.
    """
    bets_J = (np.arange(NUM_BETS) + 0.5) / NUM_BETS / (high - limit)
    return np.asarray(np.log1p((limit - values)[..., None] * bets_J))


def compute_p_values(direct: Array, think: Array, limit: float, high: float) -> Array:
    """p-values of "the mean is `limit` or more" if the first 0, 1, … P problems are answered directly, (P + 1,).

    `direct` and `think` hold what each problem counts in either mode, `high` at most. Raises ValueError beyond that.
    """
    if max(direct.max(), think.max()) > high or not limit < high:
        raise ValueError(f"values and the limit {limit} must not exceed {high}, or nothing is guaranteed")
    direct_PJ, think_PJ = compute_bet_logs(direct, limit, high), compute_bet_logs(think, limit, high)
    steps_MJ = np.vstack([np.zeros((1, NUM_BETS)), np.cumsum(direct_PJ - think_PJ, axis=0)])
    log_capital_M = logsumexp(think_PJ.sum(0) + steps_MJ, axis=1) - math.log(NUM_BETS)
    return np.asarray(np.exp(np.minimum(0.0, -log_capital_M)))


def count_problems_needed(values: Array, limit: float, high: float, alpha: float) -> int | None:
    """Return how many problems like these would show that their mean is below `limit`; None if no number would."""
    from scipy.optimize import brentq  # noqa: PLC0415  (slow to import)

    log_J = compute_bet_logs(values, limit, high).sum(0)
    if log_J.max() <= 0:
        return None
    wanted = math.log(NUM_BETS / alpha)
    times = brentq(lambda n: logsumexp(n * log_J) - wanted, 0, (wanted + 1) / log_J.max())
    return math.ceil(times * len(values))


def choose_loss(problems: Sequence[Measured], tolerance: float, confidence: float = CONFIDENCE) -> Choice:
    """Return the smallest threshold certified to lose at most `tolerance` of accuracy against always thinking.

    Tested from the largest P(no_think) down on one half of the problems; loss of a problem: mean accuracy of think
    minus that of no_think, if it is answered directly, else 0. Raises ValueError unless 0 < tolerance < 1.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"a tolerance must lie between 0 and 1 (0.01: one point), got {tolerance}")
    choosing, held_out = split_halves(problems)
    ordered, steps, counts = _steps(choosing)
    loss = compute_means(ordered, "think_correct") - compute_means(ordered, "no_think_correct")
    alpha = 1 - confidence
    passed = compute_p_values(loss, np.zeros_like(loss), tolerance, 1.0)[counts] <= alpha
    # The first step stands for all thresholds above these problems, not for thinking only: it has to pass too.
    number = _leading(passed)
    needed = None
    if number < 2:
        tested = np.where(np.arange(len(loss)) < counts[number], loss, 0.0)
        needed = count_problems_needed(tested, tolerance, 1.0, alpha)
    chosen = steps[number - 1] if number >= 2 else None
    return _choice(Kind.ACCURACY_LOSS, chosen, tolerance, confidence, choosing, held_out, needed)


def choose_budget(
    problems: Sequence[Measured], token_budget: float, max_tokens: int, confidence: float = CONFIDENCE
) -> Choice:
    """Return the largest threshold certified to take at most `token_budget` tokens a response on average.

    Tested from always no_think up, on one half of the problems. `max_tokens` is the maximum of a response:
    what makes the guarantee possible, and expensive where it is far above the budget. Raises ValueError unless
    0 < token_budget < max_tokens, and for responses that are longer.
    """
    if not 0 < token_budget < max_tokens:
        raise ValueError(
            f"a token budget must lie between 0 and the maximum of {max_tokens} tokens, got {token_budget}"
        )
    choosing, held_out = split_halves(problems)
    ordered, steps, counts = _steps(choosing)
    direct, think = compute_means(ordered, "no_think_tokens"), compute_means(ordered, "think_tokens")
    alpha = 1 - confidence
    passed = compute_p_values(direct / max_tokens, think / max_tokens, token_budget / max_tokens, 1.0)[counts] <= alpha
    number = _leading(passed[::-1])
    needed = None if number else count_problems_needed(direct / max_tokens, token_budget / max_tokens, 1.0, alpha)
    chosen = steps[::-1][number - 1] if number else None
    return _choice(Kind.TOKEN_BUDGET, chosen, token_budget, confidence, choosing, held_out, needed)


def _steps(problems: Sequence[Measured]) -> tuple[list[Measured], list[float], NDArray[np.intp]]:
    """Problems by falling P(no_think), the thresholds by which they differ, and how many of them each takes in."""
    ordered = sorted(problems, key=lambda problem: -problem.no_think_probability)
    steps = list_thresholds(problems)
    falling = np.array([-problem.no_think_probability for problem in ordered])
    return ordered, steps, np.searchsorted(falling, -np.array(steps), side="right")


def _leading(passed: NDArray[np.bool_]) -> int:
    """How many tests passed before the first that failed."""
    return len(passed) if passed.all() else int(passed.argmin())


def _choice(
    kind: Kind,
    certified: float | None,
    limit: float,
    confidence: float,
    choosing: Sequence[Measured],
    held_out: Sequence[Measured],
    needed: int | None,
) -> Choice:
    return Choice(
        kind=kind,
        no_think_probability=certified,
        tolerance=limit if kind is Kind.ACCURACY_LOSS else None,
        token_budget=limit if kind is Kind.TOKEN_BUDGET else None,
        confidence=confidence,
        certified=certified is not None,
        num_problems=len(choosing),
        problems_needed=2 * needed if needed else None,
        held_out=None if certified is None else check_held_out(held_out, certified, kind, limit),
    )


def check_held_out(problems: Sequence[Measured], threshold: float, kind: Kind, limit: float) -> HeldOut:
    """Evaluate a threshold on the problems that had no part in choosing it, and whether its limit holds there."""
    [point] = compute_points(problems, [threshold])
    if kind is Kind.ACCURACY_LOSS:
        low, high = -point.accuracy_difference_interval[1], -point.accuracy_difference_interval[0]
    else:
        low, high = point.tokens_interval
    verdict = HeldOutVerdict.CONSISTENT
    if high <= limit:
        verdict = HeldOutVerdict.CONFIRMED
    elif low > limit:
        verdict = HeldOutVerdict.CONTRADICTED
    think = {problem.problem_id: problem.think_correct for problem in problems}
    dialled = {
        problem.problem_id: problem.no_think_correct
        if choose_mode(problem.no_think_probability, threshold) is Mode.NO_THINK
        else problem.think_correct
        for problem in problems
    }
    return HeldOut(len(problems), point, verdict, share_difference(dialled, think).verdict)
