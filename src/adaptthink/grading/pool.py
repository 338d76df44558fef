"""A pool of worker processes that can be killed: a task has a time limit, and none can hang or starve the rest.

Why not a library's pool: math-verify's own limits rest on SIGALRM, which works in a main thread only, and pools built
on `multiprocessing` (pebble among them) can neither be used from a daemonic process, as data loaders and reward workers
are, nor from a script without a main guard. These workers are plain child processes with a socket each.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from socket import socketpair

import psutil

from adaptthink.errors import UserError

START_SECONDS = 120.0
POLL_SECONDS = 0.05  # between two checks of a busy worker's memory


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of symbolic work."""

    seconds: float = 2.0  # wall clock per answer
    memory_mb: int = 1_024  # per worker, above what it needs to start
    workers: int = field(default_factory=lambda: max(1, min(8, os.cpu_count() or 1)))


class OverrunError(Exception):
    """A task took longer than its limit; its worker was killed."""


class BreakdownError(Exception):
    """A task ran out of memory, or its worker died."""


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
        self.limits = limits
        self.ready = False

    def wait_until_ready(self) -> None:
        """Wait for the imports of a new worker to end.

        Raises BreakdownError if it was killed meanwhile, UserError if it cannot start.
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
                raise BreakdownError("the worker was killed while it started") from None
        raise UserError(
            "a worker for symbolic grading did not start (see its own message above); "
            "is math-verify installed: pip install math-verify?"
        )

    def perform(self, task: list[str]) -> list[str]:
        """Return the reply to a task; raises OverrunError or BreakdownError, after which the worker is unusable."""
        self.wait_until_ready()
        deadline = time.monotonic() + self.limits.seconds
        try:
            self.connection.send_bytes(json.dumps(task).encode())
            while not self.connection.poll(min(POLL_SECONDS, max(0.0, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    raise OverrunError(f"stopped after {self.limits.seconds:g} s")
                if self.memory_mb() > 2 * self.limits.memory_mb:
                    raise BreakdownError("out of memory")
            reply: list[str] = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(START_SECONDS)
            if self.process.returncode == -signal.SIGXCPU:  # its own limit on processor time came before our look
                raise OverrunError(f"stopped after {self.limits.seconds:g} s") from error
            raise BreakdownError("the worker died") from error
        if reply[0] == "exhausted":
            raise BreakdownError("out of memory")
        return reply

    def memory_mb(self) -> float:
        """Resident memory of the process, in MiB."""
        try:
            return psutil.Process(self.process.pid).memory_info().rss / 2**20
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
            self.add()

    def add(self) -> None:
        """Start one more worker, without waiting for it; if the system refuses, a later task tries again."""
        try:
            worker = Worker(self.limits)
        except OSError:
            self.idle.put(None)
            raise
        with self.lock:
            self.workers.add(worker)
        self.idle.put(worker)

    def perform(self, *task: str) -> list[str]:
        """Return the reply of the next idle worker to a task; raises OverrunError or BreakdownError."""
        worker = self.idle.get()
        while worker is None or (worker.ready and worker.process.poll() is not None):  # died while idle: not our fault
            if worker:
                self.replace(worker)
            else:
                self.add()
            worker = self.idle.get()
        try:
            reply = worker.perform(list(task))
        except BaseException:
            self.replace(worker)
            raise
        self.idle.put(worker)
        return reply

    def replace(self, worker: Worker) -> None:
        """End a worker and start another."""
        with self.lock:
            self.workers.discard(worker)
        worker.kill()
        self.add()

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
