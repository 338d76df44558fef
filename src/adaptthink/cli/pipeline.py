"""The whole job, from a model to its report: reference, original model, training, trained model, dial."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from adaptthink import api
from adaptthink.callbacks import Callback, Callbacks
from adaptthink.cli.compare import show_scores
from adaptthink.cli.console import Terminal, console, show_profile
from adaptthink.cli.jobs import load_evaluation_problems, show_advice
from adaptthink.config.schema import EvaluateConfig, TrainConfig
from adaptthink.dial.curve import measure, select_answers
from adaptthink.dial.guarantee import split_halves
from adaptthink.engines.base import Engine
from adaptthink.evaluation.compare import read_rows
from adaptthink.evaluation.formats import write_estimate
from adaptthink.evaluation.scores import Change, Evaluation, compare_scores, map_levels, summarise
from adaptthink.evaluation.store import Outcome, read_decisions, read_outcomes
from adaptthink.evaluation.summaries import RunSummary
from adaptthink.models.loading import Policy, freeze_date, load_trainee
from adaptthink.models.think_starts import read_first_tokens
from adaptthink.problems import Problem
from adaptthink.sampling.engine import make_engine
from adaptthink.storage.locks import locked
from adaptthink.storage.records import to_json
from adaptthink.storage.runs import check_store_outside, undo_failed_start, write_json
from adaptthink.training.data import prepare_problems, settle_reference
from adaptthink.training.methods import check_method
from adaptthink.training.reference import find_training_date, require_store
from adaptthink.training.replay import check_store
from adaptthink.training.train import TrainingData

DIAL = "adaptthink_dial"  # its row at a certified threshold
CHOOSES = 0.01  # of the original model's samples that do not think, above which it does not count as always thinking
TRAINED = {"adaptthink": "auto", "adaptthink_think": "think", "adaptthink_no_think": "no_think"}


def run_job(
    config: TrainConfig,
    evaluation: EvaluateConfig,
    run: Path,
    *,
    tolerance_points: float,
    reference_store: Path | None = None,
    resume: bool,
    clean: bool,
    profiled: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Pre-sample, evaluate the model, train it, evaluate it again, calibrate its dial, report; return the summary."""
    report = Callbacks([Terminal(config.steps), *callbacks])
    check_method(config)
    store = require_store(reference_store) if reference_store else None
    check_store(config, store)
    with locked(run, f"run folder '{run}'"):
        check_store_outside(store, run, clean=clean)
        return run_phases(
            config,
            evaluation,
            run,
            report,
            tolerance_points=tolerance_points,
            reference_store=store,
            resume=resume,
            clean=clean,
            profiled=profiled,
        )


def run_phases(
    config: TrainConfig,
    evaluation: EvaluateConfig,
    run: Path,
    report: Callbacks,
    *,
    tolerance_points: float,
    reference_store: Path | None,
    resume: bool,
    clean: bool,
    profiled: bool,
) -> dict[str, Any]:
    """Do the whole job in a run folder whose lock is held."""
    seconds: dict[str, float] = {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - started, 2)

    with phase("load"):
        chosen = prepare_problems(config.problems, None, config, needs_answer=not config.reward)
        api.report_notes(chosen.notes, report)
        fresh = load_evaluation_problems(evaluation)
        policy = load_trainee(config, generation_first=True)
    date = find_training_date(run, reference_store, resume=resume)
    policy, config = freeze_date(policy, config, date)
    policy, evaluation = freeze_date(policy, evaluation, config.prompt_date)
    beyond = api.check_prompts(policy, chain(chosen.problems, chosen.held_out), config)
    api.check_prompts(policy, fresh, evaluation)
    api.open_training(run, config, policy, chosen, resume=resume, clean=clean)
    api.report_notes(beyond, report)
    own_store = run / "reference.jsonl"
    store = reference_store or own_store
    with report.reporting("run", config.model_dump(mode="json"), run) as result:
        with undo_failed_start(run, own_store):
            engine = make_engine(policy, config, on_message=report.on_message)
            sampler, evaluation_sampler = (
                api.make_sampler(policy, one, engine=engine, on_message=report.on_message)
                for one in (config, evaluation)
            )
            with phase("reference"):
                sample = partial(api.sample_reference, policy, sampler, config=config, store=store, report=report)
                problems, reference = settle_reference(chosen.problems, config, sample)

        def evaluate(model: Policy, rows: Mapping[str, str], name: str) -> dict[str, Evaluation]:
            folder, modes = run / "evaluations" / name, list(rows.values())
            found = api.evaluate_policy(model, evaluation_sampler, fresh, modes, evaluation, folder, report)
            return {row: found[requested] for row, requested in rows.items()}

        original = choose_original_modes(policy, store)
        with phase("evaluate_original"):
            rows = evaluate(policy, original, "original")
        with phase("train"):
            data = TrainingData(problems, reference, chosen.held_out)
            done = api.train_and_save(policy, sampler, data, config, run, report, profile=profiled)
        if done.profile:
            show_profile(done.profile)
        with phase("evaluate_trained"):
            rows |= evaluate(done.model, TRAINED, "adaptthink")
        with phase("calibrate"):
            dialled = calibrate_run(done.model, engine, run, fresh, evaluation, tolerance_points)
        if dialled:
            rows[DIAL] = summarise(dialled)
        show_scores(rows)
        for requested in (original, TRAINED):
            show_advice(api.advise_on_modes(evaluation, {mode: rows[name] for name, mode in requested.items()}))
        summary = conclude(run, config, rows, compare_rows_of_run(run, original, dialled), seconds)
        result |= {"model": str(run / "model"), "steps": config.steps, "seconds": summary.seconds["train"]}
    written: dict[str, Any] = to_json(summary)
    return written


