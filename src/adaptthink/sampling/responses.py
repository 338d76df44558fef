"""Completing prompts that have no reference answer: modes, the threshold on P(no_think), batches.

For serving and for harnesses. Responses are not graded here and log-probabilities are not kept; `sampler.py` does both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adaptthink.config.schema import ForceThink
from adaptthink.engines.base import Completion, Engine, Request
from adaptthink.modes import Mode, ThinkTemplate, choose_mode
from adaptthink.sampling.requests import MaxTokens, make_request

GREEDY_TOP_P = 1e-9  # keeps the most likely token alone, on every engine
LEAST_TEMPERATURE = 1e-5  # below it logits divided by it may not be finite, and one token has all the probability


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """One prompt to complete once for each of `streams` (see `Request`).

    A mode of None leaves the choice to the model, or with a threshold to the model's P(no_think) at temperature 1.
    A temperature of 0 takes the most likely token.
    """

    prompt_ids: tuple[int, ...]
    streams: tuple[int, ...]
    max_tokens: MaxTokens
    mode: Mode | None = None
    threshold: float | None = None
    force_think: ForceThink = ForceThink.START
    temperature: float = 1.0
    top_p: float = 1.0

    @property
    def sampling(self) -> tuple[float, float]:
        """Temperature and top_p for the engine, which takes no temperature of 0, nor one or a top_p close to it."""
        if self.temperature < LEAST_TEMPERATURE:
            return 1.0, GREEDY_TOP_P
        return self.temperature, max(self.top_p, GREEDY_TOP_P)

    @property
    def needs_probability(self) -> bool:
        """Whether P(no_think) decides the mode."""
        return self.mode is None and self.threshold is not None


@dataclass(frozen=True, slots=True)
class Decision:
    """The mode that a prompt is completed in, None if the model samples it; P(no_think) where it was computed."""

    mode: Mode | None
    no_think_probability: float | None = None


@dataclass(frozen=True, slots=True)
class PromptCompletions:
    """The completions of one prompt, one for each stream."""

    decision: Decision
    completions: tuple[Completion, ...]


OnCompleted = Callable[[int, PromptCompletions], None]  # called as each prompt is done, with its index


def decide_modes(engine: Engine, template: ThinkTemplate, requests: Sequence[PromptRequest]) -> list[Decision]:
    """Decide the mode of each request; those that leave it to a threshold share one prefill."""
    thresholded = [one for one in requests if one.needs_probability]
    prompts = list(dict.fromkeys(one.prompt_ids for one in thresholded))
    rows = engine.next_token_logprobs(prompts, (template.no_think_id,)) if prompts else []
    probability = {prompt: math.exp(row[0]) for prompt, row in zip(prompts, rows, strict=True)}

    return [decide_mode(one, probability.get(one.prompt_ids)) for one in requests]


def decide_mode(request: PromptRequest, no_think_probability: float | None) -> Decision:
    """Return the mode of a request; P(no_think) is for those that need it."""
    if request.threshold is None or not request.needs_probability:
        return Decision(request.mode)
    assert no_think_probability is not None
    return Decision(choose_mode(no_think_probability, request.threshold), no_think_probability)


def make_requests(template: ThinkTemplate, request: PromptRequest, decision: Decision, *, seed: int) -> list[Request]:
    """Return the requests to the engine, one for each stream."""
    return [
        make_request(
            template,
            request.prompt_ids,
            decision.mode,
            stream,
            request.max_tokens,
            force_think=request.force_think,
            seed=seed,
        )
        for stream in request.streams
    ]


def complete_prompts(
    engine: Engine,
    template: ThinkTemplate,
    requests: Sequence[PromptRequest],
    *,
    seed: int = 0,
    on_completed: OnCompleted | None = None,
) -> list[PromptCompletions]:
    """Complete every prompt, in order; those with the same sampling settings are generated together."""
    decided = dict(enumerate(zip(requests, decide_modes(engine, template, requests), strict=True)))
    results: dict[int, PromptCompletions] = {}

    def keep(index: int, result: PromptCompletions) -> None:
        results[index] = result
        if on_completed:
            on_completed(index, result)

    for sampling in dict.fromkeys(one.sampling for one in requests):
        same = {index: (one, decision) for index, (one, decision) in decided.items() if one.sampling == sampling}
        _complete_batch(engine, template, same, sampling, seed, keep)
    return [results[index] for index in range(len(requests))]


def _complete_batch(
    engine: Engine,
    template: ThinkTemplate,
    decided: Mapping[int, tuple[PromptRequest, Decision]],
    sampling: tuple[float, float],
    seed: int,
    on_completed: OnCompleted,
) -> None:
    """Complete prompts with the same sampling settings; each is handed over as soon as its last completion ends."""
    owners = [index for index, (one, _) in decided.items() for _ in one.streams]
    ended: dict[int, dict[int, Completion]] = {index: {} for index in decided}

    def keep(number: int, completion: Completion) -> None:
        index = owners[number]
        one, decision = decided[index]
        ended[index][number] = completion
        if len(ended[index]) == len(one.streams):
            on_completed(index, PromptCompletions(decision, tuple(ended[index][key] for key in sorted(ended[index]))))

    temperature, top_p = sampling
    requests = [
        request for one, decision in decided.values() for request in make_requests(template, one, decision, seed=seed)
    ]
    engine.generate(requests, temperature=temperature, top_p=top_p, seed=seed, on_finish=keep)
