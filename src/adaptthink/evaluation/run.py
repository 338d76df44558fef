"""Evaluation: problems answered as the model chooses and in each forced mode, kept in a folder.

auto is how a model is used. Forced think and forced no_think of the same checkpoint show the value of its choice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from adaptthink.chat.base import ChatResponse
from adaptthink.config.schema import EvaluateConfig, EvaluationConfig, ForceThink
from adaptthink.engines.base import Completion, Engine
from adaptthink.evaluation.levels import name_set
from adaptthink.evaluation.store import (
    REQUESTED_MODES,
    Decision,
    Sample,
    Setting,
    Timing,
    open_folder,
    open_samples,
    read_decisions,
    write_decisions,
)
from adaptthink.modes import ThinkStart, ThinkTemplate
from adaptthink.problems import Problem
from adaptthink.sampling.reading import Response, decode
from adaptthink.sampling.requests import MaxTokens, derive_stream, make_request, make_seed
from adaptthink.sampling.sampler import Sampler

CHUNK_ROWS = 8  # requests handed over together / max_concurrent_sequences; bounds memory
DECISIONS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Query:
    """One sample to generate."""

    problem: Problem
    requested: str
    index: int


Starts = dict[str, float]  # what requested thoughts begin with, as text, and how often
Respond = Callable[
    [Sequence[Query], Callable[[Sample], None]], None
]  # samples all, and hands over each sample as it ends


# ---- sampling -------------------------------------------------------------------------------------------------------


def sample_missing(
    respond: Respond,
    folder: Path,
    setting: Setting,
    problems: Sequence[Problem],
    requested: Sequence[str],
    count: Callable[[Problem], int],
    *,
    on_sample: Callable[[Sample | None], None] = lambda sample: None,
) -> None:
    """Sample what `folder` lacks of each problem's `count` of samples in each requested mode.

    `on_sample` gets each new sample, and None for each that was found. Raises UserError for a folder that was made
    with another setting.
    """
    found = open_folder(folder, setting, problems)
    missing = []
    for mode in requested:
        for problem in problems:
            for index in range(count(problem)):
                if (problem.id, mode, index) in found:
                    on_sample(None)
                else:
                    missing.append(Query(problem, mode, index))
    with open_samples(folder) as write:

        def take(sample: Sample) -> None:
            write(sample)
            on_sample(sample)

        respond(missing, take)


def make_sample_counter(config: EvaluationConfig) -> Callable[[Problem], int]:
    """Return how many samples a problem gets in each mode."""
    by_set = config.parse_samples()
    return lambda problem: by_set.get(name_set(problem), config.samples_per_problem)


def make_policy_setting(name: str, fingerprint: str, config: EvaluateConfig, starts: Starts) -> Setting:
    """Return the setting of an evaluation whose tokens are known (not behind a chat endpoint)."""
    return Setting(
        name,
        fingerprint,
        config.temperature,
        config.top_p,
        config.max_think_tokens,
        config.max_no_think_tokens,
        config.seed,
        prompt_date=config.prompt_date,
        force_think=str(config.force_think),
        think_starts=starts if config.force_think is ForceThink.START else None,
    )


def describe_starts(tokenizer: Any, template: ThinkTemplate) -> Starts:
    """Return what requested thoughts begin with."""
    starts = template.think_starts or (ThinkStart(template.think_prefix_ids, 1.0),)
    return {decode(tokenizer, start.ids): start.probability for start in starts}


def make_policy_responder(
    sampler: Sampler, config: EvaluateConfig, *, on_timing: Callable[[Timing], None] = lambda timing: None
) -> Respond:
    """Return a function that samples through an engine; thinking is forced as `make_request` says.

    `on_timing` gets how long the engine generated, for each part that it was given at once.
    """
    max_tokens = MaxTokens(config.max_think_tokens, config.max_no_think_tokens)
    chunk = CHUNK_ROWS * config.max_concurrent_sequences

    def respond(queries: Sequence[Query], take: Callable[[Sample], None]) -> None:
        for requested, group in groupby(queries, key=lambda query: query.requested):
            seed = make_seed(config.seed, "evaluate", requested)
            same = list(group)
            for start in range(0, len(same), chunk):
                part = same[start : start + chunk]
                prompts = {query.problem.id: sampler.encode_prompt(query.problem) for query in part}
                requests = [
                    make_request(
                        sampler.template,
                        prompts[query.problem.id],
                        REQUESTED_MODES[requested],
                        derive_stream(query.problem, query.index),
                        max_tokens,
                        force_think=config.force_think,
                        seed=seed,
                    )
                    for query in part
                ]

                def ended(index: int, completion: Completion, part: list[Query] = part, seed: int = seed) -> None:
                    beside = begins_beside(sampler.template, completion) if part[index].requested == "auto" else None
                    take(replace(make_sample(part[index], sampler.read(completion), seed), beside=beside))

                started = time.perf_counter()
                completions = sampler.engine.generate(
                    requests, temperature=config.temperature, top_p=config.top_p, seed=seed, on_finish=ended
                )
                seconds = round(time.perf_counter() - started, 3)
                tokens = sum(len(completion.token_ids) for completion in completions)
                on_timing(Timing(requested, len(part), tokens, seconds))

    return respond


def begins_beside(template: ThinkTemplate, completion: Completion) -> bool:
    """Return whether a response begins with neither the no_think token nor a think start."""
    return completion.token_ids[0] not in (template.no_think_id, *template.think_ids)


def make_sample(query: Query, response: Response | ChatResponse, seed: int) -> Sample:
    """Return a response as the sample that is stored."""
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
        write_decisions(folder, dict(zip((one.id for one in part), compute_decisions(sampler, part), strict=True)))


def compute_decisions(sampler: Sampler, problems: Sequence[Problem]) -> list[Decision]:
    """Return the first-token probabilities of each problem at temperature 1, from one prefill each."""
    prompts = [sampler.encode_prompt(problem) for problem in problems]
    rows = compute_mode_logprobs(sampler.engine, sampler.template, prompts)
    return [Decision(to_probability(no_think), to_probability(think)) for no_think, think in rows]


def to_probability(logprob: float) -> float:
    """Return e to a log-probability, which a sum of several may have rounded to above 1."""
    return min(math.exp(logprob), 1.0)


def compute_mode_logprobs(
    engine: Engine, template: ThinkTemplate, prompts: Sequence[tuple[int, ...]]
) -> list[tuple[float, float]]:
    """Return log P(no_think) and log P(think start) of each prompt's first token, at temperature 1.

    Several think starts count together, by the first token of each.
    """
    rows = engine.next_token_logprobs(prompts, (template.no_think_id, *template.think_ids))
    return [(no_think, float(np.logaddexp.reduce(thinks))) for no_think, *thinks in rows]
