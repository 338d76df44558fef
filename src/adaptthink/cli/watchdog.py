"""A command in which nothing moves any more is ended, after it says what each thread is doing."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from adaptthink.processes import EXIT_TO_BE_CONTINUED

POLL_SECONDS = 1.0
GRACE_SECONDS = 60.0  # for a program that was sent SIGTERM to save its state

_moved = threading.Event()


def note_progress() -> None:
    """Tell the watchdog, if there is one, that the work goes on."""
    _moved.set()


@contextmanager
def end_when_stuck(minutes: float) -> Iterator[None]:
    """End the program if it reports no progress for so many minutes within the block; 0: never.

    The stacks of all threads go to standard error. Then it is sent SIGTERM, which saves what can be saved; if
    it does not, because it waits inside of a library, it is ended with status 75 all the same.
    """
    if not minutes:
        yield
        return
    ended = threading.Event()
    watching = threading.Thread(target=_watch, args=(60 * minutes, ended), name="watchdog", daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()


def _watch(limit_seconds: float, ended: threading.Event) -> None:
    _moved.clear()
    idle_seconds, before = 0.0, time.monotonic()
    while not ended.wait(POLL_SECONDS):
        now = time.monotonic()
        idle_seconds += min(now - before, 2 * POLL_SECONDS)  # more passes while the program itself is stopped
        before = now
        if _moved.is_set():
            _moved.clear()
            idle_seconds = 0.0
        if idle_seconds >= limit_seconds:
            break
    else:
        return
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    print(
        f"adaptthink: nothing has moved for {limit_seconds / 60:g} minutes, by the stacks above; the command is ended. "
        "Where a single response takes longer, give a larger --stall-minutes",
        file=sys.stderr,
        flush=True,
    )
    os.kill(os.getpid(), signal.SIGTERM)
    if not ended.wait(GRACE_SECONDS):
        os._exit(EXIT_TO_BE_CONTINUED)
