"""The update: one optimiser step on the clipped loss (Eq. 8-9) of a step's rollouts, in micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from adaptthink.config.schema import TrainConfig, UpdateConfig
from adaptthink.models.batches import make_micro_batches
from adaptthink.models.loading import choose_dtype
from adaptthink.models.scoring import can_share, checkpoint_gradients, compute_response_logprobs, pad
from adaptthink.modes import Mode
from adaptthink.objective import PolicyLoss
from adaptthink.sampling.sampler import OnFinished, Rollout
from adaptthink.training.checkpoint import select_trained_parameters
from adaptthink.training.credit import Credit, count_update_tokens, spread_credit
from adaptthink.training.methods import load_method
from adaptthink.training.metrics import Metrics, check_finite, compute_weighted_mean
from adaptthink.training.mismatch import Parts, add_parts, check_mismatch, describe_mismatch, gate_mismatch
from adaptthink.training.rollout import find_decision_logprob, make_loss_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DECAY_SHARE = 0.3  # of the steps: where the "stable_decay" schedule falls to zero


def make_optimizer(model: PreTrainedModel, config: UpdateConfig) -> torch.optim.Optimizer:
    """Return AdamW on the trained parameters; activations are recomputed in the backward pass if configured."""
    if config.gradient_checkpointing:
        checkpoint_gradients(model)
    parameters = [parameter for _, parameter in select_trained_parameters(model)]
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)


def update(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    rollouts: Sequence[Rollout],
    credits: Sequence[Credit],
    config: TrainConfig,
    step: int,
) -> Metrics:
    """Take one optimiser step on all rollouts: `compute_gradient`, then `apply_gradient`."""
    metrics = compute_gradient(model, rollouts, credits, config, step)
    apply_gradient(optimizer, config, step)
    return metrics


def compute_gradient(
    model: PreTrainedModel,
    rollouts: Sequence[Rollout],
    credits: Sequence[Credit],
    config: TrainConfig,
    step: int,
    on_finish: OnFinished | None = None,
) -> Metrics:
    """Leave the clipped gradient of a step's loss with the parameters; exact for every micro-batch size.

    `on_finish` is called with numbers of responses whose gradient is done, and of their tokens.

    Raises NonFiniteStepError if loss or gradient is not finite.
    """
    found = accumulate_gradients(model, rollouts, credits, config, on_finish)
    mismatch = describe_mismatch(found.mismatch)
    check_mismatch(mismatch, config.mismatch, step)
    grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm))
    check_finite(found.loss, grad_norm, step)
    rate = compute_learning_rate(config, step)
    by_mode = {
        f"clip_share_{mode}": compute_weighted_mean(
            (value, rollout.weight)
            for value, rollout in zip(found.clipped, rollouts, strict=True)
            if rollout.mode is mode
        )
        for mode in Mode
    }
    masked = {"mismatch_masked": found.masked} if config.mismatch == "mask" else {}
    return {"loss": found.loss, "grad_norm": grad_norm, "learning_rate": rate} | by_mode | mismatch | masked


def apply_gradient(optimizer: torch.optim.Optimizer, config: UpdateConfig, step: int) -> None:
    """Change the parameters by their gradients, those without one not at all; the gradients are gone then."""
    for group in optimizer.param_groups:
        group["lr"] = compute_learning_rate(config, step)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@dataclass(slots=True)
class Accumulated:
    """What comes of a step's gradient: the loss, the clipped part of each rollout's, and the mismatch by part."""

    loss: float
    clipped: list[float]
    mismatch: Parts = field(default_factory=dict)
    masked: int = 0  # responses that the mismatch gate left out


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The loss of each rollout of a micro-batch, their mismatch, and how many of them its gate left out."""

    loss: PolicyLoss
    mismatch: Parts
    masked: int


