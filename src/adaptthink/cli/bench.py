"""`adaptthink bench`: one table of methods, every training and evaluation a command of its own."""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.markup import escape

from adaptthink import api
from adaptthink.benchmark.budget_forcing import make_budget_responder
from adaptthink.benchmark.entries import KEEP, ORIGINAL, Entry, list_entries, needs_responses
from adaptthink.benchmark.linear_probe import compute_features, fit_ridge
from adaptthink.benchmark.measure import About, Result, measure
from adaptthink.benchmark.runs import (
    OWN,
    SETS,
    choose_folder,
    choose_reference_path,
    keep_values,
    rank,
    read_found,
    read_original,
    read_rewards,
    read_values,
    tune,
)
from adaptthink.callbacks import Callbacks
from adaptthink.cli.console import console
from adaptthink.cli.job_queue import Command, Job, make_evaluation, make_presampling, make_training, run_jobs
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import METHOD_KEYS, EvaluateConfig, PresampleConfig, TrainConfig
from adaptthink.errors import UserError
from adaptthink.evaluation.run import describe_starts, make_policy_setting, sample_missing
from adaptthink.evaluation.store import grade_folder, lock_folder, read_evaluation_date
from adaptthink.models.loading import Policy, choose_device, freeze_date, load_configured
from adaptthink.modes import Mode
from adaptthink.problems import Problem
from adaptthink.report.benchmark import write_page
from adaptthink.sampling.requests import MaxTokens, make_seed
from adaptthink.sampling.sampler import Sampler, Sampling, sample_rollouts
from adaptthink.storage.records import read_record_file, to_json
from adaptthink.storage.runs import open_run, write_json

PARTS = ("untrained", "tune", "train", "best")
SAMPLES = 2  # of each problem in each mode, in evaluations and for the linear probe
PROBES = ("--probe-every", "10", "--probe-samples", "0")  # of trainings: no responses, which would cost time
SHIFTED = {"arithmetic": "reproduce/story", "words": "reproduce/words_shifted"}  # recipes of problems unlike others
NUM_BEST, NUM_MORE = 5, 2  # so many of the best entries are trained on so many more seeds
PROBED_PROBLEMS = 2000  # that the linear probe is fitted on, at most


@dataclass(frozen=True, slots=True)
class Design:
    """What all runs in a folder share: with anything else they could not be compared."""

    recipes: tuple[str, ...]
    shifted: str | None  # the recipe of problems unlike those trained on; None: there are none
    steps: int | None = None  # None: those of the recipe; so for the next two
    problems: int | None = None  # of each level, to train on
    evaluated: int | None = None  # of each level, to evaluate on
    tuned: str | None = None  # the result of another benchmark, whose knob values are taken; None: they are chosen here

    def resolve(self, command: str, schema: type[Any], recipes: Sequence[str] = (), **flags: Any) -> Any:
        """Return the settings of a command, with recipes and flags beyond the design's."""
        evaluates = command == "evaluate"
        size = {
            "problems_per_level": self.evaluated if evaluates else self.problems,
            "steps": None if evaluates else self.steps,
        }
        given = {key: value for key, value in (size | flags).items() if value is not None}
        return resolve(command, schema, recipes=(*self.recipes, *recipes), flags=given)

    def list_sets(self) -> dict[str, tuple[str, ...]]:
        """Return the recipes over the others of each set to evaluate on."""
        sets: dict[str, tuple[str, ...]] = {OWN: ()}
        return sets | ({"shifted": (self.shifted,)} if self.shifted else {})


def make_design(recipes: tuple[str, ...], shifted: str | None, tuned: Path | None = None, **size: int | None) -> Design:
    """Return a design; by default procedural problems are shifted to their unlike ones, and other problems are not."""
    problems = resolve("evaluate", EvaluateConfig, recipes=recipes).problems
    return Design(recipes, shifted or SHIFTED.get(problems), tuned=f"{tuned}" if tuned else None, **size)


