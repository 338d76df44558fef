"""ThinkPrune (arXiv 2504.01296): GRPO under a cap on tokens that falls from round to round.

A response earns 1 if it is correct within the cap; the advantage is GRPO's, the loss a mean over the step's tokens.
The cap is 2, 1.5 and 1 times `last_cap`, a third of the training each: the paper's rounds of 4000, 3000, 2000 tokens.

From the official scripts. Transplanted: one training with one optimiser, where the paper begins each round anew from a
checkpoint that it picked; the prompt does not name the cap. The paper generates up to the cap only. Here responses go
on, so tokens behind it get no credit and count nowhere. Left out: KL to the round's first model (0.001), entropy bonus.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from adaptthink.config.schema import METHOD_KEYS, TrainConfig
from adaptthink.objective import PolicyLoss, token_loss
from adaptthink.training.advantages import (
    cap_rewards,
    compare_within_problems,
    count_capped,
    read_rewards,
    standardise,
)
from adaptthink.training.batch import Batch
from adaptthink.training.credit import Credit, assign_token_mean
from adaptthink.training.methods.grpo import Grpo

ROUNDS = (2.0, 1.5, 1.0)


@dataclass(frozen=True, slots=True)
class ThinkPrune(Grpo):
    """Truncation in rounds, group advantages; see the module."""

    last_cap: float = 48.0  # tokens of a response; 0: none

    reads: ClassVar = METHOD_KEYS - {"delta", "ratio", "token_share"}
    knows_modes: ClassVar = False

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give every token within the cap its response's advantage, as a mean over those of the step."""
        cap = self.last_cap * ROUNDS[int(len(ROUNDS) * batch.progress)]
        capped = replace(batch, rollouts=cap_rewards(batch.rollouts, cap))
        values = compare_within_problems(capped, lambda group: standardise(read_rewards(group)))
        return assign_token_mean(values, count_capped(batch.rollouts, cap))

    def compute_loss(
        self, logprob_BT: Tensor, behavior_BT: Tensor, credit_BT: Tensor, mask_BT: Tensor, config: TrainConfig
    ) -> PolicyLoss:
        """Return −credit·ratio, clipped, of each token."""
        return token_loss(logprob_BT, behavior_BT, credit_BT, mask_BT, clip=config.clip)


METHOD = ThinkPrune
