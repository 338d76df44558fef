"""The training loop. One step: rollouts → advantages → update. Read `rollout.py`, `update.py`, `objective.py` next.

Left out, because the paper's method does not have them: value network, KL penalty, entropy bonus, reward model,
group statistics. Everything random follows from (seed, step), so the loop carries no random state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptthink.callbacks import Progress, make_counter
from adaptthink.config.schema import TrainConfig
from adaptthink.engines.base import Engine, NonFiniteError, TrainingEngine
from adaptthink.errors import DivergedError, UserError
from adaptthink.grading import Verdict
from adaptthink.models.loading import Policy, make_trainable
from adaptthink.problems import Problem
from adaptthink.sampling.sampler import OnFinished, Rollout, Sampler
from adaptthink.storage.runs import MetricsLog, read_metrics
from adaptthink.timing import Clock
from adaptthink.training.alarms import check_idle, find_alarms
from adaptthink.training.allocation import Allocation, restore_statistics
from adaptthink.training.checkpoint import Checkpoints, find_checkpoint, load_checkpoint, read_metrics_digests
from adaptthink.training.credit import Credit, count_update_tokens
from adaptthink.training.data import choose_problems, select_gradable
from adaptthink.training.describe import Roofline, describe_step, probe
from adaptthink.training.dump import Skipping
from adaptthink.training.initial import keep_initial
from adaptthink.training.methods import credit_rollouts, load_method
from adaptthink.training.metrics import GRADED_STEPS, Metrics, check_grading, is_probe_due
from adaptthink.training.mismatch import pass_weights
from adaptthink.training.reference import Reference
from adaptthink.training.replay import open_stored, replay
from adaptthink.training.rollout import collect
from adaptthink.training.rows import is_probed, list_begun
from adaptthink.training.update import apply_gradient, make_optimizer


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Problems to train on, the reference of those that the steps use, and problems that are only measured."""

    problems: Sequence[Problem]
    reference: Mapping[str, Reference]
    held_out: Sequence[Problem]


@dataclass(frozen=True, slots=True)
class Reporting:
    """Callbacks of a training; with a `roofline`, metrics include the seconds that it allows."""

    on_step: Callable[[Metrics], None]
    warn: Callable[[str], None]
    roofline: Roofline | None = None
    on_progress: Callable[[Progress], None] = lambda progress: None


Sample = Callable[[Policy, int], list[Rollout]]  # the rollouts of a step, counted from 1


def train(
    policy: Policy, sampler: Sampler, data: TrainingData, config: TrainConfig, run: Path, reporting: Reporting
) -> Policy:
    """Train `policy.model` in place for `config.steps` steps, from the newest checkpoint in `run` if there is one.

    Returns the policy, as transformers' own model. Raises UserError if grading fails too often, DivergedError if loss,
    gradient or logits are not finite; the last checkpoint stays. An Interruption first saves one of the last step.
    """
    engine, clock, folder = require_training_engine(sampler.engine), sampler.clock, run / "checkpoints"
    method = load_method(config.method)
    done, log, rows, allocation = open_run(run, folder, data, config, reporting.warn)
    sample = prepare_sampling(sampler, data, allocation, config, reporting)
    if not done and not method.from_store:
        sample = sample_first(sample, policy, engine, clock)
    policy = make_trainable(policy)
    initial, optimizer = keep_initial(policy) if method.initial_modes else None, make_optimizer(policy.model, config)
    if done:
        load_checkpoint(folder, done, policy.model, optimizer)
        engine.load_weights(policy.plain())
        complete_step(sampler, data.held_out, log, rows, config)
    checkpoints = Checkpoints(folder, policy.model, optimizer, log, config.keep_checkpoints, done)
    skipping = Skipping(run / "skipped", config.max_skipped_steps, reporting.warn)
    with closing(log), checkpoints.save_when_interrupted(), report_divergence(checkpoints):
        for step in range(done + 1, config.steps + 1):
            with clock.phase("rollout"):  # y ~ π_IS, Eq. 7
                rollouts = sample(policy, step)
                rollouts = initial.score(rollouts, method.initial_modes, config) if initial else rollouts
            credits = credit_rollouts(rollouts, data.reference, config, step)  # A(x, y), Eq. 5
            with clock.phase("update"):  # L(θ), Eq. 8-9
                count = count_updates(reporting, rollouts, credits, config, step)
                metrics = skipping.compute_gradient(policy.model, rollouts, credits, config, step, count)
            with checkpoints.change_weights(step):
                with clock.phase("update"):
                    apply_gradient(optimizer, config, step)
                with clock.phase("load_weights"):  # π_θold of the next step
                    metrics |= pass_weights(engine, policy, sampler.encode_prompt(data.held_out[0]), config)
                metrics |= describe_step(rollouts, credits, step, reporting.roofline) | clock.take()
                rows.append(metrics | {"strata": allocation.learn(rollouts, [credit.body for credit in credits])})
                log.write(note_alarms(rows, config))
            complete_step(sampler, data.held_out, log, rows, config)
            report_step(reporting, rows, config)
            with clock.phase("checkpoint"):
                checkpoints.save_if_due(config.checkpoint_every, config.steps, reporting.warn)
    return policy


