"""Several servers as one engine: each request goes to a free server, and to another one if that fails.

A server that fails is unhealthy: its unfinished requests go to the others, and it is checked again after a back-off
that grows. Before it gets work, at the start and after every back-off, a health check makes sure that it has our model.
A request has its own seed (`rounds.derive_seed`), so its result does not depend on the server.

When no request is left to hand out, one that takes much longer than any other did is also sent to a second server, and
the first answer counts. So a server that hangs delays nothing but its own slots.

A request that fails again and again on healthy servers is given up, and the call ends with an error once all others
are done.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2 as httpx

from adaptthink.engines.base import Completion, OnFinish, Request
from adaptthink.engines.openai import (
    OpenAIEngine,
    Probe,
    RefusedError,
    UnansweredError,
    find_server,
    make_client,
    parse_base_url,
)
from adaptthink.engines.rounds import (
    Continuation,
    ContinuationRequest,
    OnContinuation,
    check_continuation,
    check_temperature,
    complete,
    make_completion,
    make_unconstrained_request,
    score,
)
from adaptthink.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TIMEOUT_SECONDS = 600.0  # that every server may have been unhealthy since any of them answered
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 60.0  # seconds before an unhealthy server is checked again; doubled each time
CHECK_SECONDS = 60.0  # time-out of a health check
IDLE_SECONDS = 0.2  # between two searches for work where there was none
LATE = 2.0  # times the longest response so far: from then on a request is late
SUSPECT = 3  # failures after which a request waits until no other is left to hand out: it may make servers fail


@dataclass(slots=True)
class Server:
    """A server, its health, and what it has done so far."""

    url: str
    engine: OpenAIEngine | None = None  # None while it is unhealthy
    responses: int = 0
    tokens: int = 0
    faults: int = 0  # calls that failed
    last_fault: str = ""
    earlier_unhealthy_seconds: float = 0.0  # of the times that are over
    unhealthy_since: float | None = None
    seconds_at_last_answer: float = 0.0  # its unhealthy_seconds when one of the servers answered last
    failures: int = 0  # in a row
    retry_at: float = 0.0

    @property
    def unhealthy_seconds(self) -> float:
        """For how long it has been unhealthy, all times together."""
        return self.earlier_unhealthy_seconds + (
            time.monotonic() - self.unhealthy_since if self.unhealthy_since else 0.0
        )


@dataclass(slots=True)
class Job:
    """A request that is being worked on: which servers have it, since when, and how often it failed."""

    index: int
    request: ContinuationRequest
    servers: list[Server] = field(default_factory=list)
    started: float = 0.0  # by the last of them
    faults: int = 0
    last_fault: str = ""
    done: bool = False


class Work:
    """The requests of one call, taken from an iterator as servers become free; `num_servers` work on them."""

    def __init__(
        self,
        requests: Iterable[ContinuationRequest],
        on_continuation: Callable[[int, Continuation], None],
        num_servers: int,
    ) -> None:
        self.fresh = self.make_jobs(requests)
        self.exhausted = False  # not where the iterator ended by an error
        self.on_continuation = on_continuation
        self.returned: deque[Job] = deque()
        self.suspect: deque[Job] = deque()
        self.failed: list[Job] = []
        self.max_faults = SUSPECT * (1 + num_servers)  # of a request: until it is suspect, then for each server
        self.running: dict[int, Job] = {}
        self.longest = 0.0  # seconds of a response so far
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def make_jobs(self, requests: Iterable[ContinuationRequest]) -> Iterator[Job]:
        """Yield a job for each request, and note when there are no more."""
        for index, request in enumerate(requests):
            yield Job(index, request)
        self.exhausted = True

    def take(self, server: Server) -> Job | None:
        """Return a job for a server; None if there is none for it now."""
        job = self.returned.popleft() if self.returned else next(self.fresh, None)
        if job is None:
            job = self.suspect.popleft() if self.suspect else self.find_late(server)
        if job is None:
            self.end_if_done()
            return None
        job.started = time.monotonic()
        job.servers.append(server)
        self.running[job.index] = job
        return job

    def find_late(self, server: Server) -> Job | None:
        """Return a job that other servers have had for much longer than any took."""
        before = time.monotonic() - LATE * self.longest if self.longest else 0.0
        jobs = (job for job in self.running.values() if job.started < before and server not in job.servers)
        return next(jobs, None)

    def finish(self, job: Job, continuation: Continuation) -> None:
        """Hand a result on, unless another server was faster."""
        if not job.done:
            job.done = True
            self.longest = max(self.longest, time.monotonic() - job.started)
            self.on_continuation(job.index, continuation)
            del self.running[job.index]
            self.end_if_done()  # here too: there may be no server left that would take more

    def give_back(self, job: Job, server: Server, error: UserError) -> None:
        """Take a job back that a server failed on, or was too busy for."""
        job.servers.remove(server)
        if not (isinstance(error, UnansweredError) and error.busy):
            job.faults += 1
            job.last_fault = str(error)
        if job.done or job.servers:
            return
        del self.running[job.index]
        if job.faults >= self.max_faults:
            self.failed.append(job)
            self.end_if_done()
        else:
            (self.suspect if job.faults >= SUSPECT else self.returned).append(job)

    def end_if_done(self) -> None:
        """End the call if every request has been completed or has failed for good."""
        if self.running or self.returned or self.suspect:
            return
        if job := next(self.fresh, None):
            self.returned.append(job)
        elif self.exhausted and self.failed:
            self.fail(make_failure(self.failed))
        elif self.exhausted and not self.over.done():
            self.over.set_result(None)

    def fail(self, error: BaseException) -> None:
        """End the call with an error."""
        if not self.over.done():
            self.over.set_exception(error)

    def watch(self, task: asyncio.Task[None]) -> None:
        """End the call if a task of it ended by an error."""
        if not task.cancelled() and (error := task.exception()):
            self.fail(error)


def make_failure(jobs: Sequence[Job]) -> UserError:
    """Return the error for requests that failed so often that the servers cannot be at fault."""
    context_tokens, max_tokens = len(jobs[0].request.context_ids), jobs[0].request.max_tokens
    others = f", and so did {len(jobs) - 1} more" if len(jobs) > 1 else ""
    return UserError(
        f"a request with a context of {context_tokens} tokens and max_tokens {max_tokens} failed {jobs[0].faults} "
        f"times on servers that were healthy before{others} ({jobs[0].last_fault}); completed work is kept: see the "
        "servers' logs, lower max_think_tokens or max_concurrent_sequences or leave its problem out, and repeat the "
        "command"
    )


def open_fleet(
    endpoints: Sequence[str],
    eos_ids: Sequence[int],
    *,
    name: str,
    max_concurrent_sequences: int,
    probe: Probe,
    on_message: Callable[[str], None] = lambda text: None,
) -> Fleet:
    """Return an engine over the servers at `endpoints`, after a health check of each.

    `on_message` is called with one line whenever a server becomes unhealthy or healthy again. Raises UserError if no
    server answers, or if one that answers has another model or other settings than it must have.
    """
    urls = list(dict.fromkeys(map(parse_base_url, endpoints)))
    fleet = Fleet(urls, eos_ids, name, max_concurrent_sequences, probe, on_message)
    asyncio.run(fleet.start())
    return fleet


class Fleet:
    """Generates on several servers, `max_concurrent_sequences` at a time on each; `eos_ids` end a completion."""

    def __init__(
        self,
        urls: Sequence[str],
        eos_ids: Sequence[int],
        name: str,
        max_concurrent_sequences: int,
        probe: Probe,
        on_message: Callable[[str], None],
    ) -> None:
        self.servers = [Server(url) for url in urls]
        self.eos_ids = tuple(eos_ids)
        self.name = name
        self.max_concurrent_sequences = max_concurrent_sequences
        self.probe = probe
        self.on_message = on_message
        self.capacity_tokens = 0  # of one sequence on every server; known once they have been checked

    async def start(self) -> None:
        """Check every server (see `open_fleet`)."""
        checks = await asyncio.gather(*(self._open(server) for server in self.servers), return_exceptions=True)
        errors = [check for check in checks if isinstance(check, BaseException)]
        for error in errors:
            if not isinstance(error, UnansweredError) or len(errors) == len(checks):
                raise error
        self.capacity_tokens = min(server.engine.capacity_tokens for server in self.servers if server.engine)
        for server, check in zip(self.servers, checks, strict=True):
            if isinstance(check, BaseException):
                self._mark_unhealthy(server, check)

    def generate(
        self,
        requests: Sequence[Request],
        *,
        temperature: float,
        top_p: float = 1.0,
        seed: int = 0,
        on_finish: OnFinish | None = None,
    ) -> list[Completion]:
        """Complete every request, in order (see `Engine.generate` and `rounds.complete`)."""
        return complete(
            self._continue_all,
            requests,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            capacity_tokens=self.capacity_tokens,
            on_finish=on_finish,
        )

    def stream(
        self, requests: Iterable[Request], *, temperature: float, top_p: float, seed: int, on_finish: OnFinish
    ) -> None:
        """Complete requests as servers become free (see `Streaming`)."""
        check_temperature(temperature)
        parts = (
            make_unconstrained_request(request, temperature, top_p, seed, self.capacity_tokens) for request in requests
        )
        asyncio.run(self._run(parts, lambda index, continuation: on_finish(index, make_completion(continuation))))

    def next_token_logprobs(
        self, prompts: Sequence[Sequence[int]], token_ids: Sequence[int], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Return log-probabilities of the next token from one prefill per prompt (see `Engine`)."""
        return score(self._continue_all, prompts, token_ids, temperature)

    def load_weights(self, model: PreTrainedModel) -> None:
        """Raise UserError: a server that was away while weights were sent would come back with old ones."""
        raise UserError(
            "several servers can presample and evaluate, but not train, as one that was away would come back with old "
            "weights; train with one --endpoint, or with --engine vllm"
        )

    def _continue_all(
        self, requests: Sequence[ContinuationRequest], on_continuation: OnContinuation
    ) -> list[Continuation]:
        results: dict[int, Continuation] = {}

        def keep(index: int, continuation: Continuation) -> None:
            results[index] = continuation
            if on_continuation:
                on_continuation(index, continuation)

        asyncio.run(self._run(requests, keep))
        return [results[index] for index in range(len(requests))]

    async def _run(
        self, requests: Iterable[ContinuationRequest], on_continuation: Callable[[int, Continuation], None]
    ) -> None:
        """Complete all requests; raises UserError for those that failed for good, and if no server is left."""
        work = Work(requests, on_continuation, len(self.servers))
        self._note_answer()
        feeders = [asyncio.create_task(self._feed(server, work)) for server in self.servers]
        for feeder in feeders:
            feeder.add_done_callback(work.watch)
        try:
            await work.over
        finally:
            for feeder in feeders:
                feeder.cancel()
            await asyncio.gather(*feeders, return_exceptions=True)

    async def _feed(self, server: Server, work: Work) -> None:
        """Give one server jobs, as many at a time as it may have, until it is cancelled."""
        slots = asyncio.Semaphore(self.max_concurrent_sequences)
        calls: set[asyncio.Task[None]] = set()

        def ended(call: asyncio.Task[None]) -> None:
            calls.discard(call)
            slots.release()
            work.watch(call)

        async with make_client(server.url, self.max_concurrent_sequences) as client:
            try:
                while True:
                    await slots.acquire()
                    engine = server.engine or await self._wait_until_healthy(server, work)
                    if job := work.take(server):
                        calls.add(call := asyncio.create_task(self._answer(server, engine, client, job, work)))
                        call.add_done_callback(ended)
                    else:
                        slots.release()
                    await asyncio.sleep(0 if job else IDLE_SECONDS)  # the other servers' turn
            finally:
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)

    async def _answer(
        self, server: Server, engine: OpenAIEngine, client: httpx.AsyncClient, job: Job, work: Work
    ) -> None:
        """Have a server complete one job; after a failure the job is given back and the server is unhealthy."""
        try:
            continuation = await engine.send(client, job.request, attempts=1)
            check_continuation(job.request, continuation)
        except RefusedError:
            raise
        except UserError as error:
            work.give_back(job, server, error)
            server.faults += 1
            if server.engine:  # else others of its calls failed before this one
                self._mark_unhealthy(server, error)
                self._check_timeout(work)
        else:
            server.responses += 1
            server.tokens += len(continuation.token_ids)
            server.failures = 0
            self._note_answer()
            work.finish(job, continuation)

    async def _wait_until_healthy(self, server: Server, work: Work) -> OpenAIEngine:
        """Wait until an unhealthy server passes its health check."""
        while True:
            await asyncio.sleep(server.retry_at - time.monotonic())
            try:
                return await self._open(server)
            except UserError as error:
                self._mark_unhealthy(server, error)
                self._check_timeout(work)

    async def _open(self, server: Server) -> OpenAIEngine:
        """Check a server's health and take it in; raises UserError if the check fails."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                engine = await find_server(
                    server.url,
                    self.eos_ids,
                    name=self.name,
                    max_concurrent_sequences=self.max_concurrent_sequences,
                    attempts=1,
                )
                await engine.check(self.probe)
        except TimeoutError:
            raise UnansweredError(
                f"{server.url} accepts calls but has not answered within {CHECK_SECONDS:g} s; is it still loading its "
                "model, or busy? see its log"
            ) from None
        if engine.capacity_tokens < self.capacity_tokens:
            raise UserError(
                f"the server at {server.url} holds {engine.capacity_tokens} tokens of a sequence, the others "
                f"{self.capacity_tokens}; start it with --max-model-len {self.capacity_tokens}"
            )
        server.engine = engine
        if server.unhealthy_since is not None:
            server.earlier_unhealthy_seconds += time.monotonic() - server.unhealthy_since
            server.unhealthy_since = None
            self.on_message(f"{server.url} is healthy again")
        return engine

    def _mark_unhealthy(self, server: Server, error: BaseException) -> None:
        """Send a server nothing during its back-off, which grows with each failure in a row."""
        now = time.monotonic()
        backoff = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2**server.failures) * random.uniform(0.5, 1)
        requested = error.wait_seconds if isinstance(error, UnansweredError) else None
        server.engine = None
        server.last_fault = str(error)
        server.retry_at = now + (backoff if requested is None else requested)
        server.failures += 1
        if server.unhealthy_since is None:
            server.unhealthy_since = now
            self.on_message(f"{server.url} is unhealthy: {server.last_fault}")

    def _note_answer(self) -> None:
        """Restart the time-out of `_check_timeout`."""
        for server in self.servers:
            server.seconds_at_last_answer = server.unhealthy_seconds

    def _check_timeout(self, work: Work) -> None:
        """End the call if all servers are unhealthy, and each has been for too long since the last answer.

        Time in which a healthy server generates does not count, and a passed health check does not restart the
        time-out.
        """
        seconds = min(server.unhealthy_seconds - server.seconds_at_last_answer for server in self.servers)
        if seconds > TIMEOUT_SECONDS and not any(server.engine for server in self.servers):
            faults = "; ".join(dict.fromkeys(server.last_fault for server in self.servers))
            work.fail(
                UserError(
                    f"none of {len(self.servers)} servers has answered, and each was unhealthy for {seconds:.0f} s "
                    f"({faults}); completed work is kept: start them again and repeat the command"
                )
            )
