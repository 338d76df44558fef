"""`adaptthink reproduce`: the paper's experiments on the embedded reasoner, every part a command of its own.

Trainings and evaluations are run as the commands that a user would give, one process a core and one thread each. What
is finished is not run again, and a training that was interrupted goes on from its checkpoint: the same command
completes a folder.
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
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from adaptthink.callbacks import Progress as Report
from adaptthink.cli.console import Lines, console
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError
from adaptthink.evaluation.formats import write_number, write_range
from adaptthink.evaluation.mode_choice import read_no_think_signs
from adaptthink.evaluation.records import to_json
from adaptthink.evaluation.statistics import Values
from adaptthink.evaluation.store import read_outcomes
from adaptthink.grading.implicit_thinking import thinks_implicitly
from adaptthink.processes import end_with_parent
from adaptthink.report import write_report
from adaptthink.reproduction.claims import check_claims
from adaptthink.reproduction.runs import MAIN, BySeed, Design, Runs
from adaptthink.reproduction.tables import Reproduction, make_tables
from adaptthink.reproduction.verdicts import Claim
from adaptthink.storage.runs import open_run, read_metrics, write_json

BASE = "reproduce"  # the recipe under all others, which are in the folder of its name
POLL_SECONDS = 1.0
GRACE_SECONDS = 20.0  # for an interrupted command to end by itself


DELTAS = tuple(f"delta_{delta}" for delta in ("0", "0.01", "0.02", "0.075", "0.1"))
RATIOS = ("ratio_sequence", "ratio_token")
FULL = Design((0, 1, 2), (MAIN, "grpo", *DELTAS, *RATIOS))
QUICK = Design((0,), (MAIN, "grpo", "delta_0", "delta_0.1", *RATIOS), steps=60, evaluated=100)


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


def reproduce_job(run: Path, *, quick: bool, clean: bool) -> dict[str, Any]:
    """Run what is missing in `run`, check the paper's claims, write the result and the report."""
    design = QUICK if quick else FULL
    open_run(run, {"design": "quick" if quick else "full"}, resume=run.exists() and not clean, clean=clean)
    started = time.monotonic()
    for jobs in list_stages(run, design):
        run_jobs([job for job in jobs if not job.is_done], run / "logs")
    console.print(f"all runs done ({(time.monotonic() - started) / 60:.0f} minutes this time)")
    runs = read_runs(run, design)
    reproduction = Reproduction(design, tuple(check_claims(runs)), make_tables(runs))
    result: dict[str, Any] = to_json(reproduction)
    write_json(run / "reproduction.json", result)
    show_claims(reproduction.claims)
    html, _ = write_report(run)
    console.print(f"result in {run / 'reproduction.json'}, report {html}")
    return result


def list_stages(run: Path, design: Design) -> list[list[Job]]:
    """Return what has to be run, in stages of which each needs the one before."""
    first = [make_original_job(run, design), *(make_reference_job(run, seed, design) for seed in design.seeds)]
    # The longest first, so that the cores run out of work together.
    trainings = sorted(design.trainings, key=lambda name: (name != "grpo", name.startswith("ratio")))
    return [first, [make_training_job(run, name, seed, design) for name in trainings for seed in design.seeds]]


def make_size_flags(design: Design, command: str) -> tuple[str, ...]:
    """Return the flags that make a command as small as the design."""
    values = {
        "steps": design.steps if command == "train" else None,
        "problems-per-level": design.evaluated if command == "evaluate" else design.problems,
    }
    return tuple(part for name, value in values.items() if value for part in (f"--{name}", f"{value}"))


def make_original_job(run: Path, design: Design) -> Job:
    """The untrained model in both forced modes: the pilot study, and what trained models are compared with."""
    flags = ("--modes", "think", "no_think", "--samples-per-problem", "3", *make_size_flags(design, "evaluate"))
    return Job(
        "original",
        (
            make_evaluation("tiny", run / "original" / "chain", (BASE,), flags),
            make_evaluation("tiny", run / "original" / "story", (BASE, f"{BASE}/story"), flags),
        ),
    )


def make_reference_job(run: Path, seed: int, design: Design) -> Job:
    """The reference that all trainings of a seed share."""
    store = choose_reference_path(run, seed)
    done = store.with_suffix(".json")
    flags = ("--seed", f"{seed}", *make_size_flags(design, "presample"))
    arguments = ("presample", BASE, *flags, "--output", f"{store}", "--json", f"{done}")
    return Job(f"reference {seed}", (Command(arguments, done),))


def choose_reference_path(run: Path, seed: int) -> Path:
    """Return the path of a seed's reference."""
    return run / "references" / f"{seed}.jsonl"


