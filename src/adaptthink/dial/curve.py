"""The dial: answer without thinking where P(no_think) is at least a threshold, think otherwise.

Both forced modes of the same problems, sampled once, give the whole curve from always thinking to never. Thresholds
are then chosen on one half of the problems, with a guarantee that holds although many are looked at, and checked on
the other half.

The guarantee is that of fixed-sequence testing (Angelopoulos et al. 2021, "Learn then Test"): thresholds are tested
one after the other, from the safe end on, and the first that fails ends it. A wrong one can only be certified if the
first wrong one of the sequence is, so each test takes the whole of 1 - confidence. The sequence is every number of six
digits: two that no problem lies between have the same p-value, so only those that occur need computing. docs/dial.md
says how to read the results.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Context
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import brentq
from scipy.special import logsumexp

from adaptthink.engines.native import NativeEngine
from adaptthink.errors import UserError
from adaptthink.evaluation.statistics import (
    CONFIDENCE,
    mean_limits,
    ratio_limits,
    share_difference,
    share_difference_limits,
    share_limits,
)
from adaptthink.evaluation.store import Decision, Outcome, Setting, gradable
from adaptthink.models.loading import Policy, find_model
from adaptthink.modes import Mode, encode_prompt
from adaptthink.storage.runs import write_json

Array = NDArray[np.float64]
Ends = tuple[float, float]  # of a 95% interval

VERSION = 1
STORED = "adaptthink.json"  # beside the weights
ALWAYS_THINK = 2.0  # a threshold that no probability reaches; 1 would not do, as P(no_think) may round to it
ROUND_DOWN = Context(prec=6, rounding=ROUND_FLOOR)  # the digits of a threshold
NUM_BETS = 100
MIN_PROBLEMS = 4  # two in each half, as a spread needs
POINTS_AT_ONCE = 256  # thresholds times problems are held in memory
STORED_POINTS = 100
PROMPTS_AT_ONCE = 512


class Kind(StrEnum):
    """What a threshold was chosen for."""

    ACCURACY_LOSS = "accuracy_loss"  # as few tokens as possible, accuracy at most `tolerance` below always thinking
    TOKEN_BUDGET = "token_budget"  # as much thinking as possible, `token_budget` tokens a response at most


class HeldOutVerdict(StrEnum):
    """What the held-out half says about a certified limit."""

    CONFIRMED = "confirmed"  # the whole 95% interval lies within the limit
    CONSISTENT = "consistent"  # the interval holds the limit: this half alone cannot tell
    CONTRADICTED = "contradicted"  # the whole interval lies beyond it


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


@dataclass(frozen=True, slots=True)
class Point:
    """What one threshold comes to: shares in [0, 1], tokens of a response, 95% intervals clustered by problem.

    Differences are to always thinking on the same problems. A relative change may have no upper end.
    """

    threshold: float
    no_think_share: float
    no_think_interval: Ends
    accuracy: float
    accuracy_interval: Ends
    mean_tokens: float
    tokens_interval: Ends
    accuracy_difference: float
    accuracy_difference_interval: Ends
    token_change: float  # -0.5: half as many tokens as always thinking
    token_change_interval: tuple[float, float | None]


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

    If nothing could be certified, it is `ALWAYS_THINK`, and `problems_needed` estimates how many problems like these
    would do for the first step; None if no number would.
    """

    kind: Kind
    no_think_probability: float
    tolerance: float | None  # of accuracy, in [0, 1]
    token_budget: float | None
    confidence: float
    certified: bool
    num_problems: int  # of the half that it was chosen on
    problems_needed: int | None
    held_out: HeldOut | None


@dataclass(frozen=True, slots=True)
class Dial:
    """A calibrated model's dial: the threshold in use, every choice that was made, and the curve."""

    version: int
    threshold: Choice
    choices: tuple[Choice, ...]
    curve: tuple[Point, ...]  # from always think to always no_think
    fingerprint: str  # of the weights that it was calibrated for
    problems: str  # the name of the set
    num_problems: int
    date: str  # ISO 8601, UTC
    setting: Setting  # how the samples were drawn


@dataclass(frozen=True, slots=True)
class ModeDecision:
    """The mode that the dial gives a prompt."""

    mode: Mode
    no_think_probability: float


# ---- what was measured ----------------------------------------------------------------------------------------------