def choose_original_modes(policy: Policy, store: Path) -> dict[str, str]:
    """Return the requested modes in which the original model is evaluated, by row of the report.

    A model that always thinks is evaluated as it answers. One that chooses, by its samples in the reference store, is
    requested to think: it is the length of its thoughts that the training is compared with.
    """
    first = read_first_tokens(store)
    chooses = first[policy.template.no_think_id] > CHOOSES * first.total()
    return {"original_think": "think" if chooses else "auto", "original_no_think": "no_think"}


def conclude(
    run: Path,
    config: TrainConfig,
    rows: Mapping[str, Evaluation],
    changes: Mapping[str, Change],
    seconds: dict[str, float],
) -> RunSummary:
    """Write a run's summary and report, and print how its model differs from the original one."""
    from adaptthink.report import write_report  # noqa: PLC0415  (matplotlib takes a second to import)

    trained = changes.get(DIAL, changes["adaptthink"])
    accuracy, length = trained.accuracy.interval, trained.tokens.interval if trained.tokens else None
    summary = RunSummary(
        seed=config.seed,
        delta=config.delta,
        method=config.method,
        model=config.model,
        modes=dict(rows),
        changes=dict(changes),
        delta_accuracy_points=100 * accuracy.estimate,
        delta_length_percent=100 * length.estimate if length else None,
        seconds=dict(seconds),
        peak_memory_mb=measure_peak_memory(),
    )
    write_json(run / "summary.json", to_json(summary))
    started = time.monotonic()
    html, _ = write_report(run)
    took = round(time.monotonic() - started, 2)
    summary = replace(summary, seconds={**seconds, "report": took, "total": round(sum(seconds.values()) + took, 2)})
    write_json(run / "summary.json", to_json(summary))
    console.print(
        f"against the original model thinking{', at the threshold' if DIAL in changes else ''}: "
        f"accuracy {write_estimate(accuracy, 100, ' points', signed=True)}, "
        f"length {write_estimate(length, 100, '%', signed=True)}  "
        f"({summary.seconds['total']:.0f} s, {summary.peak_memory_mb:.0f} MB)"
    )
    console.print(f"summary {run / 'summary.json'}, report {html}, model {run / 'model'}")
    return summary


def calibrate_run(
    policy: Policy,
    engine: Engine,
    run: Path,
    problems: Sequence[Problem],
    evaluation: EvaluateConfig,
    tolerance_points: float,
) -> list[Outcome]:
    """Calibrate the dial of a run's model on the samples of its evaluation, on half of the problems.

    `policy` is the trained model in memory, and `engine` has its weights: neither is loaded a second time. Returns what
    the threshold answers the other half with, which had no part in choosing it; nothing where none could be certified.
    """
    folder, model = run / "evaluations" / "adaptthink", str(run / "model")
    dial = api.calibrate(
        replace(policy, name=model),
        problems,
        tolerance=tolerance_points,
        output=folder,
        engine=engine,
        callbacks=[Terminal()],
        config=evaluation.model_copy(update={"model": model}),
    )
    threshold = dial.threshold.no_think_probability
    if threshold is None:
        return []
    outcomes, decisions = read_outcomes(folder), read_decisions(folder)
    _, held_out = split_halves(measure(outcomes, decisions))
    ids = {problem.problem_id for problem in held_out}
    return [one for one in select_answers(outcomes, decisions, threshold) if one.problem_id in ids]


def compare_rows_of_run(run: Path, original: Mapping[str, str], dialled: Sequence[Outcome] = ()) -> dict[str, Change]:
    """Return each row of a run against the original model thinking, on the same problems: means over levels.

    `original` has the requested modes of the original model by row. `dialled` are the answers at the threshold, on some
    of the problems.
    """
    rows = {
        name: row
        for folder, requested in (("original", original), ("adaptthink", TRAINED))
        for name, row in zip(
            requested, read_rows([f"{run / 'evaluations' / folder}:{mode}" for mode in requested.values()]), strict=True
        )
    }
    base = rows.pop("original_think")
    levels = map_levels(base.outcomes)
    changes = {name: compare_scores(row.outcomes, base.outcomes, levels) for name, row in rows.items()}
    if dialled:
        ids = {one.problem_id for one in dialled}
        changes[DIAL] = compare_scores(dialled, [one for one in base.outcomes if one.problem_id in ids], levels)
    return changes


def measure_peak_memory() -> float:
    """Return the peak memory of this process, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)