def make_training_job(run: Path, name: str, seed: int, design: Design) -> Job:
    """One training and the evaluation of its model: as the model chooses; the main one in every mode and kind."""
    folder = run / "trainings" / name / f"{seed}"
    recipes = (BASE,) if name == MAIN else (BASE, f"{BASE}/{name}")
    flags = (*make_size_flags(design, "train"), "--seed", f"{seed}")
    reference = ("--reference", f"{choose_reference_path(run, seed)}")
    done = folder / "result.json"  # written last: a model folder may be there in part
    arguments = ("train", *recipes, *flags, *reference, "--output", f"{folder}", "--json", f"{done}")
    train = Command(arguments, done, folder / "config.json")
    modes = ("auto", "think", "no_think") if name == MAIN else ("auto",)
    requested = ("--modes", *modes, *make_size_flags(design, "evaluate"))
    commands = [train, make_evaluation(f"{folder / 'model'}", folder / "chain", (BASE,), requested)]
    if name == MAIN:
        commands.append(make_evaluation(f"{folder / 'model'}", folder / "story", (BASE, f"{BASE}/story"), requested))
    shorter = {"steps": design.steps} if design.steps else {}
    steps = resolve("train", TrainConfig, recipes=recipes, flags=shorter).steps
    return Job(f"{name} {seed}", tuple(commands), folder / "metrics.jsonl", steps)


def make_evaluation(model: str, folder: Path, recipes: Sequence[str], flags: Sequence[str]) -> Command:
    """Return the command that evaluates a model into a folder; claims are checked on responses that are all graded."""
    arguments = ("evaluate", model, "--recipe", *recipes, *flags, "--max-failed-grades", "0", "--output", f"{folder}")
    return Command(arguments, folder / "summary.json")


# ---- running --------------------------------------------------------------------------------------------------------


def run_jobs(jobs: Sequence[Job], logs: Path) -> None:
    """Run jobs side by side, one a core; raises UserError when one fails, after stopping the others."""
    logs.mkdir(parents=True, exist_ok=True)
    waiting = list(jobs)
    running: dict[str, Iterator[bool]] = {}
    total = sum(job.num_steps or 1 for job in jobs)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn(), TimeRemainingColumn())
    shown = Progress(TextColumn("{task.description}"), *columns, console=console, disable=not console.is_terminal)
    log = Lines()
    with shown as progress, stop_at_end() as processes, closing(log):
        task = progress.add_task("", total=total)
        while waiting or running:
            while waiting and len(running) < max(1, os.cpu_count() or 1):
                job = waiting.pop(0)
                running[job.name] = run_commands(job, logs / f"{job.name.replace(' ', '-')}.txt", processes)
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
    """Return how many steps of a job are done; a job without a training is one step."""
    if job.is_done:
        return job.num_steps or 1
    if job.metrics is None or not job.metrics.is_file():
        return 0
    return min(job.metrics.read_bytes().count(b"\n"), job.num_steps)


def run_commands(job: Job, log: Path, processes: list[subprocess.Popen[bytes]]) -> Iterator[bool]:
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
                env=os.environ | {"OMP_NUM_THREADS": "1"},
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


# ---- reading --------------------------------------------------------------------------------------------------------


def read_runs(run: Path, design: Design) -> Runs:
    """Read everything that the claims are checked on."""
    trainings = run / "trainings"

    def by_seed(name: str, kind: str) -> BySeed:
        return {seed: read_outcomes(trainings / name / f"{seed}" / kind) for seed in design.seeds}

    return Runs(
        original_chain=read_outcomes(run / "original" / "chain"),
        original_story=read_outcomes(run / "original" / "story"),
        chain={name: by_seed(name, "chain") for name in design.trainings},
        story=by_seed(MAIN, "story"),
        implicit={seed: read_implicit_thinking(trainings / MAIN / f"{seed}" / "chain") for seed in design.seeds},
        metrics={
            name: {seed: read_metrics(trainings / name / f"{seed}" / "metrics.jsonl") for seed in design.seeds}
            for name in design.trainings
        },
    )


def read_implicit_thinking(folder: Path) -> Values:
    """1 for each no_think answer of a model left to choose that thinks after all, by problem."""
    signs = read_no_think_signs(folder).get("auto", {})
    return {problem: [float(thinks_implicitly(one)) for one in own] for problem, own in signs.items()}


# ---- the terminal ---------------------------------------------------------------------------------------------------


def show_claims(claims: Sequence[Claim]) -> None:
    """Print each claim of the paper with its verdict and the numbers behind it."""
    for claim in claims:
        side = "above" if claim.above else "below"
        seeds = ", ".join(write_number(value, signed=True) for value in claim.by_seed)
        ends = write_range((claim.low, claim.high), signed=True)
        console.print(f"[bold]{claim.verdict:>15}[/]  {escape(claim.statement)}")
        console.print(
            f"{'':17}here {write_number(claim.estimate, signed=True)} {claim.unit} ({ends}"
            f"{'; seeds ' + seeds if seeds else ''}), to be {side} {write_number(claim.bound, signed=True)}: "
            f"{escape(claim.measured)}"
        )
        console.print(f"{'':17}paper: {escape(claim.paper)}", style="dim")
