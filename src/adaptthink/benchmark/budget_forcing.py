"""Budget forcing (s1, arXiv 2501.19393): a thought is cut at a number of tokens and closed, the answer is sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from adaptthink.config.schema import EvaluateConfig
from adaptthink.engines.base import Completion, Finish, Request
from adaptthink.evaluation.run import Query, Respond, make_sample
from adaptthink.evaluation.store import Sample
from adaptthink.sampling.requests import derive_stream, make_seed
from adaptthink.sampling.sampler import Sampler


def make_budget_responder(sampler: Sampler, config: EvaluateConfig, budget: int) -> Respond:
    """Return a function that answers with at most `budget` tokens of thought, and then max_no_think_tokens more."""

    def respond(queries: Sequence[Query], take: Callable[[Sample], None]) -> None:
        seed = make_seed(config.seed, "budget", budget)
        for query, completion in zip(queries, complete(sampler, config, queries, budget, seed), strict=True):
            take(make_sample(query, sampler.read(completion), seed))

    return respond


def complete(
    sampler: Sampler, config: EvaluateConfig, queries: Sequence[Query], budget: int, seed: int
) -> list[Completion]:
    """Return one completion a query: thoughts of the model's own that ended in time stay as they are."""
    requests = [
        Request(sampler.encode_prompt(query.problem), budget, derive_stream(query.problem, query.index))
        for query in queries
    ]

    def generate(given: Sequence[Request], seed: int) -> list[Completion]:
        return sampler.engine.generate(given, temperature=config.temperature, top_p=config.top_p, seed=seed)

    found = generate(requests, seed)
    cut = [index for index, one in enumerate(found) if one.finish is Finish.LENGTH]
    closed = [continue_answer(sampler, config, requests[index], found[index]) for index in cut]
    answers = generate(closed, make_seed(seed, "answer"))
    for index, completion in zip(cut, answers, strict=True):
        found[index] = completion
    return found


def continue_answer(sampler: Sampler, config: EvaluateConfig, request: Request, begun: Completion) -> Request:
    """Return the request that goes on where a response was cut, with the thought closed if it was not."""
    close = sampler.template.no_think_prefix_ids
    close = close[close.index(sampler.template.close_id) :]
    prefix = begun.token_ids if sampler.template.close_id in begun.token_ids else begun.token_ids + close
    return replace(request, prefix_ids=prefix, max_tokens=len(prefix) + config.max_no_think_tokens)
