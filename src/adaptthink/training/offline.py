"""What the methods share that learn from stored responses (`Method.from_store`).

A step's rollouts are stored responses of its problems, scored by the policy as it is (`replay.py`). One update follows,
so with credit c on a token the gradient is exactly −c·∇log π of it, and every offline loss is a rule for c: of a loss
that depends on the tokens' log π, c is minus its derivative, times the step's number of rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor

from adaptthink.config.schema import TrainConfig
from adaptthink.grading import Verdict
from adaptthink.modes import Mode
from adaptthink.objective import PolicyLoss
from adaptthink.sampling.sampler import Rollout, Sampler
from adaptthink.training.batch import Batch, RolloutSummary
from adaptthink.training.credit import Credit, assign_evenly


@dataclass(frozen=True, slots=True)
class StoredRollouts:
    """The stored responses to one problem: unconstrained ones, and those that were forced not to think."""

    unconstrained: Sequence[Rollout]
    no_think: Sequence[Rollout]


@dataclass(frozen=True, slots=True)
class Offline:
    """A method that learns from stored responses; nothing is sampled, so no setting of the sampling is read."""

    reads: ClassVar[frozenset[str]] = frozenset()
    samples_from_is: ClassVar = False
    from_store: ClassVar = True
    needs_no_think: ClassVar = False  # whether the store must have forced no_think responses

    @property
    def initial_modes(self) -> frozenset[Mode]:
        """None."""
        return frozenset()

    def check(self, config: TrainConfig) -> None:
        """Accept all settings."""

    def assign_modes(self, config: TrainConfig) -> Sequence[Mode | None]:
        """Return none: nothing is sampled."""
        return ()

    def choose_rollouts(self, groups: Sequence[StoredRollouts], sampler: Sampler, config: TrainConfig) -> list[Rollout]:
        """Return what the step learns from, of the responses to each of its problems: all unconstrained ones."""
        return [one for group in groups for one in group.unconstrained]

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Return the credit of the step's rollouts."""
        raise NotImplementedError

    def compute_loss(
        self, logprob_BT: Tensor, behavior_BT: Tensor, credit_BT: Tensor, mask_BT: Tensor, config: TrainConfig
    ) -> PolicyLoss:
        """Return −credit·log π, summed over a sequence's tokens: of supervised tuning the cross-entropy itself."""
        loss_B = torch.where(mask_BT, -credit_BT * logprob_BT, 0.0).sum(-1)
        return PolicyLoss(loss_B, torch.zeros_like(loss_B))


@dataclass(frozen=True, slots=True)
class SimPO(Offline):
    """Pairs of responses under SimPO (arXiv 2405.14734, Eq. 6): −log σ(m), m = β·(l(chosen) − l(rejected)) − γ.

    l is the mean of a response's log π over its tokens; `gamma` is γ/β, as that paper tunes it.
    """

    beta: float = 2.0
    gamma: float = 0.3

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give a pair ±β·σ(−m), divided by each one's tokens."""
        weights = [1 / one.tokens for one in batch.rollouts]
        values = [get_logprob(one) / one.tokens for one in batch.rollouts]
        return credit_pairs(values, weights, self.beta, self.beta * self.gamma)


def credit_pairs(values: Sequence[float], weights: Sequence[float], beta: float, margin: float = 0.0) -> list[Credit]:
    """Return the credit under the mean over pairs of −log σ(m), m = β·(value of the chosen − of the rejected) − margin.

    The rollouts are chosen, rejected, chosen, rejected, …; a value is `weight` times its response's log π, plus what
    does not depend on the policy.
    """
    credits = []
    for first in range(0, len(values), 2):
        m = beta * (values[first] - values[first + 1]) - margin
        strength = 2 * beta * (1 - math.tanh(m / 2)) / 2  # σ(−m); two rollouts for each pair
        credits += [strength * weights[first], -strength * weights[first + 1]]
    return assign_evenly(credits)


def flatten_pairs(pairs: Iterable[tuple[Rollout, Rollout]]) -> list[Rollout]:
    """Return the rollouts of (chosen, rejected) pairs, one after the other."""
    return list(chain.from_iterable(pairs))


def get_logprob(one: RolloutSummary) -> float:
    """Return log π of a whole response, which replayed rollouts have."""
    assert one.logprob is not None
    return one.logprob


def get_initial_logprob(one: RolloutSummary) -> float:
    """Return log π of a whole response before the training, which rollouts of a method's `initial_modes` have."""
    assert one.initial_logprob is not None
    return one.initial_logprob


def select_correct(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Return the rollouts whose answer is right."""
    return [one for one in rollouts if one.verdict is Verdict.CORRECT]


def count_tokens(one: Rollout) -> int:
    """Return the length of a rollout's response."""
    return len(one.response_ids)
