"""TNT, thinking-based non-thinking (arXiv 2601.04805): no_think answers that think are caught by their length.

The responses of a problem to which the model thought show how long an answer is behind its thinking. A no_think answer
of more than `omega` times their mean earns −2; else one that is correct earns 2, one that is wrong −1. A thought earns
1 or 0. The advantage is GRPO's, over both modes. At a success of 1 of thoughts, no_think is preferred from 2/3 on.

Known from its abstract and secondary accounts; the text and the code were not at hand. Guessed: the loss and the
sampling, which are AdaptThink's (half and half, ratio to π_IS); that only thoughts that ended give a length. Where none
did, the cap is `cap_without`, 1000 tokens as in the paper. In the miniature no no_think answer is long enough for any
cap, so what is left of the method there is its table of rewards. Rewards between 0 and 1 are interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from adaptthink.config.schema import METHOD_KEYS, TrainConfig
from adaptthink.modes import Mode
from adaptthink.training.advantages import compare_within_problems, standardise
from adaptthink.training.batch import Batch, RolloutSummary
from adaptthink.training.credit import Credit, assign_evenly
from adaptthink.training.methods.grpo import Grpo


@dataclass(frozen=True, slots=True)
class Tnt(Grpo):
    """Group advantages of rewards that punish long no_think answers; see the module."""

    omega: float = 2.0
    cap_without: float = 1000.0  # tokens, where no thought of the problem ended

    reads: ClassVar = METHOD_KEYS - {"delta", "token_share"}

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give every token its response's advantage."""
        values = compare_within_problems(batch, lambda group: standardise(self.compute_rewards(group)))
        return assign_evenly(value or 0.0 for value in values)

    def compute_rewards(self, group: Sequence[RolloutSummary]) -> list[float]:
        """Return the rewards of one problem's responses."""
        lengths = [one.answer_tokens for one in group if one.mode is Mode.THINK and one.answer_tokens]
        cap = self.omega * fmean(lengths) if lengths else self.cap_without
        return [self.compute_reward(one, cap) for one in group]

    def compute_reward(self, one: RolloutSummary, cap: float) -> float:
        """Return a thought's reward as it is, and that of a no_think answer by the table."""
        reward = one.reward or 0.0
        if one.mode is Mode.THINK:
            return reward
        return -2.0 if one.answer_tokens > cap else 3 * reward - 1


METHOD = Tnt
