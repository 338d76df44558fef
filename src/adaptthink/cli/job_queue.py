"""Experiments as commands that a user would give, run side by side: what `reproduce` and `bench` have in common.

Each command is a process of its own. What is finished is not run again, and a training that was interrupted goes on
from its checkpoint: the same experiment, started again, completes its folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from adaptthink.callbacks import Progress as Report
from adaptthink.cli.console import Lines, console
from adaptthink.errors import UserError
from adaptthink.processes import end_with_parent

POLL_SECONDS = 1.0
GRACE_SECONDS = 20.0  # for an interrupted command to end by itself


@dataclass(frozen=True, slots=True)
class Command:
    """One `adaptthink` command; `done` exists once it has ended well."""

    arguments: tuple[str, ...]
    done: Path
    resumed: Path | None = None  # where this exists, --resume is added


@dataclass(frozen=True, slots=True)
class Job:
    """Commands that follow each other, and the steps that its training takes."""

    name: str
    commands: tuple[Command, ...]
    metrics: Path | None = None
    num_steps: int = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing of it is left to run."""
        return all(command.done.exists() for command in self.commands)


# ---- the commands ---------------------------------------------------------------------------------------------------


def make_presampling(recipes: Sequence[str], store: Path, flags: Sequence[str]) -> Command:
    """Return the command that makes a reference store."""
    done = store.with_suffix(".json")
    return Command(("presample", *recipes, *flags, "--output", f"{store}", "--json", f"{done}"), done)


def make_training(recipes: Sequence[str], folder: Path, done: Path, flags: Sequence[str]) -> Command:
    """Return the command that trains into a run folder; `done` is written last, as a model may be there in part."""
    arguments = ("train", *recipes, *flags, "--output", f"{folder}", "--json", f"{done}")
    return Command(arguments, done, folder / "config.json")


def make_evaluation(model: str, folder: Path, recipes: Sequence[str], flags: Sequence[str]) -> Command:
    """Return the command that evaluates a model into a folder; claims are checked on responses that are all graded."""
    arguments = ("evaluate", model, "--recipe", *recipes, *flags, "--max-failed-grades", "0", "--output", f"{folder}")
    return Command(arguments, folder / "summary.json")


# ---- running --------------------------------------------------------------------------------------------------------


def run_jobs(jobs: Sequence[Job], logs: Path, at_once: int | None = None) -> None:
    """Run what is not done of jobs, `at_once` side by side, by default one a core, which share the cores as threads.

    Raises UserError when one fails, after stopping the others.
    """
    cores = max(1, os.cpu_count() or 1)
    at_once = at_once or cores
    logs.mkdir(parents=True, exist_ok=True)
    jobs = [job for job in jobs if not job.is_done]
    waiting = list(jobs)
    running: dict[str, Iterator[bool]] = {}
    total = sum(job.num_steps or 1 for job in jobs)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn(), TimeRemainingColumn())
    shown = Progress(TextColumn("{task.description}"), *columns, console=console, disable=not console.is_terminal)
    log = Lines()
    with shown as progress, stop_at_end() as processes, closing(log):
        task = progress.add_task("", total=total)
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                path = logs / f"{job.name.replace(' ', '-')}.txt"
                running[job.name] = run_commands(job, path, max(1, cores // at_once), processes)
            for name, turn in list(running.items()):
                if not next(turn, False):
                    del running[name]
                    console.print(f"  {name}: done")
            done = sum(count_steps(job) for job in jobs)
            progress.update(task, completed=done, description=", ".join(running))
            if not console.is_terminal:
                log.update(Report(f"runs: {len(jobs)}, {total} steps", done, total, 0))
            time.sleep(POLL_SECONDS)


def count_steps(job: Job) -> int:
    """Return how many steps of a job are done, the last one with its evaluations; one without a training is a step."""
    if job.is_done:
        return job.num_steps or 1
    if job.metrics is None or not job.metrics.is_file():
        return 0
    return min(job.metrics.read_bytes().count(b"\n"), job.num_steps - 1)


def run_commands(job: Job, log: Path, threads: int, processes: list[subprocess.Popen[bytes]]) -> Iterator[bool]:
    """Run a job's commands one after the other; yields True while there is something to wait for."""
    for command in job.commands:
        if command.done.exists():
            continue
        resume = ("--resume",) if command.resumed and command.resumed.exists() else ()
        with log.open("ab") as file:
            file.write(f"adaptthink {' '.join([*command.arguments, *resume])}\n".encode())
            file.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "adaptthink", *command.arguments, *resume],
                stdout=file,
                stderr=file,
                env=os.environ | {"OMP_NUM_THREADS": f"{threads}"},
                start_new_session=True,  # an interruption of ours is handed on by `stop_at_end`, once
                preexec_fn=end_with_parent(),  # noqa: PLW1509  (it makes two system calls)
            )
        processes.append(process)
        while process.poll() is None:
            yield True
        processes.remove(process)
        if process.returncode != 0:
            last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"])[-1]
            raise UserError(f"{job.name} failed: {last}; see {log}; the same command goes on from here")


@contextmanager
def stop_at_end() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield a list of processes; those that still run when the block is left are interrupted and waited for."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
