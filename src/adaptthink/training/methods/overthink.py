"""OverThink (arXiv 2412.21187, section 3): responses cut behind their second correct attempt, against the longest one.

A thought is a row of attempts at the answer. The chosen response of a problem is the shortest among its correct ones,
each cut behind its `attempts`-th attempt that reaches the right answer, with the close token and its own solution put
behind it: 2 is the paper's "first correct solution and reflection", 1 its "first correct solution", and a large number
the shortest as it was sampled. The rejected one is the longest correct response. The loss is SimPO's.

A language model finds the attempts there. Guessed: the token "Wait" begins a new one, and an attempt reaches the answer
if the reference answer stands in it. No β and γ are given; these are within the range of SimPO's authors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError
from adaptthink.sampling.sampler import Rollout, Sampler
from adaptthink.training.offline import SimPO, StoredRollouts, count_tokens, flatten_pairs, select_correct

WAIT = "Wait"  # begins another attempt


@dataclass(frozen=True, slots=True)
class OverThink(SimPO):
    """SimPO on each problem's shortest cut response and longest whole one."""

    attempts: float = 2.0

    def check(self, config: TrainConfig) -> None:
        """Raise UserError where there is nothing to cut behind."""
        if self.attempts < 1:
            raise UserError(f"method = 'overthink': attempts = {self.attempts:g} leaves no attempt; give 1 or more")

    def choose_rollouts(self, groups: Sequence[StoredRollouts], sampler: Sampler, config: TrainConfig) -> list[Rollout]:
        """Return a pair of each problem that has one."""
        pairs = [
            (min((self.cut(one, sampler) for one in correct), key=count_tokens), max(correct, key=count_tokens))
            for group in groups
            if (correct := select_correct(group.unconstrained))
        ]
        return flatten_pairs(pair for pair in pairs if count_tokens(pair[0]) < count_tokens(pair[1]))

    def cut(self, one: Rollout, sampler: Sampler) -> Rollout:
        """Return a rollout without the attempts that follow its first correct ones."""
        ids, close_id = one.response_ids, sampler.template.close_id
        if close_id not in ids:
            return one
        end, reached = ids.index(close_id), 0
        bounds = [0, *find_waits(ids[:end], sampler), end]
        for start, stop in pairwise(bounds):
            text = sampler.tokenizer.decode(ids[start:stop])
            reached += bool(re.search(rf"(?<!\w){re.escape(one.problem.answer)}(?!\w)", text))
            if reached >= self.attempts:
                return replace(one, response_ids=ids[:stop] + ids[end:])
        return one


def find_waits(ids: Sequence[int], sampler: Sampler) -> Iterator[int]:
    """Yield the positions of the tokens that begin another attempt."""
    encoded = (sampler.tokenizer.encode(f"{space}{WAIT}", add_special_tokens=False) for space in ("", " ", "\n"))
    known = {tokens[-1] for tokens in encoded if sampler.tokenizer.decode(tokens[-1:]).strip() == WAIT}
    return (position for position, token in enumerate(ids) if token in known)


METHOD = OverThink
