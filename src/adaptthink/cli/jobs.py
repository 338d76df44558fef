"""What the commands do: call the library, and show what it reports and returns."""

from __future__ import annotations

import resource
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from adaptthink import api
from adaptthink.callbacks import Callback, Callbacks
from adaptthink.cli.compare import show_mode_choice, show_scores
from adaptthink.cli.console import Terminal, console, show_checks, show_profile, show_servers
from adaptthink.config.chat import ChatConfig
from adaptthink.config.schema import EngineConfig, EvaluateConfig, EvaluationConfig, ReferenceConfig, TrainConfig
from adaptthink.dial.curve import measure, select_answers
from adaptthink.dial.guarantee import split_halves
from adaptthink.engines.base import Engine
from adaptthink.engines.fleet import Fleet, Server
from adaptthink.errors import redact
from adaptthink.evaluation.compare import read_rows
from adaptthink.evaluation.formats import write_estimate
from adaptthink.evaluation.mode_choice import DELTA
from adaptthink.evaluation.scores import Change, Evaluation, compare_scores, map_levels, summarise
from adaptthink.evaluation.store import Outcome, read_decisions, read_outcomes, read_setting
from adaptthink.models.loading import Policy, freeze_date, load_configured, load_trainee
from adaptthink.problems import Problem
from adaptthink.sampling.engine import make_engine
from adaptthink.storage.records import to_json
from adaptthink.storage.runs import undo_failed_start, write_json
from adaptthink.training.data import prepare_problems, settle_reference
from adaptthink.training.dump import load_weights, read_dump, repeat
from adaptthink.training.reference import find_training_date
from adaptthink.training.train import TrainingData

ORIGINAL = {"original_think": "auto", "original_no_think": "no_think"}  # the original model always thinks by itself
DIAL = "adaptthink_dial"  # its row at a certified threshold
TOLERANCE_POINTS = 3.0  # of the dial: what half of a thousand problems can certify
TRAINED = {"adaptthink": "auto", "adaptthink_think": "think", "adaptthink_no_think": "no_think"}


def presample_job(config: ReferenceConfig, output: Path) -> dict[str, Any]:
    """Pre-sample into `output` the reference of the problems that a training uses, or of a whole set."""
    report = Callbacks([Terminal()])
    chosen = api.choose_presampled(config.problems, config, report)
    policy = load_configured(config, generation_only=True)
    with open_engine(policy, config) as engine:
        reference = api.presample_chosen(policy, chosen, config, output, report, engine=engine)
    rewards = array("d", (row.reward for row in reference.values() if row.reward is not None))
    verdicts = Counter(verdict for row in reference.values() for verdict in row.verdicts)
    return {
        "store": str(output),
        "problems": len(rewards),
        "skipped": len(reference) - len(rewards),
        "mean_reward": fmean(rewards),
        "verdicts": dict(verdicts),
        "servers": describe_servers(engine),
    }


@contextmanager
def open_engine(policy: Policy, config: EngineConfig) -> Iterator[Engine]:
    """Start the engine of a config; at the end, of a failed job too, print what each of its servers did."""
    engine = make_engine(policy, config, on_message=Callbacks([Terminal()]).on_message)
    try:
        yield engine
    finally:
        show_servers(list_servers(engine))


def list_servers(engine: Engine) -> list[Server]:
    """Return the servers of an engine that has some."""
    return engine.servers if isinstance(engine, Fleet) else []


def describe_servers(engine: Engine) -> list[dict[str, Any]]:
    """Return what each server did, for the result as JSON."""
    return [
        {
            "url": redact(server.url),
            "responses": server.responses,
            "tokens": server.tokens,
            "faults": server.faults,
            "unhealthy_seconds": round(server.unhealthy_seconds, 1),
        }
        for server in list_servers(engine)
    ]


