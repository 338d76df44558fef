"""verl's synchronous trainer with the method's credit and loss, with checks of each step, and with our metrics.

A step is verl's own. What stands in the place of verl's parts: the log-probabilities of forced decisions, the credit of
each token (verl's advantages), and the loss. The method (`training/methods`) sees all responses of a step at once, in
the native trainer's order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transfer_queue
from omegaconf import open_dict
from pyarrow import parquet
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils.debug import marked_timer
from verl.utils.tensordict_utils import get_tensordict

from adaptthink.errors import UserError
from adaptthink.grading import Verdict
from adaptthink.integrations.verl.data import HELD_OUT, read_row
from adaptthink.integrations.verl.loop import Sampled, make_sampler, read_config, read_sampled
from adaptthink.integrations.verl.loss import compute_verl_loss
from adaptthink.integrations.verl.probe import probe_mode_choice
from adaptthink.integrations.verl.scoring import Row, score_responses
from adaptthink.integrations.verl.settings import HELD_OUT_FILE, NAME
from adaptthink.storage.runs import MetricsLog, read_metrics
from adaptthink.training.alarms import check_idle, find_alarms
from adaptthink.training.batch import Batch
from adaptthink.training.credit import spread_credit
from adaptthink.training.methods import load_method
from adaptthink.training.metrics import (
    GRADED_STEPS,
    check_finite,
    check_grading,
    describe_credit,
    describe_rollouts,
    is_probe_due,
)
from adaptthink.training.mismatch import BODY, Mismatch, check_mismatch, describe_mismatch

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
    """Learns by the run's method; writes a line per step to `metrics.jsonl`; ends where gradient or grading failed."""

    def __init__(self, config: Any) -> None:
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"  # verl compares the names of its own trainers in many places
        super().__init__(config)
        self.replay_buffer.poll_interval = POLL_SECONDS
        self.folder = Path(config.adaptthink.run)
        self.settings = read_config(str(self.folder))
        self.method = load_method(self.settings.method)
        self.recent: deque[list[Verdict]] = deque(maxlen=GRADED_STEPS)
        self.log: MetricsLog | None = None
        self.sampled: dict[str, Sampled] = {}  # the responses of the step, by their keys in verl's queue
        self.initial: dict[str, list[float]] = {}  # log-probabilities of tokens before training, where they are needed
        self.described: dict[str, Any] = {}  # the responses of the step
        self.row: dict[str, Any] = {}  # the step's line
        self.rows: list[dict[str, Any]] = []  # those of all steps so far

    def on_init_end(self) -> None:
        """Give the workers the method's loss."""
        self.actor_rollout_wg.set_loss_fn(partial(compute_verl_loss, settings=self.settings))
        super().on_init_end()

    def on_train_begin(self) -> None:
        """Open the log; lines of steps that are done again are dropped."""
        super().on_train_begin()
        self.log = MetricsLog(self.folder / "metrics.jsonl", keep_steps=self.global_steps - 1)
        self.rows = [*read_metrics(self.folder / "metrics.jsonl")]

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
        sampled = [read_sampled(fields[NAME]) for fields in list(found["extra_fields"])]
        self.sampled = dict(zip(batch.keys, sampled, strict=True))
        summaries = [one.summary for one in sampled]
        self.recent.append([one.verdict for one in summaries])
        check_grading(self.recent, self.settings.max_failed_grades, self.global_steps)
        self.described = describe_rollouts(summaries)
        return super()._balance_batch(batch, metrics, **options)

    def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """Take the log-probabilities that the responses came with.

        Where π_IS does not give those of forced decisions, compute the policy's, with the weights that sampled.
        """
        batch = super()._compute_old_log_prob(batch, metrics)
        forced = [key for key in batch.keys if self.sampled[key].num_forced]
        if self.method.samples_from_is or not forced:
            return batch
        found = read_columns(batch, forced, "prompts", "responses", "old_log_probs")
        rows = [(tuple(prompt.tolist()), (int(response[0]),)) for prompt, response, _ in found]
        chosen = list(dict.fromkeys(rows))  # a problem's responses share their decisions
        scored = dict(zip(chosen, self.score(self.actor_rollout_wg.compute_log_prob, chosen), strict=True))
        decided = [
            torch.cat([behavior_T.new_tensor(scored[row]), behavior_T[1:]])
            for row, (*_, behavior_T) in zip(rows, found, strict=True)
        ]
        write_columns(batch, forced, old_log_probs=decided)
        return batch

    def _compute_ref_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """Score the responses that the method needs by the model before training."""
        keys = [key for key in batch.keys if self.sampled[key].summary.mode in self.method.initial_modes]
        found = read_columns(batch, keys, "prompts", "responses")
        rows = [(prompt.tolist(), response.tolist()) for prompt, response in found]
        self.initial = dict(zip(keys, self.score(self.ref_policy_wg.compute_ref_log_prob, rows), strict=True))
        return batch

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """Assign the credit of all responses, and write that of each token where verl has its advantages."""
        behavior = {
            key: row.tolist()
            for key, (row,) in zip(batch.keys, read_columns(batch, batch.keys, "old_log_probs"), strict=True)
        }
        keys = sorted(batch.keys, key=lambda key: (self.sampled[key].index, self.sampled[key].sample))
        sampled = [self.sampled[key] for key in keys]
        summaries = [
            replace(one.summary, decision_logprob=behavior[key][0] - one.within_mode)
            for key, one in zip(keys, sampled, strict=True)
        ]
        progress = (self.global_steps - 1) / self.settings.steps
        seen = Batch(summaries, [one.reference for one in sampled], progress)
        credits = self.method.assign_credit(seen, self.settings)
        self.described |= describe_credit(summaries, credits)
        spread = {
            key: spread_credit(credit, behavior[key], self.initial.get(key, ()))
            for key, credit in zip(keys, credits, strict=True)
        }
        credit = [
            torch.from_numpy(np.pad(spread[key], (0, len(behavior[key]) - len(spread[key])))) for key in batch.keys
        ]
        return write_columns(batch, batch.keys, advantages=credit, returns=credit)

    def score(self, compute: Callable[[Any], Any], rows: Sequence[Row]) -> list[list[float]]:
        """Return the log-probability of each token of responses, by a forward pass of verl's workers."""
        ranks = self.settings.nodes * self.settings.gpus_per_node
        return score_responses(compute, rows, self.settings.temperature, ranks=ranks)

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        """Take a step and write it down before verl saves a checkpoint of it: the launcher may read it at once."""
        batch = super().step(metrics, timing_raw)
        self.row = {"step": self.global_steps} | rename_update_metrics(metrics) | self.described
        check_finite(self.row["loss"], self.row["grad_norm"], self.global_steps)
        check_mismatch(self.row, self.settings.mismatch, self.global_steps)
        if is_probe_due(self.settings, self.global_steps):
            with marked_timer("probe", timing_raw):
                self.row |= self.probe()
        self.row |= rename_timings(timing_raw)
        assert self.log is not None  # on_train_begin
        self.rows.append(self.row)
        self.row["alarms"] = {alarm.kind: alarm.message for alarm in find_alarms(self.rows, self.settings)}
        self.log.write(self.row)
        check_idle(self.rows, self.settings.max_idle_steps, self.global_steps)
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
        sampler = make_sampler(self.tokenizer, str(self.folder))
        score = partial(self.score, self.actor_rollout_wg.compute_log_prob)
        return probe_mode_choice(score, sampler, [read_row(row)[0] for row in rows])


