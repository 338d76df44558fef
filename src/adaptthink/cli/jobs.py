"""What the commands do: each job puts the rooms of the house together and says what it is doing.

Jobs own the run folder and the screen; the modules below them own neither.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from adaptthink import __version__
from adaptthink.chat.base import Switch, cost
from adaptthink.cli.compare import mode_choice_job, show_scores
from adaptthink.cli.console import (
    Price,
    StepPrinter,
    console,
    counter,
    progress_bar,
    sample_bar,
    show_checks,
    show_profile,
    show_servers,
)
from adaptthink.config.schema import EvaluateConfig, PolicyConfig, PresampleConfig, TrainConfig
from adaptthink.engines.base import Engine
from adaptthink.engines.fleet import Fleet, Server
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import UserError
from adaptthink.evaluation.compare import read_rows
from adaptthink.evaluation.formats import write_estimate
from adaptthink.evaluation.mode_choice import DELTA
from adaptthink.evaluation.records import to_json
from adaptthink.evaluation.run import (
    Respond,
    chat_respond,
    chat_setting,
    decide_missing,
    make_endpoint,
    policy_respond,
    policy_setting,
    sample_missing,
)
from adaptthink.evaluation.scores import Change, Evaluation, compare_scores, map_levels, summarise
from adaptthink.evaluation.store import (
    REQUESTED_MODES,
    Setting,
    grade_folder,
    read_outcomes,
    read_samples,
    read_setting,
    writing,
)
from adaptthink.grading import Limits, mean_reward
from adaptthink.models.card import write_card
from adaptthink.models.loading import (
    Policy,
    arithmetic_dtype,
    load_configured,
    load_policy,
    load_tokenizer,
    load_trainee,
)
from adaptthink.modes import Check, describe, probe, prompt_ids
from adaptthink.planning.roofline import measure_machine
from adaptthink.problems import Problem
from adaptthink.problems.sources import Chosen, evaluation_problems, reading_of, training_problems
from adaptthink.sampling.engine import PROBE_QUESTION, make_engine
from adaptthink.sampling.sampler import Sampler
from adaptthink.storage.runs import check_store_outside, open_run, read_metrics, write_json
from adaptthink.timing import profile
from adaptthink.training.reference import Reference, References, presample
from adaptthink.training.train import train

ORIGINAL = {"original_think": "auto", "original_no_think": "no_think"}  # the original model, left to itself, thinks
TRAINED = {"adaptthink": "auto", "adaptthink_think": "think", "adaptthink_no_think": "no_think"}


def make_sampler(policy: Policy, engine: Engine, config: PolicyConfig) -> Sampler:
    """Put an engine under a policy, with the config's way of grading."""
    return Sampler(engine, policy.tokenizer, policy.template, Limits(config.grading_seconds), config.boxed_only)


def sample_reference(
    policy: Policy, sampler: Sampler, problems: Sequence[Problem], config: PresampleConfig, path: Path
) -> References:
    """Pre-sample R̄_ref with a progress bar and say what came out."""
    label = f"reference: {config.reference_samples} free thoughts of each of {len(problems)} problems"
    with progress_bar(label, len(problems) * config.reference_samples) as advance:
        reference = presample(sampler, problems, config, fingerprint=policy.fingerprint, path=path, on_finish=advance)
    mean = mean_reward(verdict for row in reference.values() for verdict in row.verdicts)
    num_ungradable = sum(row.reward is None for row in reference.values())
    if mean is None:
        raise UserError("no problem of this set has a gold that can be read; see: adaptthink data check")
    if num_ungradable:
        console.print(f"{num_ungradable} problems skipped: their gold cannot be read")
    console.print(f"reference: mean reward {mean:.3f}, stored in {path}")
    return reference


def presample_job(config: PresampleConfig, output: Path) -> dict[str, Any]:
    """Pre-sample the reference of a problem set into `output`."""
    problems, _ = read_training_problems(config, held_out_per_level=1)
    policy = load_configured(config)
    engine = make_engine(policy, config, say=console.print)
    try:
        reference = sample_reference(policy, make_sampler(policy, engine, config), problems, config, output)
    finally:
        show_servers(servers_of(engine))
    rewards = array("d", (row.reward for row in reference.values() if row.reward is not None))
    skipped = len(reference) - len(rewards)
    return {
        "store": str(output),
        "problems": len(rewards),
        "skipped": skipped,
        "mean_reward": fmean(rewards),
        "servers": servers_record(servers_of(engine)),
    }


def servers_of(engine: Engine) -> list[Server]:
    """The servers of an engine that has some, with what each did."""
    return engine.servers if isinstance(engine, Fleet) else []