def measure(outcomes: Iterable[Outcome], decisions: Mapping[str, Decision]) -> tuple[Measured, ...]:
    """Put the forced samples of each problem and its decision together; problems whose gold is unreadable are left out.

    Raises UserError that names the first problem that lacks samples in a mode or a decision, and for fewer than
    four problems.
    """
    by_problem: dict[str, list[Outcome]] = {}
    for outcome in gradable(list(outcomes)):
        by_problem.setdefault(outcome.problem_id, []).append(outcome)
    if len(by_problem) < MIN_PROBLEMS:
        raise UserError(
            f"{len(by_problem)} problems with a readable gold are too few to calibrate on: half of them choose the "
            f"threshold and half check it; give at least {MIN_PROBLEMS}, better a thousand"
        )
    measured = []
    for problem_id, rows in by_problem.items():
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
            )
        )
    return tuple(measured)


def halves(problems: Sequence[Measured]) -> tuple[list[Measured], list[Measured]]:
    """Split problems at random, the same way each time: each level's, by a hash of their ids, in turn.

    Returns those to choose on and those held out; no problem's outcome has a part in where it goes.
    """

    def order(problem: Measured) -> tuple[str, str]:
        return problem.level, hashlib.sha256(f"dial/{problem.problem_id}".encode()).hexdigest()

    ordered = sorted(problems, key=order)
    return ordered[::2], ordered[1::2]


def floor_digits(probability: float) -> float:
    """Round down to six digits, as they are written; what reaches a number of six digits does so rounded down too."""
    return float(ROUND_DOWN.create_decimal(repr(float(probability))))


def thresholds(problems: Iterable[Measured]) -> list[float]:
    """The thresholds that tell these problems apart, from always thinking down to the smallest P(no_think)."""
    seen = {floor_digits(problem.no_think_probability) for problem in problems}
    return [ALWAYS_THINK, *sorted(seen, reverse=True)]


# ---- the curve ------------------------------------------------------------------------------------------------------


def curve(problems: Sequence[Measured]) -> tuple[Point, ...]:
    """What every threshold comes to, from always think to always no_think (a threshold of 0)."""
    found = thresholds(problems)
    return points(problems, found if found[-1] == 0 else [*found, 0.0])


def points(problems: Sequence[Measured], chosen: Sequence[float]) -> tuple[Point, ...]:
    """What the `chosen` thresholds come to on `problems`."""
    parts = (chosen[start : start + POINTS_AT_ONCE] for start in range(0, len(chosen), POINTS_AT_ONCE))
    return tuple(point for part in parts for point in _points(problems, np.array(part)))


def _points(problems: Sequence[Measured], threshold_T: Array) -> list[Point]:
    probability_P = np.array([problem.no_think_probability for problem in problems])
    think_P, no_think_P = _means(problems, "think_correct"), _means(problems, "no_think_correct")
    think_tokens_P, no_think_tokens_P = _means(problems, "think_tokens"), _means(problems, "no_think_tokens")
    think_trial_P = np.array([1 / len(problem.think_correct) for problem in problems])
    no_think_trial_P = np.array([1 / len(problem.no_think_correct) for problem in problems])
    direct_TP = probability_P >= threshold_T[:, None]
    accuracy_TP = np.where(direct_TP, no_think_P, think_P)
    tokens_TP = np.where(direct_TP, no_think_tokens_P, think_tokens_P)
    per_trial_T = np.where(direct_TP, no_think_trial_P, think_trial_P).mean(-1)
    share_ends = _ends(share_limits(direct_TP.astype(float), 1.0))
    accuracy_ends = _ends(share_limits(accuracy_TP, per_trial_T))
    tokens_ends = _ends(mean_limits(tokens_TP))
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
            accuracy_difference_interval=difference_ends[t] if threshold <= 1 else (0.0, 0.0),  # the same, not alike
            token_change=float(change_T[t]),
            token_change_interval=(low, high if math.isfinite(high) else None),
        )
        for t, (threshold, (low, high)) in enumerate(zip(threshold_T, _ends(change_limits), strict=True))
    ]


def _means(problems: Sequence[Measured], name: str) -> Array:
    samples = (getattr(problem, name) for problem in problems)
    return np.array([math.fsum(numbers) / len(numbers) for numbers in samples])


def _ends(limits: Sequence[Array]) -> list[Ends]:
    return [(float(low), float(high)) for low, high in zip(*limits, strict=True)]


def thin(whole: Sequence[Point], keep: Iterable[float], count: int = STORED_POINTS) -> tuple[Point, ...]:
    """About `count` points, spread evenly over the problems that a threshold moves, and those at thresholds `keep`."""
    indices = (
        set(np.linspace(0, len(whole) - 1, count).round().astype(int)) if len(whole) > count else range(len(whole))
    )
    wanted = set(keep)
    return tuple(point for index, point in enumerate(whole) if index in indices or point.threshold in wanted)


# ---- the guarantee --------------------------------------------------------------------------------------------------


