"""What the commands do: each job puts the rooms of the house together and says what it is doing.

Jobs own the run folder and the screen; the modules below them own neither.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from adaptthink.config import EvaluateConfig, PolicyConfig, PresampleConfig, TrainConfig
from adaptthink.engines.base import Engine
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import UserError
from adaptthink.evaluate import (
    ASKED_MODES,
    Evaluation,
    answer,
    delta_accuracy_points,
    delta_length_percent,
    no_think_probabilities,
    summarise,
    write_samples,
)
from adaptthink.grading import Limits, mean_reward
from adaptthink.models import Policy, load_policy, load_tokenizer
from adaptthink.modes import Check, describe, probe, prompt_ids
from adaptthink.phases import profile
from adaptthink.reference import Reference, presample
from adaptthink.rollout import Rollout, Sampler
from adaptthink.roofline import measure_machine
from adaptthink.runs import open_run, read_metrics, write_json
from adaptthink.screen import StepPrinter, console, progress_bar, show_checks, show_profile, show_table
from adaptthink.start import PROBE_QUESTION, make_engine
from adaptthink.tasks import Problem
from adaptthink.tasks.sources import Chosen, evaluation_problems, reading_of, training_problems
from adaptthink.train import train

ORIGINAL = {"original_think": "free", "original_no_think": "no_think"}  # the original model, left free, always thinks
TRAINED = {"adaptthink": "free", "adaptthink_think": "think", "adaptthink_no_think": "no_think"}


def make_sampler(policy: Policy, engine: Engine, config: PolicyConfig) -> Sampler:
    """Put an engine under a policy, with the config's way of grading."""
    return Sampler(engine, policy.tokenizer, policy.template, Limits(config.grading_seconds), config.boxed_only)


def sample_reference(
    policy: Policy, sampler: Sampler, problems: Sequence[Problem], config: PresampleConfig, path: Path
) -> dict[str, Reference]:
    """Pre-sample R̄_ref with a progress bar and say what came out."""
    label = f"reference: {config.reference_samples} free thoughts of each of {len(problems)} problems"
    with progress_bar(label, len(problems) * config.reference_samples) as advance:
        reference = presample(sampler, problems, config, fingerprint=policy.fingerprint, path=path, on_finish=advance)
    mean = mean_reward(verdict for row in reference.values() for verdict in row.verdicts)
    ungradable = [row.id for row in reference.values() if row.reward is None]
    if mean is None:
        raise UserError("no problem of this set has a gold that can be read; see: adaptthink data check")
    if ungradable:
        console.print(f"{len(ungradable)} problems skipped: their gold cannot be read")
    console.print(f"reference: mean reward {mean:.3f}, stored in {path}")
    return reference


def presample_job(config: PresampleConfig, output: Path) -> dict[str, Any]:
    """Pre-sample the reference of a problem set into `output`."""
    problems, _ = read_training_problems(config, held_out_per_level=1)
    policy = load_policy(config.model, think_opener=config.think_opener)
    sampler = make_sampler(policy, make_engine(policy, config), config)
    reference = sample_reference(policy, sampler, problems, config, output)
    rewards = [row.reward for row in reference.values() if row.reward is not None]
    skipped = len(reference) - len(rewards)
    return {"store": str(output), "problems": len(rewards), "skipped": skipped, "mean_reward": fmean(rewards)}


def train_job(
    config: TrainConfig, run: Path, *, reference_store: Path | None, resume: bool, clean: bool, profiled: bool = False
) -> dict[str, Any]:
    """Pre-sample what is missing, train, and leave the model in the run folder."""
    problems, held_out = load_training_problems(config)
    policy = load_policy(config.model, think_opener=config.think_opener)
    open_run(run, config.model_dump(mode="json"), resume=resume, clean=clean)
    sampler = make_sampler(policy, make_engine(policy, config), config)
    reference = sample_reference(policy, sampler, problems, config, reference_store or run / "reference.jsonl")
    seconds = train_and_save(policy, sampler, problems, reference, held_out, config, run, profiled=profiled)
    return {"model": str(run / "model"), "steps": config.steps, "seconds": seconds}


def load_training_problems(config: TrainConfig) -> tuple[list[Problem], list[Problem]]:
    """Return problems to train on and held-out ones."""
    return read_training_problems(config, held_out_per_level=config.probe_problems_per_level)


