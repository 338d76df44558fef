"""Evaluation: problems answered as the model chooses and in each forced mode, kept in a folder.

auto is how a model is used. Forced think and forced no_think of the same checkpoint say what the choice was worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from adaptthink.chat.base import Dialect, Endpoint, Prices, Question, Reply, Switch
from adaptthink.chat.client import ask_all
from adaptthink.config.schema import EvaluateConfig
from adaptthink.engines.base import Completion, Finish
from adaptthink.evaluation.store import (
    REQUESTED_MODES,
    Decision,
    Sample,
    Setting,
    open_folder,
    read_decisions,
    sample_writer,
    write_decisions,
)
from adaptthink.problems import Problem
from adaptthink.sampling.sampler import MaxTokens, Sampler, make_request, stream_seed

CHUNK_ROWS = 8  # times the engine's rows: requests handed over together; bounds what is held in memory
DECISIONS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Query:
    """One sample to draw."""

    problem: Problem
    requested: str
    index: int


Respond = Callable[[Sequence[Query], Callable[[Sample], None]], None]  # draw all; hand over each sample as it ends


# ---- sampling -------------------------------------------------------------------------------------------------------


def sample_missing(
    respond: Respond,
    folder: Path,
    setting: Setting,
    problems: Sequence[Problem],
    requested: Sequence[str],
    count: int,
    *,
    on_sample: Callable[[Sample | None], None] = lambda sample: None,
) -> None:
    """Draw what `folder` lacks of `count` samples of every problem in each asked mode.

    `on_sample` gets each new sample, and None for each that was found. Raises UserError for a folder that was made
    with another setting.
    """
    found = open_folder(folder, setting, problems)
    missing = []
    for mode in requested:
        for problem in problems:
            for index in range(count):
                if (problem.id, mode, index) in found:
                    on_sample(None)
                else:
                    missing.append(Query(problem, mode, index))
    with sample_writer(folder) as write:

        def take(sample: Sample) -> None:
            write(sample)
            on_sample(sample)

        respond(missing, take)


def policy_setting(name: str, fingerprint: str, config: EvaluateConfig) -> Setting:
    """The setting of an evaluation whose tokens we see."""
    return Setting(
        name,
        fingerprint,
        config.temperature,
        config.top_p,
        config.max_think_tokens,
        config.max_no_think_tokens,
        config.seed,
    )


def policy_respond(sampler: Sampler, config: EvaluateConfig) -> Respond:
    """Answer through an engine.

    Think is forced by banning the no_think decision token, so that the model opens its thought in its own way.
    """
    max_tokens = MaxTokens(config.max_think_tokens, config.max_no_think_tokens)
    chunk = CHUNK_ROWS * config.max_concurrent_sequences

    def respond(queries: Sequence[Query], take: Callable[[Sample], None]) -> None:
        for requested, group in groupby(queries, key=lambda query: query.requested):
            seed = stream_seed(config.seed, "evaluate", requested)
            same = list(group)
            for start in range(0, len(same), chunk):
                part = same[start : start + chunk]
                prompts = {query.problem.id: sampler.prompt(query.problem) for query in part}
                requests = [
                    make_request(
                        sampler.template,
                        query.problem,
                        prompts[query.problem.id],
                        REQUESTED_MODES[requested],
                        query.index,
                        max_tokens,
                    )
                    for query in part
                ]

                def ended(index: int, completion: Completion, part: list[Query] = part, seed: int = seed) -> None:
                    take(read_completion(sampler, part[index], completion, seed))

                sampler.engine.generate(
                    requests, temperature=config.temperature, top_p=config.top_p, seed=seed, on_finish=ended
                )

    return respond


def make_endpoint(config: EvaluateConfig) -> Endpoint:
    """The chat endpoint that a config describes; raises UserError where its settings do not go together."""
    assert config.chat is not None
    return Endpoint(
        url=config.chat,
        model=config.model,
        dialect=Dialect(config.dialect),
        switch=Switch(config.switch),
        key_variable=config.key_variable,
        concurrency=config.concurrency,
        effort=config.effort,
        no_think_effort=config.no_think_effort,
        budget_tokens=config.budget_tokens,
        completion_cap=config.completion_cap,
        inline_thinking=config.inline_thinking,
        prices=Prices(config.price_input, config.price_output),
    )


def chat_setting(endpoint: Endpoint, config: EvaluateConfig) -> Setting:
    """The setting of an evaluation behind a chat endpoint: its model stands for weights that nobody can look at."""
    details = [endpoint.effort, endpoint.budget_tokens and f"{endpoint.budget_tokens} tokens"]
    details.append("the server's sampling" if config.server_sampling else None)
    details.append(f"no_think is {endpoint.no_think_effort}" if endpoint.no_think_effort != "none" else None)
    said = ", ".join(str(detail) for detail in details if detail)
    fingerprint = f"{endpoint.model} at {endpoint.url}"
    setting = policy_setting(endpoint.model, fingerprint, config)
    return replace(setting, switch=f"{endpoint.switch} ({said})" if said else str(endpoint.switch))


def chat_respond(endpoint: Endpoint, config: EvaluateConfig) -> Respond:
    """Answer through a chat endpoint, many questions at a time; samples come in the order in which they end."""
    max_tokens = MaxTokens(config.max_think_tokens, config.max_no_think_tokens)

    def question(query: Query) -> Question:
        return Question(
            query.problem.prompt,
            REQUESTED_MODES[query.requested],
            max_tokens.of(REQUESTED_MODES[query.requested]),
            temperature=None if config.server_sampling else config.temperature,
            top_p=None if config.server_sampling else config.top_p,
            seed=chat_seed(config.seed, query),
        )

    def respond(queries: Sequence[Query], take: Callable[[Sample], None]) -> None:
        def heard(index: int, _: Question, reply: Reply) -> None:
            take(read_reply(queries[index], reply, chat_seed(config.seed, queries[index])))

        ask_all(endpoint, map(question, queries), heard)

    return respond


def chat_seed(seed: int, query: Query) -> int:
    """The seed sent with one question: 31 bits, as some servers take no more."""
    return stream_seed(seed, "evaluate", query.requested, query.problem.id, query.index) >> 33


def read_reply(query: Query, reply: Reply, seed: int) -> Sample:
    """Turn a chat's reply into the sample that is kept."""
    return Sample(
        problem_id=query.problem.id,
        requested=query.requested,
        index=query.index,
        mode=reply.mode,
        thinking=reply.thinking,
        answer=reply.answer,
        finish=reply.finish,
        tokens=reply.tokens,
        thinking_tokens=reply.thinking_tokens,
        seed=seed,
        prompt_tokens=reply.prompt_tokens,
        tokens_estimated=reply.tokens_estimated,
    )


