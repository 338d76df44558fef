"""The one thread that generates: what waits is gathered, and answered as one batch.

What comes in while a batch is generated waits for the next one. A response is handed over as soon as it ends.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread

from adaptthink.engines.base import Engine
from adaptthink.modes import ThinkTemplate
from adaptthink.sampling.responses import Answer, Ask, answer_all


@dataclass(frozen=True, slots=True)
class Job:
    """An ask, and where its answer goes."""

    ask: Ask
    answer: Future[Answer] = field(default_factory=Future)


class Worker:
    """Answers asks on a thread of its own until it is closed; an engine belongs to one thread."""

    def __init__(self, engine: Engine, template: ThinkTemplate, *, seed: int = 0) -> None:
        self.engine, self.template, self.seed = engine, template, seed
        self.waiting: SimpleQueue[Job | None] = SimpleQueue()  # None: close
        self.thread = Thread(target=self._run, name="adaptthink-worker", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self.thread.start()

    def submit(self, ask: Ask) -> Future[Answer]:
        """Queue an ask; the future holds its answer, or the error that generating it ended in."""
        job = Job(ask)
        self.waiting.put(job)
        return job.answer

    def close(self) -> None:
        """Answer what waits already, then stop."""
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
            self._answer([job for job in jobs if job.answer.set_running_or_notify_cancel()])

    def _answer(self, jobs: list[Job]) -> None:
        try:
            answer_all(
                self.engine,
                self.template,
                [job.ask for job in jobs],
                seed=self.seed,
                on_answer=lambda index, answer: jobs[index].answer.set_result(answer),
            )
        except Exception as error:  # noqa: BLE001  (whatever it is, those who wait must hear of it, and others go on)
            for job in jobs:
                if not job.answer.done():
                    job.answer.set_exception(error)
