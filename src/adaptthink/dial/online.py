"""A dial that goes on learning while a model serves, with a guarantee that holds at every moment.

Requests come one after the other, feedback on some of them later. A policy on a fixed descending grid of thresholds is
in use; each explores: above its threshold it thinks with a small share, below it answers directly with another. Inverse
weights of these known shares make each answer with feedback an unbiased estimate of what *every* policy of the grid
loses against always thinking. Each policy has a test by betting that it loses `tolerance` or more, and may be used once
its own and all before it were rejected. docs/explanation/dial_online.md has the assumptions, the proofs and what was
measured.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import numpy as np

from adaptthink.dial.anytime import (
    NUM_BETS,
    average_logs,
    compute_factors,
    compute_log_wealth,
    compute_running_limits,
)
from adaptthink.dial.curve import ALWAYS_THINK, Array, Ends, Measured
from adaptthink.errors import UserError
from adaptthink.evaluation.statistics import CONFIDENCE
from adaptthink.modes import Mode
from adaptthink.storage.jsonl import read_object
from adaptthink.storage.records import Count as Number
from adaptthink.storage.records import Probability, from_json, to_json
from adaptthink.storage.runs import write_json

VERSION = 1
REMEDY = "restore the file, or begin a new one"
THRESHOLDS = (0.9999, 0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1)


@dataclass(frozen=True, slots=True)
class OnlineDecision:
    """The mode of one request, and how it was sampled."""

    number: int  # by which feedback names the request
    mode: Mode
    no_think_probability: float
    threshold: float  # in use at the time; ALWAYS_THINK if none
    mode_probability: float  # with which this mode was sampled
    explored: bool  # whether it is the other mode than the threshold's


@dataclass(slots=True)
class Waiting:
    """A request that feedback may still come for, or that waits for one before it."""

    number: Number
    bin: Number
    step: Number  # the policy in use when its mode was sampled
    mode: Mode
    closed: bool = False
    correct: Probability | None = None  # a share; None: no feedback
    name: str = ""  # what the caller knows the request by


@dataclass(slots=True)
class Count:
    """Settled requests of one bin of P(no_think) that were answered in one mode."""

    requests: Number = 0
    with_feedback: Number = 0
    correct: float = 0.0

    @property
    def guess(self) -> float:
        """The accuracy to expect of the next, from earlier ones only."""
        return (self.correct + 0.5) / (self.with_feedback + 1)


@dataclass(slots=True)
class Bin:
    """Requests with P(no_think) between two neighbours of the grid."""

    think: Count = field(default_factory=Count)
    no_think: Count = field(default_factory=Count)


@dataclass(slots=True)
class Step:
    """What is known of the policy with one threshold of the grid: logs of the capital of each bet."""

    certified: bool = False
    safe: list[float] = field(default_factory=lambda: [0.0] * NUM_BETS)  # on a loss below the tolerance
    alarm: list[float] = field(default_factory=lambda: [0.0] * NUM_BETS)  # above it, since it was certified


@dataclass(slots=True)
class Use:
    """What was lost in use, over the requests with feedback; see `anytime.compute_running_limits`."""

    number: Number = 0
    total: float = 0.0
    slack: float = 0.0
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class StepReport:
    """One threshold: `evidence` against a loss of the tolerance or more certifies it at log(1 / (1 - confidence))."""

    threshold: float
    certified: bool
    evidence: float
    alarm: float  # evidence for a loss above the tolerance, which withdraws it at log(patience)


@dataclass(frozen=True, slots=True)
class OnlineReport:
    """What an online dial has seen. Losses are shares of answers, against always thinking."""

    threshold: float  # in use; ALWAYS_THINK if none
    held_back: bool  # whether a certified threshold is not used as too much may have been lost so far
    requests: int
    waiting: int
    with_feedback: int
    withdrawals: int
    loss: float | None  # estimated mean of what was in use so far, always thinking as 0; None without feedback
    loss_limits: Ends  # at the dial's confidence for all times together, also under drift
    steps: tuple[StepReport, ...]
    bins: tuple[tuple[float, Bin], ...]  # from the bin above the first threshold down; the number is its lower end


@dataclass(slots=True)
class OnlineDial:
    """A threshold on P(no_think) that feedback moves, at most `tolerance` below always thinking at every moment.

    Settings come first, then the state, all of it: `write` and `read` bring back one that decides alike.
    `learn` lets it start from a calibration's problems. With `confidence`, no policy that loses more than `tolerance`
    (a share: 0.05 is five points) is ever in use while requests stay of one kind; and whatever they become, what was
    lost so far is within it, but for the answers that still wait (docs/explanation/dial_online.md).

    Raises UserError for settings that guarantee nothing.

    >>> import adaptthink as at
    >>> dial = at.OnlineDial(tolerance=0.05, thresholds=(0.9, 0.5))
    >>> decision = dial.decide(0.97)
    >>> decision.mode, decision.threshold  # nothing is certified yet
    (<Mode.THINK: 'think'>, 2.0)
    >>> dial.give_feedback(decision.number, correct=True)
    True
    >>> dial.report().with_feedback
    1
    """

    tolerance: float = 0.05
    thresholds: tuple[float, ...] = THRESHOLDS  # descending; below the last one nothing is ever answered directly
    confidence: float = CONFIDENCE
    explore_think: float = 0.1  # share of thoughts at and above the threshold in use
    explore_direct: float = 0.0  # of direct answers from there down to the last threshold; 0: half the tolerance
    window: int = 1000  # requests after which feedback no longer counts
    patience: float = 10_000  # requests with feedback before a threshold that loses `tolerance` is withdrawn by chance
    allowance: float = 0.0  # answers that may be lost beyond the tolerance, so that use can begin without a reserve
    seed: int = 0  # of the draws; keep it from those who send requests
    fingerprint: str = ""  # of the model that answers (`Policy.fingerprint`), for the caller to compare
    version: int = VERSION
    number: Number = 0  # of requests so far
    withdrawals: Number = 0
    steps: list[Step] = field(default_factory=list)
    bins: list[Bin] = field(default_factory=list)
    use: Use = field(default_factory=Use)
    waiting: list[Waiting] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.explore_direct = self.explore_direct or self.tolerance / 2
        self.steps = self.steps or [Step() for _ in self.thresholds]
        self.bins = self.bins or [Bin() for _ in range(len(self.thresholds) + 1)]
        check_dial(self)

    # ---- deciding ---------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The policy in use: 0 always thinks but for exploration, k has the k-th threshold."""
        step = count_certified(self.steps)
        return step if step and not self.held_back else 0

    @property
    def held_back(self) -> bool:
        """Whether more than the tolerance may have been lost so far, so that no threshold is used."""
        use = self.use
        spare = self.tolerance * use.number + self.allowance - use.total - use.slack
        return compute_log_wealth(spare / use_scale(self), use.spread) < math.log(2 / (1 - self.confidence))

    def decide(self, no_think_probability: float, *, name: str = "") -> OnlineDecision:
        """Draw the mode of the next request. Raises UserError for what is no probability.

        A `name` is kept with the request as long as it waits for feedback.
        """
        check_probability(no_think_probability)
        self.number += 1
        while self.waiting and self.waiting[0].number <= self.number - self.window:
            self.waiting[0].closed = True
            self._settle()
        step, position = self.step, find_bin(self.thresholds, no_think_probability)
        no_think = float(make_policies(self)[step, position])
        mode = Mode.NO_THINK if draw(self.seed, self.number) < no_think else Mode.THINK
        self.waiting.append(Waiting(self.number, position, step, mode, name=name))
        return OnlineDecision(
            self.number,
            mode,
            no_think_probability,
            self.thresholds[step - 1] if step else ALWAYS_THINK,
            no_think if mode is Mode.NO_THINK else 1 - no_think,
            (mode is Mode.NO_THINK) != (position < step),
        )

    # ---- learning ---------------------------------------------------------------------------------------------------

    def give_feedback(self, number: int, *, correct: float | None) -> bool:
        """Say whether a request was answered rightly, in [0, 1]; None if that will not become known.

        Returns whether it counts: not if it came after the window. Requests are settled in their order, so one may
        wait for those before it. Raises UserError for a number that was not given out, for another verdict on a request
        than was given before, and for what is no share.
        """
        if correct is not None and not 0 <= correct <= 1:
            raise UserError(f"feedback is 1 for right, 0 for wrong, or a share between them, got {correct}")
        if not 1 <= number <= self.number:
            raise UserError(f"feedback on request {number}, but the dial has decided {self.number} (from 1 on)")
        if not self.waiting or number < self.waiting[0].number:
            return False
        one = self.waiting[number - self.waiting[0].number]
        if one.closed and one.correct != correct:
            raise UserError(f"feedback on request {number} was {one.correct}, and is now {correct}; one may be given")
        one.closed, one.correct = True, None if correct is None else float(correct)
        self._settle()
        return True

    def learn(self, problems: Sequence[Measured]) -> None:
        """Begin with problems that were answered in both modes, such as a calibration's, all of them.

        Their mean losses are exact, so a few hundred do what thousands of explored requests would. They must be like
        the requests to come. Raises UserError once requests were decided.
        """
        if self.number:
            raise UserError("a dial can learn from problems before its first request only; begin a new one")
        policies = make_policies(self)[1:]
        capital = np.array([step.safe for step in self.steps])
        for problem in problems:
            check_probability(problem.no_think_probability)
            position = find_bin(self.thresholds, problem.no_think_probability)
            means = {}
            for mode, correct in ((Mode.THINK, problem.think_correct), (Mode.NO_THINK, problem.no_think_correct)):
                means[mode] = math.fsum(correct) / len(correct)
                count = find_count(self.bins[position], mode)
                count.with_feedback, count.correct = count.with_feedback + 1, count.correct + means[mode]
            loss = policies[:, position] * (means[Mode.THINK] - means[Mode.NO_THINK])
            capital += compute_factors(loss, self.tolerance, np.ones_like(loss))
        self._certify(capital)

    def _settle(self) -> None:
        """Learn from the first requests that wait for nothing any more, in their order."""
        while self.waiting and self.waiting[0].closed:
            self._learn_one(self.waiting.pop(0))

    def _learn_one(self, one: Waiting) -> None:
        count = find_count(self.bins[one.bin], one.mode)
        count.requests += 1
        if one.correct is None:
            return
        policies = make_policies(self)
        no_think = float(policies[one.step, one.bin])
        gain = estimate_gain(self.bins[one.bin], one.mode, one.correct, no_think) if no_think else 0.0
        losses, bounds = policies[1:, one.bin] * gain, bound_losses(policies, one.step)
        self._count_use(one.step, no_think, gain)
        count.with_feedback += 1
        count.correct += one.correct
        safe = np.array([step.safe for step in self.steps])
        self._certify(safe + compute_factors(losses, self.tolerance, bounds))
        self._watch(losses, bounds)

    def _count_use(self, step: int, no_think: float, gain: float) -> None:
        use = self.use
        if step == 0:
            use.slack += no_think  # the most that it can lose, in place of an estimate
        else:
            use.spread += ((no_think * gain - predict_loss(use)) / use_scale(self)) ** 2
            use.total += no_think * gain
        use.number += 1

    def _certify(self, safe: Array) -> None:
        reached = average_logs(safe) >= -math.log(1 - self.confidence)
        for step, capital, enough in zip(self.steps, safe, reached, strict=True):
            step.safe = capital.tolist()
            step.certified |= bool(enough)

    def _watch(self, losses: Array, bounds: Array) -> None:
        """Withdraw the first threshold that the evidence has turned against, and with it all behind."""
        factors = compute_factors(-losses, -self.tolerance, bounds)
        for index in range(count_certified(self.steps)):
            alarm = np.logaddexp(0.0, np.array(self.steps[index].alarm) + factors[index])
            self.steps[index].alarm = alarm.tolist()
            if average_logs(alarm) >= math.log(self.patience):
                self.withdrawals += 1
                self.steps[index:] = [withdraw(step) for step in self.steps[index:]]
                return

    # ---- state ------------------------------------------------------------------------------------------------------

    def write(self, path: str | Path) -> None:
        """Store everything, so that a reader sees the old state or the new one, never half of it."""
        write_json(Path(path), to_json(self))

    @classmethod
    def read(cls, path: str | Path) -> OnlineDial:
        """Read what `write` stored; raises UserError for a missing or damaged file, or one of another version."""
        path = Path(path)
        try:
            found = read_object(path, remedy=REMEDY)
            version = found.get("version", VERSION)
            if version != VERSION:
                raise UserError(f"{path}: version {version}, but this program reads {VERSION}; begin a new online dial")
            dial = from_json(cls, found)
            if to_json(dial) != found:  # what is missing would be made anew, and what was learned be lost
                raise ValueError("it is not all that was written")
        except FileNotFoundError:
            raise UserError(f"no online dial '{path}'; begin a new one: OnlineDial(tolerance=…)") from None
        except ValueError as error:
            raise UserError(f"{path} holds no online dial ({error}); {REMEDY}") from None
        return dial

    def report(self) -> OnlineReport:
        """Return what the dial has seen, for people to see drift."""
        use, step = self.use, self.step
        alpha = 1 - self.confidence
        return OnlineReport(
            threshold=self.thresholds[step - 1] if step else ALWAYS_THINK,
            held_back=bool(count_certified(self.steps)) and self.held_back,
            requests=self.number,
            waiting=len(self.waiting),
            with_feedback=use.number,
            withdrawals=self.withdrawals,
            loss=use.total / use.number if use.number else None,
            loss_limits=compute_running_limits(use.total, use.slack, use.spread, use_scale(self), use.number, alpha),
            steps=tuple(
                StepReport(
                    threshold,
                    one.certified,
                    float(average_logs(np.array(one.safe))),
                    float(average_logs(np.array(one.alarm))),
                )
                for threshold, one in zip(self.thresholds, self.steps, strict=True)
            ),
            bins=tuple(zip((*self.thresholds, 0.0), self.bins, strict=True)),
        )


