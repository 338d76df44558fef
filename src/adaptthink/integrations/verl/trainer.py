"""verl's synchronous trainer, as it is, with what a step must be checked for and with our metrics beside its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transfer_queue
from omegaconf import open_dict
from pyarrow import parquet
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils.debug import marked_timer

from adaptthink.errors import UserError
from adaptthink.grading import Verdict
from adaptthink.integrations.verl.data import HELD_OUT, read_row
from adaptthink.integrations.verl.loop import make_sampler, read_config
from adaptthink.integrations.verl.probe import probe_mode_choice
from adaptthink.integrations.verl.settings import HELD_OUT_FILE, NAME
from adaptthink.modes import Mode
from adaptthink.storage.runs import MetricsLog
from adaptthink.training.credit import assign_evenly
from adaptthink.training.metrics import (
    GRADED_STEPS,
    RolloutSummary,
    check_finite,
    check_grading,
    describe_credit,
    describe_rollouts,
    is_probe_due,
)

POLL_SECONDS = 0.1  # between two checks for finished responses; verl's two seconds are longer than a small step
PHASES = {  # verl's timers, and the native trainer's names for what they time
    "gen": "rollout_seconds",
    "update_actor": "update_seconds",
    "update_weights": "load_weights_seconds",
    "probe": "probe_seconds",
    "save_checkpoint": "checkpoint_seconds",
    "step": "step_seconds",
}


@register_trainer(NAME)
class AdaptThinkTrainer(PPOTrainerSync):
    """Writes one line per step to the run's `metrics.jsonl`, and ends a training whose gradient or grading failed."""

    def __init__(self, config: Any) -> None:
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"  # verl compares the names of its own trainers in many places
        super().__init__(config)
        self.replay_buffer.poll_interval = POLL_SECONDS
        self.folder = Path(config.adaptthink.run)
        self.settings = read_config(str(self.folder))
        self.recent: deque[list[Verdict]] = deque(maxlen=GRADED_STEPS)
        self.log: MetricsLog | None = None
        self.described: dict[str, Any] = {}  # the responses of the step
        self.row: dict[str, Any] = {}  # the step's line

    def on_train_begin(self) -> None:
        """Open the log; lines of steps that are done again are dropped."""
        super().on_train_begin()
        self.log = MetricsLog(self.folder / "metrics.jsonl", keep_steps=self.global_steps - 1)

    def _balance_batch(self, batch: Any, metrics: dict[str, Any], **options: Any) -> Any:
        """Refuse a step before its update if grading failed too often, or if responses are missing.

        For missing ones verl would train on copies of others.
        """
        expected = self.settings.problems_per_step * self.settings.samples_per_problem
        if len(batch) != expected:
            raise UserError(
                f"step {self.global_steps}: {expected - len(batch)} of {expected} responses failed; the reason stands "
                "in verl/log.txt of the run folder, above this; put it right and go on with --resume"
            )
        found = transfer_queue.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"]
        )
        rows = [dict(fields[NAME]) for fields in list(found["extra_fields"])]
        credits = assign_evenly(row.pop("credit") for row in rows)
        summaries = [read_summary(row) for row in rows]
        self.recent.append([one.verdict for one in summaries])
        check_grading(self.recent, self.settings.max_failed_grades, self.global_steps)
        self.described = describe_rollouts(summaries)
        if self.settings.method != "grpo":  # for which verl computes advantages later
            self.described |= describe_credit(summaries, credits)
        return super()._balance_batch(batch, metrics, **options)

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        """Take a step and write it down before verl saves a checkpoint of it: the launcher may read it at once."""
        batch = super().step(metrics, timing_raw)
        self.row = {"step": self.global_steps} | rename_update_metrics(metrics) | self.described
        check_finite(self.row["loss"], self.row["grad_norm"], self.global_steps)
        if is_probe_due(self.settings, self.global_steps):
            with marked_timer("probe", timing_raw):
                self.row |= self.probe()
        self.row |= rename_timings(timing_raw)
        assert self.log is not None  # on_train_begin
        self.log.write(self.row)
        return batch

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        """Compute verl's metrics, and add to the step's line what came after it."""
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        self.row |= rename_timings(timing_raw) | rename_validation_metrics(metrics)
        metrics |= {f"{NAME}/{name}": value for name, value in self.row.items() if isinstance(value, int | float)}
        assert self.log is not None  # on_train_begin
        self.log.replace_last(self.row)

    def probe(self) -> dict[str, Any]:
        """Measure the mode choice on held-out problems."""
        rows = parquet.read_table(self.folder / "verl" / HELD_OUT_FILE).to_pylist()
        ranks = self.settings.nodes * self.settings.gpus_per_node
        sampler = make_sampler(self.tokenizer, str(self.folder))
        problems = [read_row(row)[0] for row in rows]
        return probe_mode_choice(self.actor_rollout_wg, sampler, problems, self.settings.temperature, ranks=ranks)


def read_summary(fields: Mapping[str, Any]) -> RolloutSummary:
    """Read the summary that the agent loop returned with a rollout."""
    return RolloutSummary(**dict(fields) | {"mode": Mode(fields["mode"]), "verdict": Verdict(fields["verdict"])})


def rename_update_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Name verl's metrics of the update as the native trainer does."""
    return {
        "loss": float(metrics["actor/pg_loss"]),
        "grad_norm": float(metrics["actor/grad_norm"]),
        "learning_rate": float(metrics["actor/lr"]),
        "clip_share": float(metrics["actor/clip_share"]),
        "behavior_decision": float(metrics["actor/behavior_decision"]),
    }


def rename_timings(timing_raw: Mapping[str, float]) -> dict[str, float]:
    """Name the times of the phases that have ended as the native trainer does; seconds."""
    return {ours: timing_raw[theirs] for theirs, ours in PHASES.items() if theirs in timing_raw}


def rename_validation_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return verl's validation metrics, named as the native trainer does; empty on a step without one."""
    names = {"acc": "probe_accuracy", "tokens": "probe_mean_tokens", "no_think": "probe_sampled_no_think_share"}
    found: dict[str, float] = {}
    for name, value in metrics.items():
        section, _, rest = name.partition("/")
        source, _, rest = rest.partition("/")
        variable, _, statistic = rest.partition("/")
        if section in ("val-core", "val-aux") and source == HELD_OUT and statistic.startswith("mean@"):
            found |= {names[variable]: float(value)} if variable in names else {}
    return found
