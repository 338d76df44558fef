"""One model of the gap objective and its dial against the paper's form, trained once for each δ, on the miniature.

    python benchmarks/gap.py runs/gap                     all of it: 49 trainings of 2 to 4 minutes, one a core
    python benchmarks/gap.py runs/gap --seeds 0 --parts deltas gap

Trainings and evaluations are commands that a user would give; what is finished is not run again, so the same command
completes a folder. All trainings of a seed share a reference and use the same number of responses; all models answer
the same problems, twice in each mode. Writes benchmarks/results/gap-DATE.json and gap.png, from what is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from record import RESULTS, surroundings, write_result

from adaptthink.cli.job_queue import Command, Job, run_jobs
from adaptthink.evaluation.records import to_json
from adaptthink.evaluation.scores import group_by_problem
from adaptthink.evaluation.statistics import mean_difference
from adaptthink.evaluation.store import read_decisions, read_outcomes
from adaptthink.modes import Mode
from adaptthink.storage.runs import read_metrics

SEEDS = (0, 1, 2, 3, 4)
DELTAS = (0.0, 0.01, 0.02, 0.05, 0.075, 0.1)
BUDGETS = tuple(np.arange(8.0, 34.1, 0.5).tolist())  # mean tokens of a response
GAP = ("--method", "gap", "--force-think", "start", "--samples-per-problem", "4", "--problems-per-step", "80")
TRAININGS = {f"delta_{delta:g}": ("--delta", f"{delta:g}") for delta in DELTAS} | {
    "gap": GAP,
    "gap_half": (*GAP, "--steps", "82"),
    "gap_rate_3e-5": (*GAP, "--learning-rate", "3e-5"),
    "gap_rate_3e-4": (*GAP, "--learning-rate", "3e-4"),
    "gap_no_pull": (*GAP, "--method", "gap:pull=0"),
}
PARTS = {
    "deltas": tuple(name for name in TRAININGS if name.startswith("delta")),
    "gap": ("gap",),
    "half": ("gap_half",),
    "rates": ("gap_rate_3e-5", "gap_rate_3e-4"),
    "pull": ("gap_no_pull",),
}
QUIET = ("--probe-every", "10", "--probe-samples", "0")  # of the recipe's probes, which cost time
RATE_SEEDS = 3  # of the parts that show stability
LABELS = {"delta_0.1": (-52, -14), "delta_0.05": (6, -14)}  # where names stand beside their points, else to the right


@dataclass(frozen=True, slots=True)
class Model:
    """What a model answers to the problems, in order of their ids: mean of the samples in each requested mode."""

    levels: np.ndarray
    correct: Mapping[str, np.ndarray]  # by requested mode
    tokens: Mapping[str, np.ndarray]
    no_think_probability: np.ndarray

    def choose(self, budget: float) -> np.ndarray | None:
        """Return what is right, by problem, at the highest threshold whose mean tokens are within the budget.

        None where even no_think needs more.
        """
        for threshold in (2.0, *np.unique(self.no_think_probability)[::-1]):
            direct = self.no_think_probability >= threshold
            tokens = float(np.where(direct, self.tokens["no_think"], self.tokens["think"]).mean())
            if tokens <= budget:
                return np.where(direct, self.correct["no_think"], self.correct["think"])
        return None


# ---- running --------------------------------------------------------------------------------------------------------


def list_jobs(run: Path, parts: Sequence[str], seeds: Sequence[int]) -> Iterator[list[Job]]:
    """Yield what has to be run, in stages of which each needs the one before."""
    yield [make_original_job(run), *(make_reference_job(run, seed) for seed in seeds)]
    named = [name for part in parts for name in PARTS[part]]
    yield [
        make_training_job(run, name, seed)
        for seed in seeds
        for name in named
        if seed < RATE_SEEDS or not name.startswith(("gap_rate", "gap_no"))
    ]


def make_original_job(run: Path) -> Job:
    """The model before training, in every mode."""
    return Job("original", (make_evaluation("tiny", run / "original"),))


def make_reference_job(run: Path, seed: int) -> Job:
    """The reference that all trainings of a seed share."""
    store = run / "references" / f"{seed}.jsonl"
    done = store.with_suffix(".json")
    arguments = ("presample", "reproduce", "--seed", f"{seed}", "--output", f"{store}", "--json", f"{done}")
    return Job(f"reference {seed}", (Command(arguments, done),))


def make_training_job(run: Path, name: str, seed: int) -> Job:
    """One training and the evaluation of its model."""
    folder, done = run / name / f"{seed}", run / name / f"{seed}.json"
    flags = (*QUIET, *TRAININGS[name], "--seed", f"{seed}", "--reference", f"{run / 'references' / f'{seed}.jsonl'}")
    arguments = ("train", "reproduce", *flags, "--output", f"{folder}", "--json", f"{done}")
    train = Command(arguments, done, folder / "config.json")
    return Job(
        f"{name} {seed}",
        (train, make_evaluation(f"{folder / 'model'}", folder / "evaluation")),
        folder / "metrics.jsonl",
        82 if name == "gap_half" else 165,
    )


def make_evaluation(model: str, folder: Path) -> Command:
    """Return the command that evaluates a model in every mode, two samples of each problem."""
    arguments = ("evaluate", model, "--recipe", "reproduce", "--samples-per-problem", "2", "--output", f"{folder}")
    return Command(arguments, folder / "summary.json")


# ---- reading --------------------------------------------------------------------------------------------------------


def read_model(folder: Path) -> Model:
    """Read an evaluation folder."""
    outcomes, decisions = read_outcomes(folder), read_decisions(folder)
    ids = sorted(decisions)
    levels = {one.problem_id: one.level for one in outcomes}

    def average(value: Callable[[Any], float]) -> dict[str, np.ndarray]:
        by_mode = {}
        for requested in ("auto", *Mode):
            values = group_by_problem((one for one in outcomes if one.requested == requested), value)
            by_mode[str(requested)] = np.array([fmean(values[id_]) for id_ in ids])
        return by_mode

    return Model(
        levels=np.array([levels[id_] for id_ in ids]),
        correct=average(lambda one: one.correct),
        tokens=average(lambda one: float(one.tokens)),
        no_think_probability=np.array([decisions[id_].no_think_probability for id_ in ids]),
    )


def read_models(run: Path) -> dict[str, dict[int, Model]]:
    """Read every model that is evaluated, by training and seed."""
    found: dict[str, dict[int, Model]] = {}
    for name in TRAININGS:
        folders = {seed: run / name / f"{seed}" / "evaluation" for seed in SEEDS}
        models = {seed: read_model(path) for seed, path in folders.items() if (path / "summary.json").is_file()}
        if models:
            found[name] = models
    return found


def describe_model(models: Mapping[int, Model]) -> dict[str, Any]:
    """Accuracy and tokens by requested mode, over all and by level, the mean of the seeds; and each seed's."""
    described: dict[str, Any] = {"seeds": sorted(models)}
    for requested in ("auto", "think", "no_think"):
        correct = np.mean([one.correct[requested] for one in models.values()], axis=0)
        tokens = np.mean([one.tokens[requested] for one in models.values()], axis=0)
        levels = next(iter(models.values())).levels
        described[requested] = {
            "accuracy": float(correct.mean()),
            "tokens": float(tokens.mean()),
            "accuracy_by_level": {level: float(correct[levels == level].mean()) for level in np.unique(levels)},
            "tokens_by_level": {level: float(tokens[levels == level].mean()) for level in np.unique(levels)},
            "accuracy_by_seed": {seed: float(one.correct[requested].mean()) for seed, one in models.items()},
            "tokens_by_seed": {seed: float(one.tokens[requested].mean()) for seed, one in models.items()},
        }
    return described


