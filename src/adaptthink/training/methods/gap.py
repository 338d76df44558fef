r"""The gap objective (ours): the decision learns the measured gap between the modes, each mode's answers learn apart.

For a prompt x let z(x) = log π(no_think | x) − log π(think start | x). A step samples both modes, forced, and measures
ĝ(x) = δ + mean R(no_think) − mean R(think). docs/gap.md derives what follows and says what each part is for.

* Decision: maximise `decision`·(ĝ·z − τ·z²/2) + `mass`·log(π(no_think) + π(think start)). Its optimum is
  z = (δ + gap)/τ, reached without a flat start, because no factor p(1 − p) is in the gradient; as it is linear in δ,
  moving the threshold on z by Δ/τ is training with δ + Δ.
* Body: a thought is compared with R̄_ref, a no_think answer with the others of its problem, weighted by how likely its
  mode is.
* Pull: no_think answers are held to those of the model before training, by the KL divergence on their own tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor

from adaptthink.config.schema import METHOD_KEYS, ForceThink, TrainConfig
from adaptthink.errors import UserError
from adaptthink.modes import Mode
from adaptthink.objective import PolicyLoss, token_loss
from adaptthink.training.batch import Batch, RolloutSummary
from adaptthink.training.credit import Credit
from adaptthink.training.rollout import assign_modes

LEAST_WEIGHT = 0.05  # of a body whose mode is never chosen: it goes on learning, slowly


@dataclass(frozen=True, slots=True)
class Gap:
    """The gap objective; see the module."""

    tau: float = 0.05  # of z: how far a gap moves the decision
    decision: float = 0.015
    mass: float = 0.03
    pull: float = 0.5

    reads: ClassVar = METHOD_KEYS - {"ratio", "token_share"}
    samples_from_is: ClassVar = False
    from_store: ClassVar = False

    @property
    def initial_modes(self) -> frozenset[Mode]:
        """Those of the pull."""
        return frozenset({Mode.NO_THINK} if self.pull else ())

    def check(self, config: TrainConfig) -> None:
        """Raise UserError unless both modes are sampled, no_think twice, and thinking begins with its start."""
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

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give decisions the gradient of their objective, and bodies an advantage within their mode."""
        groups = (self.credit_group(group, reference, config.delta) for group, reference in batch.by_problem())
        return self.scale_by_length(list(chain.from_iterable(groups)), batch.rollouts)

    def scale_by_length(self, credits: Sequence[Credit], rollouts: Sequence[RolloutSummary]) -> list[Credit]:
        """Divide the credit of bodies by their tokens; the pull is a mean over the step's no_think tokens.

        A token of a no_think body counts as one of the step's thoughts: with 1/T of its own few tokens, answers would
        take most of the gradient.
        """
        sizes = [max(1, one.tokens - 1) for one in rollouts]
        rows = list(zip(credits, rollouts, sizes, strict=True))
        thought = fmean([size for _, one, size in rows if one.mode is Mode.THINK] or [1])
        pulled = sum(credit.pull * size for credit, _, size in rows) or 1.0
        return [
            Credit(
                credit.decision,
                credit.body / (size if one.mode is Mode.THINK else thought),
                self.pull * credit.pull * len(rows) / pulled,
            )
            for credit, one, size in rows
        ]

    def credit_group(self, group: Sequence[RolloutSummary], reference: float | None, delta: float) -> list[Credit]:
        """Return the credit of one problem's samples, their lengths aside; none where a mode has no grade."""
        known = {mode: [one.reward for one in group if one.mode is mode and one.reward is not None] for mode in Mode}
        if reference is None or not all(known.values()):
            return [Credit(0.0, 0.0)] * len(group)
        logprob = {mode: fmean(one.decision_logprob for one in group if one.mode is mode) for mode in Mode}
        z = logprob[Mode.NO_THINK] - logprob[Mode.THINK]
        gap = delta + fmean(known[Mode.NO_THINK]) - fmean(known[Mode.THINK])
        slope = self.decision * (gap - self.tau * z)  # d/dz of the decision's objective
        no_think_share = (1 + math.tanh(z / 2)) / 2  # of the mass on both
        credits = []
        for one in group:
            is_no_think = one.mode is Mode.NO_THINK
            share = no_think_share if is_no_think else 1 - no_think_share
            samples = sum(other.mode is one.mode for other in group)  # which the loss averages over all of the group
            decision = ((slope if is_no_think else -slope) + self.mass * share) * len(group) / samples
            advantage = compute_body_advantage(one, known[one.mode], reference)
            weight = min(1.0, max(LEAST_WEIGHT, 2 * share))
            credits.append(Credit(decision, weight * advantage, float(is_no_think)))
        return credits

    def compute_loss(
        self, logprob_BT: Tensor, behavior_BT: Tensor, credit_BT: Tensor, mask_BT: Tensor, config: TrainConfig
    ) -> PolicyLoss:
        """Return −credit·log π of the decision, and −credit·ratio, clipped, of each token of the body."""
        decision_B = -credit_BT[:, 0] * (logprob_BT - behavior_BT)[:, 0]
        body = token_loss(logprob_BT[:, 1:], behavior_BT[:, 1:], credit_BT[:, 1:], mask_BT[:, 1:], clip=config.clip)
        return PolicyLoss(torch.where(mask_BT[:, 0], decision_B, 0.0) + body.loss_B, body.clipped_B)


def compute_body_advantage(one: RolloutSummary, rewards: Sequence[float], reference: float) -> float:
    """Return the reward of a thought beyond R̄_ref, of a no_think answer beyond the others'; 0 where none is known.

    `rewards` are all of the sample's problem and mode. The reference thinks, so R̄_ref says nothing of no_think.
    """
    if one.reward is None:
        return 0.0
    if one.mode is Mode.THINK:
        return one.reward - reference
    others = len(rewards) - 1
    return one.reward - (sum(rewards) - one.reward) / others if others else 0.0


METHOD = Gap
