"""Generation for many clients at once: jobs that come and go, and what runs them.

A `Job` is one prompt with all that is to be generated behind it. Two classes run jobs: `ContinuousBatch` token by token
on the native engine, `WholeBatches` in batches on any other engine.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from adaptthink.engines.base import Completion, Engine, Finish, Request

RAMP_NATS = 10.0  # below the largest logit, where the rise of the close token's begins


@dataclass(frozen=True, slots=True)
class Closing:
    """How a thought ends that reaches its budget, so that an answer follows.

    Over the last `ramp` tokens of the budget the close token's logit is raised (`compute_distance`), so that a thought
    ends at a place of the model's choice where there is one. One that goes on is ended by `ids`: a sentence, the
    close token, and what the template writes behind it. No end token is sampled before the close token, nor directly
    behind `ids`. An engine of batches has no ramp, and samples what it will.
    """

    close_id: int
    budget: int  # tokens of the response before `ids`, forced ones included
    ids: tuple[int, ...]
    ramp: int = 0


@dataclass(eq=False, slots=True)
class Job:
    """One prompt, and who gets the tokens behind it.

    When the prompt has been read, `begin` gets the log-probabilities of `scored_ids` as the next token, at temperature
    1, and returns one request for each choice to generate, whose prompt is this one. `on_token` gets the choice's
    index, the token, and with the last one why it is the last; False ends the choice. `on_error` gets what ended the
    job. All three are called between two steps of the thread that generates. `cancelled` may be set by any thread, and
    holds from the next step on.
    """

    prompt_ids: tuple[int, ...]
    begin: Callable[[Sequence[float]], Sequence[Request]]
    on_token: Callable[[int, int, Finish | None], bool]
    on_error: Callable[[Exception], None]
    scored_ids: tuple[int, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    closing: Closing | None = None  # of each choice's thought; `Request.max_tokens` has room for it
    # A request's `banned_first_ids` stay banned behind these, and no response ends there. An engine of batches bans the
    # first token alone.
    blank_ids: frozenset[int] = frozenset()
    owner: Hashable = None  # jobs of the owner with the fewest responses under way are taken first
    cancelled: bool = False


class Runner(Protocol):
    """What runs jobs. All methods are for one thread."""

    @property
    def idle(self) -> bool:
        """Whether there is no job."""
        ...

    def submit(self, job: Job) -> None:
        """Take a job; errors are passed to its `on_error`."""
        ...

    def step(self) -> None:
        """Do a small part of the work of all jobs; never raises for what one of them did."""
        ...

    def fail_all(self, error: Exception) -> None:
        """End all jobs with an error."""
        ...


class WholeBatches:
    """Runs jobs on an engine that knows batches only: those that wait when a batch ends are the next one.

    A job's choices come whole, as soon as they end. Where a batch fails, the jobs in it that have no token yet are
    tried again, each alone.
    """

    def __init__(self, engine: Engine, *, seed: int = 0) -> None:
        self.engine, self.seed = engine, seed
        self.waiting: list[Job] = []

    @property
    def idle(self) -> bool:
        """See `Runner`."""
        return not self.waiting

    def submit(self, job: Job) -> None:
        """See `Runner`."""
        self.waiting.append(job)

    def fail_all(self, error: Exception) -> None:
        """See `Runner`."""
        jobs, self.waiting = self.waiting, []
        for job in jobs:
            job.on_error(error)

    def step(self) -> None:
        """Complete all jobs that wait; those with the same sampling settings are generated together."""
        jobs, self.waiting = [job for job in self.waiting if not job.cancelled], []
        for sampling in dict.fromkeys((job.temperature, job.top_p) for job in jobs):
            self._complete([job for job in jobs if (job.temperature, job.top_p) == sampling])

    def _complete(self, jobs: list[Job]) -> None:
        started: set[Job] = set()
        try:
            self._generate(jobs, started)
        except Exception as error:  # noqa: BLE001  (whatever it is, other jobs go on)
            for job in jobs:
                if job in started or len(jobs) == 1:
                    job.on_error(error)
                else:
                    self._complete([job])

    def _generate(self, jobs: list[Job], started: set[Job]) -> None:
        work = [
            (job, choice, request)
            for job, logprobs in zip(jobs, self._score(jobs), strict=True)
            for choice, request in enumerate(job.begin(logprobs))
        ]
        left: list[tuple[Job, int, Request]] = []

        def deliver(job: Job, choice: int, request: Request, completion: Completion) -> None:
            if job.closing and (follow := follow_up(request, completion, job.closing)):
                left.append((job, choice, follow))
                return
            started.add(job)
            last = len(completion.token_ids) - 1
            for position, token in enumerate(completion.token_ids):
                if not job.on_token(choice, token, completion.finish if position == last else None):
                    break

        def generate(work: Sequence[tuple[Job, int, Request]], requests: Sequence[Request], seed: int) -> None:
            self.engine.generate(
                requests,
                temperature=jobs[0].temperature,
                top_p=jobs[0].top_p,
                seed=seed,
                on_finish=lambda index, completion: deliver(*work[index], completion),
            )

        generate(work, [limit_thought(request, job.closing) for job, _, request in work], self.seed)
        if left:
            work, left = left, []
            generate(work, [request for _, _, request in work], self.seed + 1)

    def _score(self, jobs: list[Job]) -> list[Sequence[float]]:
        """Return each job's scores; prompts with the same ids to score share one call."""
        scores: dict[Job, Sequence[float]] = dict.fromkeys(jobs, ())
        for ids in dict.fromkeys(job.scored_ids for job in jobs if job.scored_ids):
            scored = [job for job in jobs if job.scored_ids == ids]
            prompts = list(dict.fromkeys(job.prompt_ids for job in scored))
            rows = dict(zip(prompts, self.engine.next_token_logprobs(prompts, ids), strict=True))
            scores |= {job: rows[job.prompt_ids] for job in scored}
        return [scores[job] for job in jobs]


def compute_distance(position: int, budget: int, ramp: int) -> float | None:
    """Return how far below the largest logit the close token's is at most, in nats; None: it is left as it is.

    `position` is that of the next token. Over the last `ramp` tokens of a budget the distance shrinks from `RAMP_NATS`
    on in equal steps, and would be 0 at the budget.
    """
    left = budget - position
    return RAMP_NATS * left / ramp if 0 < left <= ramp else None


def limit_thought(request: Request, closing: Closing | None) -> Request:
    """Return a request that ends where its thought has to; one that begins behind the close token is left as it is."""
    if closing is None or closing.close_id in request.prefix_ids:
        return request
    return replace(request, max_tokens=min(request.max_tokens, closing.budget))


def follow_up(request: Request, completion: Completion, closing: Closing) -> Request | None:
    """Return the request that goes on behind a limited thought; None if the completion is whole."""
    ids = completion.token_ids
    if closing.close_id not in ids:
        thought = ids[:-1] if completion.finish is Finish.STOP else ids
        return replace(request, prefix_ids=(*thought, *closing.ids), banned_first_ids=())
    cut = completion.finish is Finish.LENGTH and len(ids) < request.max_tokens
    return replace(request, prefix_ids=ids, banned_first_ids=()) if cut else None