def compare_at_budgets(own: Mapping[int, Model], rivals: Mapping[str, Mapping[int, Model]]) -> list[dict[str, Any]]:
    """Compare the dial of one model with the best of the others at each budget, paired by problem, seeds averaged.

    A rival counts where its own choice needs no more tokens than the budget; of these the most accurate is taken, which
    is chosen on the problems that it is compared on, and so favours it. `dials` gives each rival a dial too.
    """
    rows = []
    for budget in BUDGETS:
        mine = average_choice(own, budget)
        if mine is None:
            continue
        as_trained = {
            name: np.mean([one.correct["auto"] for one in models.values()], axis=0)
            for name, models in rivals.items()
            if np.mean([one.tokens["auto"] for one in models.values()]) <= budget
        }
        found = {name: average_choice(models, budget) for name, models in rivals.items()}
        dialled = {name: choice for name, choice in found.items() if choice is not None}
        row: dict[str, Any] = {"budget": budget, "accuracy": float(mine.mean())}
        for kind, choices in (("as_trained", as_trained), ("dials", dialled)):
            if choices:
                best = max(choices, key=lambda name: float(choices[name].mean()))
                difference = mean_difference(as_values(mine), as_values(choices[best]))
                row[kind] = {"best": best, "accuracy": float(choices[best].mean()), "difference": to_json(difference)}
        rows.append(row)
    return rows


