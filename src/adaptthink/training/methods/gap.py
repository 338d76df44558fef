r"""The gap objective (ours): the decision learns the measured gap between the modes, each mode's answers learn apart.

For a prompt x let z(x) = log π(no_think | x) − log π(think start | x). A step samples both modes, forced, and measures
ĝ(x) = δ + mean R(no_think) − mean R(think). docs/gap.md derives what follows and says what each part is for.

* Decision: maximise `decision`·(ĝ·z − τ·z²/2) + `mass`·log(π(no_think) + π(think start)). Its optimum is
  z = (δ + gap)/τ, reached without a flat start, because no factor p(1 − p) is in the gradient; as it is linear in δ,
  moving the threshold on z by Δ/τ is training with δ + Δ.
* Body: a response is compared with the others of its problem and mode, weighted by how likely its mode is.
* Pull: no_think answers are held to those of the model before training, by the KL divergence on their own tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor

from adaptthink.config.schema import METHOD_KEYS, ForceThink, TrainConfig
from adaptthink.errors import UserError
from adaptthink.modes import Mode
from adaptthink.objective import PolicyLoss, token_loss
from adaptthink.training.credit import Credit
from adaptthink.training.metrics import RolloutSummary
from adaptthink.training.rollout import assign_modes

LEAST_WEIGHT = 0.05  # of a body whose mode is never chosen: it goes on learning, slowly


@dataclass(frozen=True, slots=True)
class Gap:
    """The gap objective; see the module."""

    tau: float = 0.05  # of z: how far a gap moves the decision
    decision: float = 0.05
    mass: float = 0.02
    pull: float = 1.0

    reads: ClassVar = METHOD_KEYS - {"ratio", "token_share"}
    samples_from_is: ClassVar = False

    @property
    def needs_initial(self) -> bool:
        """For the pull."""
        return self.pull > 0

    def check(self, config: TrainConfig) -> None:
        """Raise UserError unless both modes are sampled twice, thinking from its start."""
        no_think = round(config.samples_per_problem * config.no_think_share)
        if min(no_think, config.samples_per_problem - no_think) < 2:
            raise UserError(
                "method = 'gap' compares a problem's samples within each mode: it needs two or more in each; give "
                "samples_per_problem >= 4 with no_think_share = 0.5"
            )
        if config.force_think is not ForceThink.START:
            raise UserError(
                f"method = 'gap' decides between no_think and the think start, and force_think = "
                f"'{config.force_think}' has no start; give force_think = 'start'"
            )

    def assign_modes(self, config: TrainConfig) -> Sequence[Mode | None]:
        """Return `no_think_share` of no_think samples, the others think."""
        return assign_modes(config.samples_per_problem, config.no_think_share)

    def assign_credit(
        self, rollouts: Sequence[RolloutSummary], references: Sequence[float | None], config: TrainConfig
    ) -> list[Credit]:
        """Give decisions the gradient of their objective, bodies the leave-one-out advantage within their mode."""
        no_think_tokens = sum(one.tokens - 1 for one in rollouts if one.mode is Mode.NO_THINK)
        pull = self.pull * len(rollouts) / max(1, no_think_tokens)  # so that the loss has the mean over these tokens
        credits: list[Credit] = []
        for _, group in groupby(rollouts, key=lambda one: one.problem_id):
            credits += self.compare(list(group), config.delta, pull)
        return credits

    def compare(self, group: Sequence[RolloutSummary], delta: float, pull: float) -> list[Credit]:
        """Return the credit of one problem's samples."""
        rewards = {mode: [one.reward for one in group if one.mode is mode and one.reward is not None] for mode in Mode}
        if not all(rewards.values()):
            return [Credit(0.0, 0.0)] * len(group)
        no_think, think = (fmean(one.decision_logprob for one in group if one.mode is mode) for mode in reversed(Mode))
        z, gap = no_think - think, delta + fmean(rewards[Mode.NO_THINK]) - fmean(rewards[Mode.THINK])
        share = (1 + math.tanh(z / 2)) / 2  # of no_think, in the mass on both
        slope = self.decision * (gap - self.tau * z)
        credits = []
        for one in group:
            own = rewards[one.mode]
            is_no_think = one.mode is Mode.NO_THINK
            own_share = share if is_no_think else 1 - share
            decision = (
                ((slope if is_no_think else -slope) + self.mass * own_share)
                * len(group)
                / sum(other.mode is one.mode for other in group)
            )
            weight = min(1.0, max(LEAST_WEIGHT, 2 * own_share))
            body = 0.0
            if one.reward is not None and len(own) > 1:
                body = (one.reward - fmean(own)) * len(own) / (len(own) - 1)  # R − mean of the others' R
            credits.append(Credit(decision, weight * body / max(1, one.tokens - 1), pull if is_no_think else 0.0))
        return credits

    def compute_loss(
        self, logprob_BT: Tensor, behavior_BT: Tensor, credit_BT: Tensor, mask_BT: Tensor, config: TrainConfig
    ) -> PolicyLoss:
        """Return −credit·log π of the decision, and −credit·ratio, clipped, of each token of the body."""
        decision_B = -credit_BT[:, 0] * (logprob_BT - behavior_BT)[:, 0]
        body = token_loss(logprob_BT[:, 1:], behavior_BT[:, 1:], credit_BT[:, 1:], mask_BT[:, 1:], clip=config.clip)
        return PolicyLoss(torch.where(mask_BT[:, 0], decision_B, 0.0) + body.loss_B, body.clipped_B)


METHOD = Gap
