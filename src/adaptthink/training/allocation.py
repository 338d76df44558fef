r"""Which samples of a step are kept: Neyman allocation over modes and problems (ours, not the paper's).

A sample with zero advantage has no gradient, and the longest samples often are such: where R̄_ref = 1, a response that
thinks and is correct has A = 0. So each sample of the uniform design is kept with a probability q only, and its loss is
weighted by 1/q: the expected gradient is that of the uniform design, whatever q (Horvitz and Thompson 1952). For a
given number of tokens its variance is least where q ∝ √(E[A²‖∇‖²] / E[tokens]) (Neyman 1934). A response's gradient is
a mean over its T tokens, whose squared norm falls like 1/T if they point in independent directions, so that

    q ∝ √(E[A²]) / E[T]

with both expectations estimated by stratum: a mode, and how often the reference model was correct on the problem. The
estimates are running means over the last steps of this training; the first steps keep every sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from adaptthink.errors import UserError
from adaptthink.modes import Mode
from adaptthink.problems import Problem
from adaptthink.sampling.sampler import KeepProbability, Rollout, keep_all
from adaptthink.training.metrics import Metrics
from adaptthink.training.reference import Reference

MIN_PROBABILITY = 0.1  # so that no weight is beyond 10
UNIFORM_STEPS = 5  # the first steps, which keep every sample
DECAY = 0.9  # of what earlier steps count, from one step to the next
PRIOR_SQUARE = 0.25  # A² of one prior sample per stratum, so that a stratum with few samples keeps a value above 0

Stratum = str  # "think/always"


@dataclass(frozen=True, slots=True)
class RunningStatistics:
    """Sums over the samples of one stratum, as the uniform design would have them: number, A², tokens."""

    samples: float
    squares: float
    tokens: float

    @property
    def value(self) -> float:
        """√(E[A²]) / E[T], to which Neyman allocation keeps the probability proportional."""
        square = (self.squares + PRIOR_SQUARE) / (self.samples + 1)
        return math.sqrt(square) * self.samples / self.tokens


@dataclass(slots=True)
class Allocation:
    """Plans which samples of a step are kept, and learns from those that were; `reference` is by problem id."""

    token_share: float
    reference: Mapping[str, Reference]
    statistics: Mapping[Stratum, RunningStatistics]

    def plan(self, step: int) -> KeepProbability:
        """Return the probability with which each sample of a step is kept."""
        if self.token_share == 1 or step <= UNIFORM_STEPS:
            return keep_all
        by_stratum = solve_probabilities(self.statistics, self.token_share)

        def keep_probability(problem: Problem, mode: Mode | None) -> float:
            return 1.0 if mode is None else by_stratum.get(find_stratum(mode, self.reference[problem.id]), 1.0)

        return keep_probability

    def learn(self, rollouts: Sequence[Rollout], advantages: Iterable[float]) -> Metrics:
        """Take a step into the statistics; return its own, which the log keeps for `restore_statistics`."""
        own = sum_strata(rollouts, advantages, self.reference)
        self.statistics = update_statistics(self.statistics, own)
        return {stratum: asdict(sums) for stratum, sums in own.items()}


def find_stratum(mode: Mode, reference: Reference) -> Stratum:
    """Return the stratum of a sample: its mode, and how often the reference was correct."""
    reward = reference.reward
    assert reward is not None  # such problems are not trained on
    often = "always" if reward == 1 else "never" if reward == 0 else "often" if reward >= 0.5 else "seldom"
    return f"{mode}/{often}"


def sum_strata(
    rollouts: Sequence[Rollout], advantages: Iterable[float], reference: Mapping[str, Reference]
) -> dict[Stratum, RunningStatistics]:
    """Sum up a step's rollouts by stratum, weighted as in the loss."""
    sums: dict[Stratum, RunningStatistics] = {}
    for rollout, advantage in zip(rollouts, advantages, strict=True):
        stratum, weight = find_stratum(rollout.mode, reference[rollout.problem.id]), rollout.weight
        old = sums.get(stratum, RunningStatistics(0, 0, 0))
        sums[stratum] = RunningStatistics(
            old.samples + weight,
            old.squares + weight * advantage**2,
            old.tokens + weight * len(rollout.response_ids),
        )
    return sums


def update_statistics(
    past: Mapping[Stratum, RunningStatistics], own: Mapping[Stratum, RunningStatistics]
) -> dict[Stratum, RunningStatistics]:
    """Add a step's own sums to those of the steps before it, which count less with each step."""
    nothing = RunningStatistics(0, 0, 0)
    result = {}
    # Sorted, because sums over strata must not depend on how this process hashes text.
    for stratum in sorted(past.keys() | own.keys()):
        old, new = past.get(stratum, nothing), own.get(stratum, nothing)
        result[stratum] = RunningStatistics(
            DECAY * old.samples + new.samples,
            DECAY * old.squares + new.squares,
            DECAY * old.tokens + new.tokens,
        )
    return result


def restore_statistics(rows: Iterable[Metrics]) -> dict[Stratum, RunningStatistics]:
    """Return the running statistics after the steps of a log.

    Raises UserError for a log without them, of an older version: later steps would silently keep other samples.
    """
    statistics: dict[Stratum, RunningStatistics] = {}
    for row in rows:
        if "strata" not in row:
            raise UserError(
                f"cannot resume: step {row['step']} was logged by an older version, without the statistics that decide "
                "which samples later steps keep; resume with that version, or start again with --clean or another "
                "--output"
            )
        try:
            own = {stratum: RunningStatistics(**sums) for stratum, sums in row["strata"].items()}
            statistics = update_statistics(statistics, own)
        except (TypeError, AttributeError) as error:
            raise UserError(
                f"cannot resume: the statistics that step {row['step']} logged are damaged ({error}); restore "
                "metrics.jsonl, or start again with --clean or another --output"
            ) from None
    return statistics


def solve_probabilities(statistics: Mapping[Stratum, RunningStatistics], token_share: float) -> dict[Stratum, float]:
    """Return q of each stratum, in [MIN_PROBABILITY, 1], that keeps `token_share` of the uniform design's tokens.

    The share is met in expectation. Where MIN_PROBABILITY everywhere keeps more than that, it is q everywhere.
    """
    from scipy.optimize import brentq  # noqa: PLC0415  (slow to import, and off by default)

    total = sum(sums.tokens for sums in statistics.values())

    def scaled(scale: float) -> dict[Stratum, float]:
        return {name: min(1.0, max(MIN_PROBABILITY, scale * sums.value)) for name, sums in statistics.items()}

    def excess_tokens(scale: float) -> float:
        return sum(q * statistics[name].tokens for name, q in scaled(scale).items()) - token_share * total

    largest = 1 / min(sums.value for sums in statistics.values())  # keeps every sample
    if excess_tokens(0.0) >= 0 or excess_tokens(largest) <= 0:
        return scaled(0.0 if excess_tokens(0.0) >= 0 else largest)
    return scaled(float(brentq(excess_tokens, 0.0, largest)))
