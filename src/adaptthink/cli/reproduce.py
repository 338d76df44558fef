"""`adaptthink reproduce`: the paper's experiments on the embedded reasoner, every part a command of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from adaptthink.cli.console import console
from adaptthink.cli.job_queue import Job, make_evaluation, make_presampling, make_training, run_jobs
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import TrainConfig
from adaptthink.evaluation.formats import write_number, write_range
from adaptthink.evaluation.mode_choice import read_no_think_signs
from adaptthink.evaluation.statistics import Values
from adaptthink.evaluation.store import read_outcomes
from adaptthink.grading.implicit_thinking import thinks_implicitly
from adaptthink.report import write_report
from adaptthink.reproduction.claims import check_claims
from adaptthink.reproduction.runs import MAIN, BySeed, Design, Runs
from adaptthink.reproduction.tables import Reproduction, make_tables
from adaptthink.reproduction.verdicts import Claim
from adaptthink.storage.records import to_json
from adaptthink.storage.runs import open_run, read_metrics, write_json

BASE = "reproduce"  # the recipe under all others, which are in the folder of its name
DELTAS = tuple(f"delta_{delta}" for delta in ("0", "0.01", "0.02", "0.075", "0.1"))
RATIOS = ("ratio_sequence", "ratio_token")
FULL = Design((0, 1, 2), (MAIN, "grpo", *DELTAS, *RATIOS))
QUICK = Design((0,), (MAIN, "grpo", "delta_0", "delta_0.1", *RATIOS), steps=60, evaluated=100)


def reproduce_job(run: Path, *, quick: bool, clean: bool) -> dict[str, Any]:
    """Run what is missing in `run`, check the paper's claims, write the result and the report."""
    design = QUICK if quick else FULL
    open_run(run, {"design": "quick" if quick else "full"}, resume=run.exists() and not clean, clean=clean)
    started = time.monotonic()
    for jobs in list_stages(run, design):
        run_jobs(jobs, run / "logs")
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
    flags = ("--seed", f"{seed}", *make_size_flags(design, "presample"))
    return Job(f"reference {seed}", (make_presampling((BASE,), choose_reference_path(run, seed), flags),))


def choose_reference_path(run: Path, seed: int) -> Path:
    """Return the path of a seed's reference."""
    return run / "references" / f"{seed}.jsonl"


def make_training_job(run: Path, name: str, seed: int, design: Design) -> Job:
    """One training and the evaluation of its model: as the model chooses; the main one in every mode and kind."""
    folder = run / "trainings" / name / f"{seed}"
    recipes = (BASE,) if name == MAIN else (BASE, f"{BASE}/{name}")
    size = make_size_flags(design, "train")
    flags = (*size, "--seed", f"{seed}", "--reference", f"{choose_reference_path(run, seed)}")
    train = make_training(recipes, folder, folder / "result.json", flags)
    modes = ("auto", "think", "no_think") if name == MAIN else ("auto",)
    requested = ("--modes", *modes, *make_size_flags(design, "evaluate"))
    commands = [train, make_evaluation(f"{folder / 'model'}", folder / "chain", (BASE,), requested)]
    if name == MAIN:
        commands.append(make_evaluation(f"{folder / 'model'}", folder / "story", (BASE, f"{BASE}/story"), requested))
    shorter = {"steps": design.steps} if design.steps else {}
    steps = resolve("train", TrainConfig, recipes=recipes, flags=shorter).steps
    return Job(f"{name} {seed}", tuple(commands), folder / "metrics.jsonl", steps)


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
