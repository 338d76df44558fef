"""O1-Pruner (arXiv 2501.12570, Eq. 11): shorter than the model before training, and no less accurate.

Of a response y to a problem whose K stored responses have mean length L̄ and mean reward Ā,

    R(y) = L̄/L(y) − 1 + λ·(A(y) − Ā),

and the loss is PPO's, −min(r·R, clip(r, 1−ε, 1+ε)·R), with r = π/π_ref to the model before training.

As in the official code, and not in the paper: r is a mean over tokens in the exponent, R is clipped to [−2, 4] and then
standardised. Guessed: all K responses are learned from, not 2 of 12 or 16, and R is standardised over a step instead of
the whole data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import ClassVar

from adaptthink.config.schema import TrainConfig
from adaptthink.modes import Mode
from adaptthink.training.batch import Batch, RolloutSummary
from adaptthink.training.credit import Credit, assign_evenly
from adaptthink.training.offline import Offline, get_initial_logprob, get_logprob

LOWEST, HIGHEST = -2.0, 4.0  # of R


@dataclass(frozen=True, slots=True)
class O1Pruner(Offline):
    """The length-harmonising reward of stored responses, off-policy with a clipped ratio."""

    accuracy: float = 2.0  # λ

    reads: ClassVar = frozenset({"clip"})

    @property
    def initial_modes(self) -> frozenset[Mode]:
        """Both."""
        return frozenset(Mode)

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give each token r·R/T, or nothing where the clip holds; none for what could not be graded."""
        rewards = [reward for group, _ in batch.by_problem() for reward in self.compute_rewards(group)]
        known = [reward for reward in rewards if reward is not None] or [0.0]
        mean, deviation = fmean(known), pstdev(known) or 1.0
        return assign_evenly(
            0.0 if reward is None else compute_credit(one, (reward - mean) / deviation, config.clip)
            for one, reward in zip(batch.rollouts, rewards, strict=True)
        )

    def compute_rewards(self, group: Sequence[RolloutSummary]) -> list[float | None]:
        """Return R of each response to a problem, clipped; None for one that could not be graded."""
        graded = [one.reward for one in group if one.reward is not None] or [0.0]
        length, accuracy = fmean(one.tokens for one in group), fmean(graded)
        return [
            None
            if one.reward is None
            else min(HIGHEST, max(LOWEST, length / one.tokens - 1 + self.accuracy * (one.reward - accuracy)))
            for one in group
        ]


def compute_credit(one: RolloutSummary, reward: float, clip: float) -> float:
    """Return the weight of each token in the gradient of a response's clipped loss."""
    ratio = math.exp((get_logprob(one) - get_initial_logprob(one)) / one.tokens)
    is_clipped = ratio > 1 + clip if reward > 0 else ratio < 1 - clip
    return 0.0 if is_clipped else ratio * reward / one.tokens


METHOD = O1Pruner