def bench_job(
    run: Path,
    design: Design,
    *,
    entries: Iterable[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    parts: Sequence[str] = PARTS,
    jobs: int | None = None,
    page: Path | None = None,
    clean: bool = False,
) -> dict[str, Any]:
    """Run what is missing of the chosen parts in `run`; measure everything that is there, and write the page."""
    if not seeds or min(seeds) < 0:
        raise UserError(f"--seeds {' '.join(map(str, seeds)) or '(none)'}: give one seed or more, each from 0 on")
    chosen, seeds = list_entries(entries), list(dict.fromkeys(seeds))
    config: TrainConfig = design.resolve("train", TrainConfig)
    earlier = read_earlier(Path(design.tuned)) if design.tuned else None
    identity = {"benchmark": config.model, **to_json(design)}
    open_run(run, identity, resume=run.exists() and not clean, clean=clean)
    if earlier:
        console.print(f"knob values are those of {design.tuned}; nothing is tuned", markup=False, soft_wrap=True)
        keep_values(run, {row.name: (row.value, row.num_tried) for row in earlier.rows if row.value is not None})
        parts = [one for one in parts if one != "tune"]
    at_once = jobs or (None if choose_device(config.device).type == "cpu" else 1)
    started = time.monotonic()
    for stage in list_stages(Plan(run, design, config), chosen, seeds, parts):
        run_jobs(stage, run / "logs", at_once)
    console.print(f"all runs done ({(time.monotonic() - started) / 60:.0f} minutes this time)")
    original = read_original(run)
    if OWN not in original:
        raise UserError(f"'{run}' holds no evaluation of the model before training yet; leave out --parts page")
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    origin = f"{earlier.about.model}, {earlier.about.date}" if earlier else ""
    about = About(config.model, design.recipes, datetime.date.today().isoformat(), machine, origin)
    result = measure(run, read_found(run, list_entries(), original), original, about)
    if earlier:
        names = {row.name for row in result.rows}
        result = replace(result, knobs=tuple(one for one in earlier.knobs if one.name in names))
    content: dict[str, Any] = to_json(result)
    write_json(run / "benchmark.json", content)
    show_claims(result)
    console.print(f"numbers in {run / 'benchmark.json'}, page {write_page(result, page or run / 'benchmark.md')}")
    return content


def read_earlier(path: Path) -> Result:
    """Read another benchmark's result; raises UserError if it is none."""
    return read_record_file(Result, path, remedy="tuned takes the result of another benchmark (RUN/benchmark.json)")


# ---- what is run ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a benchmark runs, how large it is, and the settings of a training that entries change."""

    run: Path
    design: Design
    config: TrainConfig

    def make_reference_job(self, seed: int, kept: Sequence[str]) -> Job:
        """The reference that all trainings of a seed share."""
        flags = ("--seed", f"{seed}", *kept, *self.list_problems(), "--steps", f"{self.config.steps}")
        store = choose_reference_path(self.run, seed)
        return Job(f"reference {seed}", (make_presampling(self.design.recipes, store, flags),))

    def make_training_job(self, entry: Entry, seed: int, value: float | None) -> Job:
        """One training, or the merging of two models, and the evaluations of its model."""
        folder = choose_folder(self.run, entry, value, seed)
        done = folder.with_suffix(".json")
        recipes = (f"{self.write_offline_recipe()}",) if entry.is_offline else self.design.recipes
        flags = (*PROBES, *self.list_problems(), *entry.list_flags(value, self.config), "--seed", f"{seed}")
        if entry.base:
            [base] = (one for one in list_entries([entry.base]) if one.name == entry.base)
            start = choose_folder(self.run, base, read_values(self.run).get(base.name, base.default), seed) / "model"
            flags += ("--model", f"{start}")
        else:
            flags += ("--reference", f"{choose_reference_path(self.run, seed)}")
        training = make_training(recipes, folder, done, flags)
        if entry.merges:
            models = (self.config.model, f"{start}", "--output", f"{folder / 'model'}", "--json", f"{done}")
            training = Command(("merge", *models, *entry.list_flags(value, self.config)), done)
        commands = (training, *self.list_evaluations(f"{folder / 'model'}", folder))
        steps = entry.count_steps(self.config)
        return Job(f"{entry.name_folder(value)} {seed}", commands, folder / "metrics.jsonl", steps)

    def write_offline_recipe(self) -> Path:
        """Write the settings of a training that samples nothing: those of the recipes but for the objective's."""
        given, defaults = (one.model_dump(mode="json") for one in (self.config, TrainConfig()))
        left_out = METHOD_KEYS | {"method", "samples_per_problem"}
        # The values of a config are written alike in JSON and in TOML.
        lines = [f"{key} = {json.dumps(given[key])}\n" for key in sorted(given) if given[key] != defaults[key]]
        path = self.run / "offline.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line for line in lines if line.split()[0] not in left_out), encoding="utf-8")
        return path

    def list_evaluations(self, model: str, folder: Path) -> list[Command]:
        """Return the evaluations of a model, in every mode and on every set."""
        size = self.design.evaluated
        flags = ("--samples-per-problem", f"{SAMPLES}", *(("--problems-per-level", f"{size}") if size else ()))
        return [
            make_evaluation(model, folder / SETS[name], (*self.design.recipes, *recipes), flags)
            for name, recipes in self.design.list_sets().items()
        ]

    def read_problems(self, name: str) -> Sequence[Problem]:
        """Return the problems of a set to evaluate on."""
        recipes = self.design.list_sets()[name]
        return api.read_evaluation_problems(self.design.resolve("evaluate", EvaluateConfig, recipes)).problems

    def list_problems(self) -> tuple[str, ...]:
        """Return the flags that make a training's problems as few as the design has them."""
        return ("--problems-per-level", f"{self.design.problems}") if self.design.problems else ()


def list_stages(
    plan: Plan, entries: Sequence[Entry], seeds: Sequence[int], parts: Sequence[str]
) -> Iterator[list[Job]]:
    """Yield what has to be run, in stages: what is in one may depend on the results of those before."""
    if not set(parts) & set(PARTS):
        return
    run, trained = plan.run, [one for one in entries if one.is_trained]
    kept = KEEP if needs_responses(trained) else ()
    evaluations = plan.list_evaluations(plan.config.model, run / ORIGINAL / "0")
    yield [Job(ORIGINAL, tuple(evaluations)), *(plan.make_reference_job(seed, kept) for seed in seeds)]
    original = read_original(run)
    if "tune" in parts:
        tuned = [one for one in trained if one.knob]
        bases = {one.base for one in tuned} - {""}
        first = [one for one in trained if one.name in bases or (one.knob and not one.base)]
        yield [plan.make_training_job(one, seeds[0], value) for one in first for value in one.values]
        yield [plan.make_training_job(one, seeds[0], value) for one in tuned if one.base for value in one.values]
        tune(run, trained, seeds[0], original)
    if "train" in parts:
        yield from list_trainings(plan, trained, seeds)
    if "best" in parts:
        best = rank(read_found(run, trained, original).values(), original, NUM_BEST)
        more = [max(seeds) + 1 + index for index in range(NUM_MORE)]
        yield [plan.make_reference_job(seed, kept) for seed in more]
        yield from list_trainings(plan, list_entries(best) if best else [], more)
    others = [one for one in entries if not one.is_trained]
    if "untrained" in parts:  # last, as the memory that its engine takes is not given back
        apply_rules(plan, others, seeds)
    if "tune" in parts:
        tune(run, others, seeds[0], original)


def list_trainings(plan: Plan, entries: Sequence[Entry], seeds: Sequence[int]) -> Iterator[list[Job]]:
    """Yield the trainings of entries with the values that were chosen; what starts from another's model comes later."""
    values = read_values(plan.run)
    for later in (False, True):
        jobs = [
            plan.make_training_job(one, seed, values.get(one.name, one.default))
            for one in entries
            for seed in seeds
            if bool(one.base) is later
        ]
        yield [*{job.name: job for job in jobs}.values()]  # two entries may mean the same training


# ---- without training -----------------------------------------------------------------------------------------------


def apply_rules(plan: Plan, entries: Sequence[Entry], seeds: Sequence[int]) -> None:
    """Run what is missing of budget forcing, for every value, and of the linear probe, for every seed."""
    budgets = [
        (share, name, choose_folder(plan.run, entry, share, 0) / SETS[name])
        for entry in entries
        for share in entry.values
        for name in plan.design.list_sets()
        if entry.name == "budget_forcing" and share
    ]
    budgets = [one for one in budgets if not (one[-1] / "summary.json").is_file()]
    probes = [
        (seed, choose_folder(plan.run, entry, entry.default, seed).with_suffix(".json"))
        for entry in entries
        for seed in seeds
        if entry.name == "linear_probe"
    ]
    probes = [one for one in probes if not one[-1].is_file()]
    if not budgets and not probes:
        return
    config = plan.design.resolve("evaluate", EvaluateConfig)
    date = read_evaluation_date(plan.run / ORIGINAL / "0" / SETS[OWN])
    policy, config = freeze_date(load_configured(config), config, date)
    sampler = api.make_sampler(policy, config)
    for share, name, folder in budgets:
        force_budget(sampler, policy, config, plan.read_problems(name), share, folder)
        console.print(f"  {folder}: done")
    for seed, path in probes:
        fit_probe(plan, sampler, policy, seed, path)
        console.print(f"  {path}: done")


def force_budget(
    sampler: Sampler, policy: Policy, config: EvaluateConfig, problems: Sequence[Problem], share: float, folder: Path
) -> None:
    """Sample and grade into an evaluation folder, with thoughts of at most a share of max_think_tokens."""
    setting = make_policy_setting(
        policy.name, policy.fingerprint, config, describe_starts(policy.tokenizer, policy.template)
    )
    respond = make_budget_responder(sampler, config, max(1, round(share * config.max_think_tokens)))
    with lock_folder(folder, setting):
        sample_missing(respond, folder, setting, problems, ["auto"], lambda problem: SAMPLES)
        grade_folder(folder, sampler.grader, max_failed_grades=0.0)
    write_json(folder / "summary.json", {"share": share})


def fit_probe(plan: Plan, sampler: Sampler, policy: Policy, seed: int, path: Path) -> None:
    """Fit the linear probe on the problems of a seed's reference, and store its scores of those evaluated."""
    config = plan.design.resolve("presample", PresampleConfig, seed=seed)
    thinking = read_rewards(choose_reference_path(plan.run, seed))
    found = api.choose_presampled(config.problems, config, Callbacks([])).problems
    problems = [one for one in found if one.id in thinking][:PROBED_PROBLEMS]
    sampling = Sampling(
        MaxTokens(config.max_think_tokens, config.max_no_think_tokens),
        config.reference_temperature,
        config.reference_top_p,
        make_seed(seed, "linear probe"),
    )
    groups = sample_rollouts(sampler, problems, [Mode.NO_THINK] * SAMPLES, sampling)
    gap = [
        fmean(one.grade.reward if one.verdict.has_reward else 0.0 for one in group) - thinking[group[0].problem.id]
        for group in groups
    ]

    def read_features(problems: Sequence[Problem]) -> np.ndarray:
        return compute_features(policy, [sampler.encode_prompt(one) for one in problems])

    predict = fit_ridge(read_features(problems), np.array(gap))
    scores = {}
    for name in plan.design.list_sets():
        evaluated = plan.read_problems(name)
        predicted = predict(read_features(evaluated))
        scores[name] = {one.id: round(float(score), 6) for one, score in zip(evaluated, predicted, strict=True)}
    tokens = sum(len(one.response_ids) for group in groups for one in group)
    write_json(path, {"problems": len(problems), "tokens": tokens, "scores": scores})


# ---- the terminal ---------------------------------------------------------------------------------------------------


def show_claims(result: Result) -> None:
    """Print each claim with its verdict and the numbers behind it."""
    for claim in result.claims:
        console.print(f"[bold]{claim.verdict:>15}[/]  {escape(claim.statement)}")
        for part in claim.parts:
            console.print(f"{'':17}{part.verdict}: {escape(part.measured)} {escape(part.numbers)}")