# ---- policies and estimates -----------------------------------------------------------------------------------------


def make_policies(dial: OnlineDial) -> Array:
    """Probability of no_think of each policy (0: always think) in each bin of P(no_think), (steps + 1, bins)."""
    number = len(dial.thresholds)
    step_S1, bin_B = np.arange(number + 1)[:, None], np.arange(number + 1)
    above = np.where(bin_B < step_S1, 1 - dial.explore_think, dial.explore_direct)
    return np.where(bin_B < number, above, 0.0)


def bound_losses(policies: Array, step: int) -> Array:
    """Return what no estimated loss of policies 1, 2, … exceeds, either way, while `step` is in use."""
    explored = policies[step, :-1]
    return np.asarray((policies[1:, :-1] / np.minimum(explored, 1 - explored)).max(axis=1))


def estimate_gain(counts: Bin, mode: Mode, correct: float, no_think: float) -> float:
    """Estimate how much more often thinking is right than a direct answer, from an answer in one mode.

    Unbiased where the mode was sampled with the probability `no_think`, whatever the guesses, which narrow the spread
    only (augmented inverse-propensity weights, Robins et al. 1994). At most 1 over the lesser of the two probabilities.
    """
    think, direct = counts.think.guess, counts.no_think.guess
    if mode is Mode.THINK:
        return think - direct + (correct - think) / (1 - no_think)
    return think - direct - (correct - direct) / no_think


