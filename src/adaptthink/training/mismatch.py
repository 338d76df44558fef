r"""How far the trainer's log-probabilities are from those that the engine sampled with, before a step's update.

Both are of the same tokens under what should be the same weights: Δ = log π_trainer − log π_sampler is rounding, or a
fault. Engines that compute in other precisions or kernels than the trainer have a Δ that can end a training. Three
numbers for each part of a step:

* `error`: mean over tokens of exp|Δ|, 1 where both agree (NeMo-RL's `token_mult_prob_error`);
* `kl`: the mean of exp(Δ) − 1 − Δ (K3), an unbiased estimate of KL(sampler‖trainer) that is never negative;
* `largest`: the largest |Δ|, in nats.

The parts are the sampled tokens behind the decision, by mode, and the decision tokens, forced ones too. π_IS is not a
sampler in this sense: a decision's Δ is taken from the engine's own log-probability. One more part, `sync`, is measured
when an engine that has weights of its own got those of the update: the starts behind one prompt, always the same.

Shapes: B responses, T tokens (padded), the decision in column 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptthink.config.schema import MismatchGate, TrainConfig
from adaptthink.engines.base import TrainingEngine
from adaptthink.errors import DivergedError
from adaptthink.models.loading import Policy, choose_dtype
from adaptthink.models.scoring import score_responses
from adaptthink.modes import Mode

DECISION, BODY, SYNC = "decision", "body", "sync"
PARTS = (*(mode.value for mode in Mode), BODY, DECISION, SYNC)
ERROR_LIMIT, KL_LIMIT = 1.05, 5e-4  # NeMo-RL's bounds for its nightly training of R1-Distill-Qwen-1.5B


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Sums over tokens; they add up."""

    tokens: int = 0
    error: float = 0.0  # of exp|Δ|
    kl: float = 0.0  # of K3
    largest: float = 0.0  # |Δ|, in nats

    def __add__(self, other: Mismatch) -> Mismatch:
        """Return the mismatch of both together."""
        largest = max(self.largest, other.largest)
        return Mismatch(self.tokens + other.tokens, self.error + other.error, self.kl + other.kl, largest)


Parts = dict[str, Mismatch]


@dataclass(frozen=True, slots=True)
class Gated:
    """What the loss gets: log-probabilities of the behaviour and the mask, (B, T); and what was measured."""

    behavior_BT: Tensor
    mask_BT: Tensor
    parts: Parts
    masked_B: Tensor  # responses that were left out


@torch.no_grad()
def gate_mismatch(
    logprob_BT: Tensor,
    behavior_BT: Tensor,
    mask_BT: Tensor,
    decision_B: Tensor | None,
    no_think_B: Tensor | None,
    gate: MismatchGate,
) -> Gated:
    """Measure the mismatch of responses, and do what the gate says.

    `logprob_BT` is the trainer's; `behavior_BT` the sampler's, but for the decision's, which is in `decision_B`: NaN
    where it cannot be compared, None where none can. `mask_BT` is True where a token is in the loss; values under it
    are never read. Without `no_think_B` the tokens behind the decision are one part, the body.

    "mask" takes responses out of the loss whose own error is beyond the bound. "truncate" moves the behaviour's
    log-probabilities so that no token's exp|Δ| is, and none weighs over 1.05 times what it does without a mismatch;
    decisions keep that of π_IS.
    """
    body_BT = mask_BT.clone()
    body_BT[:, :1] = False
    gap_BT = torch.where(body_BT, logprob_BT.double() - behavior_BT.double(), 0.0)
    error_BT = torch.where(body_BT, gap_BT.abs().exp(), 0.0)
    parts = {name: measure(gap_BT[body_BT & own_B[:, None]]) for name, own_B in split(no_think_B, mask_BT)}
    if decision_B is not None:
        parts[DECISION] = measure((logprob_BT[:, 0].double() - decision_B)[~decision_B.isnan()])
    masked_B = torch.zeros(len(mask_BT), dtype=torch.bool, device=mask_BT.device)
    if gate == "mask":
        mean_B = error_BT.sum(-1) / body_BT.sum(-1).clamp(min=1)
        masked_B = ~(mean_B <= ERROR_LIMIT) & body_BT.any(-1)
        mask_BT = mask_BT & ~masked_B[:, None]
    elif gate == "truncate":
        limit = math.log(ERROR_LIMIT)
        moved_BT = (logprob_BT - gap_BT.clamp(-limit, limit)).to(behavior_BT.dtype)
        behavior_BT = torch.where(body_BT, moved_BT, behavior_BT)
    return Gated(behavior_BT, mask_BT, parts, masked_B)


