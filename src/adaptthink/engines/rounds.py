"""How an engine that only continues token ids (vLLM, in this program or behind a server) completes a `Request`.

It takes two rounds. The first one generates single tokens: it scores forced tokens, and samples the first token of each
response that has a ban, because vLLM applies a ban at every position. The second one generates the rest of every
response, with what is known of it appended to its prompt. The prefix cache makes the second prefill cheap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from adaptthink.engines.base import Completion, Finish, OnFinish, Request, check_finite
from adaptthink.errors import UserError

SCORED_AT_ONCE = 16  # tokens scored by one request; servers return at most 20 log-probabilities by default
TEMPERATURES = (0.01, 2.0)  # that vLLM takes as they are


@dataclass(frozen=True, slots=True)
class ContinuationRequest:
    """Continue `context_ids` by at most `max_tokens` sampled tokens.

    `banned_ids` are never sampled, at any position. If there are `scored_ids`, the result is their log-probabilities
    as the first token; the sampled token is ignored.
    """

    context_ids: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_p: float = 1.0
    seed: int = 0
    banned_ids: tuple[int, ...] = ()
    scored_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Continuation:
    """The result of a `ContinuationRequest`.

    `logprobs[t]` is the log-probability with which `token_ids[t]` was sampled; `scored` has one value for each of the
    request's `scored_ids`.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool  # the last token is an end token
    scored: tuple[float, ...] = ()


OnContinuation = Callable[[int, Continuation], None] | None  # called as each one ends, with its request's index
ContinueAll = Callable[[Sequence[ContinuationRequest], OnContinuation], list[Continuation]]  # results in the same order


def complete(
    continue_all: ContinueAll,
    requests: Sequence[Request],
    *,
    temperature: float,
    top_p: float,
    seed: int,
    capacity_tokens: int,
    on_finish: OnFinish | None,
) -> list[Completion]:
    """Complete every request, in order (see `Engine.generate`).

    Raises UserError for a temperature that vLLM would change, and for a prompt that together with its max_tokens is
    longer than `capacity_tokens`, the longest sequence that the engine holds.
    """
    check_temperature(temperature)
    for request in requests:
        check_sequence_length(request, capacity_tokens)
    heads = generate_heads(continue_all, requests, temperature, top_p, seed)
    unfinished = [index for index, head in enumerate(heads) if not is_finished(head, requests[index])]
    if on_finish:
        for index in sorted(set(range(len(requests))) - set(unfinished)):
            on_finish(index, make_completion(heads[index]))
    # The longest responses start first; short ones fill the batch at the end.
    unfinished.sort(key=lambda index: -requests[index].max_tokens)
    parts = [
        ContinuationRequest(
            requests[index].prompt_ids + heads[index].token_ids,
            requests[index].max_tokens - len(heads[index].token_ids),
            temperature,
            top_p,
            derive_seed(seed, requests[index].stream, round_number=2),
        )
        for index in unfinished
    ]

    def on_continuation(number: int, tail: Continuation) -> None:
        index = unfinished[number]
        if on_finish:
            on_finish(index, make_completion(join(heads[index], tail)))

    tails = dict(zip(unfinished, run_checked(continue_all, parts, on_continuation), strict=True))
    return [make_completion(join(head, tails.get(index))) for index, head in enumerate(heads)]


def make_unconstrained_request(
    request: Request, temperature: float, top_p: float, seed: int, capacity_tokens: int
) -> ContinuationRequest:
    """Return the one continuation that completes a request without prefix and ban, the same as in `complete`."""
    assert not request.prefix_ids
    assert not request.banned_first_ids
    check_sequence_length(request, capacity_tokens)
    stream = derive_seed(seed, request.stream, round_number=2)
    return ContinuationRequest(request.prompt_ids, request.max_tokens, temperature, top_p, stream)


def make_completion(response: Continuation) -> Completion:
    """Return a whole response as a completion."""
    return Completion(response.token_ids, response.logprobs, Finish.STOP if response.stopped else Finish.LENGTH)


def generate_heads(
    continue_all: ContinueAll, requests: Sequence[Request], temperature: float, top_p: float, seed: int
) -> list[Continuation]:
    """Return the beginning of each response: its prefix and, if it has a ban, its first sampled token (round one)."""
    scoring = make_scoring_requests(collect_forced_tokens(requests), temperature)
    banned = [
        index
        for index, request in enumerate(requests)
        if request.banned_first_ids and len(request.prefix_ids) < request.max_tokens
    ]
    first = [
        ContinuationRequest(
            requests[index].prompt_ids + requests[index].prefix_ids,
            1,
            temperature,
            top_p,
            derive_seed(seed, requests[index].stream, round_number=1),
            banned_ids=requests[index].banned_first_ids,
        )
        for index in banned
    ]
    results = run_checked(continue_all, [*scoring, *first], None)
    scores = read_scores(scoring, results[: len(scoring)])
    sampled = dict(zip(banned, results[len(scoring) :], strict=True))
    heads = []
    for index, request in enumerate(requests):
        forced = request.prefix_ids[: request.max_tokens]
        logprobs = (scores[request.prompt_ids + forced[:t], token] for t, token in enumerate(forced))
        heads.append(join(Continuation(forced, tuple(logprobs), stopped=False), sampled.get(index)))
    return heads