def read_completion(sampler: Sampler, query: Query, completion: Completion, seed: int) -> Sample:
    """Turn tokens into the sample that is kept."""
    template, ids = sampler.template, completion.token_ids
    closes = [index for index, token in enumerate(ids) if token == template.close_id]
    thinking_tokens = closes[-1] if closes else len(ids)
    end = len(ids) - (completion.finish is Finish.STOP)
    thinking = sampler.text(ids[:thinking_tokens] if closes else ids[:end]).lstrip().removeprefix(template.open)
    return Sample(
        problem_id=query.problem.id,
        requested=query.requested,
        index=query.index,
        mode=template.mode_of(ids),
        thinking=thinking if thinking.strip() else None,
        answer=sampler.text(ids[closes[-1] + 1 : end]) if closes else None,
        finish=completion.finish,
        tokens=len(ids),
        thinking_tokens=thinking_tokens,
        seed=seed,
    )


def decide_missing(sampler: Sampler, folder: Path, problems: Sequence[Problem]) -> None:
    """Store the decision of every problem that has none in `folder`."""
    known = read_decisions(folder)
    missing = [problem for problem in problems if problem.id not in known]
    for start in range(0, len(missing), DECISIONS_AT_ONCE):
        part = missing[start : start + DECISIONS_AT_ONCE]
        write_decisions(folder, dict(zip((one.id for one in part), decisions(sampler, part), strict=True)))


def decisions(sampler: Sampler, problems: Sequence[Problem]) -> list[Decision]:
    """The first-token probabilities of each problem at temperature 1, from one prefill each."""
    ids = (sampler.template.no_think_id, sampler.template.think_id)
    rows = sampler.engine.next_token_logprobs([sampler.prompt(problem) for problem in problems], ids)
    return [Decision(math.exp(no_think), math.exp(think)) for no_think, think in rows]