def split(no_think_B: Tensor | None, mask_BT: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each part and which responses are in it, on the mask's device."""
    if no_think_B is None:
        yield BODY, torch.ones(len(mask_BT), dtype=torch.bool, device=mask_BT.device)
    else:
        yield Mode.NO_THINK.value, no_think_B.bool()
        yield Mode.THINK.value, ~no_think_B.bool()


def measure(gap_N: Tensor) -> Mismatch:
    """Return the mismatch of tokens, given by their Δ in nats."""
    if not len(gap_N):
        return Mismatch()
    error, kl = gap_N.abs().exp().sum(), (gap_N.exp() - 1 - gap_N).sum()
    return Mismatch(len(gap_N), float(error), float(kl), float(gap_N.abs().max()))


def add_parts(total: Parts, parts: Mapping[str, Mismatch]) -> None:
    """Add some responses' parts to those of all."""
    for name, found in parts.items():
        total[name] = total.get(name, Mismatch()) + found


def describe_mismatch(parts: Mapping[str, Mismatch]) -> dict[str, float]:
    """Return the metrics of a step: three for each part that has tokens."""
    metrics = {}
    for name in PARTS:
        found = parts.get(name, Mismatch())
        if found.tokens:
            metrics[f"mismatch_error_{name}"] = found.error / found.tokens
            metrics[f"mismatch_kl_{name}"] = found.kl / found.tokens
            metrics[f"mismatch_largest_{name}"] = found.largest
    return metrics


def find_excess(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is beyond the bounds in a step's metrics, in words; NaN is beyond them."""
    for name in PARTS:
        error, kl = metrics.get(f"mismatch_error_{name}"), metrics.get(f"mismatch_kl_{name}")
        if error is not None and not error <= ERROR_LIMIT:
            yield f"mean exp|Δ| of {name} tokens is {error:.4g}, above {ERROR_LIMIT:g}"
        elif kl is not None and not kl <= KL_LIMIT:
            yield f"KL of {name} tokens is {kl:.3g}, above {KL_LIMIT:g}"


def pass_weights(
    engine: TrainingEngine, policy: Policy, prompt_ids: tuple[int, ...], config: TrainConfig
) -> dict[str, float]:
    """Give an engine the policy's weights; return the mismatch of the starts behind a prompt, of engines elsewhere.

    The engine in this program generates with the trained model itself.
    """
    engine.load_weights(policy.plain())
    if config.engine.in_process:
        return {}
    starts = (policy.template.no_think_id, *policy.template.think_ids)
    [theirs] = engine.next_token_logprobs([prompt_ids], starts, temperature=config.temperature)
    scored = score_responses(
        policy.model, [prompt_ids] * len(starts), [(start,) for start in starts], config.temperature,
        limit=config.micro_batch_tokens, dtype=choose_dtype(policy.model, config),
    )  # fmt: skip
    gap_N = torch.tensor([own for (own,) in scored], dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64)
    return describe_mismatch({SYNC: measure(gap_N)})


def check_mismatch(metrics: Mapping[str, Any], gate: MismatchGate, step: int) -> None:
    """Raise DivergedError for a step whose mismatch is beyond the bounds, where the gate is to stop."""
    excess = next(find_excess(metrics), None)
    if gate == "stop" and excess:
        raise DivergedError(
            f"step {step}: trainer and sampler disagree: {excess}; the last checkpoint is intact; compute both in the "
            "same precision, or give mismatch = 'truncate'"
        )