def servers_record(servers: Sequence[Server]) -> list[dict[str, Any]]:
    """What each server did, for the result as JSON."""
    return [
        {
            "url": server.url,
            "responses": server.responses,
            "tokens": server.tokens,
            "faults": server.faults,
            "aside_seconds": round(server.seconds_aside, 1),
        }
        for server in servers
    ]


def train_job(
    config: TrainConfig, run: Path, *, reference_store: Path | None, resume: bool, clean: bool, profiled: bool = False
) -> dict[str, Any]:
    """Pre-sample what is missing, train, and leave the model in the run folder."""
    check_store_outside(reference_store, run, clean=clean)
    problems, held_out = load_training_problems(config)
    policy = load_trainee(config)
    open_run(run, config.model_dump(mode="json"), resume=resume, clean=clean)
    sampler = make_sampler(policy, make_engine(policy, config), config)
    reference = sample_reference(policy, sampler, problems, config, reference_store or run / "reference.jsonl")
    seconds = train_and_save(policy, sampler, problems, reference, held_out, config, run, profiled=profiled)
    return {"model": str(run / "model"), "steps": config.steps, "seconds": seconds}


def load_training_problems(config: TrainConfig) -> tuple[Sequence[Problem], list[Problem]]:
    """Return problems to train on and held-out ones; raises UserError if they are too few for a step."""
    problems, held_out = read_training_problems(config, held_out_per_level=config.probe_problems_per_level)
    if len(problems) < config.problems_per_step:
        raise UserError(
            f"problems_per_step = {config.problems_per_step}, but there are {len(problems)} problems to train on, and "
            "one drawn twice in a step would get the same responses twice; "
            f"use {len(problems)} a step at most, or more problems"
        )
    return problems, held_out


def read_training_problems(
    config: PresampleConfig, *, held_out_per_level: int
) -> tuple[Sequence[Problem], list[Problem]]:
    """Return problems to train on and held-out ones; say how many were left out."""
    chosen = training_problems(
        config.problems,
        per_level=config.problems_per_level,
        held_out_per_level=held_out_per_level,
        seed=config.seed,
        reading=reading_of(config),
    )
    say_skipped(chosen)
    return chosen.problems, chosen.held_out


def say_skipped(chosen: Chosen) -> None:
    """Say how many problems were left out, if any were."""
    if chosen.num_unreadable:
        console.print(f"{chosen.num_unreadable} problems skipped: their gold cannot be read")


def train_and_save(
    policy: Policy,
    sampler: Sampler,
    problems: Sequence[Problem],
    reference: Mapping[str, Reference],
    held_out: Sequence[Problem],
    config: TrainConfig,
    run: Path,
    *,
    profiled: bool,
) -> float:
    """Train `policy` in place, save it under `run`; return the seconds it took."""
    machine = measure_machine(policy.model.device, arithmetic_dtype(policy.model, config)) if profiled else None
    sampler.clock.take()  # what came before the training
    started = time.monotonic()
    console.print(
        f"training: {config.steps} steps of {config.problems_per_step} problems x {config.samples_per_problem} "
        f"responses, delta {config.delta}, ratio {config.ratio}, no_think share {config.no_think_share}"
    )
    printer = StepPrinter(config.steps)
    train(
        policy,
        sampler,
        problems,
        reference,
        held_out,
        config,
        run,
        on_step=printer.show,
        warn=console.print,
        machine=machine,
    )
    save(policy, config, run)
    if machine:
        phases = profile(read_metrics(run / "metrics.jsonl"))
        show_profile(phases, machine)
        lines = [asdict(phase) for phase in phases]
        write_json(run / "profile.json", {"machine": asdict(machine), "phases": lines})
    return time.monotonic() - started


def save(policy: Policy, config: TrainConfig, run: Path) -> None:
    """Leave the trained model in `run`/model, and an adapter by itself in `run`/adapter, each with its card."""
    backend = f"native, adaptthink {__version__}"
    policy.save(run / "model")
    write_card(run / "model", config, backend=backend)
    if policy.adapter:
        policy.adapter.save_pretrained(str(run / "adapter"))
        write_card(run / "adapter", config, backend=backend)
        console.print(f"adapter saved in {run / 'adapter'}")
    console.print(f"model saved in {run / 'model'}")


def evaluate_policy(
    policy: Policy,
    sampler: Sampler,
    problems: Sequence[Problem],
    requested: Sequence[str],
    config: EvaluateConfig,
    folder: Path,
) -> dict[str, Evaluation]:
    """Complete the evaluation in `folder` and summarise it: one row for each asked mode."""
    setting = policy_setting(config.model, policy.fingerprint, config)
    with writing(folder, setting):
        sample_into(folder, policy_respond(sampler, config), setting, problems, requested, config)
        decide_missing(sampler, folder, problems)
        return summarise_folder(folder, problems, requested, config)


