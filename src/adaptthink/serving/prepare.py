"""From a request to a job: the prompt's tokens, the limits, the decision. All of it may take long: not for the loop."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adaptthink.config.schema import ServeConfig
from adaptthink.dial.curve import ALWAYS_THINK
from adaptthink.dial.efforts import FORCED, Level, choose_level, list_levels
from adaptthink.dial.second_look import is_doubtful
from adaptthink.engines.base import Finish, Request
from adaptthink.engines.jobs import Closing, Job
from adaptthink.modes import Mode, ThinkTemplate, choose_mode, encode, encode_prompt, encode_rendered, is_rendered
from adaptthink.sampling.reading import decode
from adaptthink.sampling.requests import MaxTokens, make_seed
from adaptthink.sampling.responses import Decision, PromptRequest, make_requests
from adaptthink.serving.feedback import SharedDial
from adaptthink.serving.generation import CallError, Decided, Delta, Ended, Event, GenerationRequest, Reason
from adaptthink.serving.streaming import ChoiceReader

FEW = 3  # different characters, of which white space is written in a vocabulary
RAMP = 0.2  # of a thinking budget, over which the close token's logit rises


@dataclass(frozen=True, slots=True)
class Served:
    """The model that is served, under the name that clients know it by."""

    name: str
    tokenizer: Any
    template: ThinkTemplate
    context_tokens: int | None  # maximum of prompt and response together
    threshold: float | None  # of mode auto; None: the model samples, or the online dial decides
    certified: bool = False  # whether the threshold is a certified dial's
    levels: tuple[Level, ...] = list_levels()  # the efforts that requests can name
    online: SharedDial | None = None  # decides in mode auto
    closing_sentence: str = ""  # that ends a thought at its budget
    modes: tuple[Mode, ...] = tuple(Mode)  # that can be requested
    closing_ids: tuple[int, ...] = field(init=False)  # of it, of the close token, and what the template writes behind
    longest_token: int = field(init=False)  # characters
    blank_ids: frozenset[int] = field(init=False)  # tokens of white space

    def __post_init__(self) -> None:
        """Measure and use the tokenizer once."""
        vocabulary = self.tokenizer.get_vocab()
        few = [token_id for token, token_id in vocabulary.items() if len(set(token)) <= FEW]  # decoding all takes long
        blank_ids = frozenset(token_id for token_id in few if not decode(self.tokenizer, [token_id]).strip())
        object.__setattr__(self, "blank_ids", blank_ids)
        object.__setattr__(self, "longest_token", max(map(len, vocabulary)))
        prefix, close = self.template.no_think_prefix_ids, self.template.close_id
        sentence_ids = tuple(self.tokenizer.encode(self.closing_sentence, add_special_tokens=False))
        object.__setattr__(self, "closing_ids", (*sentence_ids, *prefix[prefix.index(close) :]))

    @property
    def think_tokens(self) -> float | None:
        """Mean tokens of a response with thinking, as the calibration measured."""
        return self.levels[-1].mean_tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for a request, before its mode is decided."""

    wanted: PromptRequest
    rule: Rule
    closing: Closing | None
    think_tokens: float | None
    request_id: str
    online: SharedDial | None

    def decide(self, no_think_probability: float | None) -> Decided:
        """Decide the mode, once: an online dial records it. P(no_think) is for plans that need it."""
        mode, threshold, reason = self.rule.mode, self.rule.threshold, self.rule.reason
        if threshold is not None:
            assert no_think_probability is not None
            mode = choose_mode(no_think_probability, threshold)
            if reason is Reason.ONLINE and self.online:
                decision = self.online.decide(self.request_id, no_think_probability, len(self.wanted.streams))
                mode, threshold = decision.mode, decision.threshold
                reason = Reason.EXPLORATION if decision.explored else reason
        return Decided(
            mode,
            no_think_probability if threshold is not None else None,
            threshold,
            len(self.wanted.prompt_ids),
            reason,
            self.rule.effort,
            self.closing.budget if self.closing and mode is not Mode.NO_THINK else None,
            self.think_tokens,
        )


def make_plan(served: Served, config: ServeConfig, request: GenerationRequest) -> Plan:
    """Encode a request, and read what it says about its mode and its limits.

    Raises UserError for a prompt that the template refuses or the context does not hold.
    """
    prompt, decides = encode_request(served, request)
    rule = choose_rule(served, request) if decides else Rule(Reason.MODEL)
    wanted, closing = make_prompt_request(served, config, request, prompt, rule)
    return Plan(wanted, rule, closing, served.think_tokens, request.id, served.online)


