"""The model before training, kept beside the one that is trained: what a pull holds answers to."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from adaptthink.config.schema import TrainConfig
from adaptthink.models.batches import make_micro_batches
from adaptthink.models.loading import Policy, choose_dtype
from adaptthink.models.scoring import can_share, compute_response_logprobs
from adaptthink.modes import Mode
from adaptthink.sampling.sampler import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class InitialModel:
    """A frozen copy of a model, or of one with an adapter the model itself, read with the adapter switched off."""

    policy: Policy
    model: PreTrainedModel

    @torch.no_grad()
    def score(self, rollouts: Sequence[Rollout], modes: Container[Mode], config: TrainConfig) -> list[Rollout]:
        """Return the rollouts, those of `modes` with the log-probabilities of their tokens under this model."""
        chosen = [index for index, one in enumerate(rollouts) if one.mode in modes]
        prompts = [rollouts[index].prompt_ids for index in chosen]
        responses = [rollouts[index].response_ids for index in chosen]
        batches = make_micro_batches(prompts, responses, config.micro_batch_tokens, sharing=can_share(self.model))
        scored = list(rollouts)
        adapter, device = self.policy.adapter, self.model.device
        with (
            adapter.disable_adapter() if adapter else nullcontext(),
            torch.autocast(device.type, torch.bfloat16, enabled=choose_dtype(self.model, config) == torch.bfloat16),
        ):
            for batch in batches:
                own_prompts, own_responses = ([rows[index] for index in batch.indices] for rows in (prompts, responses))
                logprob_BT = compute_response_logprobs(
                    self.model, own_prompts, own_responses, config.temperature, shared=batch.shared
                )
                for index, row in zip(batch.indices, logprob_BT.tolist(), strict=True):
                    known = tuple(row[: len(responses[index])])
                    scored[chosen[index]] = replace(rollouts[chosen[index]], initial_logprobs=known)
        return scored


def keep_initial(policy: Policy) -> InitialModel:
    """Return the model as it is now."""
    if policy.adapter:
        return InitialModel(policy, policy.model)
    return InitialModel(policy, copy.deepcopy(policy.model).requires_grad_(False).eval())
