"""Advantages of rollouts (Eq. 5's summand), for every trainer, from verdicts, modes and reference rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TypeVar

import torch
from torch import Tensor

from adaptthink.grading.implicit_thinking import read_signs, thinks_implicitly
from adaptthink.modes import Mode
from adaptthink.objective import advantage, group_advantage
from adaptthink.sampling.sampler import Rollout
from adaptthink.training.batch import Batch, RolloutSummary

T = TypeVar("T")


def compute_advantages(batch: Batch, delta: float) -> Tensor:
    """Return A(x, y) of every rollout, shape (N,); 0, and so no gradient, for one that cannot be graded."""
    pairs = zip(batch.rollouts, batch.references, strict=True)
    gradable_N = torch.tensor([one.reward is not None and reference is not None for one, reference in pairs])
    reference_N = torch.tensor([reference or 0.0 for reference in batch.references])
    no_think_N, reward_N = read_tensors(batch.rollouts)
    return torch.where(gradable_N, advantage(no_think_N, reward_N, reference_N, delta), 0.0)


def compute_group_advantages(batch: Batch, delta: float) -> Tensor:
    """Return GRPO's advantage of every rollout, shape (N,); a problem's are compared as far as they are graded."""

    def compare(group: Sequence[RolloutSummary]) -> list[float]:
        no_think_K, reward_K = read_tensors(group)
        found: list[float] = group_advantage(no_think_K[None], reward_K[None], delta)[0].tolist()
        return found

    return torch.tensor([value or 0.0 for value in compare_within_problems(batch, compare)])


def compare_within_problems(
    batch: Batch, compare: Callable[[Sequence[RolloutSummary]], Sequence[T | None]]
) -> list[T | None]:
    """Return what `compare` makes of the graded responses of each problem, where these are two or more.

    None for responses that could not be graded, and for one that has no other to be compared with.
    """
    values: list[T | None] = []
    for group, _ in batch.by_problem():
        known = [one for one in group if one.reward is not None]
        found = iter(compare(known) if len(known) > 1 else [None] * len(known))
        values += [None if one.reward is None else next(found) for one in group]
    return values


def standardise(rewards: Sequence[float]) -> list[float]:
    """Return GRPO's advantages of a problem's rewards."""
    reward_GK = torch.tensor([rewards], dtype=torch.float64)
    found: list[float] = group_advantage(torch.zeros_like(reward_GK, dtype=torch.bool), reward_GK, 0.0)[0].tolist()
    return found


def subtract_mean(rewards: Sequence[float]) -> list[float]:
    """Return a problem's rewards beyond their mean."""
    mean = fmean(rewards)
    return [reward - mean for reward in rewards]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """Return a problem's rewards, each beyond the mean of the others (RLOO)."""
    return [value * len(rewards) / (len(rewards) - 1) for value in subtract_mean(rewards)]


def whiten(values: Sequence[float | None], sizes: Sequence[int]) -> list[float | None]:
    """Return values less their mean, by their deviation, over all tokens of the step: each counts `size` times.

    That is verl's and OpenRLHF's normalisation over a batch. None stays None and does not count.
    """
    counted = [(value, size) for value, size in zip(values, sizes, strict=True) if value is not None]
    total = max(1, sum(size for _, size in counted))
    mean = sum(value * size for value, size in counted) / total
    variance = sum((value - mean) ** 2 * size for value, size in counted) / max(1, total - 1)
    return [None if value is None else (value - mean) / math.sqrt(variance + 1e-8) for value in values]


def cap_rewards(rollouts: Sequence[RolloutSummary], cap: float) -> list[RolloutSummary]:
    """Return rollouts of which those longer than `cap` tokens earn 0; a cap of 0 is none."""
    return [replace(one, own_reward=0.0) if 0 < cap < one.tokens else one for one in rollouts]


def count_capped(rollouts: Sequence[RolloutSummary], cap: float) -> list[int]:
    """Return how many tokens of each rollout there would be, had the generation ended at `cap`; 0 is none."""
    return [min(one.tokens, int(cap) or one.tokens) for one in rollouts]


def read_rewards(rollouts: Iterable[RolloutSummary]) -> list[float]:
    """Return the rewards of those rollouts that have one."""
    return [one.reward for one in rollouts if one.reward is not None]


def read_tensors(rollouts: Sequence[RolloutSummary]) -> tuple[Tensor, Tensor]:
    """Return whether each rollout is a no_think one, and its reward, 0 where there is none; shape (N,) each."""
    no_think_N = torch.tensor([one.mode is Mode.NO_THINK for one in rollouts])
    return no_think_N, torch.tensor([one.reward or 0.0 for one in rollouts])


def find_implicit_thinkers(rollouts: Sequence[Rollout]) -> frozenset[int]:
    """Return the indices of no_think rollouts whose answers think; lengths are compared within the step, by level."""
    indices = [index for index, rollout in enumerate(rollouts) if rollout.mode is Mode.NO_THINK]
    answers = ((str(rollouts[index].problem.level), rollouts[index].response.answer or "") for index in indices)
    return frozenset(
        index for index, signs in zip(indices, read_signs(answers), strict=True) if thinks_implicitly(signs)
    )
