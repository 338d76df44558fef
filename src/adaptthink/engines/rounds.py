"""How an engine that merely continues token ids (vLLM, in this program or behind a server) answers a `Request`.

In two rounds. First draws of one token: the log-probabilities of forced tokens, and the first token of responses that
have a ban, because a ban given to vLLM holds at every position. Then the rest of every response, with what is known of
it appended to its prompt; the prefix cache makes that second reading of the prompt cheap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from adaptthink.engines.base import Completion, Finish, OnFinish, Request
from adaptthink.errors import UserError

SCORED_AT_ONCE = 16  # tokens scored by one draw; servers return 20 log-probabilities at most unless told otherwise
TEMPERATURES = (0.01, 2.0)  # that vLLM takes as they are


@dataclass(frozen=True, slots=True)
class Draw:
    """Continue `context_ids` by at most `max_tokens` tokens.

    `banned_ids` cannot be drawn at any position. If there are `scored_ids`, their log-probabilities as the first token
    are what is wanted, not the token drawn.
    """

    context_ids: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_p: float = 1.0
    seed: int = 0
    banned_ids: tuple[int, ...] = ()
    scored_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """What came of a `Draw`: tokens with the log-probabilities they were drawn with; `scored` as `scored_ids`."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool  # the last token is an end token
    scored: tuple[float, ...] = ()


OnDrawn = Callable[[int, Drawn], None] | None  # called as each draw ends, with its place among the draws
DrawAll = Callable[[Sequence[Draw], OnDrawn], list[Drawn]]  # carries draws out, results in the same order


def complete(
    draw_all: DrawAll,
    requests: Sequence[Request],
    *,
    temperature: float,
    top_p: float,
    seed: int,
    capacity_tokens: int,
    on_finish: OnFinish | None,
) -> list[Completion]:
    """Answer every request, in order (see `Engine.generate`).

    Raises UserError for a temperature that vLLM would change, and for a prompt that with its cap is longer than the
    `capacity_tokens` of one sequence.
    """
    check_temperature(temperature)
    for request in requests:
        check_sequence_length(request, capacity_tokens)
    heads = generate_heads(draw_all, requests, temperature, top_p, seed)
    unfinished = [index for index, head in enumerate(heads) if not is_finished(head, requests[index])]
    if on_finish:
        for index in sorted(set(range(len(requests))) - set(unfinished)):
            on_finish(index, make_completion(heads[index]))
    unfinished.sort(key=lambda index: -requests[index].max_tokens)  # the longest start first; the short ones fill up
    draws = [
        Draw(
            requests[index].prompt_ids + heads[index].token_ids,
            requests[index].max_tokens - len(heads[index].token_ids),
            temperature,
            top_p,
            derive_seed(seed, requests[index].stream, round_number=2),
        )
        for index in unfinished
    ]

    def on_drawn(place: int, tail: Drawn) -> None:
        index = unfinished[place]
        if on_finish:
            on_finish(index, make_completion(join(heads[index], tail)))

    tails = dict(zip(unfinished, run_checked(draw_all, draws, on_drawn), strict=True))
    return [make_completion(join(head, tails.get(index))) for index, head in enumerate(heads)]


def make_unconstrained_request(
    request: Request, temperature: float, top_p: float, seed: int, capacity_tokens: int
) -> Draw:
    """The one draw that answers a request without prefix and ban, the same as in `complete`."""
    assert not request.prefix_ids
    assert not request.banned_first_ids
    check_sequence_length(request, capacity_tokens)
    stream = derive_seed(seed, request.stream, round_number=2)
    return Draw(request.prompt_ids, request.max_tokens, temperature, top_p, stream)


def make_completion(response: Drawn) -> Completion:
    """Return a whole response as a completion."""
    return Completion(response.token_ids, response.logprobs, Finish.STOP if response.stopped else Finish.LENGTH)


def generate_heads(
    draw_all: DrawAll, requests: Sequence[Request], temperature: float, top_p: float, seed: int
) -> list[Drawn]:
    """First round: the beginning of each response, that is its prefix and, if it has a ban, its first sampled token."""
    scoring = make_scoring_requests(collect_forced_tokens(requests), temperature)
    banned = [
        index
        for index, request in enumerate(requests)
        if request.banned_first_ids and len(request.prefix_ids) < request.max_tokens
    ]
    first = [
        Draw(
            requests[index].prompt_ids + requests[index].prefix_ids,
            1,
            temperature,
            top_p,
            derive_seed(seed, requests[index].stream, round_number=1),
            banned_ids=requests[index].banned_first_ids,
        )
        for index in banned
    ]
    results = run_checked(draw_all, [*scoring, *first], None)
    scores = read_scores(scoring, results[: len(scoring)])
    drawn = dict(zip(banned, results[len(scoring) :], strict=True))
    heads = []
    for index, request in enumerate(requests):
        forced = request.prefix_ids[: request.max_tokens]
        logprobs = (scores[request.prompt_ids + forced[:t], token] for t, token in enumerate(forced))
        heads.append(join(Drawn(forced, tuple(logprobs), stopped=False), drawn.get(index)))
    return heads


