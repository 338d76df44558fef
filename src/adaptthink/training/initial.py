"""The model before training, kept beside the one that is trained: what a pull holds answers to."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adaptthink.config.schema import TrainConfig
from adaptthink.models.loading import Policy, choose_dtype
from adaptthink.models.scoring import score_responses
from adaptthink.modes import Mode
from adaptthink.sampling.sampler import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class InitialModel:
    """A frozen copy of a model, or of one with an adapter the model itself, read with the adapter switched off."""

    policy: Policy
    model: PreTrainedModel

    def score(self, rollouts: Sequence[Rollout], modes: Container[Mode], config: TrainConfig) -> list[Rollout]:
        """Return the rollouts, those of `modes` with the log-probabilities of their tokens under this model."""
        chosen = [one for one in rollouts if one.mode in modes]
        adapter = self.policy.adapter
        with adapter.disable_adapter() if adapter else nullcontext():
            scored = iter(score_rollouts(self.model, chosen, config))
        return [replace(one, initial_logprobs=next(scored)) if one.mode in modes else one for one in rollouts]


def score_rollouts(model: PreTrainedModel, rollouts: Sequence[Rollout], config: TrainConfig) -> list[tuple[float, ...]]:
    """Return the log-probabilities of each rollout's tokens under a model, at the temperature of the training."""
    return score_responses(
        model,
        [one.prompt_ids for one in rollouts],
        [one.response_ids for one in rollouts],
        config.temperature,
        limit=config.micro_batch_tokens,
        dtype=choose_dtype(model, config),
    )


def keep_initial(policy: Policy) -> InitialModel:
    """Return the model as it is now."""
    if policy.adapter:
        return InitialModel(policy, policy.model)
    return InitialModel(policy, copy.deepcopy(policy.model).requires_grad_(False).eval())
