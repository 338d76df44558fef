"""DLER (arXiv 2510.15110): shorter by truncation alone, with an advantage that keeps noisy rewards from harm.

A response earns 1 if it is correct within `cap` tokens. Its advantage is its reward less the mean of its problem's,
then normalised over all tokens of the batch (Eq. 3, the code's `masked_whiten`). Problems whose rewards are all equal
are left out, and the loss is a mean over the remaining tokens, the ratio clipped to (1 − clip, 1 + clip_high).

With an `easy_cap` it is DA-DLER (section 3.5): in the last quarter of the training, problems of which at least half of
the step's samples are correct within `cap` get the shorter one. That exactly half is easy, and that the step's samples
decide, is guessed. The quarter is the paper's share of steps, which there continue a finished DLER.

Transplanted: the paper generates up to the cap only. Here responses go on, so tokens behind it get no credit and count
nowhere. Problems left out are not replaced by others. One update a step makes the ratio 1, so `clip_high` has little
effect. Left out: KL to the initial model (0.0005), dual clip, the merging of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar

from torch import Tensor

from adaptthink.config.schema import METHOD_KEYS, TrainConfig
from adaptthink.errors import UserError
from adaptthink.objective import PolicyLoss, token_loss
from adaptthink.training.advantages import (
    cap_rewards,
    compare_within_problems,
    count_capped,
    read_rewards,
    subtract_mean,
    whiten,
)
from adaptthink.training.batch import Batch, RolloutSummary
from adaptthink.training.credit import Credit, assign_token_mean
from adaptthink.training.methods.grpo import Grpo


@dataclass(frozen=True, slots=True)
class Dler(Grpo):
    """Truncation, advantages normalised over the batch; see the module."""

    cap: float = 64.0  # tokens of a response; 0: none
    easy_cap: float = 0.0  # of easy problems, late in training; 0: none
    clip_high: float = 0.28

    reads: ClassVar = METHOD_KEYS - {"delta", "ratio", "token_share"}
    knows_modes: ClassVar = False

    def check(self, config: TrainConfig) -> None:
        """Raise UserError for forced modes, and for an easy_cap without an effect."""
        Grpo.check(self, config)
        if 0 < self.cap <= self.easy_cap:
            raise UserError(f"method = 'dler': easy_cap = {self.easy_cap:g} must be below cap = {self.cap:g}")

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give every token within the cap its response's advantage, as a mean over those of the step."""
        easy_cap = self.easy_cap if batch.progress >= 0.75 else 0
        capped = replace(batch, rollouts=cap_rewards(batch.rollouts, self.cap))
        values = compare_within_problems(capped, lambda group: compare(group, easy_cap))
        sizes = count_capped(batch.rollouts, self.cap)
        return assign_token_mean(whiten(values, sizes), sizes)

    def compute_loss(
        self, logprob_BT: Tensor, behavior_BT: Tensor, credit_BT: Tensor, mask_BT: Tensor, config: TrainConfig
    ) -> PolicyLoss:
        """Return −credit·ratio, clipped, of each token."""
        return token_loss(logprob_BT, behavior_BT, credit_BT, mask_BT, clip=config.clip, clip_high=self.clip_high)


def compare(group: Sequence[RolloutSummary], easy_cap: float) -> Sequence[float | None]:
    """Return one problem's rewards less their mean, None where all are equal."""
    easy = fmean(read_rewards(group)) >= 0.5
    rewards = read_rewards(cap_rewards(group, easy_cap) if easy else group)
    return subtract_mean(rewards) if len(set(rewards)) > 1 else [None] * len(rewards)


METHOD = Dler
