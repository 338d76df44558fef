"""Several servers as one engine: each draw goes to a server that has room, and to another one if that fails.

A server that fails is set aside: its unfinished draws go to the others, and it is looked at again after pauses that
grow. Before it gets work, at the start and again after every pause, it must show that it has our model. A draw's random
numbers are its own (`rounds.draw_seed`), so it does not matter which server carries it out.

Where nothing is left to hand out, a draw that takes much longer than any other did is given to a second server as well,
and the first answer counts: a server that hangs holds nothing up but its own places.

A draw that has failed on servers again and again, each of them fit when it took it, is given up, and the call ends with
an error once all others are done.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import httpx2 as httpx
from transformers import PreTrainedModel

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
    Draw,
    Drawn,
    OnDrawn,
    check_continuation,
    check_temperature,
    complete,
    make_completion,
    make_unconstrained_request,
    score,
)
from adaptthink.errors import UserError

PATIENCE_SECONDS = 600.0  # that every server may have been set aside since any of them answered
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a server that failed is looked at; doubled each time
LOOK_SECONDS = 60.0  # that a look may take
IDLE_SECONDS = 0.2  # between two searches for work where there was none
LATE = 2.0  # times the longest response so far: from then on a draw is late
DOUBTFUL = 3  # failures after which a draw waits until no other is left to hand out: it may make servers fail


@dataclass(slots=True)
class Server:
    """A server, and how it has done so far."""

    url: str
    engine: OpenAIEngine | None = None  # None while it is set aside
    responses: int = 0
    tokens: int = 0
    faults: int = 0  # calls that failed
    last_fault: str = ""
    aside_seconds: float = 0.0
    aside_since: float | None = None
    aside_before: float = 0.0  # its seconds_aside when one of the servers answered last
    failures: int = 0  # in a row
    rests_until: float = 0.0

    @property
    def seconds_aside(self) -> float:
        """How long it has been set aside, all times together."""
        return self.aside_seconds + (time.monotonic() - self.aside_since if self.aside_since else 0.0)


@dataclass(slots=True)
class Job:
    """A draw on its way: who carries it out since when, and how often that failed."""

    index: int
    draw: Draw
    servers: list[Server] = field(default_factory=list)
    started: float = 0.0  # by the last of them
    faults: int = 0
    last_fault: str = ""
    done: bool = False


class Work:
    """The draws of one call, taken from an iterator as there is room for them; `num_servers` carry them out."""

    def __init__(self, draws: Iterable[Draw], on_drawn: Callable[[int, Drawn], None], num_servers: int) -> None:
        self.fresh = self.jobs(draws)
        self.exhausted = False  # not where the iterator ended by an error
        self.on_drawn = on_drawn
        self.returned: deque[Job] = deque()
        self.doubtful: deque[Job] = deque()
        self.hopeless: list[Job] = []
        self.most_faults = DOUBTFUL * (1 + num_servers)  # of a draw: until it is doubtful, then for each server
        self.running: dict[int, Job] = {}
        self.longest = 0.0  # seconds of a response so far
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def jobs(self, draws: Iterable[Draw]) -> Iterator[Job]:
        """Take the draws one by one, and note that there are no more."""
        for index, draw in enumerate(draws):
            yield Job(index, draw)
        self.exhausted = True

    def take(self, server: Server) -> Job | None:
        """Return a draw for a server to carry out; None if there is none for it now."""
        job = self.returned.popleft() if self.returned else next(self.fresh, None)
        if job is None:
            job = self.doubtful.popleft() if self.doubtful else self.late(server)
        if job is None:
            self.end_if_done()
            return None
        job.started = time.monotonic()
        job.servers.append(server)
        self.running[job.index] = job
        return job

    def late(self, server: Server) -> Job | None:
        """Return a draw that other servers have had for much longer than any took."""
        before = time.monotonic() - LATE * self.longest if self.longest else 0.0
        jobs = (job for job in self.running.values() if job.started < before and server not in job.servers)
        return next(jobs, None)

    def finish(self, job: Job, drawn: Drawn) -> None:
        """Hand a draw's result on, unless another server was faster."""
        if not job.done:
            job.done = True
            self.longest = max(self.longest, time.monotonic() - job.started)
            self.on_drawn(job.index, drawn)
            del self.running[job.index]
            self.end_if_done()  # here too: there may be no server left that would ask for more

    def give_back(self, job: Job, server: Server, error: UserError) -> None:
        """Take a draw back that a server failed on, or was too busy for."""
        job.servers.remove(server)
        if not (isinstance(error, UnansweredError) and error.busy):
            job.faults += 1
            job.last_fault = str(error)
        if job.done or job.servers:
            return
        del self.running[job.index]
        if job.faults >= self.most_faults:
            self.hopeless.append(job)
            self.end_if_done()
        else:
            (self.doubtful if job.faults >= DOUBTFUL else self.returned).append(job)

    def end_if_done(self) -> None:
        """End the call if every draw has been handed on, or given up."""
        if self.running or self.returned or self.doubtful:
            return
        if job := next(self.fresh, None):
            self.returned.append(job)
        elif self.exhausted and self.hopeless:
            self.fail(make_failure(self.hopeless))
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
    """Build the error for draws that failed so often that it cannot be the servers' fault."""
    context_tokens, max_tokens = len(jobs[0].draw.context_ids), jobs[0].draw.max_tokens
    others = f", and so did {len(jobs) - 1} more" if len(jobs) > 1 else ""
    return UserError(
        f"a draw with a context of {context_tokens} tokens and a cap of {max_tokens} failed {jobs[0].faults} times on "
        f"servers that were fit before{others} ({jobs[0].last_fault}); what is done is kept: see the servers' "
        "logs, lower max_think_tokens or max_concurrent_sequences or leave its problem out, and repeat the command"
    )


