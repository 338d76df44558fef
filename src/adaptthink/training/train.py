"""The training loop. One step: rollouts → advantages → update. Read `rollout.py` and `objective.py` next.

Left out, because the paper's method does not have them: value network, KL penalty, entropy bonus, reward model,
group statistics. Everything random follows from (seed, step), so the loop carries no random state.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError
from adaptthink.grading import Verdict, compute_mean_reward
from adaptthink.grading.implicit_thinking import read_signs, thinks_implicitly
from adaptthink.models.batches import make_micro_batches
from adaptthink.models.loading import Policy, choose_dtype
from adaptthink.models.scoring import can_share, checkpoint_gradients, compute_response_logprobs, pad
from adaptthink.modes import Mode
from adaptthink.objective import PolicyLoss, advantage, group_advantage, policy_loss
from adaptthink.planning.roofline import Machine, compute_generation_bound, compute_update_bound, read_shape
from adaptthink.problems import Problem
from adaptthink.problems.table import Selection
from adaptthink.sampling.requests import MaxTokens, stream_seed
from adaptthink.sampling.sampler import KeepProbability, Rollout, Sampler, Sampling, collect, draw, keep_all
from adaptthink.storage.runs import MetricsLog, read_metrics
from adaptthink.training.allocation import RunningStatistics, Stratum, keep_probability_of, observe, update_statistics
from adaptthink.training.checkpoint import load_checkpoint, save_checkpoint, trained
from adaptthink.training.metrics import (
    GRADED_STEPS,
    Response,
    check_grading,
    mode_choice_metrics,
    response_metrics,
    weighted_mean,
)
from adaptthink.training.reference import Reference

Metrics = dict[str, Any]

DECAY_SHARE = 0.3  # of the steps: where the "stable_decay" schedule falls to zero


def train(
    policy: Policy,
    sampler: Sampler,
    problems: Sequence[Problem],
    reference: Mapping[str, Reference],
    held_out: Sequence[Problem],
    config: TrainConfig,
    run: Path,
    *,
    on_step: Callable[[Metrics], None],
    warn: Callable[[str], None],
    machine: Machine | None = None,
) -> None:
    """Train `policy.model` in place for `config.steps` steps, from the newest checkpoint in `run` if there is one.

    `sampler` is of that policy: its engine is given the weights after every change. `reference` holds R̄_ref by
    problem id; problems that cannot be graded are left out. `held_out` problems are only looked at. One line per step
    goes to `metrics.jsonl` and to `on_step`; with a `machine` it also holds the least seconds that the work would take
    there. Raises FloatingPointError if loss or gradient is not finite, and UserError if grading fails too often; the
    last checkpoint stays.
    """
    parameters = [parameter for _, parameter in trained(policy.model)]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    if config.gradient_checkpointing:
        checkpoint_gradients(policy.model)
    done = load_checkpoint(run / "checkpoints", policy.model, optimizer, warn=warn)
    sampler.engine.load_weights(policy.plain())
    gradable_N = np.fromiter((reference[problem.id].reward is not None for problem in problems), bool)
    problems = Selection(problems, np.flatnonzero(gradable_N))
    recent: deque[list[Verdict]] = deque(maxlen=GRADED_STEPS)
    log = MetricsLog(run / "metrics.jsonl", keep_steps=done)
    moments = restore_statistics(read_metrics(run / "metrics.jsonl"))
    clock = sampler.clock
    for step in range(done + 1, config.steps + 1):
        keep_probability = keep_probability_of(moments, config.token_share, reference, step)
        with clock.phase("rollout"):
            rollouts = collect_step(sampler, problems, config, step, keep_probability)
        recent.append([rollout.verdict for rollout in rollouts])
        check_grading(recent, config.max_failed_grades, step)
        implicit = implicit_thinkers(rollouts)
        unrewarded = implicit if config.implicit_thinking == "no_reward" else frozenset()
        advantages = step_advantages(rollouts, reference, config, unrewarded)
        with clock.phase("update"):
            metrics = update(policy.model, optimizer, rollouts, advantages, config, step)
        with clock.phase("load_weights"):
            sampler.engine.load_weights(policy.plain())
        metrics |= {"step": step} | rollout_metrics(rollouts, advantages)
        metrics["implicit_share_no_think"] = implicit_share(rollouts, implicit)
        seen = observe(rollouts, advantages.tolist(), reference)
        moments = update_statistics(moments, seen)
        metrics["strata"] = {cell: asdict(value) for cell, value in seen.items()}
        if machine:
            metrics |= roofline_seconds(policy.model, machine, rollouts, advantages, config)
        if step == 1 or step % config.probe_every == 0 or step == config.steps:
            with clock.phase("probe"):
                metrics |= probe_mode_choice(sampler, held_out, config.temperature)
                metrics |= probe_responses(sampler, held_out, config)
        metrics |= clock.take()
        log.write(metrics)
        on_step(metrics)
        if step % config.checkpoint_every == 0 or step == config.steps:
            with clock.phase("checkpoint"):
                save_checkpoint(run / "checkpoints", step, policy.model, optimizer, keep=config.keep_checkpoints)
    log.close()


def restore_statistics(rows: Iterable[Metrics]) -> dict[Stratum, RunningStatistics]:
    """What the steps of a log saw, as `remember` would have it after them.

    Raises UserError for a log of a version that did not note it: a run would go on with other samples in silence.
    """
    moments: dict[Stratum, RunningStatistics] = {}
    for row in rows:
        if "strata" not in row:
            raise UserError(
                f"cannot resume: step {row['step']} was logged by an older version, without what later steps are drawn "
                "by; resume with that version, or begin anew with --clean or another --output"
            )
        moments = update_statistics(moments, {cell: RunningStatistics(**sums) for cell, sums in row["strata"].items()})
    return moments


def collect_step(
    sampler: Sampler,
    problems: Sequence[Problem],
    config: TrainConfig,
    step: int,
    keep_probability: KeepProbability = keep_all,
) -> list[Rollout]:
    """Draw this step's rollouts from π_IS."""
    sampling = Sampling(
        MaxTokens(config.max_think_tokens, config.max_no_think_tokens),
        config.temperature,
        seed=stream_seed(config.seed, "rollout", step),
    )
    return collect(
        sampler,
        problems_of_step(problems, config.problems_per_step, config.seed, step),
        samples=config.samples_per_problem,
        no_think_share=config.no_think_share,
        sampling=sampling,
        force_think_start=config.force_think_start,
        keep_probability=keep_probability,
    )


