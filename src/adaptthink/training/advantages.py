"""Advantages of rollouts (Eq. 5's summand), for every trainer, from verdicts, modes and reference rewards."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from adaptthink.config.schema import TrainConfig
from adaptthink.grading.implicit_thinking import read_signs, thinks_implicitly
from adaptthink.modes import Mode
from adaptthink.objective import advantage, group_advantage
from adaptthink.sampling.sampler import Rollout
from adaptthink.training.reference import Reference


def compute_advantages(
    rollouts: Sequence[Rollout],
    references: Sequence[float | None],
    delta: float,
    *,
    group_size: int | None = None,
    unrewarded: Collection[int] = frozenset(),
) -> Tensor:
    """Return A(x, y) of every rollout, shape (N,); 0, and so no gradient, for one that cannot be graded.

    `references` holds R̄_ref of each rollout's problem, None where that cannot be graded. With a `group_size` rewards
    are compared within each group of so many rollouts instead (GRPO), as far as they could be graded. Rollouts at the
    indices `unrewarded` have R = 0 whatever their verdict.
    """
    gradable_N = torch.tensor(
        [
            rollout.verdict.has_reward and reference is not None
            for rollout, reference in zip(rollouts, references, strict=True)
        ]
    )
    no_think_N = torch.tensor([rollout.mode is Mode.NO_THINK for rollout in rollouts])
    reward_N = torch.tensor(
        [
            rollout.grade.reward if gradable and index not in unrewarded else 0.0
            for index, (rollout, gradable) in enumerate(zip(rollouts, gradable_N.tolist(), strict=True))
        ]
    )
    if group_size:
        advantage_N = torch.zeros(len(rollouts))
        for group_K in torch.arange(len(rollouts)).split(group_size):
            known_K = group_K[gradable_N[group_K]]
            if len(known_K) > 1:  # else there is nothing to compare with
                advantage_N[known_K] = group_advantage(no_think_N[known_K][None], reward_N[known_K][None], delta)[0]
    else:
        reference_N = torch.tensor([reference or 0.0 for reference in references])
        advantage_N = advantage(no_think_N, reward_N, reference_N, delta)
    return torch.where(gradable_N, advantage_N, 0.0)


def compute_step_advantages(
    rollouts: Sequence[Rollout], reference: Mapping[str, Reference], config: TrainConfig
) -> Tensor:
    """Return A(x, y) of a step's rollouts as configured, shape (N,); `reference` is by problem id."""
    return compute_advantages(
        rollouts,
        [reference[rollout.problem.id].reward for rollout in rollouts],
        config.delta,
        group_size=config.samples_per_problem if config.advantage == "group" else None,
        unrewarded=find_implicit_thinkers(rollouts) if config.implicit_thinking == "no_reward" else (),
    )


def find_implicit_thinkers(rollouts: Sequence[Rollout]) -> frozenset[int]:
    """Return the indices of no_think rollouts whose answers think; lengths are compared within the step, by level."""
    indices = [index for index, rollout in enumerate(rollouts) if rollout.mode is Mode.NO_THINK]
    answers = ((str(rollouts[index].problem.level), rollouts[index].response.answer or "") for index in indices)
    return frozenset(
        index for index, signs in zip(indices, read_signs(answers), strict=True) if thinks_implicitly(signs)
    )
