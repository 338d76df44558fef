"""What the native trainer logs for a step: rollouts, roofline, and the policy on held-out problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from adaptthink.config.schema import TrainConfig
from adaptthink.models.loading import choose_dtype
from adaptthink.modes import Mode
from adaptthink.planning.roofline import (
    Machine,
    Shape,
    compute_generation_bound,
    compute_update_bound,
    measure_machine,
    read_shape,
)
from adaptthink.problems import Problem
from adaptthink.sampling.requests import MaxTokens, make_seed
from adaptthink.sampling.sampler import Rollout, Sampler, Sampling, sample_rollouts
from adaptthink.training.advantages import find_implicit_thinkers
from adaptthink.training.batch import summarise_rollout
from adaptthink.training.credit import Credit, count_update_tokens
from adaptthink.training.metrics import (
    Metrics,
    compute_weighted_mean,
    describe_credit,
    describe_mode_choice,
    describe_rollouts,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Roofline:
    """What limits the speed of a step: the machine as measured, and the shape of the model."""

    machine: Machine
    shape: Shape


def measure_roofline(model: PreTrainedModel, config: TrainConfig) -> Roofline:
    """Measure the machine in the arithmetic in which the model generates; about a second."""
    dtype = choose_dtype(model, config)
    return Roofline(measure_machine(model.device, dtype), read_shape(model, dtype))


def describe_step(
    rollouts: Sequence[Rollout],
    credits: Sequence[Credit],
    step: int,
    roofline: Roofline | None,
) -> Metrics:
    """Describe a step after its update: its rollouts, and the roofline if one was measured."""
    summaries = [summarise_rollout(rollout) for rollout in rollouts]
    metrics = describe_rollouts(summaries) | describe_credit(summaries, credits)
    metrics |= {"step": step, "implicit_share_no_think": compute_implicit_share(rollouts)} | describe_entropy(rollouts)
    if roofline:
        metrics |= compute_roofline_seconds(roofline, rollouts, credits)
    return metrics


def probe(sampler: Sampler, held_out: Sequence[Problem], config: TrainConfig) -> Metrics:
    """Measure the mode choice on held-out problems, and responses to them."""
    with sampler.clock.phase("probe"):
        return probe_mode_choice(sampler, held_out, config.temperature) | probe_responses(sampler, held_out, config)


def describe_entropy(rollouts: Sequence[Rollout]) -> Metrics:
    """Return for each mode the mean of −log π over its sampled tokens behind the decision, in nats.

    An estimate of the entropy of the policy's next token; None where a mode has no such token.
    """
    tokens: dict[Mode, list[float]] = {mode: [] for mode in Mode}
    for one in rollouts:
        tokens[one.mode] += one.behavior_logprobs[max(1, one.num_forced) :]
    return {f"entropy_{mode}": -fmean(found) if found else None for mode, found in tokens.items()}


def compute_implicit_share(rollouts: Sequence[Rollout]) -> float | None:
    """Return the share of no_think rollouts whose answers think, weighted as in the loss; None if there are none."""
    implicit = find_implicit_thinkers(rollouts)
    return compute_weighted_mean(
        (index in implicit, one.weight) for index, one in enumerate(rollouts) if one.mode is Mode.NO_THINK
    )


def compute_roofline_seconds(roofline: Roofline, rollouts: Sequence[Rollout], credits: Sequence[Credit]) -> Metrics:
    """Return the roofline of a step: the fewest seconds that its generation and its update could take."""
    prompts, responses = [one.prompt_ids for one in rollouts], [one.response_ids for one in rollouts]
    sizes = [count_update_tokens(credit, len(one)) for credit, one in zip(credits, responses, strict=True)]
    chosen = [index for index, size in enumerate(sizes) if size]
    return {
        "generate_roofline_seconds": compute_generation_bound(roofline.shape, roofline.machine, prompts, responses),
        "update_roofline_seconds": compute_update_bound(
            roofline.shape,
            roofline.machine,
            [prompts[index] for index in chosen],
            [responses[index][: sizes[index]] for index in chosen],
        ),
    }


def probe_mode_choice(sampler: Sampler, problems: Sequence[Problem], temperature: float) -> Metrics:
    """Read the probabilities of the decision token on held-out problems: one prefill per problem, nothing sampled.

    They move long before the policy samples its first no_think response, so a cold start shows here first.
    """
    template, engine = sampler.template, sampler.engine
    prompts = [sampler.encode_prompt(problem) for problem in problems]
    ids = (template.no_think_id, *template.think_ids)
    rows = engine.next_token_logprobs(prompts, ids, temperature=temperature)
    return describe_mode_choice(problems, rows)


def probe_responses(sampler: Sampler, problems: Sequence[Problem], config: TrainConfig) -> Metrics:
    """Respond to held-out problems in the mode that the model chooses, always with the same random streams."""
    if config.probe_samples == 0:
        return {}
    max_tokens = MaxTokens(config.max_think_tokens, config.max_no_think_tokens)
    sampling = Sampling(max_tokens, config.temperature, seed=make_seed(config.seed, "probe"))
    groups = sample_rollouts(sampler, problems, [None] * config.probe_samples, sampling)
    rollouts = [rollout for group in groups for rollout in group]
    rewards = [summarise_rollout(rollout).reward for rollout in rollouts]
    return {
        "probe_accuracy": compute_weighted_mean((reward, 1.0) for reward in rewards if reward is not None),
        "probe_mean_tokens": fmean(len(rollout.response_ids) for rollout in rollouts),
        "probe_sampled_no_think_share": fmean(rollout.mode is Mode.NO_THINK for rollout in rollouts),
    }