def read_columns(batch: Any, keys: Sequence[str], *names: str) -> list[tuple[torch.Tensor, ...]]:
    """Return these columns of these responses, a row for each; a column has one value for each token, shape (T,)."""
    found = transfer_queue.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=list(names))
    return list(zip(*(found[name].unbind() for name in names), strict=True))


def write_columns(batch: Any, keys: Sequence[str], **columns: Sequence[torch.Tensor]) -> Any:
    """Write columns of responses, one value for each token; return what verl goes on with."""
    nested = {name: torch.nested.as_nested_tensor(list(rows), layout=torch.jagged) for name, rows in columns.items()}
    return transfer_queue.kv_batch_put(keys=keys, partition_id=batch.partition_id, fields=get_tensordict(nested))


def rename_update_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Name verl's metrics of the update as the native trainer does."""
    sums = [float(metrics[f"actor/mismatch_{name}"]) for name in ("tokens", "error", "kl", "largest")]
    body = Mismatch(int(sums[0]), *sums[1:])
    return {
        "loss": float(metrics["actor/pg_loss"]),
        "grad_norm": float(metrics["actor/grad_norm"]),
        "learning_rate": float(metrics["actor/lr"]),
        "clip_share": float(metrics["actor/clip_share"]),
        "behavior_decision": float(metrics["actor/behavior_decision"]),
    } | describe_mismatch({BODY: body})


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