def accumulate_gradients(
    model: PreTrainedModel,
    rollouts: Sequence[Rollout],
    credits: Sequence[Credit],
    config: TrainConfig,
    on_finish: OnFinished | None = None,
) -> Accumulated:
    """Add the gradient of the step's loss to the parameters.

    Tokens behind the last one with credit have no gradient, so they are left out before the forward pass. The loss is
    divided by the number of samples of the whole design all the same, those that were not kept included; replayed ones
    are all that there are.
    """
    from_store = load_method(config.method).from_store
    num_samples = len(rollouts) if from_store else config.problems_per_step * config.samples_per_problem
    sizes = [count_update_tokens(credit, len(one.response_ids)) for credit, one in zip(credits, rollouts, strict=True)]
    chosen = [index for index, size in enumerate(sizes) if size]
    prompts = [rollouts[index].prompt_ids for index in chosen]
    responses = [rollouts[index].response_ids[: sizes[index]] for index in chosen]
    found = Accumulated(0.0, [0.0] * len(rollouts))
    model.train()
    for batch in make_micro_batches(prompts, responses, config.micro_batch_tokens, sharing=can_share(model)):
        indices = [chosen[index] for index in batch.indices]
        own = [rollouts[index] for index in indices]
        credited = [credits[index] for index in indices]
        result = compute_micro_batch_loss(model, own, credited, config, shared=batch.shared)
        micro_loss = result.loss.loss_B.sum() / num_samples
        micro_loss.backward()
        found.loss += micro_loss.item()
        found.masked += result.masked
        add_parts(found.mismatch, result.mismatch)
        for index, value in zip(indices, result.loss.clipped_B.tolist(), strict=True):
            found.clipped[index] = value
        if on_finish:
            on_finish(len(own), sum(sizes[index] for index in indices))
    return found


def compute_micro_batch_loss(
    model: PreTrainedModel,
    rollouts: Sequence[Rollout],
    credits: Sequence[Credit],
    config: TrainConfig,
    *,
    shared: bool = False,
) -> MicroBatch:
    """Forward one micro-batch, its prompts `shared` or not; return the loss and the mismatch of each rollout.

    The weights are those that the responses were sampled with, so the mismatch is that of engine and trainer.
    """
    device = next(model.parameters()).device
    credit_B = [
        spread_credit(credit, one.behavior_logprobs, one.initial_logprobs) * one.weight
        for credit, one in zip(credits, rollouts, strict=True)
    ]
    prompts = [one.prompt_ids for one in rollouts]
    responses = [one.response_ids[: len(credit_T)] for one, credit_T in zip(rollouts, credit_B, strict=True)]
    with torch.autocast(device.type, torch.bfloat16, enabled=choose_dtype(model, config) == torch.bfloat16):
        logprob_BT = compute_response_logprobs(model, prompts, responses, config.temperature, shared=shared)
    sizes = [len(response) for response in responses]
    method = load_method(config.method)
    behavior_BT = pad(
        [one.behavior_logprobs[:size] for one, size in zip(rollouts, sizes, strict=True)], device, np.float32
    )
    mask_BT = pad([make_loss_mask(one)[:size] for one, size in zip(rollouts, sizes, strict=True)], device, np.bool_)
    parts: Parts = {}
    num_masked = 0
    if not method.from_store:  # what is replayed was sampled by another policy
        decision_B = torch.tensor([find_decision_logprob(one, config) for one in rollouts], device=device)
        no_think_B = torch.tensor([one.mode is Mode.NO_THINK for one in rollouts], device=device)
        gated = gate_mismatch(logprob_BT, behavior_BT, mask_BT, decision_B, no_think_B, config.mismatch)
        behavior_BT, mask_BT, parts = gated.behavior_BT, gated.mask_BT, gated.parts
        num_masked = int(gated.masked_B.sum())
    credit_BT = pad(credit_B, device, np.float32)
    return MicroBatch(method.compute_loss(logprob_BT, behavior_BT, credit_BT, mask_BT, config), parts, num_masked)


def compute_learning_rate(config: UpdateConfig, step: int) -> float:
    """Return the learning rate of a step (counted from 1)."""
    warm = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return config.learning_rate * warm
    left = (config.steps - step + 1) / config.steps
    return config.learning_rate * warm * min(1.0, left / DECAY_SHARE)
