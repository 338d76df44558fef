"""A tracker in a process of its own, so that whatever becomes of it, the job goes on.

A tracker's library can raise, hang in a call that has no time-out, hold the interpreter's exit back, or lose its own
background process. Here none of that reaches the job: it hands over what it reports, waits within `Bounds`,
and kills the process if it must. What was not logged stands in metrics.jsonl.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from typing import Any

import psutil

from adaptthink.callbacks import Callback
from adaptthink.errors import redact
from adaptthink.storage.runs import write_json

STATE_FILE = "trackers.json"  # in the job's folder: by tracker, what a resumed job needs to go on in the same run
LOG_FILE = "trackers.log"  # beside it: what the trackers print
BOOKKEEPING = ("step", "strata")  # of a line of metrics.jsonl, that are no metrics
EXIT_SECONDS = 5.0  # that a process has to end after its last answer


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a job waits for a tracker, and how far it lets it fall behind."""

    start_seconds: float = 60.0
    silent_seconds: float = 600.0  # since the oldest step that was handed over and not answered
    waiting_steps: int = 1_000
    end_seconds: float = 60.0
    failed_seconds: float = 15.0  # at the end of a job that failed or was interrupted


class Tracker(Callback):
    """Passes settings, steps and result of a job to a tracker. Its failure is reported once and ends nothing else."""

    def __init__(self, kind: str, options: Mapping[str, Any], bounds: Bounds = Bounds()) -> None:
        self.kind, self.options, self.bounds = kind, dict(options), bounds
        self._report: Callable[[str], None] = logging.getLogger(__name__).warning
        self._process: TrackerProcess | None = None  # None: not started, switched off, or ended
        self._folder: Path | None = None

    @property
    def label(self) -> str:
        """The tracker with its options, as the flag --track has it; without passwords in URLs."""
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return redact(f"{self.kind}:{options}") if options else self.kind

    def attach(self, report: Callable[[str], None]) -> None:
        """Keep the way of messages to people."""
        self._report = report

    def on_start(self, command: str, settings: Mapping[str, Any], output: Path | None) -> None:
        """Start the tracker, and wait for it: what is wrong with its set-up is known before the work begins."""
        self._folder = output if output and output.is_dir() else None
        start = {
            "kind": self.kind,
            "options": self.options,
            "command": command,
            "settings": settings,
            "name": output.name if output else command,
            "folder": self._folder and str(self._folder),
        }
        try:
            start["state"] = read_states(self._folder).get(self.label, {})
            self._process = TrackerProcess(self._folder and self._folder / LOG_FILE)
        except (OSError, ValueError) as error:
            self._switch_off(str(error))
            return
        self._hand_over(start, wait=self.bounds.start_seconds)

    def on_step(self, metrics: Mapping[str, Any]) -> None:
        """Hand over a step, without waiting for it."""
        self._hand_over({"step": metrics["step"], "metrics": select_scalars(metrics)})

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        """Let the tracker finish, and end its process."""
        end = {
            "result": None if result is None else {f"result/{name}": v for name, v in select_scalars(result).items()}
        }
        try:
            self._hand_over(end, wait=self.bounds.failed_seconds if result is None else self.bounds.end_seconds)
        finally:  # also where Ctrl-C ends the waiting
            self._end()

    def _hand_over(self, message: Mapping[str, Any], wait: float = 0.0) -> None:
        """Hand over a message, then take answers: those that are there, or all, for which it waits up to `wait`."""
        if self._process is None:
            return
        self._process.send(message)
        deadline = time.monotonic() + wait
        while self._process and self._process.sent:
            answer = self._process.receive(deadline - time.monotonic())
            if answer is None:
                break
            self._read(answer)
        if self._process and self._process.sent:
            silent = time.monotonic() - self._process.sent[0]
            if wait or silent > self.bounds.silent_seconds or len(self._process.sent) > self.bounds.waiting_steps:
                self._switch_off(f"it has not answered for {silent:.0f} s")

    def _read(self, answer: Mapping[str, Any]) -> None:
        """Take an answer: a fault, or a message for a person, or what a resumed job will need, or nothing of these."""
        if fault := answer.get("fault"):
            self._switch_off(fault)
            return
        if message := answer.get("message"):
            self._report(f"{self.kind}: {message}")
        if "state" in answer and self._folder:
            try:
                write_json(self._folder / STATE_FILE, read_states(self._folder) | {self.label: answer["state"]})
            except (OSError, ValueError) as error:
                self._report(f"{self.kind}: a resumed run will not go on in the same one: {error}")

    def _switch_off(self, reason: str) -> None:
        self._end()
        log = f" (its output: {self._folder / LOG_FILE})" if self._folder else ""
        self._report(f"{self.kind} is switched off: {reason}{log}; the job goes on, and its folder has all metrics")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process:
            process.end(EXIT_SECONDS if not process.sent else 0.0)


class TrackerProcess:
    """The process, and a thread that hands it one message after another, so that nobody waits for it."""

    def __init__(self, log: Path | None) -> None:
        """Start it; what it prints is appended to `log`. Raises OSError if it cannot be started."""
        mine, theirs = socketpair()
        with theirs, Path(log or os.devnull).open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "adaptthink.integrations.trackers.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,  # Ctrl-C is the job's affair
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        self.connection = Connection(mine.detach())
        self.sent: deque[float] = deque()  # when each message was sent that has no answer yet
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._exchange, daemon=True, name="tracker").start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Put a message behind those that wait."""
        self.sent.append(time.monotonic())
        self._outbox.put(json.dumps(message, default=str).encode())

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the answer to the oldest message without one, or None if there is none within `seconds`."""
        try:
            answer = self._inbox.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        self.sent.popleft()
        return answer

    def end(self, seconds: float) -> None:
        """Give the process `seconds` to end by itself; then kill it and all that it has started."""
        self._outbox.put(None)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        with suppress(psutil.NoSuchProcess):
            for one in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        self.process.kill()
        self.process.wait()

    def _exchange(self) -> None:
        with self.connection:
            try:
                while (message := self._outbox.get()) is not None:
                    self.connection.send_bytes(message)
                    self._inbox.put(json.loads(self.connection.recv_bytes()))
            except (EOFError, OSError):
                self._inbox.put({"fault": self._how_it_ended()})

    def _how_it_ended(self) -> str:
        try:
            status = self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "it no longer answers"
        return f"its process was killed ({signal.Signals(-status).name})" if status < 0 else "its process ended"


def select_scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among metrics, by name: what is nested is named outer/inner; None and texts are left out."""
    return dict(_flatten({name: value for name, value in metrics.items() if name not in BOOKKEEPING}, ""))


def _flatten(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def read_states(folder: Path | None) -> dict[str, Any]:
    """Return what the trackers of a folder left for a resumed job, by their labels; raises ValueError if damaged."""
    path = folder and folder / STATE_FILE
    if not path or not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, delete it: {error}") from None
