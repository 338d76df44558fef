"""The numbers of the page, as `benchmark.json` stores them.

All are of the half of the problems that nothing was chosen on. Seeds are pooled; intervals are clustered by problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from adaptthink.benchmark.answers import (
    BUDGETS,
    Answers,
    Model,
    average,
    compute_utility,
    dial,
    is_for_reporting,
    measure_band,
    mix_to_budget,
    pool,
)
from adaptthink.benchmark.claims import Claim, check_claims
from adaptthink.benchmark.entries import MAIN, ORIGINAL
from adaptthink.benchmark.runs import (
    OWN,
    SETS,
    Found,
    Sets,
    choose_folder,
    choose_reference_path,
    compute_scale,
    count_reference_tokens,
    count_rollout_tokens,
    read_entry,
)
from adaptthink.evaluation.levels import rank_level
from adaptthink.evaluation.mode_choice import DELTA, compare_with_better_mode, pair_forced, read_no_think_signs
from adaptthink.evaluation.scores import compute_tokens_per_correct
from adaptthink.evaluation.statistics import (
    Difference,
    Interval,
    holm,
    mean_difference,
    mean_interval,
    share_difference,
    share_interval,
)
from adaptthink.grading.implicit_thinking import thinks_implicitly
from adaptthink.modes import Mode
from adaptthink.storage.runs import read_metrics

QUANTILES = (0.05, 0.5, 0.95, 1.0)  # of the tokens of no_think answers


@dataclass(frozen=True, slots=True)
class Numbers:
    """Means over responses."""

    accuracy: float
    tokens: float
    no_think: float


@dataclass(frozen=True, slots=True)
class ModeScores:
    """One requested mode on one set."""

    accuracy: Interval
    tokens: Interval
    no_think: Interval
    utility: Interval
    cost: Interval | None  # tokens for each correct answer; None without one
    by_seed: Mapping[int, Numbers]
    by_level: Mapping[str, Numbers]


@dataclass(frozen=True, slots=True)
class Leakage:
    """no_think answers of a model left to choose that think all the same, and how long such answers are."""

    share: Interval
    tokens: Mapping[str, float]  # by quantile


@dataclass(frozen=True, slots=True)
class SetScores:
    """An entry on one set."""

    num_problems: int
    modes: Mapping[str, ModeScores]
    regret: Mapping[int, float]  # by seed: accuracy that is lost against the better mode of each problem
    leakage: Leakage | None


@dataclass(frozen=True, slots=True)
class Against:
    """Against AdaptThink, both as they choose, paired by problem; p-values adjusted over all entries (Holm)."""

    accuracy: Difference
    tokens: Difference
    utility: Difference


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens sampled to train one model, the mean of the seeds; `tuning`: by the knob's other values, once."""

    reference: float
    rollouts: float
    base: float  # for the model that it starts from
    tuning: float


@dataclass(frozen=True, slots=True)
class Row:
    """One entry; `num_tried` values were tried before this one was chosen."""

    name: str
    title: str
    family: str
    source: str
    knob: str | None
    value: float | None
    num_tried: int
    sets: Mapping[str, SetScores]
    spent: Spent | None  # None of what is not trained


@dataclass(frozen=True, slots=True)
class KnobPoint:
    """One value of an entry's knob, on its first seed."""

    name: str
    value: float
    accuracy: float
    tokens: float
    utility: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Accuracy at a mean number of tokens, with the ends of a 95% interval over problems and seeds."""

    tokens: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class About:
    """What was run, where and when."""

    model: str
    recipes: tuple[str, ...]
    date: str
    machine: str
    tuned: str = ""  # model and date of the benchmark whose knob values were taken; empty: tuned in this one


@dataclass(frozen=True, slots=True)
class Result:
    """Everything."""

    about: About
    scale: float  # mean tokens of the original's thoughts: the unit of length in the utility
    rows: tuple[Row, ...]
    against: Mapping[str, Mapping[str, Against]]  # by set and entry
    knobs: tuple[KnobPoint, ...]
    curves: Mapping[str, tuple[CurvePoint, ...]]
    claims: tuple[Claim, ...]


def measure(run: Path, found: Mapping[str, Found], original: Sets, about: About) -> Result:
    """Measure what a benchmark has run."""
    scale = compute_scale(original)
    reported = {name: keep_reported(one) for name, one in found.items()}
    logs = {name: read_logs(run, one) for name, one in found.items() if one.entry.is_trained}
    return Result(
        about,
        scale,
        rows=tuple(make_row(run, one, reported, scale) for one in reported.values()),
        against={name: compare_with_main(reported, name, scale) for name in SETS},
        knobs=tuple(point for one in found.values() for point in list_knob_points(run, one, original, scale)),
        curves=make_curves(reported, scale),
        claims=tuple(check_claims(reported, logs, scale)),
    )


def read_logs(run: Path, one: Found) -> dict[int, list[dict[str, Any]]]:
    """Read the metrics of an entry's trainings, by seed."""
    return {seed: read_metrics(choose_folder(run, one.entry, one.value, seed) / "metrics.jsonl") for seed in one.seeds}


