"""GRPO (arXiv 2402.03300): rewards compared within a problem's samples; the baseline that the paper compares with.

With `no_think_share = 0`, as the paper runs it, nothing is forced: the policy samples its decisions itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adaptthink.config.schema import METHOD_KEYS, TrainConfig
from adaptthink.errors import UserError
from adaptthink.training.advantages import compute_group_advantages
from adaptthink.training.batch import Batch
from adaptthink.training.credit import Credit, assign_evenly
from adaptthink.training.methods import name_method
from adaptthink.training.methods.adaptthink import AdaptThink


@dataclass(frozen=True, slots=True)
class Grpo(AdaptThink):
    """The samples and the loss of AdaptThink, advantages by group."""

    reads: ClassVar = METHOD_KEYS - {"token_share"}
    knows_modes: ClassVar = True  # else nothing may be forced

    def check(self, config: TrainConfig) -> None:
        """Raise UserError where there is nothing to compare within, and for forced modes that the method ignores."""
        name = name_method(config)
        if config.samples_per_problem < 2 or config.token_share < 1:
            raise UserError(
                f"method = '{name}' compares a problem's samples with each other: it needs samples_per_problem >= 2 "
                "and token_share = 1"
            )
        if config.no_think_share and not self.knows_modes:
            raise UserError(
                f"method = '{name}' shortens responses and knows no modes, and no_think_share = "
                f"{config.no_think_share:g} forces some; give no_think_share = 0"
            )

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give every token its response's advantage, R̄_ref unread."""
        return assign_evenly(compute_group_advantages(batch, config.delta).tolist())


METHOD = Grpo