def join(head: Drawn, tail: Drawn | None) -> Drawn:
    """Put the two parts of a response together."""
    if tail is None:
        return head
    return Drawn(head.token_ids + tail.token_ids, head.logprobs + tail.logprobs, tail.stopped)


def is_finished(head: Drawn, request: Request) -> bool:
    """Whether nothing is left to draw. An end token that was forced ends nothing."""
    return head.stopped or len(head.token_ids) >= request.max_tokens


def score(
    draw_all: DrawAll, prompts: Sequence[Sequence[int]], token_ids: Sequence[int], temperature: float
) -> list[list[float]]:
    """Return the log-probability of each token as the next one after each prompt (see `Engine.next_token_logprobs`)."""
    check_temperature(temperature)
    contexts = [tuple(prompt) for prompt in prompts]
    draws = make_scoring_requests(dict.fromkeys(contexts, tuple(dict.fromkeys(token_ids))), temperature)
    scores = read_scores(draws, run_checked(draw_all, draws, None))
    return [[scores[context, token] for token in token_ids] for context in contexts]


def collect_forced_tokens(requests: Iterable[Request]) -> dict[tuple[int, ...], list[int]]:
    """Return the distinct forced tokens that follow each context; many responses share a prompt and its prefix."""
    wanted: dict[tuple[int, ...], list[int]] = {}
    for request in requests:
        for t, token in enumerate(request.prefix_ids[: request.max_tokens]):
            tokens = wanted.setdefault(request.prompt_ids + request.prefix_ids[:t], [])
            if token not in tokens:
                tokens.append(token)
    return wanted


def make_scoring_requests(wanted: Mapping[tuple[int, ...], Sequence[int]], temperature: float) -> list[Draw]:
    """Return the draws that score the wanted tokens after each context; no nucleus, as scores are the model's own."""
    return [
        Draw(context, 1, temperature, scored_ids=tuple(tokens[start : start + SCORED_AT_ONCE]))
        for context, tokens in wanted.items()
        for start in range(0, len(tokens), SCORED_AT_ONCE)
    ]


def read_scores(draws: Sequence[Draw], results: Sequence[Drawn]) -> dict[tuple[tuple[int, ...], int], float]:
    """Return log-probabilities by context and token."""
    return {
        (draw.context_ids, token): logprob
        for draw, result in zip(draws, results, strict=True)
        for token, logprob in zip(draw.scored_ids, result.scored, strict=True)
    }


def run_checked(draw_all: DrawAll, draws: Sequence[Draw], on_drawn: OnDrawn) -> list[Drawn]:
    """Carry the draws out and check what came back; raises UserError for a response that was cut before its cap."""
    if not draws:
        return []
    results = draw_all(draws, on_drawn)
    for draw, result in zip(draws, results, strict=True):
        check_continuation(draw, result)
    return results


def check_continuation(draw: Draw, result: Drawn) -> None:
    """Raise UserError for a response that was cut before its cap, or that has a banned token."""
    if not result.stopped and len(result.token_ids) < draw.max_tokens:
        raise UserError(
            f"the engine cut a response after {len(result.token_ids)} of {draw.max_tokens} tokens without an end "
            "token; start it with room for longer sequences, or lower max_think_tokens and max_no_think_tokens"
        )
    if not draw.scored_ids and set(draw.banned_ids) & set(result.token_ids):
        raise UserError("the engine drew a token that was banned; use an engine that honours logit_bias")


def check_temperature(temperature: float) -> None:
    """Raise UserError for a temperature that vLLM refuses or replaces."""
    low, high = TEMPERATURES
    if not low <= temperature <= high:
        raise UserError(
            f"temperature {temperature:g} is outside {low:g} to {high:g}, the range of vLLM; "
            "choose one inside it, or use the native engine"
        )


def check_sequence_length(request: Request, capacity_tokens: int) -> None:
    """Raise UserError if prompt and response may not fit one sequence."""
    if len(request.prompt_ids) + request.max_tokens > capacity_tokens:
        raise UserError(
            f"a prompt of {len(request.prompt_ids)} tokens and a response of up to {request.max_tokens} do not fit the "
            f"{capacity_tokens} tokens that the engine holds for one sequence; lower max_think_tokens or "
            f"max_no_think_tokens to {max(1, capacity_tokens - len(request.prompt_ids))}"
        )


def derive_seed(seed: int, stream: int, *, round_number: int) -> int:
    """Derive a draw's seed, 63 bits, from the engine's seed, the request's stream and the round.

    The rounds must differ: one seed for both would draw a response's first two tokens with the same random numbers.
    """
    text = f"{seed}/{stream}/{round_number}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
