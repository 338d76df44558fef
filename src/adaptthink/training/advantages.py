"""Advantages of rollouts (Eq. 5's summand), for every trainer, from verdicts, modes and reference rewards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adaptthink.grading.implicit_thinking import read_signs, thinks_implicitly
from adaptthink.modes import Mode
from adaptthink.objective import advantage, group_advantage
from adaptthink.sampling.sampler import Rollout
from adaptthink.training.batch import Batch, RolloutSummary


def compute_advantages(batch: Batch, delta: float) -> Tensor:
    """Return A(x, y) of every rollout, shape (N,); 0, and so no gradient, for one that cannot be graded."""
    pairs = zip(batch.rollouts, batch.references, strict=True)
    gradable_N = torch.tensor([one.reward is not None and reference is not None for one, reference in pairs])
    reference_N = torch.tensor([reference or 0.0 for reference in batch.references])
    no_think_N, reward_N = read_tensors(batch.rollouts)
    return torch.where(gradable_N, advantage(no_think_N, reward_N, reference_N, delta), 0.0)


def compute_group_advantages(batch: Batch, delta: float) -> Tensor:
    """Return GRPO's advantage of every rollout, shape (N,); a problem's are compared as far as they are graded."""
    gradable_N = torch.tensor([one.reward is not None for one in batch.rollouts])
    no_think_N, reward_N = read_tensors(batch.rollouts)
    advantage_N = torch.zeros(len(batch.rollouts))
    sizes = [len(group) for group, _ in batch.by_problem()]
    for group_K in torch.arange(len(batch.rollouts)).split(sizes):
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