def keep_reported(one: Found) -> Found:
    """Return an entry on the half of the problems that is reported."""
    seeds = {
        seed: {name: model.keep(is_for_reporting) for name, model in sets.items()} for seed, sets in one.seeds.items()
    }
    return replace(one, seeds=seeds)


# ---- one entry ------------------------------------------------------------------------------------------------------


def make_row(run: Path, one: Found, reported: Mapping[str, Found], scale: float) -> Row:
    """Measure one entry on every set that it was evaluated on."""
    sets = {}
    for name in SETS:
        models = one.select(name)
        if models:
            first = next(iter(models.values()))
            sets[name] = SetScores(
                num_problems=len(first.levels),
                modes={mode: score_mode(models, mode, scale) for mode in first.modes},
                regret=measure_regret(models),
                leakage=measure_leakage(run, one, name),
            )
    entry = one.entry
    knob = entry.knob.name if entry.knob else None
    spent = count_spent(run, one, reported) if entry.is_trained else None
    return Row(entry.name, entry.title, entry.family, entry.source, knob, one.value, one.num_tried, sets, spent)


def score_mode(models: Mapping[int, Model], requested: str, scale: float) -> ModeScores:
    """Score one requested mode of all seeds together, of each, and by level."""
    answers = pool(model.modes[requested] for model in models.values())
    levels = next(iter(models.values())).levels

    def cut(level: str) -> Answers:
        return answers.map(lambda values: {one: found for one, found in values.items() if levels[one] == level})

    return ModeScores(
        accuracy=share_interval(answers.correct),
        tokens=mean_interval(answers.tokens),
        no_think=share_interval(answers.no_think),
        utility=mean_interval(compute_utility(answers, scale)),
        cost=compute_tokens_per_correct(answers.tokens, answers.correct),
        by_seed={seed: summarise(model.modes[requested]) for seed, model in models.items()},
        by_level={level: summarise(cut(level)) for level in sorted(set(levels.values()), key=rank_level)},
    )


def summarise(answers: Answers) -> Numbers:
    """Return the three means."""
    return Numbers(answers.accuracy, answers.mean_tokens, average(answers.no_think))


def measure_regret(models: Mapping[int, Model]) -> dict[int, float]:
    """Return the regret of each seed; none where the forced modes have too few samples, or for a rule."""
    regret = {}
    for seed, model in models.items():
        auto, think, no_think = (
            [one for one in model.outcomes if one.requested == requested] for requested in ("auto", *Mode)
        )
        better = compare_with_better_mode(auto, pair_forced(think, no_think), DELTA)
        if better and better.regret:
            regret[seed] = better.regret.interval.estimate
    return regret


def measure_leakage(run: Path, one: Found, name: str) -> Leakage | None:
    """Measure implicit thinking in the no_think answers of all seeds; None where there are none."""
    implicit: dict[str, list[float]] = {}
    tokens: list[int] = []
    for seed, model in one.select(name).items():
        chosen = [out.tokens for out in model.outcomes if out.requested == "auto" and out.mode is Mode.NO_THINK]
        tokens += chosen
        folder = choose_folder(run, one.entry, one.value, seed) / SETS[name]
        for problem, signs in (read_no_think_signs(folder).get("auto", {}) if chosen else {}).items():
            if is_for_reporting(problem):
                implicit.setdefault(problem, []).extend(float(thinks_implicitly(sign)) for sign in signs)
    if not implicit:
        return None
    return Leakage(share_interval(implicit), {f"{q:g}": float(np.quantile(tokens, q)) for q in QUANTILES})


