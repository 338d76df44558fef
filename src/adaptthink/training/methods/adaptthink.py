"""AdaptThink, the paper's method (arXiv 2505.13417): importance sampling of the modes, rewards against R̄_ref."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from adaptthink.config.schema import METHOD_KEYS, TrainConfig
from adaptthink.modes import Mode
from adaptthink.objective import PolicyLoss, policy_loss
from adaptthink.training.advantages import compute_advantages
from adaptthink.training.batch import Batch
from adaptthink.training.credit import Credit, assign_evenly
from adaptthink.training.rollout import assign_modes


@dataclass(frozen=True, slots=True)
class AdaptThink:
    """Half of the samples in each mode; A(x, y) = δ·1(y₁ = </think>) + R − R̄_ref (Eq. 5); clipped ratio to π_IS."""

    reads: ClassVar = METHOD_KEYS
    samples_from_is: ClassVar = True
    from_store: ClassVar = False

    @property
    def initial_modes(self) -> frozenset[Mode]:
        """None."""
        return frozenset()

    def check(self, config: TrainConfig) -> None:
        """Accept all settings."""

    def assign_modes(self, config: TrainConfig) -> Sequence[Mode | None]:
        """Return `no_think_share` of no_think samples, the others think."""
        return assign_modes(config.samples_per_problem, config.no_think_share)

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give every token its response's advantage."""
        return assign_evenly(compute_advantages(batch, config.delta).tolist())

    def compute_loss(
        self, logprob_BT: Tensor, behavior_BT: Tensor, credit_BT: Tensor, mask_BT: Tensor, config: TrainConfig
    ) -> PolicyLoss:
        """Return Eq. 9 with the configured form of the ratio."""
        return policy_loss(logprob_BT, behavior_BT, credit_BT[:, 0], mask_BT, clip=config.clip, ratio=config.ratio)


METHOD = AdaptThink
