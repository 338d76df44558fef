"""Signals that end a program, and children that end with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a scheduler, a terminal that is closed
EXIT_TO_BE_CONTINUED = 75  # sysexits' EX_TEMPFAIL: what is done is kept, so a scheduler may start the job again
SET_PARENT_DEATH_SIGNAL = 1  # of prctl, in linux/prctl.h
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
_mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
MMAP_THRESHOLD, ARENA_MAX = -3, -8  # of mallopt, in malloc.h


class Interruption(KeyboardInterrupt):
    """A signal that ends a program, as an exception."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise `Interruption` at signals that end a program, so that it can keep its work and end what it started.

    What is ignored stays so: SIGHUP under nohup, SIGINT in a shell's background. Outside of the main thread, which
    alone receives signals, nothing changes.
    """
    with _handle(_interrupt, lambda handler: handler is not signal.SIG_IGN):
        yield


@contextmanager
def postpone_interrupts() -> Iterator[None]:
    """Let the signals that would raise an exception wait until the block has ended."""
    received: list[int] = []
    try:
        with _handle(lambda number, _: received.append(number), callable):
            yield
    finally:
        if received:
            signal.raise_signal(received[0])


def _interrupt(number: int, _: FrameType | None) -> None:
    raise Interruption(number)


@contextmanager
def _handle(new: Callable[[int, FrameType | None], Any], concerns: Callable[[Any], bool]) -> Iterator[None]:
    """Handle the ending signals whose present handler `concerns` accepts; at the end, have the old handlers again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in before.items() if handler is not None and concerns(handler)}
    try:
        for number in before:
            signal.signal(number, new)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> Callable[[], None] | None:
    """Return a `preexec_fn` that lets a child get SIGTERM when this program ends, however it ends; None if not Linux.

    The kernel sends it at the end of the thread that started the child, so that must be one that lasts.
    """
    if _prctl is None:
        return None
    parent = os.getpid()

    def prepare() -> None:
        _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)

    return prepare


def keep_memory_together() -> None:
    """Tell glibc, where it is the C library, to return large blocks when they are freed, and to have two arenas.

    By default it soon takes blocks of up to 32 MB from its arenas, of which every thread may have one; blocks of many
    sizes, such as caches of many lengths, then leave holes that a long-running program never fills.
    """
    if _mallopt:
        _mallopt(MMAP_THRESHOLD, 2**20)
        _mallopt(ARENA_MAX, 2)


def return_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library is glibc, which keeps much of it."""
    if _trim:
        _trim(0)
