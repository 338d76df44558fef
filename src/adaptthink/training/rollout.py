"""The paper's importance sampling (Eq. 7): which responses are forced into which mode, and what that does to the loss.

Before training P(</think>) is close to 0, so the policy itself would never sample a no_think response. π_IS therefore
forces the decision token, the first one of a response, and leaves every later token to the policy. The log-probability
that each token had under π_IS is data, `Rollout.behavior_logprobs`: log 0.5 for the decision token in the paper's
setting, the engine's own value for every other token. It is written here, once, and never recomputed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from adaptthink.config.schema import ForceThink, TrainConfig
from adaptthink.modes import Mode
from adaptthink.objective import decision_logprob
from adaptthink.problems import Problem
from adaptthink.sampling.requests import MaxTokens, make_seed
from adaptthink.sampling.sampler import (
    KeepProbability,
    OnFinished,
    Rollout,
    Sampler,
    Sampling,
    keep_all,
    sample_rollouts,
)
from adaptthink.training.methods import load_method


def collect(
    sampler: Sampler,
    problems: Sequence[Problem],
    config: TrainConfig,
    step: int,
    keep_probability: KeepProbability = keep_all,
    *,
    on_finish: OnFinished | None = None,
) -> list[Rollout]:
    """Sample a step's rollouts from π_IS (Eq. 7): graded, problem by problem, no_think first.

    `no_think_share` of a problem's samples have the no_think prefix forced; the others think, as `force_think` says. A
    share of 0 forces nothing: all responses come from the policy itself, decision included. With a `keep_probability`
    below 1 samples are dropped at random, and those that are kept are weighted by its inverse (`sample_rollouts`).
    """
    method = load_method(config.method)
    sampling = Sampling(
        MaxTokens(config.max_think_tokens, config.max_no_think_tokens),
        config.temperature,
        seed=make_seed(config.seed, "rollout", step),
    )
    groups = sample_rollouts(
        sampler,
        problems,
        method.assign_modes(config),
        sampling,
        force_think=config.force_think,
        keep_probability=keep_probability,
        on_finish=on_finish,
    )
    rollouts = [rollout for group in groups for rollout in group]
    if not method.samples_from_is:
        return rollouts
    return [replace_decision_logprob(rollout, config.no_think_share, config.force_think) for rollout in rollouts]


def assign_modes(samples: int, no_think_share: float) -> Sequence[Mode | None]:
    """Return the forced modes of a problem's samples, no_think first; a share of 0 forces none, think included."""
    if no_think_share == 0:
        return [None] * samples
    num_no_think = round(samples * no_think_share)
    return [Mode.NO_THINK] * num_no_think + [Mode.THINK] * (samples - num_no_think)


def replace_decision_logprob(rollout: Rollout, no_think_share: float, force_think: ForceThink) -> Rollout:
    """Give the decision token its log-probability under π_IS; this is the paper's importance sampling.

    Where nothing was forced (a share of 0), the policy's own value stays.
    """
    if no_think_share == 0:
        return rollout
    sampled, *others = rollout.behavior_logprobs
    no_think = rollout.mode is Mode.NO_THINK
    # A token that was sampled with the no_think token banned is one of many of its mode; a forced one may be.
    within_mode = sampled if not no_think and force_think is ForceThink.BAN else rollout.within_mode
    decision = decision_logprob(no_think, no_think_share, within_mode)  # Eq. 7, t = 1
    return replace(  # Eq. 7, t > 1: as sampled
        rollout, behavior_logprobs=(decision, *others), sampled_decision=sampled
    )


def find_decision_logprob(rollout: Rollout, config: TrainConfig) -> float:
    """Return the engine's log-probability of the decision token; NaN where it is of the tokens that a ban left."""
    if config.force_think is ForceThink.BAN and rollout.mode is Mode.THINK and config.no_think_share > 0:
        return math.nan
    return rollout.behavior_logprobs[0] if rollout.sampled_decision is None else rollout.sampled_decision


def make_loss_mask(rollout: Rollout) -> tuple[bool, ...]:
    """Return whether each response token is in the loss: all but those that were forced after the decision.

    These were not sampled from any policy (Qwen3's `</think>\\n\\n` after the `\\n\\n` that decides).
    """
    return tuple(index == 0 or index >= rollout.num_forced for index in range(len(rollout.response_ids)))
