"""Sampling: problems in, graded responses out, with the log-probabilities that the engine sampled their tokens with.

What training makes of forced tokens is in `training/rollout.py`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from typing import Any

from adaptthink.config.schema import ForceThink
from adaptthink.engines.base import Completion, Engine, Request, Streaming
from adaptthink.grading import Grade, Verdict
from adaptthink.modes import Mode, ThinkTemplate
from adaptthink.problems import Problem, encode_problem
from adaptthink.sampling.grader import AnswerGrader, Graded, Grader
from adaptthink.sampling.reading import Response, read_response
from adaptthink.sampling.requests import MaxTokens, derive_stream, make_request, make_seed
from adaptthink.timing import Clock

UNGRADED = 256  # problems that may wait for the grader before sampling pauses

OnFinished = Callable[[int, int], None]  # called with numbers of responses that ended and of their tokens


@dataclass(frozen=True, slots=True)
class Rollout:
    """One graded response. `behavior_logprobs` has one value per token, under the policy that sampled it."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    behavior_logprobs: tuple[float, ...]
    num_forced: int  # of the response's first tokens
    response: Response
    grade: Grade
    weight: float = 1.0  # in the loss: 1 / the probability with which this sample was kept
    within_mode: float = 0.0  # log-probability of the forced prefix among those of its mode; 0 where it has one
    sampled_decision: float | None = None  # the engine's log-probability of the first token, where π_IS replaced it
    initial_logprobs: tuple[float, ...] = ()  # of the response's tokens under the model before training, if computed

    @property
    def mode(self) -> Mode:
        """The mode of the response."""
        return self.response.mode

    @property
    def verdict(self) -> Verdict:
        """What the grader found."""
        return self.grade.verdict


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings of a batch of responses."""

    max_tokens: MaxTokens
    temperature: float
    top_p: float = 1.0
    seed: int = 0


# The probability, in (0, 1], with which a sample of a problem in a mode is kept.
KeepProbability = Callable[[Problem, Mode | None], float]


@dataclass(frozen=True, slots=True)
class Pending:
    """A request in progress: its problem, and what its rollout needs."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    forced: int  # how many of the response's first tokens were forced
    weight: float


@dataclass(frozen=True, slots=True)
class Sampler:
    """What turns problems into graded responses: engine, tokenizer, think template, grader."""

    engine: Engine
    tokenizer: Any
    template: ThinkTemplate
    grader: Grader = field(default_factory=AnswerGrader)
    clock: Clock = field(default_factory=Clock)

    def encode_prompt(self, problem: Problem) -> tuple[int, ...]:
        """Return the token ids of a problem's prompt, up to the decision token."""
        return encode_problem(self.tokenizer, self.template, problem)

    def read(self, completion: Completion) -> Response:
        """Return the response of a completion."""
        return read_response(self.tokenizer, self.template, completion)

    def make_rollout(self, pending: Pending, completion: Completion, response: Response, grade: Grade) -> Rollout:
        """Return a graded completion as a rollout, with the engine's log-probabilities."""
        return Rollout(
            problem=pending.problem,
            prompt_ids=pending.prompt_ids,
            response_ids=completion.token_ids,
            behavior_logprobs=completion.logprobs,
            num_forced=pending.forced,
            response=response,
            grade=grade,
            weight=pending.weight,
            within_mode=self.template.compute_start_logprob(completion.token_ids[: pending.forced]),
        )


def keep_all(_: Problem, __: Mode | None) -> float:
    """Return 1: every sample is kept."""
    return 1.0


def sample_rollouts(
    sampler: Sampler,
    problems: Sequence[Problem],
    modes: Sequence[Mode | None],
    sampling: Sampling,
    *,
    force_think: ForceThink = ForceThink.START,
    keep_probability: KeepProbability = keep_all,
    on_finish: OnFinished | None = None,
) -> list[list[Rollout]]:
    """Sample one response per problem and entry of `modes` (a forced mode, or None for the model's own choice).

    Returns one group of rollouts per problem, in order, forced as `make_request` says. Log-probabilities are the
    engine's own. Random streams are derived from the problem's id and the index in `modes`, so a response does not
    depend on what else is sampled. Each sample is kept with probability p = `keep_probability`(problem, mode), and then
    has weight 1/p; one that is dropped is not generated.
    """
    template = sampler.template
    requests: list[Request] = []
    pending: list[Pending] = []
    sizes = []  # of each problem's group
    for problem in problems:
        prompt, before = sampler.encode_prompt(problem), len(pending)
        for index, mode in enumerate(modes):
            share = keep_probability(problem, mode)
            if share < 1 and random.Random(make_seed(sampling.seed, problem.id, index)).random() >= share:
                continue
            stream = derive_stream(problem, index)
            request = make_request(
                template, prompt, mode, stream, sampling.max_tokens, force_think=force_think, seed=sampling.seed
            )
            requests.append(request)
            pending.append(Pending(problem, prompt, len(request.prefix_ids), 1 / share))
        sizes.append(len(pending) - before)
    groups = iter(generate_and_grade(sampler, requests, pending, sampling, on_finish))
    return [list(islice(groups, size)) for size in sizes]