def open_run(
    run: Path, folder: Path, data: TrainingData, config: TrainConfig, warn: Callable[[str], None]
) -> tuple[int, MetricsLog, list[Metrics], Allocation]:
    """Return the step of the newest checkpoint in `folder` (0: none), the log up to it, its rows, and what they taught.

    Raises UserError if a row is not the one that the checkpoint was saved with.
    """
    done = find_checkpoint(folder, warn=warn)
    log = MetricsLog(run / "metrics.jsonl", keep_steps=done)
    rows = read_metrics(run / "metrics.jsonl")
    allocation = Allocation(config.token_share, data.reference, restore_statistics(rows))
    log.check(read_metrics_digests(folder, done))
    return done, log, rows, allocation


def prepare_sampling(
    sampler: Sampler, data: TrainingData, allocation: Allocation, config: TrainConfig, reporting: Reporting
) -> Sample:
    """Return the function that samples a step's rollouts, or replays stored ones for an offline method.

    Problems that cannot be graded are left out. The function raises UserError if grading failed too often in the last
    steps.
    """
    problems, recent = select_gradable(data.problems, data.reference), deque[list[Verdict]](maxlen=GRADED_STEPS)
    stored = open_stored(data.reference, config) if load_method(config.method).from_store else None

    def sample(policy: Policy, step: int) -> list[Rollout]:
        chosen = choose_problems(problems, config.problems_per_step, config.seed, step)
        if stored is not None:
            rollouts = replay(policy, sampler, stored, chosen, config)
        else:
            on_finish = count_rollouts(reporting, config, step)
            rollouts = collect(sampler, chosen, config, step, allocation.plan(step), on_finish=on_finish)
        recent.append([rollout.verdict for rollout in rollouts])
        check_grading(recent, config.max_failed_grades, step)
        return rollouts

    return sample


def sample_first(sample: Sample, policy: Policy, engine: TrainingEngine, clock: Clock) -> Sample:
    """Sample the first step; return a function that has its rollouts already, and samples those of later steps.

    For a small model this is quicker than what a training imports of transformers, and the user sees it begin.
    """
    engine.load_weights(policy.plain())
    with clock.phase("rollout"):
        first = {1: sample(policy, 1)}
    return lambda policy, step: first.pop(step, None) or sample(policy, step)


@contextmanager
def report_divergence(checkpoints: Checkpoints) -> Iterator[None]:
    """Raise DivergedError for logits that are not finite after an update; before the first the model came like that."""
    try:
        yield
    except NonFiniteError:
        if checkpoints.whole and not checkpoints.step:
            raise
        raise DivergedError(
            f"step {checkpoints.step + 1}: the training made the model's logits infinite or NaN; begin anew with a "
            "smaller learning_rate"
        ) from None


def note_alarms(rows: Sequence[Metrics], config: TrainConfig) -> Metrics:
    """Add to the last step's metrics its alarms; return the metrics."""
    rows[-1]["alarms"] = {alarm.kind: alarm.message for alarm in find_alarms(rows, config)}
    return rows[-1]


def complete_step(
    sampler: Sampler, held_out: Sequence[Problem], log: MetricsLog, rows: Sequence[Metrics], config: TrainConfig
) -> None:
    """Add a probe to the metrics of the last step, if one is due and not there.

    It may take long, so it comes when the step can be saved already; a training that is interrupted within makes up for
    it when it goes on.
    """
    if rows and is_probe_due(config, rows[-1]["step"]) and not is_probed(rows[-1]):
        rows[-1].update(probe(sampler, held_out, config) | sampler.clock.take())
        log.replace_last(note_alarms(rows, config))


def report_step(reporting: Reporting, rows: Sequence[Metrics], config: TrainConfig) -> None:
    """Report the last step and the alarms that the one before did not have.

    Raises UserError if nothing was learned for too long.
    """
    for line in list_begun(rows):
        reporting.warn(line)
    reporting.on_step(rows[-1])
    check_idle(rows, config.max_idle_steps, rows[-1]["step"])


def count_rollouts(reporting: Reporting, config: TrainConfig, step: int) -> OnFinished:
    """Return a function that reports finished responses of a step; their number is known if none is dropped."""
    total = config.problems_per_step * config.samples_per_problem if config.token_share == 1 else None
    return make_counter(reporting.on_progress, f"step {step} of {config.steps}, rollout", total, step)


def count_updates(
    reporting: Reporting, rollouts: Sequence[Rollout], credits: Sequence[Credit], config: TrainConfig, step: int
) -> OnFinished:
    """Return a function that reports the responses of a step whose gradient is done; those without one do not count."""
    sizes = (count_update_tokens(credit, len(one.response_ids)) for credit, one in zip(credits, rollouts, strict=True))
    total = sum(size > 0 for size in sizes)
    return make_counter(reporting.on_progress, f"step {step} of {config.steps}, update", total, step)


def require_training_engine(engine: Engine) -> TrainingEngine:
    """Return an engine that takes weights; raises UserError for one that cannot follow a training."""
    if not isinstance(engine, TrainingEngine):
        raise UserError(
            f"the engine {type(engine).__name__} has no load_weights, so it cannot generate with a model that is being "
            "trained; add that method, or use this engine to presample and to evaluate"
        )
    return engine
