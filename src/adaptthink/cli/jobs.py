"""What the commands do: call the library, and show what it reports and returns."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from adaptthink import api
from adaptthink.callbacks import Callback, Callbacks
from adaptthink.cli.compare import show_mode_choice, show_scores
from adaptthink.cli.console import Terminal, console, show_checks, show_profile, show_servers
from adaptthink.config.chat import ChatConfig
from adaptthink.config.schema import (
    EngineConfig,
    EvaluateConfig,
    EvaluationConfig,
    ReferenceConfig,
    SftConfig,
    TrainConfig,
)
from adaptthink.engines.base import Engine
from adaptthink.engines.fleet import Fleet, Server
from adaptthink.errors import redact
from adaptthink.evaluation.mode_choice import DELTA
from adaptthink.evaluation.store import read_setting
from adaptthink.models.loading import Policy, load_configured, load_trainee
from adaptthink.problems import Problem
from adaptthink.sampling.engine import make_engine
from adaptthink.storage.records import to_json
from adaptthink.training.dump import load_weights, read_dump, repeat


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
    report_training(run)
    return {"model": str(run / "model"), "steps": config.steps, "seconds": done.seconds}


def report_training(run: Path) -> None:
    """Write the report of a training, whose model nothing has evaluated yet, and say where it is."""
    from adaptthink.report import write_report  # noqa: PLC0415  (matplotlib takes a second to import)

    html, _ = write_report(run)
    console.print(f"report {html}", markup=False, soft_wrap=True)


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


def sft_job(
    config: SftConfig, traces: Path, run: Path, *, resume: bool, clean: bool, callbacks: Sequence[Callback] = ()
) -> dict[str, Any]:
    """Give a model its cold start, and leave it in the run folder."""
    done = api.sft(
        config.model,
        traces,
        output=run,
        callbacks=[Terminal(config.steps), *callbacks],
        resume=resume,
        clean=clean,
        config=config,
    )
    return {"model": str(run / "model"), "steps": config.steps, "seconds": done.seconds} | done.metrics[-1]


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
