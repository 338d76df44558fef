"""Training language models to reason efficiently (TLMRE, arXiv 2502.04463): correct answers earn more the shorter.

With the mean and the deviation of the lengths of a problem's correct samples, a correct one earns
1 − alpha·sigmoid((length − mean)/deviation), any other 0. Its advantage is its reward less the mean of the others' of
its problem (RLOO), then normalised over all tokens of the batch; the loss is a mean over each response's tokens, then
over responses. Only samples that ended can be correct.

From the official code (`math_server.py`, `experience_maker.py`, `replay_buffer.py`), whose default alpha is 0.1; it was
released with 0.1 and 0.4. Left out: the KL penalty in the reward (0.001).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import ClassVar

from torch import Tensor

from adaptthink.config.schema import METHOD_KEYS, TrainConfig
from adaptthink.objective import PolicyLoss, token_loss
from adaptthink.training.advantages import compare_within_problems, leave_one_out, whiten
from adaptthink.training.batch import Batch, RolloutSummary
from adaptthink.training.credit import Credit, assign_sequence_mean
from adaptthink.training.methods.grpo import Grpo


@dataclass(frozen=True, slots=True)
class Tlmre(Grpo):
    """Rewards that fall with length, leave-one-out advantages; see the module."""

    alpha: float = 0.2  # 0: plain RLOO

    reads: ClassVar = METHOD_KEYS - {"delta", "ratio", "token_share"}
    knows_modes: ClassVar = False

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give every token its response's advantage, as a mean over its tokens."""
        values = compare_within_problems(batch, lambda group: leave_one_out(self.compute_rewards(group)))
        sizes = [one.tokens for one in batch.rollouts]
        return assign_sequence_mean(whiten(values, sizes), sizes)

    def compute_rewards(self, group: Sequence[RolloutSummary]) -> list[float]:
        """Return the rewards of one problem's responses."""
        lengths = [one.tokens for one in group if (one.reward or 0) > 0] or [0]
        mean, deviation = fmean(lengths), pstdev(lengths) + 1e-7
        factors = [1 - self.alpha * (1 + math.tanh((one.tokens - mean) / deviation / 2)) / 2 for one in group]
        return [max(0.0, one.reward or 0) * factor for one, factor in zip(group, factors, strict=True)]

    def compute_loss(
        self, logprob_BT: Tensor, behavior_BT: Tensor, credit_BT: Tensor, mask_BT: Tensor, config: TrainConfig
    ) -> PolicyLoss:
        """Return −credit·ratio, clipped, of each token."""
        return token_loss(logprob_BT, behavior_BT, credit_BT, mask_BT, clip=config.clip)


METHOD = Tlmre