def use_scale(dial: OnlineDial) -> float:
    """Return the most by which an estimated loss of a policy in use may differ from its prediction.

    The estimate is at most (1 - explore_think) / explore_think either way, a prediction 1.
    """
    return 1 / dial.explore_think


def predict_loss(use: Use) -> float:
    """Return the loss in use to expect of the next request."""
    return min(1.0, max(-1.0, use.total / use.number)) if use.number else 0.0


def withdraw(step: Step) -> Step:
    """Return a step that has to be certified again. Capital is only taken away, so no second chance arises."""
    safe = np.array(step.safe)
    return Step(safe=(safe - max(0.0, average_logs(safe))).tolist())


def count_certified(steps: Sequence[Step]) -> int:
    """Return how many steps are certified before the first that is not."""
    return next((index for index, step in enumerate(steps) if not step.certified), len(steps))


def find_bin(thresholds: Sequence[float], no_think_probability: float) -> int:
    """Return the index of the first threshold that is reached; their number if none is."""
    return bisect_left(thresholds, -no_think_probability, key=lambda threshold: -threshold)


def find_count(counts: Bin, mode: Mode) -> Count:
    """Return the count of one mode."""
    return counts.think if mode is Mode.THINK else counts.no_think


def draw(seed: int, number: int) -> float:
    """Return a number in [0, 1) that follows from the seed and the request's number, so a restart changes nothing."""
    return int.from_bytes(blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()) / 2**64


