"""Sampling: problems in, graded responses out, with the log-probabilities that the engine sampled their tokens with.

What training makes of forced tokens is in `training/rollout.py`.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from typing import Any

from adaptthink.engines.base import Completion, Engine, Finish, Request, Streaming
from adaptthink.grading import Limits, Submission, Verdict, grade_all
from adaptthink.modes import Mode, ThinkTemplate, prompt_ids
from adaptthink.problems import Problem
from adaptthink.timing import Clock

STREAM_STEP = 0x9E3779B97F4A7C15  # between the random streams of one problem's responses
UNGRADED = 256  # problems whose responses wait to be graded, before no more are drawn

OnFinished = Callable[[int, int], None]  # called with numbers of responses that ended and of their tokens


@dataclass(frozen=True, slots=True)
class Rollout:
    """One graded response. `behavior_logprobs` runs over its tokens: under the policy that sampled them."""

    problem: Problem
    mode: Mode
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    behavior_logprobs: tuple[float, ...]
    num_forced: int  # of the response's first tokens
    text: str
    verdict: Verdict
    weight: float = 1.0  # in the loss: 1 / the probability with which this sample was drawn at all


@dataclass(frozen=True, slots=True)
class MaxTokens:
    """Response caps in tokens, one per mode; a free response may use the larger."""

    think: int
    no_think: int

    def of(self, mode: Mode | None) -> int:
        """The cap of a mode; None stands for a free choice."""
        return self.no_think if mode is Mode.NO_THINK else max(self.think, self.no_think)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How responses are drawn."""

    max_tokens: MaxTokens
    temperature: float
    top_p: float = 1.0
    seed: int = 0


KeepProbability = Callable[
    [Problem, Mode | None], float
]  # with which a sample of a problem in a mode is drawn, in (0, 1]


@dataclass(frozen=True, slots=True)
class Pending:
    """What a completion answers."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    forced: int  # how many of the response's first tokens were forced
    weight: float


@dataclass(frozen=True, slots=True)
class Sampler:
    """What turns problems into graded responses: an engine, and what is needed to speak to it in text."""

    engine: Engine
    tokenizer: Any
    template: ThinkTemplate
    limits: Limits = field(default_factory=Limits)  # of grading
    boxed_only: bool = True
    clock: Clock = field(default_factory=Clock)

    def prompt(self, problem: Problem) -> tuple[int, ...]:
        """Token ids of a problem's prompt, up to the decision token."""
        return prompt_ids(self.tokenizer, self.template, problem.prompt)

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of a response, special tokens included."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=False))

    def read(self, completion: Completion) -> tuple[str, str | None]:
        """The text of a response, and of it what follows the thought, without the token that ends the response.

        The latter is None for a response that never came to that.
        """
        if completion.finish is not Finish.STOP:
            return self.text(completion.token_ids), None
        written = self.text(completion.token_ids[:-1])
        _, closed, answer = written.rpartition(self.template.close)
        return written + self.text(completion.token_ids[-1:]), answer if closed else None

    def rollout(self, requested: Pending, completion: Completion, text: str, verdict: Verdict) -> Rollout:
        """Put a graded completion down, log-probabilities as they came."""
        return Rollout(
            problem=requested.problem,
            mode=self.template.mode_of(completion.token_ids),
            prompt_ids=requested.prompt_ids,
            response_ids=completion.token_ids,
            behavior_logprobs=completion.logprobs,
            num_forced=requested.forced,
            text=text,
            verdict=verdict,
            weight=requested.weight,
        )