def sample_each(
    sampler: Sampler,
    problems: Sequence[Problem],
    modes: Sequence[Mode | None],
    sampling: Sampling,
    take: Callable[[Problem, list[Rollout]], None],
    *,
    at_once: int,
    on_finish: OnFinished | None = None,
) -> None:
    """Sample a response of each problem in each of `modes`; call `take` with a problem and its responses.

    They equal those of `sample_rollouts`. Problems are processed in order, `at_once` at a time. With a streaming engine
    and no forced mode, a problem starts as soon as a slot is available, and `take` is called from another thread, in
    the order in which problems are done.
    """
    if isinstance(sampler.engine, Streaming) and not any(modes):
        stream_unconstrained(sampler, sampler.engine, problems, len(modes), sampling, take, on_finish)
        return
    for start in range(0, len(problems), at_once):
        part = problems[start : start + at_once]
        groups = sample_rollouts(sampler, part, modes, sampling, on_finish=on_finish)
        for problem, group in zip(part, groups, strict=True):
            take(problem, group)


def stream_unconstrained(
    sampler: Sampler,
    engine: Streaming,
    problems: Sequence[Problem],
    samples: int,
    sampling: Sampling,
    take: Callable[[Problem, list[Rollout]], None],
    on_finish: OnFinished | None,
) -> None:
    """Do what `sample_each` does without forced modes and with a streaming engine; another thread reads and grades."""
    begun: dict[int, tuple[Pending, dict[int, Completion]]] = {}  # by the problem's index: its completions, by index
    ended: deque[Future[None]] = deque()

    def requests() -> Iterator[Request]:
        for number, problem in enumerate(problems):
            prompt = sampler.encode_prompt(problem)
            begun[number] = Pending(problem, prompt, 0, 1.0), {}
            for position in range(samples):
                yield make_request(
                    sampler.template, prompt, None, derive_stream(problem, position), sampling.max_tokens
                )

    def grade_and_take(pending: Pending, completions: list[Completion]) -> None:
        responses = [sampler.read(completion) for completion in completions]
        grades = sampler.grader.grade((pending.problem, response) for response in responses)
        rows = zip(completions, responses, grades, strict=True)
        take(pending.problem, [sampler.make_rollout(pending, *row) for row in rows])

    with ThreadPoolExecutor(1) as thread:

        def finish(index: int, completion: Completion) -> None:
            number, position = divmod(index, samples)
            pending, completions = begun[number]
            completions[position] = completion
            if on_finish:
                on_finish(1, len(completion.token_ids))
            if len(completions) == samples:
                del begun[number]
                ended.append(thread.submit(grade_and_take, pending, [completions[k] for k in range(samples)]))
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


def generate_and_grade(
    sampler: Sampler,
    requests: Sequence[Request],
    pending: Sequence[Pending],
    sampling: Sampling,
    on_finish: OnFinished | None,
) -> list[Rollout]:
    """Return the rollouts of all requests; completions are read and graded while others are still generated."""
    ended: SimpleQueue[tuple[int, Completion] | None] = SimpleQueue()
    responses: dict[int, Response] = {}  # by index, in the order in which they ended

    def take(index: int, completion: Completion) -> None:
        ended.put((index, completion))
        if on_finish:
            on_finish(1, len(completion.token_ids))

    def read() -> Iterator[Graded]:
        for index, completion in iter(ended.get, None):
            responses[index] = sampler.read(completion)
            yield pending[index].problem, responses[index]

    with ThreadPoolExecutor(1) as thread:
        grading = thread.submit(sampler.grader.grade, read())
        try:
            with sampler.clock.phase("generate"):
                completions = sampler.engine.generate(
                    requests, temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed, on_finish=take
                )
        finally:
            ended.put(None)
        with sampler.clock.phase("grade"):
            grades = dict(zip(responses, grading.result(), strict=True))
    return [
        sampler.make_rollout(pending[index], completion, responses[index], grades[index])
        for index, completion in enumerate(completions)
    ]
