"""The one thread that generates: all waiting requests are completed as one batch.

Requests that arrive during a batch wait for the next one. A request's completions are returned as soon as they end.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread

from adaptthink.engines.base import Engine
from adaptthink.modes import ThinkTemplate
from adaptthink.sampling.responses import PromptCompletions, PromptRequest, complete_prompts


@dataclass(frozen=True, slots=True)
class Job:
    """A request, and the future that gets its completions."""

    request: PromptRequest
    result: Future[PromptCompletions] = field(default_factory=Future)


class Worker:
    """Completes requests on a thread of its own until it is closed; an engine belongs to one thread."""

    def __init__(self, engine: Engine, template: ThinkTemplate, *, seed: int = 0) -> None:
        self.engine, self.template, self.seed = engine, template, seed
        self.waiting: SimpleQueue[Job | None] = SimpleQueue()  # None: close
        self.thread = Thread(target=self._run, name="adaptthink-worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def submit(self, request: PromptRequest) -> Future[PromptCompletions]:
        """Queue a request; return the future of its completions, or of the error that generating them raised."""
        job = Job(request)
        self.waiting.put(job)
        return job.result

    def close(self) -> None:
        """Complete all waiting requests, then stop."""
        self.waiting.put(None)
        self.thread.join()

    def _run(self) -> None:
        closing = False
        while not closing:
            jobs: list[Job] = []
            job = self.waiting.get()
            while job is not None:
                jobs.append(job)
                try:
                    job = self.waiting.get_nowait()
                except Empty:
                    break
            closing = job is None
            self._complete([job for job in jobs if job.result.set_running_or_notify_cancel()])

    def _complete(self, jobs: list[Job]) -> None:
        try:
            complete_prompts(
                self.engine,
                self.template,
                [job.request for job in jobs],
                seed=self.seed,
                on_completed=lambda index, result: jobs[index].result.set_result(result),
            )
        except Exception as error:  # noqa: BLE001  (waiting callers must get any error, and the worker must go on)
            for job in jobs:
                if not job.result.done():
                    job.result.set_exception(error)
