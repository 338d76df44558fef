"""Answering what is asked in text: modes, the threshold, and responses read back. For serving and for harnesses.

Nothing is graded here and no log-probability is kept; `rollout.py` does both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptthink.engines.base import Completion, Engine, Finish, Request
from adaptthink.modes import Mode, ThinkTemplate, split_response
from adaptthink.sampling.sampler import MaxTokens

GREEDY_TOP_P = 1e-9  # keeps the most likely token alone, on every engine


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt to answer once for each of `streams` (see `Request`); forced tokens do not count toward `caps`.

    A mode of None leaves the choice to the model, or with a threshold to the model's P(no_think) at temperature 1.
    A temperature of 0 takes the most likely token.
    """

    prompt_ids: tuple[int, ...]
    streams: tuple[int, ...]
    max_tokens: MaxTokens
    mode: Mode | None = None
    threshold: float | None = None
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Decided:
    """The mode that an ask is answered in, None if the model draws it, and P(no_think) where it was looked at."""

    mode: Mode | None
    no_think_probability: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The completions of an ask, one for each stream; the first `forced` tokens of each were not generated."""

    decision: Decided
    forced: int
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion as text, without the token that ends it.

    The thought is None where nothing was thought, the answer is None if the thought never closed. `head` is all that
    stands before the answer, as written, forced tokens included. Of `tokens` generated, `thinking_tokens` are the
    thought's.
    """

    mode: Mode
    head: str
    thinking: str | None
    answer: str | None
    finish: Finish
    tokens: int
    thinking_tokens: int


OnAnswer = Callable[[int, Answer], None]  # called as each ask is answered, with its place among the asks


def decide(engine: Engine, template: ThinkTemplate, asks: Sequence[Ask]) -> list[Decided]:
    """Decide each ask's mode; those that leave it to a threshold share one prefill."""
    prompts = list(dict.fromkeys(ask.prompt_ids for ask in asks if ask.mode is None and ask.threshold is not None))
    rows = engine.next_token_logprobs(prompts, (template.no_think_id,)) if prompts else []
    probability = {prompt: math.exp(row[0]) for prompt, row in zip(prompts, rows, strict=True)}

    def decision(ask: Ask) -> Decided:
        if ask.mode is not None or ask.threshold is None:
            return Decided(ask.mode)
        found = probability[ask.prompt_ids]
        return Decided(Mode.NO_THINK if found >= ask.threshold else Mode.THINK, found)

    return [decision(ask) for ask in asks]


def answer_all(
    engine: Engine, template: ThinkTemplate, asks: Sequence[Ask], *, seed: int = 0, on_answer: OnAnswer | None = None
) -> list[Answer]:
    """Answer every ask, in order; those that are sampled alike are generated together.

    No_think is forced by its prefix, think by banning the no_think decision token, so that the model opens its
    thought in its own way.
    """
    decided = dict(enumerate(zip(asks, decide(engine, template, asks), strict=True)))
    answers: dict[int, Answer] = {}

    def take(place: int, answer: Answer) -> None:
        answers[place] = answer
        if on_answer:
            on_answer(place, answer)

    for sampling in dict.fromkeys(sampling_of(ask) for ask in asks):
        alike = {place: (ask, decision) for place, (ask, decision) in decided.items() if sampling_of(ask) == sampling}
        _answer_alike(engine, template, alike, sampling, seed, take)
    return [answers[place] for place in range(len(asks))]


def sampling_of(ask: Ask) -> tuple[float, float]:
    """Temperature and top_p for the engine, which takes no temperature of 0."""
    return (ask.temperature, ask.top_p) if ask.temperature > 0 else (1.0, GREEDY_TOP_P)


def _answer_alike(
    engine: Engine,
    template: ThinkTemplate,
    decided: Mapping[int, tuple[Ask, Decided]],
    sampling: tuple[float, float],
    seed: int,
    on_answer: OnAnswer,
) -> None:
    """Answer asks that are sampled alike, by place; each is handed over as soon as its last completion ends."""
    owners = [(place, index) for place, (ask, _) in decided.items() for index in range(len(ask.streams))]
    requests = [request_of(template, *decided[place], index) for place, index in owners]
    ended: dict[int, dict[int, Completion]] = {place: {} for place in decided}

    def take(number: int, completion: Completion) -> None:
        place, index = owners[number]
        ended[place][index] = completion
        ask, decision = decided[place]
        if len(ended[place]) == len(ask.streams):
            forced = len(requests[number].prefix_ids)
            in_order = tuple(ended[place][index] for index in range(len(ask.streams)))
            on_answer(place, Answer(decision, forced, in_order))

    temperature, top_p = sampling
    engine.generate(requests, temperature=temperature, top_p=top_p, seed=seed, on_finish=take)


def request_of(template: ThinkTemplate, ask: Ask, decision: Decided, index: int) -> Request:
    """Return the engine's request for one of an ask's streams."""
    prefix = template.no_think_prefix_ids if decision.mode is Mode.NO_THINK else ()
    banned = (template.no_think_id,) if decision.mode is Mode.THINK else ()
    max_tokens = ask.max_tokens.of(decision.mode) + len(prefix)
    return Request(ask.prompt_ids, max_tokens, ask.streams[index], prefix, banned)


def read_reply(
    tokenizer: Any, template: ThinkTemplate, completion: Completion, *, forced: int, stops: Sequence[str] = ()
) -> Reply:
    """Read a completion. `stops` end the answer where one of them first stands; in a thought they mean nothing.

    White space between the thought and the answer belongs to neither, so a stop text of two line breaks does not take
    the answer away.
    """
    ids = without_end(completion)
    text = str(tokenizer.decode(ids, skip_special_tokens=False))
    thinking, after = split_response(text, template)
    tokens = len(completion.token_ids) - forced
    mode = template.mode_of(completion.token_ids)
    if after is None:
        return Reply(mode, text, thinking, None, completion.finish, tokens, tokens)
    after = after.lstrip()
    answer = cut(after, stops)
    closes = [place for place, token in enumerate(ids) if token == template.close_id]
    return Reply(
        mode=mode,
        head=text[: len(text) - len(after)],
        thinking=thinking,
        answer=answer,
        finish=completion.finish if answer == after else Finish.STOP,
        tokens=tokens,
        thinking_tokens=0 if thinking is None else max(closes, default=len(ids)) - forced,
    )


def without_end(completion: Completion) -> tuple[int, ...]:
    """Return a completion's tokens without the one that ended it."""
    return completion.token_ids[:-1] if completion.finish is Finish.STOP else completion.token_ids


def cut(text: str, stops: Sequence[str]) -> str:
    """Return the text up to the first of the stop texts in it."""
    return text[: min((text.index(stop) for stop in stops if stop and stop in text), default=len(text))]


def inline(tokenizer: Any, template: ThinkTemplate, prompt_ids: Sequence[int], reply: Reply) -> str:
    """Return thought and answer in one text with both markers, also where the prompt had opened the thought."""
    _, opened, space = str(tokenizer.decode(prompt_ids, skip_special_tokens=False)).rpartition(template.open)
    written = reply.head + (reply.answer or "")
    if opened and not space.strip():
        return opened + space + written
    return written if written.lstrip().startswith(template.open) else template.open + written