def count_spent(run: Path, one: Found, reported: Mapping[str, Found]) -> Spent:
    """Count the tokens that went into one model of an entry."""
    folders = {seed: choose_folder(run, one.entry, one.value, seed) for seed in one.seeds}
    stores = [
        folder / "reference.jsonl" if one.entry.base else choose_reference_path(run, seed)
        for seed, folder in folders.items()
    ]
    base = count_spent(run, reported[one.entry.base], reported) if one.entry.base in reported else None
    others = [value for value in one.entry.values if value != one.value]
    first = next(iter(one.seeds))

    def count(folder: Path) -> int:
        return 0 if one.entry.is_offline else count_rollout_tokens(folder)  # the store's responses are sampled once

    return Spent(
        reference=fmean(count_reference_tokens(store, no_think=one.entry.needs_no_think) for store in stores),
        rollouts=fmean(map(count, folders.values())),
        base=base.reference + base.rollouts if base else 0.0,
        tuning=float(sum(count(choose_folder(run, one.entry, value, first)) for value in others)),
    )


# ---- entries beside each other --------------------------------------------------------------------------------------


def compare_with_main(reported: Mapping[str, Found], name: str, scale: float) -> dict[str, Against]:
    """Compare every entry with AdaptThink on one set; p-values are adjusted for each measure apart."""
    answers = {
        entry: pool(model.modes["auto"] for model in one.select(name).values())
        for entry, one in reported.items()
        if one.select(name)
    }
    main = answers.pop(MAIN, None)
    if main is None:
        return {}
    accuracy = holm({entry: share_difference(one.correct, main.correct) for entry, one in answers.items()})
    tokens = holm({entry: mean_difference(one.tokens, main.tokens) for entry, one in answers.items()})
    own = compute_utility(main, scale)
    utility = holm({entry: mean_difference(compute_utility(one, scale), own) for entry, one in answers.items()})
    return {entry: Against(accuracy[entry], tokens[entry], utility[entry]) for entry in answers}


def list_knob_points(run: Path, one: Found, original: Sets, scale: float) -> list[KnobPoint]:
    """Measure every value of an entry's knob that was run on its first seed."""
    points = []
    for value in one.entry.values:
        sets = {} if value is None else read_entry(run, one.entry, value, next(iter(one.seeds)), original)
        if value is not None and OWN in sets:
            answers = sets[OWN].keep(is_for_reporting).modes["auto"]
            utility = average(compute_utility(answers, scale))
            points.append(KnobPoint(one.entry.name, value, answers.accuracy, answers.mean_tokens, utility))
    return points


def make_curves(reported: Mapping[str, Found], scale: float) -> dict[str, tuple[CurvePoint, ...]]:
    """Return accuracy by mean tokens: of every dial, and of the original's modes mixed at random."""
    curves = {}
    for name, one in reported.items():
        models = list(one.select().values())
        points = []
        for budget in (share * scale for share in BUDGETS):
            if name == "random_mix":
                mixed = mix_to_budget(models[0], budget)
                by_seed = [mixed] if abs(mixed.mean_tokens - budget) < 1e-6 else []
            else:
                by_seed = [found for model in models if model.has_dial and (found := dial(model, budget))]
            if len(by_seed) == len(models) and name != ORIGINAL:
                points.append(make_point(budget, by_seed))
        if points:
            curves[name] = tuple(points)
    return curves


def make_point(budget: float, by_seed: Sequence[Answers]) -> CurvePoint:
    """Return a point of a curve with its band."""
    problems = sorted(by_seed[0].correct)
    matrix_SP = np.array([[fmean(one.correct[problem]) for problem in problems] for one in by_seed])
    mean, low, high = measure_band(matrix_SP)
    return CurvePoint(budget, mean, max(0.0, low), min(1.0, high))
