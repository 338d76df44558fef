"""Advantages of rollouts (Eq. 5's summand), for every trainer, from verdicts, modes and reference rewards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adaptthink.grading.implicit_thinking import read_signs, thinks_implicitly
from adaptthink.modes import Mode
from adaptthink.objective import advantage, group_advantage
from adaptthink.sampling.sampler import Rollout
from adaptthink.training.metrics import RolloutSummary


def compute_advantages(rollouts: Sequence[RolloutSummary], references: Sequence[float | None], delta: float) -> Tensor:
    """Return A(x, y) of every rollout, shape (N,); 0, and so no gradient, for one that cannot be graded.

    `references` holds R̄_ref of each rollout's problem, None where that cannot be graded.
    """
    gradable_N = torch.tensor(
        [one.reward is not None and reference is not None for one, reference in zip(rollouts, references, strict=True)]
    )
    reference_N = torch.tensor([reference or 0.0 for reference in references])
    no_think_N, reward_N = read_tensors(rollouts)
    return torch.where(gradable_N, advantage(no_think_N, reward_N, reference_N, delta), 0.0)


def compute_group_advantages(rollouts: Sequence[RolloutSummary], delta: float, group_size: int) -> Tensor:
    """Return GRPO's advantage of every rollout, shape (N,); each group of so many is compared as far as graded."""
    gradable_N = torch.tensor([one.reward is not None for one in rollouts])
    no_think_N, reward_N = read_tensors(rollouts)
    advantage_N = torch.zeros(len(rollouts))
    for group_K in torch.arange(len(rollouts)).split(group_size):
        known_K = group_K[gradable_N[group_K]]
        if len(known_K) > 1:  # else there is nothing to compare with
            advantage_N[known_K] = group_advantage(no_think_N[known_K][None], reward_N[known_K][None], delta)[0]
    return advantage_N


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