# ---- checks ---------------------------------------------------------------------------------------------------------


def check_probability(value: float) -> None:
    """Raise UserError for what is no probability."""
    if not 0 <= value <= 1:
        raise UserError(f"P(no_think) is a probability between 0 and 1, got {value}")


def check_dial(dial: OnlineDial) -> None:
    """Raise UserError for settings that guarantee nothing, and for a state that does not fit them."""
    thresholds = dial.thresholds
    if not 0 < dial.tolerance < 1:
        raise UserError(f"the tolerance is a share between 0 and 1 (0.05: five points), got {dial.tolerance}")
    if not thresholds or not all(0 < one <= 1 for one in thresholds):
        raise UserError(f"thresholds must lie in (0, 1], at least one of them, got {thresholds}")
    if any(high <= low for high, low in pairwise(thresholds)):
        raise UserError(f"thresholds must fall from each to the next, got {thresholds}")
    if not 0 < dial.confidence < 1:
        raise UserError(f"the confidence must lie between 0 and 1, got {dial.confidence}")
    if not 0 < dial.explore_think <= 0.5:
        raise UserError(
            f"explore_think must be above 0 and at most 0.5, got {dial.explore_think}: without exploration nothing is "
            "learned"
        )
    most = min(dial.tolerance, 0.5)
    if not 0 < dial.explore_direct <= most:
        raise UserError(
            f"explore_direct must be above 0 and at most {most}, got {dial.explore_direct}: it may cost that much "
            f"before anything is known, where {dial.tolerance} is tolerated"
        )
    if dial.window < 1 or not dial.patience >= 1 or not dial.allowance >= 0:
        raise UserError("window and patience must be at least 1, allowance at least 0")
    sizes = {len(bets) for step in dial.steps for bets in (step.safe, step.alarm)}
    counts = [find_count(one, mode) for one in dial.bins for mode in Mode]
    numbers = [one.number for one in dial.waiting]
    fits = (
        (len(dial.steps), len(dial.bins), sizes) == (len(thresholds), len(thresholds) + 1, {NUM_BETS})
        and all(one.correct <= one.with_feedback for one in counts)
        and all(one.bin < len(dial.bins) and one.step <= len(thresholds) for one in dial.waiting)
        and numbers == list(range(dial.number - len(numbers) + 1, dial.number + 1))  # by which feedback finds them
    )
    if not fits:
        raise UserError("the state of the online dial does not fit its thresholds; restore the file, or begin anew")
