"""RFT_MixThinking, a baseline of the paper (arXiv 2505.13417, section 5.2): supervised tuning on the better mode.

A problem that is answered as well without thinking (R̄_no_think ≥ R̄_think) keeps its correct no_think responses, any
other its correct thoughts. The policy is tuned on what is kept, decision token included.

The paper gives no numbers. Guessed: all correct responses are kept, the loss is the mean over the step's tokens, as
supervised tuning has it, so a decision weighs the same in both modes. `margin` is ours: with R̄_no_think ≥ R̄_think −
margin, 1 keeps no_think responses alone, and tunes a model that does not think.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from adaptthink.config.schema import TrainConfig
from adaptthink.modes import Mode
from adaptthink.sampling.sampler import Rollout, Sampler
from adaptthink.training.batch import Batch
from adaptthink.training.credit import Credit, assign_evenly
from adaptthink.training.offline import Offline, StoredRollouts, select_correct


@dataclass(frozen=True, slots=True)
class RftMixThinking(Offline):
    """Cross-entropy of correct stored responses, each problem's in the mode that was at least as good."""

    margin: float = 0.0

    needs_no_think: ClassVar = True

    def choose_rollouts(self, groups: Sequence[StoredRollouts], sampler: Sampler, config: TrainConfig) -> list[Rollout]:
        """Keep the correct responses of each problem's better mode."""
        return [one for group in groups for one in select_correct(self.choose_mode(group))]

    def choose_mode(self, group: StoredRollouts) -> Sequence[Rollout]:
        """Return a problem's responses in its better mode."""
        thoughts = [one for one in group.unconstrained if one.mode is Mode.THINK]
        at_once = compute_rate(group.no_think) >= compute_rate(thoughts) - self.margin
        return group.no_think if at_once else thoughts

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give every token of the step the same."""
        size = sum(one.tokens for one in batch.rollouts)
        return assign_evenly(len(batch.rollouts) / size for _ in batch.rollouts)


def compute_rate(rollouts: Sequence[Rollout]) -> float:
    """Return the mean reward of those that are graded, 0 if none is."""
    return fmean([one.grade.reward for one in rollouts if one.verdict.has_reward] or [0.0])


METHOD = RftMixThinking
