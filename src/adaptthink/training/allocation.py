r"""Which samples of a step are worth their tokens: Neyman allocation over modes and problems (ours, not the paper's).

A sample whose advantage is zero teaches nothing, and the longest ones often are such: where R̄_ref = 1, a thought that
leads to the right answer has A = 0. So each sample of the uniform design is drawn with a probability q only, and its
loss weighs 1/q: the expected gradient is that of the uniform design, whatever q (Horvitz and Thompson 1952). For a
given number of tokens its variance is least where q ∝ √(E[A²‖∇‖²] / E[tokens]) (Neyman 1934). A response's gradient is
a mean over its T tokens, whose squared norm falls like 1/T if they point in independent directions, so that

    q ∝ √(E[A²]) / E[T]

with both expectations taken by cell: a mode, and how often the reference model was right on the problem. They are
running means over the last steps of this training; nothing is known before the first steps, which draw everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adaptthink.modes import Mode
from adaptthink.problems import Problem
from adaptthink.sampling.sampler import KeepProbability, Rollout, keep_all
from adaptthink.training.reference import Reference

LEAST = 0.1  # of a probability, so that no weight is beyond 10
FIRST_STEPS = 5  # that draw everything
MEMORY = 0.9  # what a step's observations are still worth one step later
PRIOR_SQUARE = 0.25  # of one imagined sample per cell: no cell is taken for certain

Stratum = str  # "think/always"


@dataclass(frozen=True, slots=True)
class RunningStatistics:
    """What was seen in one cell, as sums over the uniform design: number of samples, A², tokens."""

    samples: float
    squares: float
    tokens: float

    @property
    def worth(self) -> float:
        """√(E[A²]) / E[T], up to a constant factor what Neyman allocation draws in proportion to."""
        square = (self.squares + PRIOR_SQUARE) / (self.samples + 1)
        return math.sqrt(square) * self.samples / self.tokens


def stratum_of(mode: Mode, reference: Reference) -> Stratum:
    """The cell of a sample: its mode, and how often the reference was right."""
    reward = reference.reward
    assert reward is not None  # such problems are not trained on
    often = "always" if reward == 1 else "never" if reward == 0 else "often" if reward >= 0.5 else "seldom"
    return f"{mode}/{often}"


def observe(
    rollouts: Sequence[Rollout], advantages: Iterable[float], reference: Mapping[str, Reference]
) -> dict[Stratum, RunningStatistics]:
    """Sum up what a step saw, each sample weighing as it does in the loss."""
    seen: dict[Stratum, RunningStatistics] = {}
    for rollout, advantage in zip(rollouts, advantages, strict=True):
        cell, weight = stratum_of(rollout.mode, reference[rollout.problem.id]), rollout.weight
        old = seen.get(cell, RunningStatistics(0, 0, 0))
        seen[cell] = RunningStatistics(
            old.samples + weight,
            old.squares + weight * advantage**2,
            old.tokens + weight * len(rollout.response_ids),
        )
    return seen


def update_statistics(
    past: Mapping[Stratum, RunningStatistics], seen: Mapping[Stratum, RunningStatistics]
) -> dict[Stratum, RunningStatistics]:
    """Add what a step saw to what is remembered of those before it."""
    nothing = RunningStatistics(0, 0, 0)
    result = {}
    for cell in sorted(past.keys() | seen.keys()):  # sums over cells must not depend on how this process hashes
        old, new = past.get(cell, nothing), seen.get(cell, nothing)
        result[cell] = RunningStatistics(
            MEMORY * old.samples + new.samples,
            MEMORY * old.squares + new.squares,
            MEMORY * old.tokens + new.tokens,
        )
    return result


def probabilities(moments: Mapping[Stratum, RunningStatistics], token_share: float) -> dict[Stratum, float]:
    """Return q of each cell, in [LEAST, 1], such that `token_share` of the uniform design's tokens are expected.

    Where even LEAST everywhere costs more than that, LEAST is drawn everywhere.
    """
    from scipy.optimize import brentq  # noqa: PLC0415  (slow to import, and off by default)

    total = sum(cell.tokens for cell in moments.values())

    def drawn(scale: float) -> dict[Stratum, float]:
        return {name: min(1.0, max(LEAST, scale * cell.worth)) for name, cell in moments.items()}

    def excess(scale: float) -> float:
        return sum(share * moments[name].tokens for name, share in drawn(scale).items()) - token_share * total

    enough = 1 / min(cell.worth for cell in moments.values())  # draws everything
    if excess(0.0) >= 0 or excess(enough) <= 0:
        return drawn(0.0 if excess(0.0) >= 0 else enough)
    return drawn(float(brentq(excess, 0.0, enough)))


def keep_probability_of(
    moments: Mapping[Stratum, RunningStatistics], token_share: float, reference: Mapping[str, Reference], step: int
) -> KeepProbability:
    """Return the probability with which each sample of a step is drawn."""
    if token_share == 1 or step <= FIRST_STEPS:
        return keep_all
    drawn = probabilities(moments, token_share)

    def keep_probability(problem: Problem, mode: Mode | None) -> float:
        return 1.0 if mode is None else drawn.get(stratum_of(mode, reference[problem.id]), 1.0)

    return keep_probability