def make_job(
    served: Served,
    config: ServeConfig,
    request: GenerationRequest,
    post: Callable[[Event | Exception], None],
    submit: Callable[[Job], None],
    *,
    owner: Hashable = None,
) -> Job:
    """Return the job that answers a request; its events go to `post`, on the thread that generates.

    A second look is another job, for `submit`. Raises UserError for a prompt that the template refuses or the context
    does not hold.
    """
    plan = make_plan(served, config, request)
    wanted, closing, prompt = plan.wanted, plan.closing, plan.wanted.prompt_ids
    plain = isinstance(request.prompt, str)
    readers: list[ChoiceReader] = []
    held: dict[int, list[Delta | Ended]] = {}  # of direct answers that may be doubtful, by choice
    decided: Decided | None = None

    def begin(scores: Sequence[float]) -> list[Request]:
        nonlocal decided
        if decided is None:  # an engine of batches may try again
            decided = plan.decide(math.exp(scores[0]) if scores else None)
            post(decided)
        hides = plain and decided.mode is Mode.NO_THINK  # a continued text does not show the forced marker
        forced = len(served.template.no_think_prefix_ids) if hides else 0
        readers[:] = [
            ChoiceReader(index, served.tokenizer, served.template, request.stops, plain=plain, forced=forced)
            for index in range(request.n)
        ]
        return make_forced_requests(served, wanted, decided.mode, config.seed)

    def on_token(choice: int, token: int, finish: Finish | None) -> bool:
        reader = readers[choice]
        events = reader.add(token, finish)
        if request.second_look and reader.mode is Mode.NO_THINK:
            events = [*held.pop(choice, []), *events]
            if not events or not isinstance(events[-1], Ended):
                held[choice] = events
                return True
            response = events[-1].response
            if is_doubtful(response.answer, finished=response.finished):
                submit(make_second_look(choice, response.tokens))
                return False
        for event in events:
            post(event)
        return not reader.stopped

    def make_second_look(choice: int, direct_tokens: int) -> Job:
        again = ChoiceReader(choice, served.tokenizer, served.template, request.stops, plain=plain)

        def begin(_: Sequence[float]) -> list[Request]:
            stream = make_seed(wanted.streams[choice], "second look")
            thought = replace(wanted, streams=(stream,), mode=Mode.THINK)
            return [] if job.cancelled else make_forced_requests(served, thought, Mode.THINK, config.seed)

        def on_token(_: int, token: int, finish: Finish | None) -> bool:
            for event in again.add(token, finish):
                post(replace(event, direct_tokens=direct_tokens) if isinstance(event, Ended) else event)
            return not (again.stopped or job.cancelled)

        return replace(job, begin=begin, on_token=on_token, scored_ids=())

    temperature, top_p = wanted.sampling
    job = Job(
        prompt_ids=prompt,
        begin=begin,
        on_token=on_token,
        on_error=post,
        scored_ids=(served.template.no_think_id,) if wanted.needs_probability else (),
        temperature=temperature,
        top_p=top_p,
        closing=closing,
        blank_ids=served.blank_ids,
        owner=owner,
    )
    return job


def make_forced_requests(served: Served, wanted: PromptRequest, mode: Mode | None, seed: int) -> list[Request]:
    """Return the requests to the engine; a thought that was decided on does not end before it has some text."""
    requests = make_requests(served.template, wanted, Decision(mode), seed=seed)
    if mode is not Mode.THINK:
        return requests
    close = served.template.close_id
    return [replace(one, banned_first_ids=tuple({*one.banned_first_ids, close})) for one in requests]


def encode_request(served: Served, request: GenerationRequest) -> tuple[tuple[int, ...], bool]:
    """Return a prompt's tokens, and whether the next token decides the mode."""
    template, tokenizer, text = served.template, served.tokenizer, request.prompt
    size = len(text) if isinstance(text, str) else sum(len(message.content) for message in text)
    if served.context_tokens and size > served.context_tokens * served.longest_token:
        raise make_context_error(f"{size} characters", served.context_tokens)  # encoding them would take long
    if not isinstance(text, str):
        return encode_prompt(tokenizer, template, text), True
    decides = is_rendered(tokenizer, template, text)
    controls = (request.mode, request.effort, request.threshold, request.tolerance, request.thinking_budget)
    chooses = request.second_look or any(one is not None for one in controls)
    if chooses and not decides:
        raise CallError(
            "the prompt does not end as the chat template's prompts do, so there is no mode to choose; send messages "
            f"to /v1/chat/completions, or request the model '{served.name}' and nothing about its thinking",
            param="model",
            code="invalid_value",
        )
    ids = encode_rendered(tokenizer, template, text) if decides else encode(tokenizer, text)
    if not ids:
        raise CallError("the prompt is empty; send a text to continue", param="prompt", code="invalid_value")
    return ids, decides


