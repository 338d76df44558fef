"""Evaluation: problems answered as the model chooses and in each forced mode, kept in a folder.

auto is how a model is used. Forced think and forced no_think of the same checkpoint say what the choice was worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from adaptthink.config.schema import EvaluateConfig
from adaptthink.engines.base import Completion
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
from adaptthink.sampling.reading import Response
from adaptthink.sampling.requests import MaxTokens, make_request, stream_of, stream_seed
from adaptthink.sampling.sampler import Sampler

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
                        prompts[query.problem.id],
                        REQUESTED_MODES[requested],
                        stream_of(query.problem, query.index),
                        max_tokens,
                    )
                    for query in part
                ]

                def ended(index: int, completion: Completion, part: list[Query] = part, seed: int = seed) -> None:
                    take(make_sample(part[index], sampler.read(completion), seed))

                sampler.engine.generate(
                    requests, temperature=config.temperature, top_p=config.top_p, seed=seed, on_finish=ended
                )

    return respond


def make_sample(query: Query, response: Response, seed: int) -> Sample:
    """Return what is kept of a response."""
    return Sample(
        problem_id=query.problem.id,
        requested=query.requested,
        index=query.index,
        mode=response.mode,
        thinking=response.thinking,
        answer=response.answer,
        finish=response.finish,
        tokens=response.tokens,
        thinking_tokens=response.thinking_tokens,
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