def bet_logs(values: Array, limit: float, high: float) -> Array:
    """Log of what each of 100 bets makes of each value, (…, bets): log(1 + λ·(limit − value)), λ < 1/(high − limit).

    If the mean of independent values, none above `high`, is `limit` or more, no product over them is expected to
    exceed 1: that of the expectations does not, by the inequality of the means, even if they differ from value to
    value, as between levels. By Markov, the chance that the mean of such products over fixed λ reaches 1/α is at most
    α, whatever the distribution: a p-value. Betting as in Waudby-Smith & Ramdas (2024), but with bets that no order
    of the problems has a part in.
    """
    bets_J = (np.arange(NUM_BETS) + 0.5) / NUM_BETS / (high - limit)
    return np.asarray(np.log1p((limit - values)[..., None] * bets_J))


def p_values(direct: Array, think: Array, limit: float, high: float) -> Array:
    """p-values of "the mean is `limit` or more" if the first 0, 1, … P problems are answered directly, (P + 1,).

    `direct` and `think` hold what each problem counts in either mode, `high` at most. Raises ValueError beyond that.
    """
    if max(direct.max(), think.max()) > high or not limit < high:
        raise ValueError(f"values and the limit {limit} must not exceed {high}, or nothing is guaranteed")
    direct_PJ, think_PJ = bet_logs(direct, limit, high), bet_logs(think, limit, high)
    steps_MJ = np.vstack([np.zeros((1, NUM_BETS)), np.cumsum(direct_PJ - think_PJ, axis=0)])
    log_capital_M = logsumexp(think_PJ.sum(0) + steps_MJ, axis=1) - math.log(NUM_BETS)
    return np.asarray(np.exp(np.minimum(0.0, -log_capital_M)))


def problems_needed(values: Array, limit: float, high: float, alpha: float) -> int | None:
    """How many problems with values like these would show that their mean is below `limit`; None if none would."""
    log_J = bet_logs(values, limit, high).sum(0)
    if log_J.max() <= 0:
        return None
    wanted = math.log(NUM_BETS / alpha)
    times = brentq(lambda n: logsumexp(n * log_J) - wanted, 0, (wanted + 1) / log_J.max())
    return math.ceil(times * len(values))