@dataclass(frozen=True, slots=True)
class Rule:
    """How the mode of a request is decided: by itself, by a threshold, or by the model."""

    reason: Reason
    mode: Mode | None = None
    threshold: float | None = None
    effort: str | None = None


def choose_rule(served: Served, request: GenerationRequest) -> Rule:
    """Return what decides the mode; raises CallError for a level that the model does not have."""
    levels = {level.name: level for level in served.levels}
    effort = request.effort
    if request.tolerance is not None:
        effort = choose_level(served.levels, request.tolerance).name
    forced = FORCED.get(effort or "", request.mode)
    if forced and request.second_look:
        raise CallError(
            f"a second look has no effect where the mode is {forced}; request auto, or leave it out",
            param="x_think.second_look",
            code="invalid_value",
        )
    if forced:
        return Rule(Reason.EFFORT if effort else Reason.REQUEST, forced, effort=effort)
    if effort and effort not in levels:
        raise CallError(
            f"effort '{effort}' is not certified for the model '{served.name}'; available: {', '.join(levels)}; "
            "adaptthink calibrate certifies levels, on enough problems",
            param="reasoning_effort",
            code="unsupported_value",
        )
    if effort:
        return Rule(Reason.EFFORT, threshold=levels[effort].threshold, effort=effort)
    if served.online and request.threshold is None:
        if request.second_look:
            raise CallError(
                "a second look cannot be requested where an online dial decides: feedback would be on the thought, and "
                "the dial would take it for the direct answer; request a threshold, or leave it out",
                param="x_think.second_look",
                code="invalid_value",
            )
        return Rule(Reason.ONLINE, threshold=ALWAYS_THINK)  # so that P(no_think) is computed; it has its own
    threshold = served.threshold if request.threshold is None else request.threshold
    return Rule(Reason.MODEL) if threshold is None else Rule(Reason.THRESHOLD, threshold=threshold)


def make_prompt_request(
    served: Served, config: ServeConfig, request: GenerationRequest, prompt: tuple[int, ...], rule: Rule
) -> tuple[PromptRequest, Closing | None]:
    """Return what is to be completed, and how a thought with a budget ends.

    Raises CallError for a prompt that leaves no context for a response.
    """
    limit = request.max_tokens or max(config.max_think_tokens, config.max_no_think_tokens)
    if served.context_tokens is not None:
        left = served.context_tokens - len(prompt)
        if left <= len(served.template.no_think_prefix_ids):
            raise make_context_error(f"{len(prompt)} tokens", served.context_tokens)
        limit = min(limit, left)
    seed = secrets.randbits(63) if request.seed is None else request.seed
    max_think_tokens = min(limit, config.max_think_tokens)
    closing = make_closing(served, config, request, max_think_tokens)
    wanted = PromptRequest(
        prompt_ids=prompt,
        streams=tuple(make_seed(seed, "choice", index) for index in range(request.n)),
        max_tokens=MaxTokens(max_think_tokens, min(limit, config.max_no_think_tokens)),
        mode=rule.mode,
        threshold=rule.threshold,
        force_think=config.force_think,
        temperature=config.temperature if request.temperature is None else request.temperature,
        top_p=config.top_p if request.top_p is None else request.top_p,
    )
    return wanted, closing


def make_closing(
    served: Served, config: ServeConfig, request: GenerationRequest, max_think_tokens: int
) -> Closing | None:
    """Return how a thought with a budget ends; the budget shrinks where an answer would not find room behind it.

    An answer behind a closed thought has the room of one without thinking, or half of all where that is too much.
    """
    if not request.thinking_budget:
        return None
    room = max_think_tokens - len(served.closing_ids)
    budget = min(request.thinking_budget, room - min(config.max_no_think_tokens, room // 2))
    if budget < 1:
        raise CallError(
            f"{max_think_tokens} tokens in all leave no room for a thought that is closed and an answer; allow more",
            param="max_tokens",
            code="invalid_value",
        )
    return Closing(served.template.close_id, budget, served.closing_ids, math.ceil(RAMP * budget))


def make_context_error(length: str, context: int) -> CallError:
    """Return the error for a prompt that is too long."""
    return CallError(
        f"the prompt has {length}, which leaves no tokens for a response in the model's context of {context}; shorten "
        "it",
        code="context_length_exceeded",
    )
