"""A step's rollouts as methods and metrics get them: without text, small enough to be sent between processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import fsum

from adaptthink.grading import Verdict, compute_reward
from adaptthink.modes import Mode
from adaptthink.sampling.sampler import Rollout


@dataclass(frozen=True, slots=True)
class RolloutSummary:
    """What methods and metrics need of one rollout; small, so that it can be sent between processes."""

    problem_id: str
    mode: Mode
    verdict: Verdict
    tokens: int
    decision_logprob: float  # of the first token, under the policy that sampled, in nats
    weight: float = 1.0  # in the loss
    own_reward: float | None = None  # of a reward function of the user's own
    thinking_tokens: int = 0  # of `tokens`, those before the close token
    logprob: float | None = None  # of the whole response under the policy that sampled, in nats; None: not known
    initial_logprob: float | None = None  # the same under the model before training

    @property
    def reward(self) -> float | None:
        """R(x, y); None for a response that could not be graded."""
        if not self.verdict.has_reward:
            return None
        return compute_reward(self.verdict) if self.own_reward is None else self.own_reward

    @property
    def answer_tokens(self) -> int:
        """How many tokens follow the close token; 0 where the thinking never ended."""
        return max(0, self.tokens - self.thinking_tokens - 1)


def summarise_rollout(rollout: Rollout) -> RolloutSummary:
    """Return what methods and metrics need of a rollout."""
    return RolloutSummary(
        rollout.problem.id,
        rollout.mode,
        rollout.verdict,
        len(rollout.response_ids),
        rollout.behavior_logprobs[0] - rollout.within_mode,
        rollout.weight,
        rollout.grade.own_reward,
        rollout.response.thinking_tokens,
        fsum(rollout.behavior_logprobs),
        fsum(rollout.initial_logprobs) if rollout.initial_logprobs else None,
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """All rollouts of a step, those of a problem one after the other, and how far the training is."""

    rollouts: Sequence[RolloutSummary]
    references: Sequence[float | None]  # R̄_ref of each one's problem; None where that cannot be graded
    progress: float  # the share of the training's steps that are done, from 0 to below 1

    def by_problem(self) -> Iterator[tuple[list[RolloutSummary], float | None]]:
        """Yield each problem's rollouts and its R̄_ref, in order."""
        pairs = zip(self.rollouts, self.references, strict=True)
        for _, group in groupby(pairs, key=lambda pair: pair[0].problem_id):
            rollouts, references = zip(*group, strict=True)
            yield list(rollouts), references[0]
