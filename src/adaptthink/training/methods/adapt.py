"""ADaPT (arXiv 2606.19919): a reward of the mode, apart from that of the answer, on the decision of thoughts.

A problem's samples are half thoughts, half no_think. With the mean rewards `fast` and `slow` of both, the decision of a
thought gets its reward S less R_m = ½(fast − gamma) + ½(fast − slow); every other token of either mode gets its S. All
are standardised over the tokens of the problem. The decision is trained by CISPO, the others by PPO's clipped ratio,
and the loss is a mean over all tokens of the step. So no_think is preferred where fast > gamma/4 + ¾·slow.

From the official code (`verl/trainer/core_algos.py`, `examples/reward_function`). Transplanted: no supervised tuning on
both modes before. Then a thought's decision, π ≈ 1, has no gradient, and R_m no effect; so decisions of no_think get
`split` of it, thoughts the rest (0: as published). No reward of format, no dual clip. Problems that all solve, or none,
stay, unless `filter=1` (the code samples others, here they get no credit); as there R_m is divided by its own size, the
deviation counts as 0.1 at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

import numpy as np
from torch import Tensor

from adaptthink.config.schema import METHOD_KEYS, TrainConfig
from adaptthink.errors import UserError
from adaptthink.modes import Mode
from adaptthink.objective import PolicyLoss, decision_loss
from adaptthink.training.advantages import compare_within_problems, read_rewards
from adaptthink.training.batch import Batch, RolloutSummary
from adaptthink.training.credit import Credit, compute_token_scale
from adaptthink.training.methods.grpo import Grpo


@dataclass(frozen=True, slots=True)
class Adapt(Grpo):
    """Standardised rewards, and a reward of the mode on the decision of thoughts; see the module."""

    gamma: float = 0.5  # the accuracy of no_think from which its mode is rewarded as such
    split: float = 0.5  # of R_m, the share that decisions of no_think get
    filter: float = 0.0  # above 0: no credit for problems that all samples solve, or none
    clip_high: float = 0.28

    reads: ClassVar = METHOD_KEYS - {"delta", "ratio", "token_share"}

    def check(self, config: TrainConfig) -> None:
        """Raise UserError unless both modes are sampled."""
        Grpo.check(self, config)
        if config.no_think_share in (0, 1):
            raise UserError("method = 'adapt' compares a problem's modes: it needs both; give no_think_share = 0.5")

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give each token its standardised reward, as a mean over all tokens of the step."""
        credits = compare_within_problems(batch, self.credit_group)
        scale = compute_token_scale(credits, [one.tokens for one in batch.rollouts])
        return [Credit(one.decision * scale, one.body * scale) if one else Credit(0.0, 0.0) for one in credits]

    def credit_group(self, group: Sequence[RolloutSummary]) -> Sequence[Credit | None]:
        """Return the standardised rewards of one problem's decisions and other tokens."""
        rewards = read_rewards(group)
        if self.filter and not 0.01 < fmean(rewards) < 0.99:
            return [None] * len(group)
        fast, slow = (read_rewards(one for one in group if one.mode is mode) for mode in (Mode.NO_THINK, Mode.THINK))
        of_mode = 0.5 * (fmean(fast) - self.gamma) + 0.5 * (fmean(fast) - fmean(slow)) if fast and slow else 0.0
        shares = (self.split - (one.mode is Mode.THINK) for one in group)
        decisions = [value + share * of_mode for value, share in zip(rewards, shares, strict=True)]
        by_token = np.repeat([*decisions, *rewards], [1] * len(group) + [one.tokens - 1 for one in group])
        mean, size = float(by_token.mean()), max(0.1, float(by_token.std()))
        return [Credit((a - mean) / size, (b - mean) / size) for a, b in zip(decisions, rewards, strict=True)]

    def compute_loss(
        self, logprob_BT: Tensor, behavior_BT: Tensor, credit_BT: Tensor, mask_BT: Tensor, config: TrainConfig
    ) -> PolicyLoss:
        """Return CISPO of the decision, and −credit·ratio, clipped, of each other token."""
        tensors = logprob_BT, behavior_BT, credit_BT, mask_BT
        return decision_loss(*tensors, clip=config.clip, clip_high=self.clip_high, cispo=True)


METHOD = Adapt
