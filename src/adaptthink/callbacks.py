"""What a job reports while it runs: to a progress bar, to a tracker, to a user's own code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptthink.errors import redact, redact_all


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a phase of a job has come.

    >>> import adaptthink as at
    >>> progress = at.Progress("evaluate", completed=20, total=80, tokens=900)
    >>> progress.completed / progress.total
    0.25
    """

    phase: str  # for people: "reference: 16 samples of each of 160 problems"
    completed: int
    total: int | None  # None: unknown
    tokens: int  # generated so far in this phase
    cost: float = 0.0  # so far, in the currency of the prices that were given
    step: int | None = None  # of the training, if the phase is a part of one


def make_counter(
    report: Callable[[Progress], None], phase: str, total: int | None, step: int | None = None
) -> Callable[..., None]:
    """Return a function that takes how many more are done, their tokens and their cost, and reports the progress.

    The beginning is reported at once, where it is known how much there is to do.
    """
    done = Progress(phase, 0, total, 0, step=step)

    def advance(count: int, tokens: int = 0, cost: float = 0.0) -> None:
        nonlocal done
        done = replace(done, completed=done.completed + count, tokens=done.tokens + tokens, cost=done.cost + cost)
        report(done)

    if total is not None:
        report(done)
    return advance


class Callback:
    """What a job reports while it runs. Every method does nothing unless a subclass overrides it.

    The methods are called in the thread of the job, which waits for them. An exception that one raises ends the job.

    >>> import adaptthink as at
    >>> class PrintReward(at.Callback):
    ...     def on_step(self, metrics):
    ...         print(f"step {metrics['step']}: reward {metrics['reward_think']:.2f}")
    >>> PrintReward().on_step({"step": 1, "reward_think": 0.5})
    step 1: reward 0.50
    """

    def attach(self, report: Callable[[str], None]) -> None:
        """Take `report`, which passes a line for a person to `on_message` of all callbacks; called first."""

    def on_start(self, command: str, settings: Mapping[str, Any], output: Path | None) -> None:
        """A job begins: its command ("train"), its resolved settings, the folder that it writes to."""

    def on_progress(self, progress: Progress) -> None:
        """A phase has come further."""

    def on_step(self, metrics: Mapping[str, Any]) -> None:
        """A training step has ended: its line of metrics.jsonl, `step` among its keys."""

    def on_message(self, message: str) -> None:
        """There is a line for a person, such as "3 problems skipped: their reference answers cannot be parsed"."""

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        """The job has ended: its result as JSON, or None if it failed or was interrupted."""


class Callbacks(Callback):
    """Several callbacks as one; each is called in turn."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = tuple(callbacks)
        self.attach(self.on_message)

    def attach(self, report: Callable[[str], None]) -> None:
        """Give all of them the same `report`."""
        for callback in self.callbacks:
            callback.attach(report)

    def on_start(self, command: str, settings: Mapping[str, Any], output: Path | None) -> None:
        """Pass it on, without passwords in URLs."""
        for callback in self.callbacks:
            callback.on_start(command, redact_all(dict(settings)), output)

    def on_progress(self, progress: Progress) -> None:
        """Pass it on."""
        for callback in self.callbacks:
            callback.on_progress(progress)

    def on_step(self, metrics: Mapping[str, Any]) -> None:
        """Pass it on."""
        for callback in self.callbacks:
            callback.on_step(metrics)

    def on_message(self, message: str) -> None:
        """Pass it on, without passwords in URLs."""
        for callback in self.callbacks:
            callback.on_message(redact(message))

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        """Pass it on to all, even if one raises."""
        with ExitStack() as stack:
            for callback in reversed(self.callbacks):
                stack.callback(callback.on_end, result)

    @contextmanager
    def reporting(self, command: str, settings: Mapping[str, Any], output: Path | None) -> Iterator[dict[str, Any]]:
        """Report the start of a job and, however it ends, its end; what the block adds to the mapping is the result."""
        result: dict[str, Any] = {}
        succeeded = False
        try:
            self.on_start(command, settings, output)
            yield result
            succeeded = True
        finally:
            self.on_end(result if succeeded else None)