def average_choice(models: Mapping[int, Model], budget: float) -> np.ndarray | None:
    """Return what the dials of all seeds get right at a budget, by problem; None if one cannot keep to it."""
    found = [one.choose(budget) for one in models.values()]
    kept = [choice for choice in found if choice is not None]
    return np.mean(kept, axis=0) if len(kept) == len(found) else None


def as_values(values: np.ndarray) -> dict[str, list[float]]:
    """Return one value a problem as statistics take them."""
    return {f"{index:05d}": [float(value)] for index, value in enumerate(values)}


def count_rollout_tokens(folder: Path) -> int:
    """Return how many tokens a training sampled."""
    return sum(row["response_tokens"] for row in read_metrics(folder / "metrics.jsonl"))


def main() -> None:
    """Run what is missing, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--parts", nargs="*", default=tuple(PARTS), choices=tuple(PARTS))
    arguments = parser.parse_args()
    for jobs in list_jobs(arguments.run, arguments.parts, arguments.seeds):
        run_jobs([job for job in jobs if not job.is_done], arguments.run / "logs")
    models = read_models(arguments.run)
    rivals = {name: found for name, found in models.items() if name.startswith("delta")}
    result = {
        **surroundings(("adaptthink", "torch", "transformers")),
        "original": describe_model({0: read_model(arguments.run / "original")}),
        "models": {name: describe_model(found) for name, found in models.items()},
        "rollout_tokens": {
            name: {seed: count_rollout_tokens(arguments.run / name / f"{seed}") for seed in found}
            for name, found in models.items()
        },
        "budgets": {name: compare_at_budgets(models[name], rivals) for name in models if name.startswith("gap")},
    }
    path = write_result("gap", result)
    draw(result, RESULTS / "gap.png")
    print(f"{path}\n{RESULTS / 'gap.png'}")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy against tokens: the dial of the gap's model, the models of the paper's form, both ends."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    rows = result["budgets"].get("gap", [])
    tokens, accuracy = [row["budget"] for row in rows], [100 * row["accuracy"] for row in rows]
    axes.plot(tokens, accuracy, label="gap objective: one model and its dial")
    dials = [(row["budget"], 100 * row["dials"]["accuracy"]) for row in rows if "dials" in row]
    axes.plot(
        *zip(*dials, strict=True), "--", color="tab:red", linewidth=1, label="paper's form: the best of six dials"
    )
    for name, one in result["models"].items():
        if name.startswith("delta"):
            axes.plot(one["auto"]["tokens"], 100 * one["auto"]["accuracy"], "o", color="tab:red")
            place = (one["auto"]["tokens"], 100 * one["auto"]["accuracy"])
            axes.annotate(f"δ = {name.partition('_')[2]}", place, LABELS.get(name, (8, -5)), textcoords="offset points")
    axes.plot([], [], "o", color="tab:red", label="paper's form as trained, once for each δ")
    axes.set(xlabel="mean tokens", ylabel="accuracy, %", xlim=(20, 35), ylim=(88, 100))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
