"""A pool of worker processes that can be killed: a task has limits, and none can hang or starve the rest.

What a task does by itself decides its outcome: its reply, `OverrunError` where it uses up its processor time,
`BreakdownError` where it exhausts its memory or crashes. What happens to its worker (killed from outside, asleep for
good) decides nothing: the task is tried again in a new worker, and `LostError` says that the outcome is not known. No
limit is in wall-clock time, so that a busy machine makes grading slow, but changes no verdict.

Why not a library's pool: math-verify's own limits rest on SIGALRM, which works in a main thread only, and pools built
on `multiprocessing` (pebble among them) can neither be used from a daemonic process, as data loaders and reward workers
are, nor from a script without a main guard. These workers are plain child processes with a socket each.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from socket import socketpair

import psutil

from adaptthink.errors import UserError

START_SECONDS = 120.0
POLL_SECONDS = 0.05  # between two checks of a busy worker
PATIENCE = (1, 2, 4)  # of each try of a task: how many times `Limits.seconds` its worker may sleep
MIN_IDLE_CHECKS = 4  # one that has just replied is asleep too
RUNNABLE = (psutil.STATUS_RUNNING, psutil.STATUS_WAKING)  # running, or waiting for a processor
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}  # which a process causes itself


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of symbolic work."""

    seconds: float = 2.0  # of processor time per answer
    memory_mb: int = 1_024  # per worker, above what it needs to start
    workers: int = field(default_factory=lambda: max(1, min(8, os.cpu_count() or 1)))


class OverrunError(Exception):
    """A task used up its processor time; its worker is gone."""


class BreakdownError(Exception):
    """A task ran out of memory, crashed its worker, or raised an error."""


class LostError(Exception):
    """The outcome of a task is not known: its worker was killed from outside, or slept for too long."""