def train_job(
    config: TrainConfig,
    run: Path,
    *,
    reference_store: Path | None,
    resume: bool,
    clean: bool,
    profiled: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Pre-sample what is missing, train, and leave the model in the run folder."""
    done = api.train(
        config.model,
        config.problems,
        reference_store,
        output=run,
        callbacks=[Terminal(config.steps), *callbacks],
        resume=resume,
        clean=clean,
        profile=profiled,
        config=config,
    )
    if done.profile:
        show_profile(done.profile)
    return {"model": str(run / "model"), "steps": config.steps, "seconds": done.seconds}


def evaluate_job(
    config: EvaluateConfig | ChatConfig,
    requested: Sequence[str],
    folder: Path,
    *,
    difficulty_from: Path | None = None,
    delta: float = DELTA,
) -> dict[str, Any]:
    """Evaluate one model in the requested modes, into `folder`, and print its scores and how it chooses."""
    if difficulty_from:
        read_setting(difficulty_from)  # refuse what is no evaluation before the model is loaded
    problems = load_evaluation_problems(config)
    servers: list[dict[str, Any]] = []
    options: dict[str, Any] = {
        "modes": requested, "output": folder, "difficulty": difficulty_from, "delta": delta,
        "callbacks": [Terminal()], "config": config,
    }  # fmt: skip
    if isinstance(config, ChatConfig):
        result = api.evaluate(config.model, problems, **options)
    else:
        policy = load_configured(config, generation_only=True)
        with open_engine(policy, config) as engine:
            result = api.evaluate(policy, problems, engine=engine, **options)
        servers = describe_servers(engine)
    show_scores(result.modes)
    show_mode_choice(result.mode_choice)
    show_advice(result.advice)
    console.print(f"samples, summary and quality in {folder}")
    return api.make_evaluation_summary(config, result.modes) | {"servers": servers}


def traces_job(config: EvaluateConfig | ChatConfig, output: Path, *, taught: bool) -> dict[str, Any]:
    """Write the problems' own solutions as traces, or if it is `taught` the correct responses of the config's model."""
    options: dict[str, Any] = {"output": output, "callbacks": [Terminal()], "config": config}
    servers: list[dict[str, Any]] = []
    if not taught or isinstance(config, ChatConfig):
        made = api.make_traces(config.problems, teacher=config.model if taught else None, **options)
    else:
        policy = load_configured(config, generation_only=True)
        with open_engine(policy, config) as engine:
            made = api.make_traces(config.problems, teacher=policy, engine=engine, **options)
        servers = describe_servers(engine)
    return {"output": str(output), "traces": len(made), "servers": servers}


def show_advice(lines: Iterable[str]) -> None:
    """Print what keeps responses from being correct, where one verdict dominates."""
    for line in lines:
        console.print(line, style="bold", markup=False, soft_wrap=True)


def load_evaluation_problems(config: EvaluationConfig) -> Sequence[Problem]:
    """Return the problems of an evaluation; print what a user should know of them."""
    chosen = api.read_evaluation_problems(config)
    api.report_notes(chosen.notes, Callbacks([Terminal()]))
    return chosen.problems


def doctor_job(model: str, think_start: str) -> dict[str, Any]:
    """Print how a model opens and closes its thinking, and what it would choose."""
    diagnosis = api.doctor(model, think_start=think_start)
    show_checks(f"{model}: {'ready' if diagnosis.ok else 'not ready'}", diagnosis.checks)
    return {
        "model": model,
        "ok": diagnosis.ok,
        "checks": [{"name": check.name, "value": check.value, "ok": check.ok} for check in diagnosis.checks],
        "no_think_probability": diagnosis.no_think_probability,
        "think_start_probability": diagnosis.think_start_probability,
    }


def demo_job(
    config: TrainConfig, evaluation: EvaluateConfig, run: Path, *, resume: bool, clean: bool, profiled: bool = False
) -> dict[str, Any]:
    """The main job: reference, original model, training, trained model, dial, report. Returns the summary."""
    seconds: dict[str, float] = {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - started, 2)

    report = Callbacks([Terminal(config.steps)])
    with phase("load"):
        chosen = prepare_problems(config.problems, None, config)
        api.report_notes(chosen.notes, report)
        fresh = load_evaluation_problems(evaluation)
        policy = load_trainee(config, generation_first=True)
    policy, config = freeze_date(policy, config, find_training_date(run, None, resume=resume))
    policy, evaluation = freeze_date(policy, evaluation, config.prompt_date)
    beyond = api.check_prompts(policy, chain(chosen.problems, chosen.held_out), config)
    api.open_training(run, config, policy, chosen, resume=resume, clean=clean)
    api.report_notes(beyond, report)
    store = run / "reference.jsonl"
    with undo_failed_start(run, store):
        engine = make_engine(policy, config)
        sampler, evaluation_sampler = (api.make_sampler(policy, one, engine=engine) for one in (config, evaluation))
        with phase("reference"):
            sample = partial(api.sample_reference, policy, sampler, config=config, store=store, report=report)
            problems, reference = settle_reference(chosen.problems, config, sample)

    def evaluate(model: Policy, rows: dict[str, str], name: str) -> dict[str, Evaluation]:
        folder, modes = run / "evaluations" / name, list(rows.values())
        found = api.evaluate_policy(model, evaluation_sampler, fresh, modes, evaluation, folder, report)
        return {row: found[requested] for row, requested in rows.items()}

    with phase("evaluate_original"):
        rows = evaluate(policy, ORIGINAL, "original")
    with phase("train"):
        data = TrainingData(problems, reference, chosen.held_out)
        done = api.train_and_save(policy, sampler, data, config, run, report, profile=profiled)
    if done.profile:
        show_profile(done.profile)
    with phase("evaluate_trained"):
        rows |= evaluate(done.model, TRAINED, "adaptthink")
    with phase("calibrate"):
        dialled = calibrate_run(run, fresh, evaluation)
    if dialled:
        rows[DIAL] = summarise(dialled)
    show_scores(rows)
    for requested in (ORIGINAL, TRAINED):
        show_advice(api.advise_on_modes(evaluation, {mode: rows[name] for name, mode in requested.items()}))
    return conclude(run, config, rows, dialled, seconds)


def conclude(
    run: Path,
    config: TrainConfig,
    rows: Mapping[str, Evaluation],
    dialled: Sequence[Outcome],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Write a run's summary and report, and print how its model differs from the original one."""
    from adaptthink.report import write_report  # noqa: PLC0415  (matplotlib takes a second to import)

    changes = compare_rows_of_run(run, dialled)
    trained = changes.get(DIAL, changes["adaptthink"])
    accuracy, length = trained.accuracy.interval, trained.tokens.interval if trained.tokens else None
    summary = {
        "seed": config.seed,
        "delta": config.delta,
        "method": config.method,
        "model": config.model,
        "modes": to_json(rows),
        "changes": to_json(changes),
        "delta_accuracy_points": 100 * accuracy.estimate,
        "delta_length_percent": 100 * length.estimate if length else None,
        "seconds": seconds,
        "peak_memory_mb": measure_peak_memory(),
    }
    write_json(run / "summary.json", summary)
    started = time.monotonic()
    html, _ = write_report(run)
    seconds["report"] = round(time.monotonic() - started, 2)
    seconds["total"] = round(sum(seconds.values()), 2)
    write_json(run / "summary.json", summary)
    console.print(
        f"against the original model thinking{', at the threshold' if dialled else ''}: "
        f"accuracy {write_estimate(accuracy, 100, ' points', signed=True)}, "
        f"length {write_estimate(length, 100, '%', signed=True)}  "
        f"({seconds['total']:.0f} s, {summary['peak_memory_mb']:.0f} MB)"
    )
    console.print(f"summary {run / 'summary.json'}, report {html}, model {run / 'model'}")
    return summary


def calibrate_run(run: Path, problems: Sequence[Problem], evaluation: EvaluateConfig) -> list[Outcome]:
    """Calibrate the dial of a run's model on the samples of its evaluation, on half of the problems.

    Returns what its threshold answers the other half with, which had no part in choosing it; nothing where none could
    be certified.
    """
    folder, config = run / "evaluations" / "adaptthink", evaluation.model_copy(update={"model": str(run / "model")})
    dial = api.calibrate(
        run / "model", problems, tolerance=TOLERANCE_POINTS, output=folder, callbacks=[Terminal()], config=config
    )
    threshold = dial.threshold.no_think_probability
    if threshold is None:
        return []
    outcomes, decisions = read_outcomes(folder), read_decisions(folder)
    _, held_out = split_halves(measure(outcomes, decisions))
    ids = {problem.problem_id for problem in held_out}
    return [one for one in select_answers(outcomes, decisions, threshold) if one.problem_id in ids]


def compare_rows_of_run(run: Path, dialled: Sequence[Outcome] = ()) -> dict[str, Change]:
    """Return each row of a run against the original model thinking, on the same problems: means over levels.

    `dialled` are the answers at the threshold, on some of the problems.
    """
    rows = {
        name: row
        for folder, requested in (("original", ORIGINAL), ("adaptthink", TRAINED))
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


def replay_job(folder: Path) -> dict[str, Any]:
    """Repeat a skipped step, each response alone; print which of them has a loss or gradient that is not finite."""
    dump = read_dump(folder)
    policy = load_trainee(dump.config)
    load_weights(folder, policy.model)
    found = repeat(policy.model, dump)
    faulty = [one for one in found if not one.finite]
    console.print(f"step {dump.step}: {len(found)} responses; {dump.reason}", markup=False, soft_wrap=True)
    for one in faulty:
        line = f"  row {one.row} ({one.mode}, {one.tokens} tokens, problem {one.problem_id})"
        console.print(f"{line}: loss {one.loss:g}, gradient norm {one.grad_norm:g}", markup=False, soft_wrap=True)
    weights = all(bool(one.isfinite().all()) for one in policy.model.parameters())
    last = f"{len(faulty)} of {len(found)} responses are not finite by themselves" if faulty else "each is finite alone"
    console.print(f"{last}; the weights are {'finite' if weights else 'not finite'}", markup=False)
    rows = [to_json(one) for one in found]
    return {"step": dump.step, "reason": dump.reason, "weights_finite": weights, "responses": rows}