def stream_seed(seed: int, *purpose: str | int) -> int:
    """Derive the seed of one purpose (for example a training step) from the run's seed."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def keep_all(_: Problem, __: Mode | None) -> float:
    """The uniform design: every sample is drawn."""
    return 1.0


def draw(
    sampler: Sampler,
    problems: Sequence[Problem],
    modes: Sequence[Mode | None],
    sampling: Sampling,
    *,
    force_think_start: bool = False,
    keep_probability: KeepProbability = keep_all,
    on_finish: OnFinished | None = None,
) -> list[list[Rollout]]:
    """Draw one response per problem and entry of `modes`: a forced mode, or None for the model's own choice.

    Think mode is forced by its prefix if `force_think_start`, else by banning the no_think decision token, so that the
    model opens its thought in its own way. Log-probabilities are the engine's own. Random streams follow from the
    problem's id and the position in `modes`, so a response does not depend on what else is drawn. Each is drawn with
    the probability that `chance` gives, and its weight is the inverse of that.
    """
    template = sampler.template
    requests: list[Request] = []
    requested: list[Pending] = []
    sizes = []  # of each problem's group
    for problem in problems:
        prompt, before = sampler.prompt(problem), len(requested)
        for position, mode in enumerate(modes):
            share = keep_probability(problem, mode)
            if share < 1 and random.Random(stream_seed(sampling.seed, problem.id, position)).random() >= share:
                continue
            request = make_request(
                template, problem, prompt, mode, position, sampling.max_tokens, force_think_start=force_think_start
            )
            requests.append(request)
            requested.append(Pending(problem, prompt, len(request.prefix_ids), 1 / share))
        sizes.append(len(requested) - before)
    groups = iter(generate_and_grade(sampler, requests, requested, sampling, on_finish))
    return [list(islice(groups, size)) for size in sizes]


def draw_free(
    sampler: Sampler,
    problems: Sequence[Problem],
    samples: int,
    sampling: Sampling,
    take: Callable[[Problem, list[Rollout]], None],
    *,
    at_once: int,
    on_finish: OnFinished | None = None,
) -> None:
    """Draw `samples` free responses of each problem; `take` gets a problem with its responses once all have ended.

    They are those of `draw` with as many times None. Problems come in order, `at_once` at a time; with an engine that
    streams, a problem begins as soon as there is room and comes when it is done, in whatever order, and `take` is
    called on a thread of its own.
    """
    if isinstance(sampler.engine, Streaming):
        stream_free(sampler, sampler.engine, problems, samples, sampling, take, on_finish)
        return
    for start in range(0, len(problems), at_once):
        part = problems[start : start + at_once]
        groups = draw(sampler, part, [None] * samples, sampling, on_finish=on_finish)
        for problem, group in zip(part, groups, strict=True):
            take(problem, group)


def stream_free(
    sampler: Sampler,
    engine: Streaming,
    problems: Sequence[Problem],
    samples: int,
    sampling: Sampling,
    take: Callable[[Problem, list[Rollout]], None],
    on_finish: OnFinished | None,
) -> None:
    """Do what `draw_free` does with an engine that streams; problems are read, graded and taken beside it."""
    begun: dict[int, tuple[Pending, dict[int, Completion]]] = {}  # by the problem's number: what has ended, by position
    ended: deque[Future[None]] = deque()

    def requests() -> Iterator[Request]:
        for number, problem in enumerate(problems):
            prompt = sampler.prompt(problem)
            begun[number] = Pending(problem, prompt, 0, 1.0), {}
            for position in range(samples):
                yield make_request(sampler.template, problem, prompt, None, position, sampling.max_tokens)

    def grade_and_take(requested: Pending, completions: list[Completion]) -> None:
        read = [sampler.read(completion) for completion in completions]
        problem = requested.problem
        submissions = [Submission(answer, problem.answer, problem.kind, sampler.boxed_only) for _, answer in read]
        grades = grade_all(submissions, limits=sampler.limits)
        rows = zip(completions, read, grades, strict=True)
        take(problem, [sampler.rollout(requested, one, text, grade.verdict) for one, (text, _), grade in rows])

    with ThreadPoolExecutor(1) as thread:

        def finish(index: int, completion: Completion) -> None:
            number, position = divmod(index, samples)
            requested, completions = begun[number]
            completions[position] = completion
            if on_finish:
                on_finish(1, len(completion.token_ids))
            if len(completions) == samples:
                del begun[number]
                ended.append(thread.submit(grade_and_take, requested, [completions[k] for k in range(samples)]))
                while len(ended) > UNGRADED or (ended and ended[0].done()):
                    ended.popleft().result()

        with sampler.clock.phase("generate"):
            engine.stream(
                requests(),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed,
                on_finish=finish,
            )
        for one in ended:
            one.result()


def make_request(
    template: ThinkTemplate,
    problem: Problem,
    prompt: tuple[int, ...],
    mode: Mode | None,
    position: int,
    max_tokens: MaxTokens,
    *,
    force_think_start: bool = False,
) -> Request:
    """Ask for the response at `position` among those of a problem, in a forced mode or in none (see `draw`)."""
    return Request(
        prompt,
        max_tokens.of(mode),
        stream=int(problem.id, 16) + position * STREAM_STEP,
        prefix_ids=template.prefix_ids(mode) if mode is Mode.NO_THINK or (mode and force_think_start) else (),
        banned_first_ids=(template.no_think_id,) if mode is Mode.THINK and not force_think_start else (),
    )


def generate_and_grade(
    sampler: Sampler,
    requests: Sequence[Request],
    requested: Sequence[Pending],
    sampling: Sampling,
    on_finish: OnFinished | None,
) -> list[Rollout]:
    """Complete and grade all requests; what has ended is read and graded while the others are still generated."""
    ended: SimpleQueue[tuple[int, Completion] | None] = SimpleQueue()
    texts: dict[int, str] = {}  # by place, in the order in which they ended

    def take(index: int, completion: Completion) -> None:
        ended.put((index, completion))
        if on_finish:
            on_finish(1, len(completion.token_ids))

    def submissions() -> Iterator[Submission]:
        for index, completion in iter(ended.get, None):
            texts[index], answer = sampler.read(completion)
            problem = requested[index].problem
            yield Submission(answer, problem.answer, problem.kind, sampler.boxed_only)

    with ThreadPoolExecutor(1) as thread:
        grading = thread.submit(grade_all, submissions(), limits=sampler.limits)
        try:
            with sampler.clock.phase("generate"):
                completions = sampler.engine.generate(
                    requests, temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed, on_finish=take
                )
        finally:
            ended.put(None)
        with sampler.clock.phase("grade"):
            grades = dict(zip(texts, grading.result(), strict=True))
    return [
        sampler.rollout(requested[index], completion, texts[index], grades[index].verdict)
        for index, completion in enumerate(completions)
    ]