class Worker:
    """One child process and the socket to it."""

    def __init__(self, limits: Limits) -> None:
        mine, theirs = socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "adaptthink.grading.worker", str(theirs.fileno()), str(limits.memory_mb),
                 str(limits.seconds)],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the parent, also before the worker can ignore it itself
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        self.connection = Connection(mine.detach())
        self.watched = psutil.Process(self.process.pid)
        self.limits = limits
        self.ready = False
        self.used = False  # by a task, whose traces may take memory from the next

    def wait_until_ready(self) -> None:
        """Wait for the imports of a new worker to end.

        Raises LostError if it was killed meanwhile, UserError if it cannot start.
        """
        if self.ready:
            return
        try:
            if self.connection.poll(START_SECONDS) and self.connection.recv_bytes() == b"ready":
                self.ready = True
                return
            self.process.kill()
        except (EOFError, OSError):  # it exited, or was killed
            if self.process.wait() < 0:
                raise LostError("the worker was killed while it started") from None
            raise UserError(
                "a worker for symbolic grading did not start (see its own message above); "
                "is math-verify installed: pip install math-verify?"
            ) from None
        raise UserError(
            f"a worker for symbolic grading did not start within {START_SECONDS:g} s; the machine is too busy, or its "
            "disk too slow: run the command again when it is not"
        )

    def perform(self, task: list[str], patience: int = 1) -> list[str]:
        """Return the reply to a task; it may sleep for `patience` times `Limits.seconds`.

        Raises OverrunError, BreakdownError or LostError, after which the worker is unusable.
        """
        self.wait_until_ready()
        checks_left = max(MIN_IDLE_CHECKS, math.ceil(patience * self.limits.seconds / POLL_SECONDS))
        self.used = True
        try:
            self.connection.send_bytes(json.dumps(task).encode())
            processor_seconds = self.processor_seconds()
            while not self.connection.poll(POLL_SECONDS):
                if self.memory_mb() > 2 * self.limits.memory_mb:
                    raise BreakdownError("out of memory")
                before, processor_seconds = processor_seconds, self.processor_seconds()
                checks_left -= self.is_asleep() and processor_seconds <= before
                if checks_left <= 0:
                    raise LostError("the worker slept")
            reply: list[str] = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(START_SECONDS)
            code = self.process.returncode
            if code == -signal.SIGPROF:
                raise OverrunError(f"stopped after {self.limits.seconds:g} s of processor time") from error
            if code is not None and -code in CRASHES:
                raise BreakdownError("the worker crashed") from error
            raise LostError("the worker was killed") from error
        if reply[0] == "exhausted":
            raise BreakdownError("out of memory")
        return reply

    def is_asleep(self) -> bool:
        """Return whether the process neither runs nor waits for a processor."""
        try:
            return self.watched.status() not in RUNNABLE
        except psutil.Error:
            return False

    def processor_seconds(self) -> float:
        """Processor time that the process has used."""
        try:
            used = self.watched.cpu_times()
        except psutil.Error:
            return 0.0
        return used.user + used.system

    def memory_mb(self) -> float:
        """Resident memory of the process, in MiB."""
        try:
            return self.watched.memory_info().rss / 2**20
        except psutil.Error:
            return 0.0

    def kill(self) -> None:
        """End the process at once."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


class WorkerPool:
    """Workers that take one task each; safe to use from any number of threads."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.workers: set[Worker] = set()
        self.idle: queue.Queue[Worker | None] = queue.Queue()  # None: a worker that could not be started
        self.lock = threading.Lock()
        for _ in range(limits.workers):
            self.idle.put(self.start())

    def start(self) -> Worker:
        """Start one more worker, without waiting for it; if the system refuses, a later task tries again."""
        try:
            worker = Worker(self.limits)
        except OSError:
            self.idle.put(None)
            raise
        with self.lock:
            self.workers.add(worker)
        return worker

    def perform(self, *task: str) -> list[str]:
        """Return the reply to a task; raises OverrunError, BreakdownError or LostError, each after its tries.

        A breakdown counts if it happens in a new worker, where no earlier task has left its traces.
        """
        worker = self.take()
        lost: Exception | None = None
        for patience in PATIENCE:
            fresh = not worker.used
            try:
                reply = worker.perform(list(task), patience)
            except (LostError, BreakdownError) as error:
                worker, lost = self.replace(worker), error
                if fresh and isinstance(error, BreakdownError):
                    break
            except BaseException:
                self.idle.put(self.replace(worker))
                raise
            else:
                self.idle.put(worker)
                return reply
        self.idle.put(worker)
        assert lost is not None
        raise lost

    def take(self) -> Worker:
        """Return the next idle worker; one that died while it was idle, or could not be started, is replaced."""
        worker = self.idle.get()
        if worker is None:
            return self.start()
        if worker.ready and worker.process.poll() is not None:
            return self.replace(worker)
        return worker

    def replace(self, worker: Worker) -> Worker:
        """End a worker; return another."""
        with self.lock:
            self.workers.discard(worker)
        worker.kill()
        return self.start()

    def close(self) -> None:
        """End all workers."""
        with self.lock:
            for worker in self.workers:
                worker.kill()
            self.workers.clear()


_pools: dict[Limits, WorkerPool] = {}
_pools_lock = threading.Lock()


def get_pool(limits: Limits) -> WorkerPool:
    """Return this process's pool for `limits`, started at its first use. A forked child gets workers of its own."""
    with _pools_lock:
        if limits not in _pools:
            _pools[limits] = WorkerPool(limits)
        return _pools[limits]


@atexit.register
def _close_pools() -> None:
    for pool in _pools.values():
        pool.close()


def _start_afresh() -> None:
    """Drop the parent's workers in a forked child: they end when no process holds their sockets any more."""
    global _pools_lock  # noqa: PLW0603
    _pools_lock = threading.Lock()  # another thread may have held it
    for pool in _pools.values():
        for worker in pool.workers:
            worker.connection.close()
    _pools.clear()


os.register_at_fork(after_in_child=_start_afresh)