def open_fleet(
    endpoints: Sequence[str],
    eos_ids: Sequence[int],
    *,
    name: str,
    max_concurrent_sequences: int,
    probe: Probe,
    say: Callable[[str], None] = lambda text: None,
) -> Fleet:
    """Return an engine over the servers at `endpoints`, after a look at each; `say` hears of those that come and go.

    Raises UserError if none answers, or if one that answers is not as it should be.
    """
    fleet = Fleet(
        list(dict.fromkeys(map(parse_base_url, endpoints))), eos_ids, name, max_concurrent_sequences, probe, say
    )
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
        say: Callable[[str], None],
    ) -> None:
        self.servers = [Server(url) for url in urls]
        self.eos_ids, self.name, self.max_concurrent_sequences, self.probe, self.say = (
            tuple(eos_ids),
            name,
            max_concurrent_sequences,
            probe,
            say,
        )
        self.capacity_tokens = 0  # of one sequence on every server; known once they have been looked at

    async def start(self) -> None:
        """Look at every server (see `open_fleet`)."""
        looks = await asyncio.gather(*(self._open(server) for server in self.servers), return_exceptions=True)
        errors = [look for look in looks if isinstance(look, BaseException)]
        for error in errors:
            if not isinstance(error, UnansweredError) or len(errors) == len(looks):
                raise error
        self.capacity_tokens = min(server.engine.capacity_tokens for server in self.servers if server.engine)
        for server, look in zip(self.servers, looks, strict=True):
            if isinstance(look, BaseException):
                self._set_aside(server, look)

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
            self._draw_all,
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
        """Complete requests as servers have room for them (see `Streaming`)."""
        check_temperature(temperature)
        draws = (
            make_unconstrained_request(request, temperature, top_p, seed, self.capacity_tokens) for request in requests
        )
        asyncio.run(self._run(draws, lambda index, drawn: on_finish(index, make_completion(drawn))))

    def next_token_logprobs(
        self, prompts: Sequence[Sequence[int]], token_ids: Sequence[int], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Return log-probabilities of the next token from one prefill per prompt (see `Engine`)."""
        return score(self._draw_all, prompts, token_ids, temperature)

    def load_weights(self, model: PreTrainedModel) -> None:
        """Refuse: a server that was away while weights were sent would come back with old ones."""
        raise UserError(
            "several servers can presample and evaluate, but not train, as one that was away would come back with old "
            "weights; train with one --endpoint, or with --engine vllm"
        )

    def _draw_all(self, draws: Sequence[Draw], on_drawn: OnDrawn) -> list[Drawn]:
        results: dict[int, Drawn] = {}

        def keep(index: int, drawn: Drawn) -> None:
            results[index] = drawn
            if on_drawn:
                on_drawn(index, drawn)

        asyncio.run(self._run(draws, keep))
        return [results[index] for index in range(len(draws))]

    async def _run(self, draws: Iterable[Draw], on_drawn: Callable[[int, Drawn], None]) -> None:
        """Carry out all draws; raises UserError for those that no server can do, and if all are away for too long."""
        work = Work(draws, on_drawn, len(self.servers))
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
        """Give one server draws, as many at a time as it may have, until it is cancelled."""
        indices = asyncio.Semaphore(self.max_concurrent_sequences)
        calls: set[asyncio.Task[None]] = set()

        def ended(call: asyncio.Task[None]) -> None:
            calls.discard(call)
            indices.release()
            work.watch(call)

        async with make_client(server.url, self.max_concurrent_sequences) as client:
            try:
                while True:
                    await indices.acquire()
                    engine = server.engine or await self._look(server, work)
                    if job := work.take(server):
                        calls.add(call := asyncio.create_task(self._answer(server, engine, client, job, work)))
                        call.add_done_callback(ended)
                    else:
                        indices.release()
                    await asyncio.sleep(0 if job else IDLE_SECONDS)  # the other servers' turn
            finally:
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)

    async def _answer(
        self, server: Server, engine: OpenAIEngine, client: httpx.AsyncClient, job: Job, work: Work
    ) -> None:
        """Have a server carry out one draw; what fails is given back, and the server set aside."""
        try:
            drawn = await engine.ask(client, job.draw, attempts=1)
            check_continuation(job.draw, drawn)
        except RefusedError:
            raise
        except UserError as error:
            work.give_back(job, server, error)
            server.faults += 1
            if server.engine:  # else others of its calls failed before this one
                self._set_aside(server, error)
                self._check_patience(work)
        else:
            server.responses += 1
            server.tokens += len(drawn.token_ids)
            server.failures = 0
            self._note_answer()
            work.finish(job, drawn)

    async def _look(self, server: Server, work: Work) -> OpenAIEngine:
        """Wait until a server that was set aside can be used again."""
        while True:
            await asyncio.sleep(server.rests_until - time.monotonic())
            try:
                return await self._open(server)
            except UserError as error:
                self._set_aside(server, error)
                self._check_patience(work)

    async def _open(self, server: Server) -> OpenAIEngine:
        """Look at a server and take it in; raises UserError if it is not as it should be."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
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
                f"{server.url} takes calls and has not answered within {LOOK_SECONDS:g} s; is it still loading its "
                "model, or busy? see its log"
            ) from None
        if engine.capacity_tokens < self.capacity_tokens:
            raise UserError(
                f"the server at {server.url} holds {engine.capacity_tokens} tokens of a sequence and those before it "
                f"{self.capacity_tokens}; start it with --max-model-len {self.capacity_tokens}"
            )
        server.engine = engine
        if server.aside_since is not None:
            server.aside_seconds += time.monotonic() - server.aside_since
            server.aside_since = None
            self.say(f"{server.url} is back")
        return engine

    def _set_aside(self, server: Server, error: BaseException) -> None:
        """Leave a server alone for a while, longer each time."""
        now = time.monotonic()
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**server.failures) * random.uniform(0.5, 1)
        requested = error.wait_seconds if isinstance(error, UnansweredError) else None
        server.engine = None
        server.last_fault = str(error)
        server.rests_until = now + (pause if requested is None else requested)
        server.failures += 1
        if server.aside_since is None:
            server.aside_since = now
            self.say(f"{server.url} is set aside: {server.last_fault}")

    def _note_answer(self) -> None:
        """Begin anew to count how long servers are set aside."""
        for server in self.servers:
            server.aside_before = server.seconds_aside

    def _check_patience(self, work: Work) -> None:
        """End the call if all servers are set aside, and each has been for too long since the last answer.

        Neither the silence of servers that think counts, nor is patience new with each look that a server passes.
        """
        aside = min(server.seconds_aside - server.aside_before for server in self.servers)
        if aside > PATIENCE_SECONDS and not any(server.engine for server in self.servers):
            faults = "; ".join(dict.fromkeys(server.last_fault for server in self.servers))
            work.fail(
                UserError(
                    f"none of {len(self.servers)} servers has answered, and each was set aside for {aside:.0f} s "
                    f"({faults}); what is done is kept: start them again and repeat the command"
                )
            )
