"""DeGRPO of Thinkless (arXiv 2505.13379): the decision's weight is set apart from that of the tokens behind it.

A correct no_think answer earns 1, a correct thought `think_reward`, anything wrong −1. A response's advantage A is its
reward less the mean of its problem's, not divided by a deviation, and the objective is

    alpha · mean over responses of A·log π(decision) + mean over the step's other tokens of A·log π(token)

as the official code has it (`compute_policy_loss`); the paper takes the mean of each response's tokens first.

Transplanted: Thinkless first tunes the model on both modes, then samples decisions freely. Without that, P(no_think) is
near 0, so modes are forced, half and half; no_think_share = 0 is theirs. The decision's gradient has no ratio: π/½
would make it vanish at such a start (`decision_loss`). Their alpha of 0.001 is about what a decision weighs among
thoughts of a thousand tokens; 0.03 is that for thoughts of thirty. Rewards between 0 and 1 are interpolated. Left out:
their KL term (0.001) and entropy bonus (0.001).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from adaptthink.config.schema import METHOD_KEYS, TrainConfig
from adaptthink.modes import Mode
from adaptthink.objective import PolicyLoss, decision_loss
from adaptthink.training.advantages import compare_within_problems, subtract_mean
from adaptthink.training.batch import Batch, RolloutSummary
from adaptthink.training.credit import Credit, compute_token_scale
from adaptthink.training.methods.grpo import Grpo


@dataclass(frozen=True, slots=True)
class DeGrpo(Grpo):
    """Group advantages of rewards that favour short answers, the decision weighted apart; see the module."""

    alpha: float = 0.03
    think_reward: float = 0.5  # of a correct thought

    reads: ClassVar = METHOD_KEYS - {"delta", "ratio", "token_share"}
    samples_from_is: ClassVar = False

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give decisions alpha·A, other tokens A as a mean over all of the step's."""
        values = compare_within_problems(batch, lambda group: subtract_mean(self.compute_rewards(group)))
        scale = compute_token_scale(values, [one.tokens - 1 for one in batch.rollouts])
        return [Credit(0.0, 0.0) if value is None else Credit(self.alpha * value, value * scale) for value in values]

    def compute_rewards(self, group: Sequence[RolloutSummary]) -> list[float]:
        """Return 1, `think_reward` or −1."""
        best = {Mode.NO_THINK: 1.0, Mode.THINK: self.think_reward}
        return [(one.reward or 0.0) * (best[one.mode] + 1) - 1 for one in group]

    def compute_loss(
        self, logprob_BT: Tensor, behavior_BT: Tensor, credit_BT: Tensor, mask_BT: Tensor, config: TrainConfig
    ) -> PolicyLoss:
        """Return −credit·log π of the decision, and −credit·ratio, clipped, of each other token."""
        return decision_loss(logprob_BT, behavior_BT, credit_BT, mask_BT, clip=config.clip)


METHOD = DeGrpo
