"""What our trainer writes of a step, and when; verl's own step is replaced by recorded metrics."""

import pytest

pytest.importorskip("verl")  # in .venv-verl


from parity.recorded import config
from verl.trainer.ppo.v1 import PPOTrainerSync

from adaptthink.cli.console import Terminal
from adaptthink.config.resolve import check
from adaptthink.config.schema import VerlConfig
from adaptthink.grading import Verdict
from adaptthink.integrations.verl.trainer import AdaptThinkTrainer
from adaptthink.modes import Mode
from adaptthink.storage.runs import read_metrics
from adaptthink.training.batch import RolloutSummary
from adaptthink.training.metrics import describe_rollouts

UPDATE = {"loss": 0.5, "grad_norm": 2.0, "lr": 1e-4, "clip_share": 0.0, "behavior_decision": 0.5}
UPDATE |= {"mismatch_tokens": 200, "mismatch_error": 202.0, "mismatch_kl": 0.02, "mismatch_largest": 0.3}


def trainer_of(folder, monkeypatch, **update):
    """A trainer about to take its first step, which ends with this of the update."""

    def step(self, metrics, timing_raw):
        names = {"loss": "pg_loss"}
        metrics |= {f"actor/{names.get(key, key)}": value for key, value in (UPDATE | update).items()}
        timing_raw |= {"gen": 3.0, "update_actor": 2.0}
        return "batch"

    monkeypatch.setattr(PPOTrainerSync, "step", step)
    monkeypatch.setattr(PPOTrainerSync, "on_train_begin", lambda self: None)
    monkeypatch.setattr(PPOTrainerSync, "_compute_metrics", lambda self, *arguments: None)
    trainer = object.__new__(AdaptThinkTrainer)
    trainer.folder, trainer.global_steps = folder, 1
    trainer.settings = check(VerlConfig, config(steps=1).model_dump() | {"gpus_per_node": 1})
    trainer.described = describe_rollouts([RolloutSummary("a", mode, Verdict.CORRECT, 5, -1.0) for mode in Mode])
    trainer.rows = []
    trainer.probe = lambda: {
        "probe_no_think_share": 0.4, "probe_no_think_logprob": -1.0, "probe_mode_mass": 1.0,
        "probe_no_think_by_level": {},
    }  # fmt: skip
    trainer.on_train_begin()
    return trainer


def test_a_step_can_be_shown_as_soon_as_it_is_written(tmp_path, monkeypatch, capsys):
    """The launcher reads the file while verl still saves a checkpoint of the step."""
    trainer = trainer_of(tmp_path, monkeypatch)
    metrics, timing = {}, {}
    assert trainer.step(metrics, timing) == "batch"
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert (row["rollout_seconds"], row["update_seconds"]) == (3.0, 2.0)
    assert (row["mismatch_error_body"], row["mismatch_kl_body"], row["mismatch_largest_body"]) == (1.01, 1e-4, 0.3)
    assert row["alarms"] == {}
    Terminal(steps=1).on_step(row)
    assert "1/1" in capsys.readouterr().out
    timing |= {"save_checkpoint": 7.0, "step": 13.0}
    trainer._compute_metrics("batch", metrics, timing, 1, 0)
    (later,) = read_metrics(tmp_path / "metrics.jsonl")
    assert later == row | {"checkpoint_seconds": 7.0, "step_seconds": 13.0, "probe_seconds": later["probe_seconds"]}


def test_a_step_that_is_not_finite_is_not_written(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, monkeypatch, loss=float("nan"))
    with pytest.raises(Exception, match=r"step 1: loss nan .* last checkpoint is intact"):
        trainer.step({}, {})
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_mismatch_is_an_alarm_and_where_told_the_end(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, monkeypatch, mismatch_error=240.0)
    trainer.step({}, {})
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert "mean exp|Δ| of body tokens is 1.2, above 1.05" in row["alarms"]["mismatch"]
    trainer.settings = trainer.settings.model_copy(update={"mismatch": "stop"})
    with pytest.raises(Exception, match="step 1: trainer and sampler disagree"):
        trainer.step({}, {})
