"""The process in which symbolic work is done: ``python -m adaptthink.grading.worker FD MEMORY_MB SECONDS``.

It reads one JSON task at a time from the inherited socket FD and answers each. It ends when the socket closes, so it
never outlives its parent. A task that uses up its processor time ends the process, by SIGPROF, whether or not the
parent is still there.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
from multiprocessing.connection import Connection

import psutil


def limit_memory(memory_mb: int) -> None:
    """Let the address space grow by at most `memory_mb` from now on (Linux; elsewhere the parent watches)."""
    if sys.platform == "linux":
        now = psutil.Process().memory_info().vms
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + memory_mb * 2**20, hard))


def limit_processor_time(seconds: float) -> None:
    """Let this process use `seconds` of processor time from now on; SIGPROF then ends it. 0 sets no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def prepare(task: str) -> None:
    """Import what a kind of task needs, which is not counted against any answer."""
    if task in ("score", "score_reference"):
        from adaptthink.grading.gym import load_library  # noqa: PLC0415  (reasoning-gym, an optional package)

        with contextlib.suppress(Exception):  # the task itself will meet it again
            load_library()


def perform(task: str, arguments: list[str]) -> list[str]:
    """Return the reply to one task. Failures are replies too: ["error", reason], or ["exhausted"] if memory ran out."""
    from adaptthink.grading import symbolic  # noqa: PLC0415  (sympy)

    try:
        if task == "judge":
            verdict, rule = symbolic.judge(*arguments)
            return [verdict, rule]
        if task == "parsable":
            return ["yes" if symbolic.is_parsable(*arguments) else "no"]
        from adaptthink.grading.gym import score_entry, scores_itself  # noqa: PLC0415  (reasoning-gym, an optional package)

        if task == "score_reference":
            return ["yes" if scores_itself(*arguments) else "no"]
        return [repr(score_entry(*arguments))]
    except MemoryError:
        return ["exhausted"]
    except Exception as error:  # noqa: BLE001  (sympy raises whatever it likes on what it cannot read)
        return ["error", f"{type(error).__name__}: {error}"[:200]]


def main() -> None:
    """Serve tasks until the parent closes the socket."""
    fd, memory_mb, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when a worker ends
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # a parent under a profiler may ignore or block it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    connection = Connection(fd)
    perform("judge", ["x+1", "1+x"])  # imports and first-use tables, before anyone waits
    limit_memory(memory_mb)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone, or has no more use for this worker
        connection.send_bytes(b"ready")
        while True:
            task, *arguments = json.loads(connection.recv_bytes())
            prepare(task)
            limit_processor_time(seconds)
            reply = perform(task, arguments)
            limit_processor_time(0)
            connection.send_bytes(json.dumps(reply).encode())


if __name__ == "__main__":
    main()
