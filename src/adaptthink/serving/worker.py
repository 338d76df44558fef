"""The one thread that generates, and how what it generates gets to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

from adaptthink.config.schema import ServeConfig
from adaptthink.engines.base import Engine
from adaptthink.engines.continuous import ContinuousBatch
from adaptthink.engines.jobs import Job, Runner, WholeBatches
from adaptthink.engines.native import NativeEngine
from adaptthink.processes import return_free_memory
from adaptthink.serving.backend import Events
from adaptthink.serving.generation import CallError, Delta, Event, GenerationRequest
from adaptthink.serving.prepare import Served, make_job

QUIET_SECONDS = 1.0  # without a job, after which freed memory is given back to the system
JOIN_SECONDS = 5.0  # an engine of batches is not interrupted; the program may end without it


@dataclass(frozen=True, slots=True)
class JobGeneration:
    """A job for the worker (`Generation`)."""

    worker: Worker
    job: Job

    def begin(self) -> None:
        """See `Generation`."""
        self.worker.submit(self.job)

    def cancel(self) -> None:
        """See `Generation`."""
        self.job.cancelled = True


class Worker:
    """Runs jobs on a thread of its own until it is closed (`Backend`); an engine belongs to one thread."""

    fault = None  # an engine that fails answers with an error each time

    def __init__(self, engine: Engine, *, seed: int = 0) -> None:
        self.runner: Runner
        if isinstance(engine, NativeEngine):
            self.runner = ContinuousBatch(engine, seed=seed)
        else:
            self.runner = WholeBatches(engine, seed=seed)
        self.inbox: SimpleQueue[Job | None] = SimpleQueue()  # None: close
        self.outbox: list[tuple[Events, Event | Exception]] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = Thread(target=self._run, name="adaptthink-worker", daemon=True)

    def start(self) -> None:
        """Start the thread; events are delivered on the running event loop."""
        self.loop = asyncio.get_running_loop()
        self.thread.start()

    async def stop(self) -> None:
        """See `Backend`."""
        await asyncio.to_thread(self.close)

    def offer(self, served: Served) -> Served:
        """See `Backend`: all of it."""
        return served

    def prepare(
        self, served: Served, config: ServeConfig, request: GenerationRequest, events: Events, owner: Hashable
    ) -> JobGeneration:
        """See `Backend`."""

        def post(event: Event | Exception) -> None:
            self.post(events, event)

        return JobGeneration(self, make_job(served, config, request, post, self.submit, owner=owner))

    def submit(self, job: Job) -> None:
        """Take a job; it begins at the next step."""
        self.inbox.put(job)

    def post(self, events: Events, event: Event | Exception) -> None:
        """Put an event into a queue of the event loop, with all others of a step; called by jobs, on the thread."""
        self.outbox.append((events, event))
        if not isinstance(event, Delta):  # an engine of batches ends responses within a step
            self._flush()

    def close(self) -> None:
        """End all jobs with an error, and stop."""
        self.inbox.put(None)
        self.thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        while self._take_jobs():
            try:
                self.runner.step()
            except Exception as error:  # noqa: BLE001  (a fault here would leave all clients waiting)
                self.runner.fail_all(error)
            self._flush()
        self.runner.fail_all(CallError("the server is shutting down; call it again later", status=503))
        self._flush()

    def _take_jobs(self) -> bool:
        """Take in the jobs that have come, and wait for one if there is nothing to do; False: close."""
        while self.runner.idle or not self.inbox.empty():
            job = self._wait_for_job()
            if job is None:
                return False
            self.runner.submit(job)
            self._flush()
        return True

    def _wait_for_job(self) -> Job | None:
        """Return the next job; where none comes for a while, give back the memory that the last ones took."""
        try:
            return self.inbox.get(timeout=QUIET_SECONDS)
        except Empty:
            return_free_memory()
        return self.inbox.get()

    def _flush(self) -> None:
        sent, self.outbox = self.outbox, []
        if sent and self.loop and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(deliver, sent)


def deliver(sent: list[tuple[Events, Event | Exception]]) -> None:
    """Put events into their queues; called on the event loop."""
    for events, event in sent:
        events.put_nowait(event)