def join(head: Continuation, tail: Continuation | None) -> Continuation:
    """Concatenate two parts of a response; without a tail the head is returned."""
    if tail is None:
        return head
    return Continuation(head.token_ids + tail.token_ids, head.logprobs + tail.logprobs, tail.stopped)


def is_finished(head: Continuation, request: Request) -> bool:
    """Return whether nothing is left to generate. An end token that was forced does not end a response."""
    return head.stopped or len(head.token_ids) >= request.max_tokens


def score(
    continue_all: ContinueAll, prompts: Sequence[Sequence[int]], token_ids: Sequence[int], temperature: float
) -> list[list[float]]:
    """Return the log-probability of each token as the next one after each prompt (see `Engine.next_token_logprobs`)."""
    check_temperature(temperature)
    contexts = [tuple(prompt) for prompt in prompts]
    parts = make_scoring_requests(dict.fromkeys(contexts, tuple(dict.fromkeys(token_ids))), temperature)
    scores = read_scores(parts, run_checked(continue_all, parts, None))
    return [[scores[context, token] for token in token_ids] for context in contexts]


def collect_forced_tokens(requests: Iterable[Request]) -> dict[tuple[int, ...], list[int]]:
    """Return the distinct forced tokens that follow each context; many responses share a prompt and its prefix."""
    tokens_after: dict[tuple[int, ...], list[int]] = {}
    for request in requests:
        for t, token in enumerate(request.prefix_ids[: request.max_tokens]):
            tokens = tokens_after.setdefault(request.prompt_ids + request.prefix_ids[:t], [])
            if token not in tokens:
                tokens.append(token)
    return tokens_after


def make_scoring_requests(
    tokens_after: Mapping[tuple[int, ...], Sequence[int]], temperature: float
) -> list[ContinuationRequest]:
    """Return the requests that score the given tokens after each context; without top_p, as forced tokens need none."""
    return [
        ContinuationRequest(context, 1, temperature, scored_ids=tuple(tokens[start : start + SCORED_AT_ONCE]))
        for context, tokens in tokens_after.items()
        for start in range(0, len(tokens), SCORED_AT_ONCE)
    ]


def read_scores(
    parts: Sequence[ContinuationRequest], results: Sequence[Continuation]
) -> dict[tuple[tuple[int, ...], int], float]:
    """Return log-probabilities by context and token."""
    return {
        (part.context_ids, token): logprob
        for part, result in zip(parts, results, strict=True)
        for token, logprob in zip(part.scored_ids, result.scored, strict=True)
    }


def run_checked(
    continue_all: ContinueAll, parts: Sequence[ContinuationRequest], on_continuation: OnContinuation
) -> list[Continuation]:
    """Run the requests and check their results (see `check_continuation`)."""
    if not parts:
        return []
    results = continue_all(parts, on_continuation)
    for part, result in zip(parts, results, strict=True):
        check_continuation(part, result)
    return results


def check_continuation(part: ContinuationRequest, result: Continuation) -> None:
    """Raise UserError for a continuation that was cut before its max_tokens, has a banned token, or is not finite."""
    check_finite((*result.logprobs, *result.scored))
    if not result.stopped and len(result.token_ids) < part.max_tokens:
        raise UserError(
            f"the engine cut a response after {len(result.token_ids)} of {part.max_tokens} tokens without an end "
            "token; start it with a longer context (--max-model-len), or lower max_think_tokens and "
            "max_no_think_tokens"
        )
    if not part.scored_ids and set(part.banned_ids) & set(result.token_ids):
        raise UserError("the engine sampled a banned token; use an engine that honours logit_bias")


def check_temperature(temperature: float) -> None:
    """Raise UserError for a temperature that vLLM refuses or replaces."""
    low, high = TEMPERATURES
    if not low <= temperature <= high:
        raise UserError(
            f"temperature {temperature:g} is outside {low:g} to {high:g}, the range of vLLM; "
            "choose one inside it, or use the native engine"
        )


def check_sequence_length(request: Request, capacity_tokens: int) -> None:
    """Raise UserError if prompt and response may be longer than one sequence of the engine."""
    if len(request.prompt_ids) + request.max_tokens > capacity_tokens:
        raise UserError(
            f"a prompt of {len(request.prompt_ids)} tokens and a response of up to {request.max_tokens} do not fit the "
            f"{capacity_tokens} tokens that the engine holds for one sequence; lower max_think_tokens or "
            f"max_no_think_tokens to {max(1, capacity_tokens - len(request.prompt_ids))}"
        )


def derive_seed(seed: int, stream: int, *, round_number: int) -> int:
    """Derive a continuation's seed, 63 bits, from the engine's seed, the request's stream and the round.

    The rounds must differ: one seed for both would sample a response's first two tokens with the same random numbers.
    """
    text = f"{seed}/{stream}/{round_number}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