def problems_of_step(problems: Sequence[Problem], count: int, seed: int, step: int) -> list[Problem]:
    """Return the `count` problems of a step (counted from 1): epoch after epoch, each in its own seeded order.

    A step that ends one epoch and begins the next may hold a problem twice, with the same responses: it counts double.
    """
    first = (step - 1) * count
    chosen = []
    for epoch in range(first // len(problems), (first + count - 1) // len(problems) + 1):
        offset = epoch * len(problems)
        order = epoch_order(len(problems), seed, epoch)
        chosen += [problems[index] for index in order[max(0, first - offset) : first + count - offset]]
    return chosen


@lru_cache(maxsize=2)
def epoch_order(size: int, seed: int, epoch: int) -> array[int]:
    """The order in which an epoch goes through problems, by index; four bytes of each."""
    order = array("I", range(size))
    random.Random(stream_seed(seed, "epoch", epoch)).shuffle(order)
    return order


def implicit_thinkers(rollouts: Sequence[Rollout]) -> frozenset[int]:
    """Places of the no_think rollouts that think all the same; lengths are compared within the step, by level."""
    indices = [index for index, rollout in enumerate(rollouts) if rollout.mode is Mode.NO_THINK]
    answers = ((str(rollouts[index].problem.level), rollouts[index].response.answer or "") for index in indices)
    return frozenset(
        index for index, signs in zip(indices, read_signs(answers), strict=True) if thinks_implicitly(signs)
    )


def implicit_share(rollouts: Sequence[Rollout], implicit: Collection[int]) -> float | None:
    """The share of no_think rollouts that think all the same, each weighing as it does in the loss; None of none."""
    return weighted_mean(
        (index in implicit, one.weight) for index, one in enumerate(rollouts) if one.mode is Mode.NO_THINK
    )


def step_advantages(
    rollouts: Sequence[Rollout],
    reference: Mapping[str, Reference],
    config: TrainConfig,
    unrewarded: Collection[int] = frozenset(),
) -> Tensor:
    """A(x, y) of every rollout, shape (N,); 0, and so no gradient, for a rollout that cannot be graded.

    The rollouts at the places `unrewarded` have R = 0 whatever their verdict.
    """
    gradable_N = torch.tensor([rollout.verdict is not Verdict.REFERENCE_UNPARSABLE for rollout in rollouts])
    no_think_N = torch.tensor([rollout.mode is Mode.NO_THINK for rollout in rollouts])
    reward_N = torch.tensor(
        [
            float(rollout.verdict is Verdict.CORRECT and index not in unrewarded)
            for index, rollout in enumerate(rollouts)
        ]
    )
    if config.advantage == "group":
        groups = (-1, config.samples_per_problem)
        advantage_N = group_advantage(no_think_N.view(groups), reward_N.view(groups), config.delta).flatten()
    else:
        reference_N = torch.tensor([reference[rollout.problem.id].reward or 0.0 for rollout in rollouts])
        advantage_N = advantage(no_think_N, reward_N, reference_N, config.delta)
    return torch.where(gradable_N, advantage_N, 0.0)


def update(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    rollouts: Sequence[Rollout],
    advantages_N: Tensor,
    config: TrainConfig,
    step: int,
) -> Metrics:
    """Take one optimiser step on all rollouts; exact for every micro-batch size.

    Rollouts whose advantage is exactly zero have no gradient, so they are left out before the forward pass; the loss
    is still divided by the number of all rollouts, or, where a lot decided which to draw, of all that could have been.
    """
    num_samples = config.problems_per_step * config.samples_per_problem
    weighted_N = advantages_N * torch.tensor([rollout.weight for rollout in rollouts])
    chosen = [index for index in range(len(rollouts)) if advantages_N[index] != 0]
    prompts = [rollouts[index].prompt_ids for index in chosen]
    responses = [rollouts[index].response_ids for index in chosen]
    loss, clipped = 0.0, [0.0] * len(rollouts)
    model.train()
    for batch in make_micro_batches(prompts, responses, config.micro_batch_tokens, sharing=can_share(model)):
        indices = [chosen[index] for index in batch.indices]
        own = [rollouts[index] for index in indices]
        result = batch_loss(model, own, weighted_N[indices], config, shared=batch.shared)
        micro_loss = result.loss_B.sum() / num_samples
        micro_loss.backward()
        loss += micro_loss.item()
        for index, value in zip(indices, result.clipped_B.tolist(), strict=True):
            clipped[index] = value
    rate = learning_rate(config, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm))
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise FloatingPointError(
            f"step {step}: loss {loss} and gradient norm {grad_norm} are not finite; "
            "the last checkpoint is intact; begin anew with a smaller learning_rate"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    by_mode = {
        f"clip_share_{mode}": weighted_mean(
            (value, rollout.weight) for value, rollout in zip(clipped, rollouts, strict=True) if rollout.mode is mode
        )
        for mode in Mode
    }
    return {"loss": loss, "grad_norm": grad_norm, "learning_rate": rate} | by_mode


def batch_loss(
    model: PreTrainedModel,
    rollouts: Sequence[Rollout],
    advantages_B: Tensor,
    config: TrainConfig,
    *,
    shared: bool = False,
) -> PolicyLoss:
    """Forward one micro-batch, its prompts `shared` or not, and return its loss per rollout."""
    device = next(model.parameters()).device
    prompts, responses = [rollout.prompt_ids for rollout in rollouts], [rollout.response_ids for rollout in rollouts]
    with torch.autocast(device.type, torch.bfloat16, enabled=choose_dtype(model, config) == torch.bfloat16):
        logprob_BT = compute_response_logprobs(model, prompts, responses, config.temperature, shared=shared)
    return policy_loss(
        logprob_BT,
        pad([rollout.behavior_logprobs for rollout in rollouts], device, np.float32),
        advantages_B.to(device),
        pad([rollout.in_loss for rollout in rollouts], device, np.bool_),
        clip=config.clip,
        ratio=config.ratio,
    )


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of a step (counted from 1)."""
    warm = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return config.learning_rate * warm
    left = (config.steps - step + 1) / config.steps
    return config.learning_rate * warm * min(1.0, left / DECAY_SHARE)


def rollout_metrics(rollouts: Sequence[Rollout], advantages_N: Tensor) -> Metrics:
    """Describe a step's rollouts by mode, each weighing as it does in the loss."""
    return response_metrics(
        [
            Response(rollout.mode, rollout.verdict, len(rollout.response_ids), advantage, rollout.weight)
            for advantage, rollout in zip(advantages_N.tolist(), rollouts, strict=True)
        ]
    )


def roofline_seconds(
    model: PreTrainedModel, machine: Machine, rollouts: Sequence[Rollout], advantages_N: Tensor, config: TrainConfig
) -> Metrics:
    """The least time that this machine could take for a step's generation and update."""
    shape = read_shape(model, choose_dtype(model, config))
    prompts, responses = [one.prompt_ids for one in rollouts], [one.response_ids for one in rollouts]
    chosen = advantages_N.nonzero().flatten().tolist()
    return {
        "generate_roofline_seconds": compute_generation_bound(shape, machine, prompts, responses),
        "update_roofline_seconds": compute_update_bound(
            shape, machine, [prompts[index] for index in chosen], [responses[index] for index in chosen]
        ),
    }


def probe_mode_choice(sampler: Sampler, problems: Sequence[Problem], temperature: float) -> Metrics:
    """Look at the decision token on held-out problems: one prefill per problem, nothing sampled.

    This is where a cold start can be seen to move long before the first no_think answer is drawn.
    """
    template, engine = sampler.template, sampler.engine
    prompts = [sampler.prompt(problem) for problem in problems]
    rows = engine.next_token_logprobs(prompts, (template.no_think_id, template.think_id), temperature=temperature)
    return mode_choice_metrics(problems, rows)


def probe_responses(sampler: Sampler, problems: Sequence[Problem], config: TrainConfig) -> Metrics:
    """Answer held-out problems as the model chooses, always with the same random streams; nothing is learned."""
    if config.probe_samples == 0:
        return {}
    max_tokens = MaxTokens(config.max_think_tokens, config.max_no_think_tokens)
    sampling = Sampling(max_tokens, config.temperature, seed=stream_seed(config.seed, "probe"))
    groups = draw(sampler, problems, [None] * config.probe_samples, sampling)
    rollouts = [rollout for group in groups for rollout in group]
    return {
        "probe_accuracy": compute_mean_reward(rollout.verdict for rollout in rollouts),
        "probe_mean_tokens": fmean(len(rollout.response_ids) for rollout in rollouts),
        "probe_sampled_no_think_share": fmean(rollout.mode is Mode.NO_THINK for rollout in rollouts),
    }
