r"""The gap objective (ours): the decision learns the measured gap between the modes, each mode's answers learn apart.

With z(x) = log π(no_think | x) − log π(think start | x), and a step's forced samples of both modes, which measure
ĝ(x) = δ + mean R(no_think) − mean R(think) (docs/explanation/gap.md derives what follows and says what each
part is for):

* Decision: maximise `decision`·(ĝ·z − τ·z²/2) + `mass`·log(π(no_think) + π(think start)); its optimum is (δ + gap)/τ.
* Body: a thought is compared with R̄_ref, a no_think answer with the others of its problem, weighted by how likely its
  mode is. With a `cap`, a longer response earns 0, as in DLER.
* Pull: no_think answers are held to those of the model before training, by the KL divergence on their own tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar

from torch import Tensor

from adaptthink.config.schema import METHOD_KEYS, ForceThink, TrainConfig
from adaptthink.errors import UserError
from adaptthink.modes import Mode
from adaptthink.objective import PolicyLoss, decision_loss
from adaptthink.training.advantages import cap_rewards, read_rewards
from adaptthink.training.batch import Batch, RolloutSummary
from adaptthink.training.credit import Credit
from adaptthink.training.methods.adaptthink import AdaptThink

LEAST_WEIGHT = 0.05  # of a body whose mode is never chosen: it goes on learning, slowly


@dataclass(frozen=True, slots=True)
class Gap(AdaptThink):
    """The gap objective; see the module."""

    tau: float = 0.05  # of z: how far a gap moves the decision
    decision: float = 0.015
    mass: float = 0.03
    pull: float = 0.5
    cap: float = 0.0  # tokens of a response; 0: none

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

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give decisions the gradient of their objective, and bodies an advantage within their mode.

        A body's is spread over its tokens; one of no_think counts as one of the step's thoughts, as with 1/T of their
        own few tokens answers would take most of the gradient. The pull is a mean over the step's no_think tokens.
        """
        capped = replace(batch, rollouts=cap_rewards(batch.rollouts, self.cap))
        groups = (self.credit_group(group, reference, config.delta) for group, reference in capped.by_problem())
        credits = [credit for group in groups for credit in group]
        sizes = [max(1, one.tokens - 1) for one in batch.rollouts]
        pairs = list(zip(batch.rollouts, sizes, strict=True))
        thought = fmean([size for one, size in pairs if one.mode is Mode.THINK] or [1])
        pulled = sum(credit.pull * size for credit, size in zip(credits, sizes, strict=True)) or 1.0
        return [
            Credit(
                credit.decision,
                credit.body / (size if one.mode is Mode.THINK else thought),
                self.pull * credit.pull * len(credits) / pulled,
            )
            for credit, (one, size) in zip(credits, pairs, strict=True)
        ]

    def credit_group(self, group: Sequence[RolloutSummary], reference: float | None, delta: float) -> list[Credit]:
        """Return the credit of one problem's samples, their lengths aside; none where a mode has no grade."""
        by_mode = {mode: [one for one in group if one.mode is mode] for mode in Mode}
        rewards = {mode: read_rewards(own) for mode, own in by_mode.items()}
        if reference is None or not all(rewards.values()):
            return [Credit(0.0, 0.0)] * len(group)
        logprob = {mode: fmean(one.decision_logprob for one in own) for mode, own in by_mode.items()}
        z = logprob[Mode.NO_THINK] - logprob[Mode.THINK]
        gap = delta + fmean(rewards[Mode.NO_THINK]) - fmean(rewards[Mode.THINK])
        slope = self.decision * (gap - self.tau * z)  # d/dz of the decision's objective
        credits = []
        for one in group:
            is_no_think = one.mode is Mode.NO_THINK
            share = (1 + math.tanh(z / 2 if is_no_think else -z / 2)) / 2  # of its mode, in the mass on both
            times = len(group) / len(by_mode[one.mode])  # the loss averages over all of the group
            decision = ((slope if is_no_think else -slope) + self.mass * share) * times
            advantage = compare_body(one, rewards[one.mode], reference)
            credits.append(Credit(decision, min(1.0, max(LEAST_WEIGHT, 2 * share)) * advantage, float(is_no_think)))
        return credits

    def compute_loss(
        self, logprob_BT: Tensor, behavior_BT: Tensor, credit_BT: Tensor, mask_BT: Tensor, config: TrainConfig
    ) -> PolicyLoss:
        """Return −credit·log π of the decision, and −credit·ratio, clipped, of each token of the body."""
        return decision_loss(logprob_BT, behavior_BT, credit_BT, mask_BT, clip=config.clip)


def compare_body(one: RolloutSummary, rewards: Sequence[float], reference: float) -> float:
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