def choose_loss(problems: Sequence[Measured], tolerance: float, confidence: float = CONFIDENCE) -> Choice:
    """The smallest threshold certified to lose at most `tolerance` of accuracy against always thinking.

    Tested from the largest P(no_think) down on one half of the problems; loss of a problem: mean accuracy of think
    minus that of no_think, if it is answered directly, else 0. Raises ValueError unless 0 < tolerance < 1.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"a tolerance must lie between 0 and 1 (0.01: one point), got {tolerance}")
    choosing, held_out = halves(problems)
    ordered, steps, counts = _steps(choosing)
    loss = _means(ordered, "think_correct") - _means(ordered, "no_think_correct")
    alpha = 1 - confidence
    passed = p_values(loss, np.zeros_like(loss), tolerance, 1.0)[counts] <= alpha
    # The first step stands for all thresholds above these problems, not for thinking only: it has to pass too.
    number = _leading(passed)
    needed = None
    if number < 2:
        tested = np.where(np.arange(len(loss)) < counts[number], loss, 0.0)
        needed = problems_needed(tested, tolerance, 1.0, alpha)
    chosen = steps[number - 1] if number >= 2 else None
    return _choice(Kind.ACCURACY_LOSS, chosen, tolerance, confidence, choosing, held_out, needed)


def choose_budget(
    problems: Sequence[Measured], token_budget: float, cap: int, confidence: float = CONFIDENCE
) -> Choice:
    """The largest threshold certified to take at most `token_budget` tokens a response on average.

    Tested from always no_think up, on one half of the problems. `cap` is the most tokens that a response can have:
    what makes the guarantee possible, and expensive where it is far above the budget. Raises ValueError unless
    0 < token_budget < cap, and for responses beyond the cap.
    """
    if not 0 < token_budget < cap:
        raise ValueError(f"a token budget must lie between 0 and the cap of {cap} tokens, got {token_budget}")
    choosing, held_out = halves(problems)
    ordered, steps, counts = _steps(choosing)
    direct, think = _means(ordered, "no_think_tokens"), _means(ordered, "think_tokens")
    alpha = 1 - confidence
    passed = p_values(direct / cap, think / cap, token_budget / cap, 1.0)[counts] <= alpha
    number = _leading(passed[::-1])
    needed = None if number else problems_needed(direct / cap, token_budget / cap, 1.0, alpha)
    chosen = steps[::-1][number - 1] if number else None
    return _choice(Kind.TOKEN_BUDGET, chosen, token_budget, confidence, choosing, held_out, needed)


def _steps(problems: Sequence[Measured]) -> tuple[list[Measured], list[float], NDArray[np.intp]]:
    """Problems by falling P(no_think), the thresholds by which they differ, and how many of them each takes in."""
    ordered = sorted(problems, key=lambda problem: -problem.no_think_probability)
    steps = thresholds(problems)
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
        no_think_probability=ALWAYS_THINK if certified is None else certified,
        tolerance=limit if kind is Kind.ACCURACY_LOSS else None,
        token_budget=limit if kind is Kind.TOKEN_BUDGET else None,
        confidence=confidence,
        certified=certified is not None,
        num_problems=len(choosing),
        problems_needed=2 * needed if needed else None,
        held_out=None if certified is None else check_held_out(held_out, certified, kind, limit),
    )


def check_held_out(problems: Sequence[Measured], threshold: float, kind: Kind, limit: float) -> HeldOut:
    """What a threshold comes to on problems that had no part in choosing it, and whether its limit holds there."""
    [point] = points(problems, [threshold])
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
        if problem.no_think_probability >= threshold
        else problem.think_correct
        for problem in problems
    }
    return HeldOut(len(problems), point, verdict, share_difference(dialled, think).verdict)


# ---- the whole, and where it is kept --------------------------------------------------------------------------------


def calibrate(
    problems: Sequence[Measured], setting: Setting, name: str, *, tolerance: float, token_budget: float | None = None
) -> Dial:
    """Compute the curve and choose thresholds; with a `token_budget` the threshold in use is the one chosen for it.

    `name` is that of the problem set. Raises ValueError as `choose_loss` and `choose_budget` do.
    """
    choices = [choose_loss(problems, tolerance)]
    if token_budget is not None:
        cap = max(setting.max_think_tokens, setting.max_no_think_tokens)
        choices.append(choose_budget(problems, token_budget, cap))
    return Dial(
        version=VERSION,
        threshold=choices[-1],
        choices=tuple(choices),
        curve=curve(problems),
        fingerprint=setting.fingerprint,
        problems=name,
        num_problems=len(problems),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        setting=setting,
    )


def to_json(dial: Dial) -> dict[str, Any]:
    """As plain dictionaries; docs/dial.md says what each field holds."""
    return asdict(dial)


def write_dial(path: Path, dial: Dial) -> None:
    """Store a dial so that a reader sees the old one or the new one, never half of it."""
    write_json(path, to_json(dial))


def read_dial(path: Path, fingerprint: str | None = None) -> Dial:
    """Read a stored dial; with a `fingerprint`, one of a model with these weights only.

    Raises UserError for a missing or damaged file, one of another version, and one of another model.
    """
    try:
        dial = TypeAdapter(Dial).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"no dial '{path}', so no threshold; make it: adaptthink calibrate MODEL") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise UserError(
            f"{path} holds no dial ({where}: {fault['msg']}); make it again: adaptthink calibrate MODEL"
        ) from None
    if dial.version != VERSION:
        raise UserError(f"{path}: version {dial.version}, but this program reads {VERSION}; calibrate the model again")
    if fingerprint is not None:
        check_weights(dial, fingerprint, path)
    return dial


def check_weights(dial: Dial, fingerprint: str, path: Path) -> None:
    """Raise UserError if the dial in `path` was calibrated for other weights than those with this fingerprint."""
    if dial.fingerprint != fingerprint:
        raise UserError(
            f"{path}: calibrated for other weights (fingerprint {dial.fingerprint}, the model's is {fingerprint}); "
            "a threshold of one model says nothing about another: adaptthink calibrate MODEL"
        )


def stored_threshold(policy: Policy) -> float | None:
    """The threshold in the adaptthink.json beside a model's weights, None if there is none.

    Raises UserError for a damaged file, and for one that was calibrated for other weights.
    """
    path = Path(find_model(policy.name)) / STORED
    return read_dial(path, policy.fingerprint).threshold.no_think_probability if path.is_file() else None


# ---- using it -------------------------------------------------------------------------------------------------------


def decide(policy: Policy, prompts: Sequence[str], threshold: float) -> list[ModeDecision]:
    """The mode of each prompt: no_think where P(no_think), at temperature 1, is at least `threshold`.

    One prefill a prompt on the native engine, many together; prompts are what a user writes, without chat template.
    """
    engine = NativeEngine(policy.model, policy.eos_ids)
    decided = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        ids = [
            encode_prompt(policy.tokenizer, policy.template, text) for text in prompts[start : start + PROMPTS_AT_ONCE]
        ]
        for [logprob] in engine.next_token_logprobs(ids, (policy.template.no_think_id,)):
            probability = math.exp(logprob)
            decided.append(ModeDecision(Mode.NO_THINK if probability >= threshold else Mode.THINK, probability))
    return decided