def evaluate_chat(
    problems: Sequence[Problem], requested: Sequence[str], config: EvaluateConfig, folder: Path
) -> dict[str, Evaluation]:
    """Complete the evaluation of a model behind a chat endpoint; it shows no probabilities."""
    endpoint = make_endpoint(config)
    if endpoint.switch is Switch.NONE and (left_out := [mode for mode in requested if REQUESTED_MODES[mode]]):
        requested = [mode for mode in requested if REQUESTED_MODES[mode] is None]
        console.print(f"{' and '.join(left_out)} left out: no --switch says how this endpoint is told a mode")
        if not requested:
            raise UserError(
                "nothing is left to ask; give the --switch that the endpoint's models know, or --modes auto"
            )
    price, setting = partial(cost, prices=endpoint.prices), chat_setting(endpoint, config)
    with writing(folder, setting):
        sample_into(folder, chat_respond(endpoint, config), setting, problems, requested, config, price)
        samples = list(read_samples(folder))
        prices = [price(sample) for sample in samples]
        known = [one for one in prices if one is not None]
        if known:
            unknown = len(samples) - len(known)
            console.print(f"cost of all samples in {folder}: {sum(known):.2f}, of {unknown} not known")
        if any(sample.tokens_estimated for sample in samples):
            console.print("lengths are estimates, one token for every four characters: the endpoint counts none")
        return summarise_folder(folder, problems, requested, config)


def sample_into(
    folder: Path,
    respond: Respond,
    setting: Setting,
    problems: Sequence[Problem],
    requested: Sequence[str],
    config: EvaluateConfig,
    price: Price = lambda sample: None,
) -> None:
    """Draw what `folder` lacks, and show how it goes."""
    count = config.samples_per_problem
    console.print(
        f"evaluate: {len(problems)} problems x {count} responses in each of {', '.join(requested)}; into {folder}"
    )
    with sample_bar("responses", len(problems) * len(requested) * count, price) as advance:
        sample_missing(respond, folder, setting, problems, requested, count, on_sample=advance)


def summarise_folder(
    folder: Path, problems: Sequence[Problem], requested: Sequence[str], config: EvaluateConfig
) -> dict[str, Evaluation]:
    """Grade what is not graded and summarise what was asked for, of all that the folder may hold.

    `summary.json` says what the folder holds on these problems in the other modes too.
    """
    with counter("answers graded") as graded:
        grade_folder(folder, boxed_only=config.boxed_only, limits=Limits(config.grading_seconds), on_grade=graded)
    wanted = {problem.id for problem in problems}
    outcomes = [
        one for one in read_outcomes(folder) if one.problem_id in wanted and one.index < config.samples_per_problem
    ]
    held = {one.requested for one in outcomes}
    evaluations = {
        mode: summarise(one for one in outcomes if one.requested == mode) for mode in REQUESTED_MODES if mode in held
    }
    write_json(folder / "summary.json", evaluation_summary(config, evaluations))
    return {mode: evaluations[mode] for mode in requested}


