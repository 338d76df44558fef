"""From a request to a job: the prompt's tokens, the limits, the decision. All of it may take long: not for the loop."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from adaptthink.config.schema import ServeConfig
from adaptthink.engines.base import Finish, Request
from adaptthink.engines.jobs import Job
from adaptthink.modes import Mode, ThinkTemplate, encode, encode_prompt, encode_rendered, is_rendered
from adaptthink.sampling.requests import MaxTokens, make_seed
from adaptthink.sampling.responses import PromptRequest, decide_mode, make_requests
from adaptthink.serving.generation import CallError, Decided, Event, GenerationRequest
from adaptthink.serving.streaming import ChoiceReader


@dataclass(frozen=True, slots=True)
class Served:
    """The model that is served, under the name that clients know it by."""

    name: str
    tokenizer: Any
    template: ThinkTemplate
    context_tokens: int | None  # maximum of prompt and response together
    threshold: float | None
    modes: tuple[Mode, ...] = tuple(Mode)  # that can be requested
    longest_token: int = field(init=False)  # characters

    def __post_init__(self) -> None:
        """Measure the tokenizer once."""
        object.__setattr__(self, "longest_token", max(map(len, self.tokenizer.get_vocab())))


def make_job(
    served: Served,
    config: ServeConfig,
    request: GenerationRequest,
    post: Callable[[Event | Exception], None],
    *,
    owner: Hashable = None,
) -> Job:
    """Return the job that answers a request; its events go to `post`, on the thread that generates.

    Raises UserError for a prompt that the template refuses or the context does not hold.
    """
    prompt, decides = encode_request(served, request)
    wanted = make_prompt_request(served, config, request, prompt, decides=decides)
    plain = isinstance(request.prompt, str)
    readers: list[ChoiceReader] = []

    def begin(scores: Sequence[float]) -> list[Request]:
        decision = decide_mode(wanted, math.exp(scores[0]) if scores else None)
        hides = plain and decision.mode is Mode.NO_THINK  # a continued text does not show the forced marker
        forced = len(served.template.no_think_prefix_ids) if hides else 0
        if not readers:  # an engine of batches may try again
            post(Decided(decision.mode, decision.no_think_probability, wanted.threshold, len(prompt)))
        readers[:] = [
            ChoiceReader(index, served.tokenizer, served.template, request.stops, plain=plain, forced=forced)
            for index in range(request.n)
        ]
        return make_requests(served.template, wanted, decision, seed=config.seed)

    def on_token(choice: int, token: int, finish: Finish | None) -> bool:
        for event in readers[choice].add(token, finish):
            post(event)
        return not readers[choice].stopped

    temperature, top_p = wanted.sampling
    return Job(
        prompt_ids=prompt,
        begin=begin,
        on_token=on_token,
        on_error=post,
        scored_ids=(served.template.no_think_id,) if wanted.needs_probability else (),
        temperature=temperature,
        top_p=top_p,
        owner=owner,
    )


def encode_request(served: Served, request: GenerationRequest) -> tuple[tuple[int, ...], bool]:
    """Return a prompt's tokens, and whether the next token decides the mode."""
    template, tokenizer, text = served.template, served.tokenizer, request.prompt
    size = len(text) if isinstance(text, str) else sum(len(message.content) for message in text)
    if served.context_tokens and size > served.context_tokens * served.longest_token:
        raise make_context_error(f"{size} characters", served.context_tokens)  # encoding them would take long
    if not isinstance(text, str):
        return encode_prompt(tokenizer, template, text), True
    decides = is_rendered(tokenizer, template, text)
    if request.mode and not decides:
        raise CallError(
            "the prompt does not end as the chat template's prompts do, so there is no mode to choose; send messages "
            f"to /v1/chat/completions, or request the model '{served.name}'",
            param="model",
            code="invalid_value",
        )
    ids = encode_rendered(tokenizer, template, text) if decides else encode(tokenizer, text)
    if not ids:
        raise CallError("the prompt is empty; send a text to continue", param="prompt", code="invalid_value")
    return ids, decides


def make_prompt_request(
    served: Served, config: ServeConfig, request: GenerationRequest, prompt: tuple[int, ...], *, decides: bool
) -> PromptRequest:
    """Return what is to be completed; raises CallError for a prompt that leaves no context for a response."""
    limit = request.max_tokens or max(config.max_think_tokens, config.max_no_think_tokens)
    if served.context_tokens is not None:
        left = served.context_tokens - len(prompt)
        if left <= len(served.template.no_think_prefix_ids):
            raise make_context_error(f"{len(prompt)} tokens", served.context_tokens)
        limit = min(limit, left)
    seed = secrets.randbits(63) if request.seed is None else request.seed
    threshold = served.threshold if request.threshold is None else request.threshold
    return PromptRequest(
        prompt_ids=prompt,
        streams=tuple(make_seed(seed, "choice", index) for index in range(request.n)),
        max_tokens=MaxTokens(min(limit, config.max_think_tokens), min(limit, config.max_no_think_tokens)),
        mode=request.mode,
        threshold=threshold if decides and request.mode is None else None,
        force_think=config.force_think,
        temperature=config.temperature if request.temperature is None else request.temperature,
        top_p=config.top_p if request.top_p is None else request.top_p,
    )


def make_context_error(length: str, context: int) -> CallError:
    """Return the error for a prompt that is too long."""
    return CallError(
        f"the prompt has {length}, which leaves no tokens for a response in the model's context of {context}; shorten "
        "it",
        code="context_length_exceeded",
    )