def read_training_problems(config: PresampleConfig, *, held_out_per_level: int) -> tuple[list[Problem], list[Problem]]:
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
    reference: dict[str, Reference],
    held_out: Sequence[Problem],
    config: TrainConfig,
    run: Path,
    *,
    profiled: bool,
) -> float:
    """Train `policy` in place, save it under `run`/model; return the seconds it took."""
    machine = measure_machine(policy.model.device, policy.model.dtype) if profiled else None
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
    policy.save(run / "model")
    if machine:
        phases = profile(read_metrics(run / "metrics.jsonl"))
        show_profile(phases, machine)
        lines = [asdict(phase) for phase in phases]
        write_json(run / "profile.json", {"machine": asdict(machine), "phases": lines})
    console.print(f"model saved in {run / 'model'}")
    return time.monotonic() - started


def evaluate_rows(
    sampler: Sampler,
    rows: dict[str, str],
    problems: Sequence[Problem],
    config: EvaluateConfig,
    samples_file: Path | None,
) -> dict[str, Evaluation]:
    """Answer all problems in each row's asked mode; `rows` maps a row's name to free, think or no_think."""
    probabilities = no_think_probabilities(sampler, problems, config.temperature)
    evaluations = {}
    for name, asked in rows.items():
        with progress_bar(f"evaluate: {name}", len(problems) * config.samples_per_problem) as advance:
            rollouts: list[Rollout] = answer(sampler, problems, ASKED_MODES[asked], config, on_finish=advance)
        evaluations[name] = summarise(rollouts)
        if samples_file:
            write_samples(samples_file, name, rollouts, probabilities)
    return evaluations


def evaluate_job(config: EvaluateConfig, modes: Sequence[str], samples_file: Path | None) -> dict[str, Any]:
    """Evaluate one model in the asked modes and print the table."""
    if samples_file and samples_file.exists():
        raise UserError(f"'{samples_file}' exists; give another --samples file")
    problems = load_evaluation_problems(config)
    policy = load_policy(config.model, think_opener=config.think_opener)
    sampler = make_sampler(policy, make_engine(policy, config), config)
    evaluations = evaluate_rows(sampler, {mode: mode for mode in modes}, problems, config, samples_file)
    show_table(evaluations)
    return {
        "model": config.model,
        "config": config.model_dump(mode="json"),
        "modes": {name: evaluation.to_json() for name, evaluation in evaluations.items()},
    }


def load_evaluation_problems(config: EvaluateConfig) -> list[Problem]:
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


def doctor_job(model: str, think_opener: str) -> dict[str, Any]:
    """Print how a model opens and closes a thought; then load it and look at its mode choice."""
    tokenizer = load_tokenizer(model)
    template = probe(tokenizer, think_opener=think_opener)
    checks = describe(tokenizer, template)
    policy = load_policy(model, think_opener=think_opener)
    engine = NativeEngine(policy.model, policy.eos_ids, max_rows=1)
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
        "think_opener_probability": math.exp(think),
    }


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
        policy = load_policy(config.model, think_opener=config.think_opener)
    open_run(run, config.model_dump(mode="json"), resume=resume, clean=clean)
    samples_file = run / "samples.jsonl"
    samples_file.unlink(missing_ok=True)
    with phase("reference"):
        engine = make_engine(policy, config)
        sampler, evaluation_sampler = (make_sampler(policy, engine, settings) for settings in (config, evaluation))
        reference = sample_reference(policy, sampler, problems, config, run / "reference.jsonl")
    with phase("evaluate_original"):
        rows = evaluate_rows(evaluation_sampler, ORIGINAL, fresh, evaluation, samples_file)
    with phase("train"):
        train_and_save(policy, sampler, problems, reference, held_out, config, run, profiled=profiled)
    with phase("evaluate_trained"):
        rows |= evaluate_rows(evaluation_sampler, TRAINED, fresh, evaluation, samples_file)
    show_table(rows)
    summary = {
        "seed": config.seed,
        "delta": config.delta,
        "objective": config.ratio,
        "model": config.model,
        "modes": {name: row.to_json() for name, row in rows.items()},
        "delta_accuracy_points": delta_accuracy_points(rows["adaptthink"], rows["original_think"]),
        "delta_length_percent": delta_length_percent(rows["adaptthink"], rows["original_think"]),
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
    }
    write_json(run / "summary.json", summary)
    with phase("report"):
        html, _ = write_report(run)
    seconds["total"] = round(sum(seconds.values()), 2)
    write_json(run / "summary.json", summary)
    console.print(
        f"against the original model thinking: accuracy {summary['delta_accuracy_points']:+.1f} points, "
        f"length {summary['delta_length_percent']:+.1f}%  "
        f"({seconds['total']:.0f} s, {summary['peak_memory_mb']:.0f} MB)"
    )
    console.print(f"summary {run / 'summary.json'}, report {html}, model {run / 'model'}")
    return summary


def peak_memory_mb() -> float:
    """The most memory this process has held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)