def evaluation_summary(config: EvaluateConfig, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
    """What `summary.json` of an evaluation folder says."""
    return {
        "model": config.model,
        "config": config.model_dump(mode="json"),
        "modes": to_json(evaluations),
    }


def evaluate_job(
    config: EvaluateConfig,
    requested: Sequence[str],
    folder: Path,
    *,
    reference: Path | None = None,
    delta: float = DELTA,
) -> dict[str, Any]:
    """Evaluate one model in the asked modes, into `folder`, and print its scores and how it chooses."""
    if reference:
        read_setting(reference)  # refuse what is no evaluation before the work, not after it
    problems = load_evaluation_problems(config)
    convention = None
    servers: list[Server] = []
    if config.chat:
        evaluations = evaluate_chat(problems, requested, config, folder)
    else:
        policy = load_configured(config)
        engine = make_engine(policy, config, say=console.print)
        sampler, servers = make_sampler(policy, engine, config), servers_of(engine)
        try:
            evaluations = evaluate_policy(policy, sampler, problems, requested, config, folder)
        finally:
            show_servers(servers)
        convention = sampler.template.convention
    show_scores(evaluations)
    mode_choice_job(folder, convention, reference=reference, delta=delta)
    console.print(f"samples, summary and quality in {folder}")
    return evaluation_summary(config, evaluations) | {"servers": servers_record(servers)}


def load_evaluation_problems(config: EvaluateConfig) -> Sequence[Problem]:
    """Return the problems of an evaluation; say how many were left out."""
    chosen = evaluation_problems(
        config.problems,
        per_level=config.problems_per_level,
        seed=config.seed,
        kind=config.kind,
        reading=reading_of(config),
    )
    say_skipped(chosen)
    return chosen.problems


def doctor_job(model: str, think_start: str) -> dict[str, Any]:
    """Print how a model opens and closes a thought; then load it and look at its mode choice."""
    tokenizer = load_tokenizer(model)
    template = probe(tokenizer, think_start=think_start)
    checks = describe(tokenizer, template)
    policy = load_policy(model, think_start=think_start)
    engine = NativeEngine(policy.model, policy.eos_ids, max_concurrent_sequences=1)
    prompt = prompt_ids(tokenizer, template, PROBE_QUESTION)
    ids = (template.no_think_id, template.think_id)
    no_think, think = engine.next_token_logprobs([prompt], ids)[0]
    measured = (
        f"{math.exp(no_think):.2e} for no_think, {math.exp(think):.2e} for the think opener, on {PROBE_QUESTION!r}"
    )
    checks = [*checks, Check("first token", measured, True)]
    ok = all(check.ok for check in checks)
    show_checks(f"{model}: {'ready' if ok else 'not ready'}", checks)
    return {
        "model": model,
        "ok": ok,
        "checks": [{"name": check.name, "value": check.value, "ok": check.ok} for check in checks],
        "no_think_probability": math.exp(no_think),
        "think_start_probability": math.exp(think),
    }


def evaluate_rows(
    policy: Policy,
    sampler: Sampler,
    rows: dict[str, str],
    problems: Sequence[Problem],
    config: EvaluateConfig,
    folder: Path,
) -> dict[str, Evaluation]:
    """Evaluate with names of the rows' own; `rows` maps them to auto, think or no_think."""
    evaluations = evaluate_policy(policy, sampler, problems, list(rows.values()), config, folder)
    return {name: evaluations[requested] for name, requested in rows.items()}


def demo_job(
    config: TrainConfig, evaluation: EvaluateConfig, run: Path, *, resume: bool, clean: bool, profiled: bool = False
) -> dict[str, Any]:
    """The main job: reference, original model, training, trained model, summary, report. Returns the summary."""
    from adaptthink.report import write_report  # noqa: PLC0415  (matplotlib takes a second to import)

    seconds: dict[str, float] = {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - started, 2)

    with phase("load"):
        problems, held_out = load_training_problems(config)
        fresh = load_evaluation_problems(evaluation)
        policy = load_trainee(config)
    open_run(run, config.model_dump(mode="json"), resume=resume, clean=clean)
    with phase("reference"):
        engine = make_engine(policy, config)
        sampler, evaluation_sampler = (make_sampler(policy, engine, settings) for settings in (config, evaluation))
        reference = sample_reference(policy, sampler, problems, config, run / "reference.jsonl")
    with phase("evaluate_original"):
        rows = evaluate_rows(policy, evaluation_sampler, ORIGINAL, fresh, evaluation, run / "evaluations" / "original")
    with phase("train"):
        train_and_save(policy, sampler, problems, reference, held_out, config, run, profiled=profiled)
    with phase("evaluate_trained"):
        rows |= evaluate_rows(
            policy, evaluation_sampler, TRAINED, fresh, evaluation, run / "evaluations" / "adaptthink"
        )
    show_scores(rows)
    changes = compare_rows_of_run(run)
    trained = changes["adaptthink"]
    accuracy, length = trained.accuracy.interval, trained.tokens.interval if trained.tokens else None
    summary = {
        "seed": config.seed,
        "delta": config.delta,
        "objective": config.ratio,
        "model": config.model,
        "modes": to_json(rows),
        "changes": to_json(changes),
        "delta_accuracy_points": 100 * accuracy.estimate,
        "delta_length_percent": 100 * length.estimate if length else None,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
    }
    write_json(run / "summary.json", summary)
    with phase("report"):
        html, _ = write_report(run)
    seconds["total"] = round(sum(seconds.values()), 2)
    write_json(run / "summary.json", summary)
    console.print(
        f"against the original model thinking: accuracy {write_estimate(accuracy, 100, ' points', signed=True)}, "
        f"length {write_estimate(length, 100, '%', signed=True)}  "
        f"({seconds['total']:.0f} s, {summary['peak_memory_mb']:.0f} MB)"
    )
    console.print(f"summary {run / 'summary.json'}, report {html}, model {run / 'model'}")
    return summary


def compare_rows_of_run(run: Path) -> dict[str, Change]:
    """Each row of a run against the original model thinking, on the same problems: means over levels."""
    rows = {
        name: row
        for folder, requested in (("original", ORIGINAL), ("adaptthink", TRAINED))
        for name, row in zip(
            requested, read_rows([f"{run / 'evaluations' / folder}:{mode}" for mode in requested.values()]), strict=True
        )
    }
    base = rows.pop("original_think")
    levels = map_levels(base.outcomes)
    return {name: compare_scores(row.outcomes, base.outcomes, levels) for name, row in rows.items()}


def peak_memory_mb() -> float:
    """The most memory this process has held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)
