"""Faults, put into this process's copy of the package: nothing in the package knows of them."""

import errno
import os
import signal
import sys
import threading
from pathlib import Path

import psutil

from adaptthink.cli import watchdog
from adaptthink.cli.console import Terminal
from adaptthink.storage.jsonl import Appender
from adaptthink.training import checkpoint, update

DATA = {".jsonl", ".safetensors"}
HANGING = threading.Event()


def find_newest(folder: Path) -> Path:
    """Return the file of data in a folder that was written last, the largest of a checkpoint's."""
    found = [path for path in folder.rglob("*") if path.suffix in DATA and ".writing-" not in str(path)]
    checkpoints = sorted((path for path in found if path.name == checkpoint.MODEL), key=lambda path: path.parent.name)
    return checkpoints[-1] if checkpoints else max(found, key=lambda path: path.stat().st_mtime_ns)


def kill(folder: Path) -> None:
    """End at once, as by a lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang(folder: Path) -> None:
    """Wait for what never comes; the watchdog watches from now on, however slow the machine was so far."""
    watchdog.POLL_SECONDS = 0.05
    HANGING.set()
    threading.Event().wait()


def truncate(folder: Path) -> None:
    """Cut the newest file, and end at once: a machine that lost power."""
    path = find_newest(folder)
    os.truncate(path, path.stat().st_size - 7)
    kill(folder)


def flip(folder: Path) -> None:
    """Change one bit in the newest file, and end at once: a faulty disk."""
    path = find_newest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    kill(folder)


def fill_disk(folder: Path) -> None:
    """Let the next write fail, the only one that does."""
    save, write = checkpoint.save_tensors, Appender.write

    def fail(*_: object) -> None:
        checkpoint.save_tensors, Appender.write = save, write
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checkpoint.save_tensors = fail
    if "train" not in sys.argv:
        Appender.write = fail


def spoil_loss(folder: Path) -> None:
    """Make the loss of the next step NaN."""
    compute = update.compute_micro_batch_loss

    def spoil(*arguments: object, **options: object) -> object:
        update.compute_micro_batch_loss = compute
        result = compute(*arguments, **options)
        result.loss.loss_B.mul_(float("nan"))
        return result

    update.compute_micro_batch_loss = spoil


def crash_grader(folder: Path) -> None:
    """Kill the processes that grade, once."""
    workers = [one for one in psutil.Process().children() if "adaptthink.grading.worker" in one.cmdline()]
    for worker in workers:
        worker.kill()
    print(f"killed {len(workers)} workers", flush=True)


FAULTS = {
    "kill": kill,
    "hang": hang,
    "truncated-file": truncate,
    "flipped-byte": flip,
    "disk-full": fill_disk,
    "nan": spoil_loss,
    "grader-crash": crash_grader,
}


def inject(fault: str, words: list[str]) -> None:
    """Let a fault, `KIND@NUMBER`, come in the command that this process will run.

    NUMBER is the training step after which it comes; in commands without steps, the report of progress.
    """
    kind, _, number = fault.partition("@")
    folder = Path(words[words.index("--output") + 1]).parent
    name = "on_step" if words[0] in ("train", "demo") else "on_progress"
    report, seen = getattr(Terminal, name), []

    def reporting(self: Terminal, what: object) -> None:
        report(self, what)
        seen.append(what)
        if len(seen) == int(number):
            FAULTS[kind](folder)

    setattr(Terminal, name, reporting)
    watch = watchdog._watch

    def watch_later(*arguments: object) -> None:
        HANGING.wait()
        watch(*arguments)

    watchdog._watch = watch_later
