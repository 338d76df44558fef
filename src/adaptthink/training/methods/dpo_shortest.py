"""DPO_shortest, a baseline of the paper (arXiv 2505.13417, section 5.2): shortest correct response against longest.

The loss is DPO's (arXiv 2305.18290, Eq. 7): −log σ(m), m = β·(v(chosen) − v(rejected)), where v is log π − log π_ref of
a whole response, and π_ref the model before training.

The longest is that of all unconstrained responses, wrong and truncated ones too, as the paper says. Guessed: β = 0.1,
the usual one. A problem without a correct response, or with all of one length, gives no pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adaptthink.config.schema import TrainConfig
from adaptthink.modes import Mode
from adaptthink.sampling.sampler import Rollout, Sampler
from adaptthink.training.batch import Batch
from adaptthink.training.credit import Credit
from adaptthink.training.offline import (
    Offline,
    StoredRollouts,
    count_tokens,
    credit_pairs,
    flatten_pairs,
    get_initial_logprob,
    get_logprob,
    select_correct,
)


@dataclass(frozen=True, slots=True)
class DpoShortest(Offline):
    """DPO on each problem's shortest correct and longest response."""

    beta: float = 0.1

    @property
    def initial_modes(self) -> frozenset[Mode]:
        """Both."""
        return frozenset(Mode)

    def choose_rollouts(self, groups: Sequence[StoredRollouts], sampler: Sampler, config: TrainConfig) -> list[Rollout]:
        """Return a pair of each problem that has one."""
        pairs = [
            (min(correct, key=count_tokens), max(group.unconstrained, key=count_tokens))
            for group in groups
            if (correct := select_correct(group.unconstrained))
        ]
        return flatten_pairs(pair for pair in pairs if count_tokens(pair[0]) < count_tokens(pair[1]))

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Give the tokens of a pair ±β·σ(−m)."""
        values = [get_logprob(one) - get_initial_logprob(one) for one in batch.rollouts]
        return credit_pairs(values, [1.0] * len(values), self.beta)


METHOD = DpoShortest
