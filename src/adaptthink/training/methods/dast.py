"""DAST (arXiv 2503.04472, section 3): pairs ranked by a reward for keeping a token budget that grows with difficulty.

With p the share of a problem's correct responses and L̄ their mean length, the budget is p·L̄ + (1 − p)·L_max. Of a
response of L tokens let λ = (L − budget)/budget; its reward is max(0.5 − 0.5·λ, 0.1) if it is correct, else
min(0.9·λ − 0.1, −0.1). The chosen response of a pair has the highest reward, the rejected the lowest: one pair of the
correct ones, and one of the wrong ones. The `share` of pairs with the smallest margins is dropped. The loss is SimPO's.

Known from accounts of the paper only. Guessed: β and γ are as for `overthink`, pairs are dropped step by step instead
of once for all data, and truncated responses are in no pair: at the limit they would be the best of the wrong ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError
from adaptthink.grading import Verdict
from adaptthink.sampling.sampler import Rollout, Sampler
from adaptthink.training.offline import SimPO, StoredRollouts, count_tokens, flatten_pairs, select_correct


@dataclass(frozen=True, slots=True)
class Dast(SimPO):
    """SimPO on each problem's best and worst response by length against a budget, right and wrong ones apart."""

    share: float = 0.15

    def check(self, config: TrainConfig) -> None:
        """Raise UserError where no pair would be kept."""
        if self.share >= 1:
            raise UserError(f"method = 'dast': share = {self.share:g} drops every pair; give less than 1")

    def choose_rollouts(self, groups: Sequence[StoredRollouts], sampler: Sampler, config: TrainConfig) -> list[Rollout]:
        """Return the pairs with the largest margins."""
        longest = max(config.max_think_tokens, config.max_no_think_tokens)
        pairs = sorted((pair for group in groups for pair in make_pairs(group, longest)), key=lambda pair: -pair[0])
        kept = pairs[: round(len(pairs) * (1 - self.share))]
        return flatten_pairs((chosen, rejected) for _, chosen, rejected in kept)


def make_pairs(group: StoredRollouts, longest: int) -> list[tuple[float, Rollout, Rollout]]:
    """Return the margin, the chosen and the rejected response of a problem's pairs; `longest` is L_max."""
    correct = select_correct(group.unconstrained)
    rate = len(correct) / len(group.unconstrained)
    budget = rate * fmean(map(count_tokens, correct)) + (1 - rate) * longest if correct else longest
    wrong = [one for one in group.unconstrained if one.verdict not in (Verdict.CORRECT, Verdict.TRUNCATED)]

    def reward(one: Rollout) -> float:
        excess = (count_tokens(one) - budget) / budget
        return max(0.5 - 0.5 * excess, 0.1) if one.verdict is Verdict.CORRECT else min(0.9 * excess - 0.1, -0.1)

    pairs = [(max(part, key=reward), min(part, key=reward)) for part in (correct, wrong) if part]
    found = [(reward(chosen) - reward(rejected), chosen, rejected) for chosen, rejected in pairs]
    return [pair for pair in found if pair[0] > 0]


METHOD = Dast
