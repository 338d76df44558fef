"""Our configuration as verl's settings, and verl's data set: all that can be known without verl."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pyarrow import parquet

from adaptthink.config.resolve import check, resolve
from adaptthink.config.schema import TrainConfig, VerlConfig
from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind, Verdict
from adaptthink.integrations.verl.data import HELD_OUT, TRAIN, read_row, write_problems
from adaptthink.integrations.verl.settings import (
    OURS,
    PLUGIN,
    REFUSED,
    check_config,
    make_arguments,
    make_environment_settings,
    make_verl_settings,
    quote,
)
from adaptthink.problems import make_problem
from adaptthink.training.reference import Reference

ROOT = Path(__file__).parent.parent
OTHER = {  # a value that is not the default, for each key
    "model": "org/name", "max_think_tokens": 20000, "max_no_think_tokens": 20000, "think_start": "Okay",
    "prompt_date": "2026-01-31",
    "dtype": "float32", "max_concurrent_sequences": 7, "engine": "openai", "endpoint": "http://localhost:1",
    "engine_memory": 0.7,
    "seed": 3, "problems": "gsm8k", "data": "/data", "fields": "prompt=q", "instruction": "so", "max_problems": 5,
    "boxed_only": False, "grading_seconds": 9.0, "problems_per_level": 5, "reference_samples": 5,
    "reference_temperature": 0.9, "reference_top_p": 0.5, "delta": 0.2, "method": "gap", "no_think_share": 0.25,
    "samples_per_problem": 8, "token_share": 0.5, "force_think": "ban", "ratio": "token", "clip": 0.3,
    "implicit_thinking": "no_reward", "steps": 9, "problems_per_step": 64, "temperature": 0.9, "learning_rate": 1e-3,
    "warmup_steps": 4, "schedule": "stable_decay", "max_grad_norm": 0.5, "micro_batch_tokens": 50000,
    "gradient_checkpointing": True, "probe_every": 3, "probe_problems_per_level": 3, "probe_samples": 2,
    "mismatch": "mask", "rehearsal_problems": 2, "max_idle_steps": 3, "max_skipped_steps": 1,
    "checkpoint_every": 7, "max_failed_grades": 0.5, "keep_checkpoints": 5,
    "device": "cpu", "lora_rank": 8, "lora_alpha": 3, "lora_targets": "q_proj",
    "reward": "mine:score", "reward_seconds": 3.0,
    "nodes": 2, "gpus_per_node": 4, "tensor_parallel": 2, "ray_address": "auto", "max_prompt_tokens": 3000,
    "offload": True, "overrides": ("trainer.logger",),
}  # fmt: skip
READ_BY_US = {  # keys that are no settings of verl's: who reads them from the run's config.json, or why nobody does
    "prompt_date": "loop",
    "think_start": "loop", "no_think_share": "loop", "force_think": "loop", "delta": "loop", "boxed_only": "loop",
    "grading_seconds": "loop", "reward": "loop", "reward_seconds": "loop",
    "mismatch": "loss", "max_idle_steps": "trainer", "max_failed_grades": "trainer", "ratio": "trainer",
    "problems": "data", "data": "data", "fields": "data", "instruction": "data", "max_problems": "data",
    "problems_per_level": "data", "probe_problems_per_level": "data",
    "reference_samples": "reference", "reference_temperature": "reference", "reference_top_p": "reference",
    "lora_alpha": "means nothing without lora_rank", "lora_targets": "means nothing without lora_rank",
    "probe_every": "trainer",
}  # fmt: skip


def recipe(**values):
    return check(VerlConfig, values)


def settings(**values):
    return make_verl_settings(recipe(**values), values.get("model", "tiny"), Path("/runs/one"))


@pytest.mark.parametrize("key", VerlConfig.model_fields)
def test_no_key_is_silently_ignored(key):
    base = {"endpoint": OTHER["endpoint"]} if key == "engine" else {}
    refusal, found = None, None
    try:
        found = settings(**base | {key: OTHER[key]})
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert key in refusal
        assert "\n" not in refusal
    handled = bool(refusal) or found != settings()
    assert handled != (key in READ_BY_US), f"{key} is neither mapped, refused nor explained"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"actor_rollout_ref.actor.use_kl_loss": False}),
        ({"method": "grpo"}, {"actor_rollout_ref.actor.use_kl_loss": False}),
        ({"method": "gap"}, {"actor_rollout_ref.actor.use_kl_loss": True}),
        ({"method": "gap:pull=0"}, {"actor_rollout_ref.actor.use_kl_loss": False}),
        ({"dtype": "float32"}, {"actor_rollout_ref.ref.fsdp_config.dtype": "float32"}),
        ({"offload": True}, {"actor_rollout_ref.actor.fsdp_config.optimizer_offload": True}),
        ({}, {"+ray_kwargs.ray_init.address": "local"}),
        ({"nodes": 2, "ray_address": "auto"}, {"trainer.nnodes": 2, "+ray_kwargs.ray_init.address": "auto"}),
        ({"tensor_parallel": 4}, {"actor_rollout_ref.rollout.tensor_model_parallel_size": 4}),
        ({"probe_samples": 4, "probe_every": 3}, {"trainer.test_freq": 3, "actor_rollout_ref.rollout.val_kwargs.n": 4}),
        ({"max_prompt_tokens": 100}, {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 16484}),
        ({"micro_batch_tokens": 50000}, {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 50000}),
    ],
)
def test_values_by_hand(values, expected):
    found = settings(**values)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("method", ["adaptthink", "grpo", "gap"])
def test_a_step_is_one_update_on_all_samples_with_their_log_probabilities_as_data(method):
    found = settings(method=method)
    assert found["data.train_batch_size"] == found["actor_rollout_ref.actor.ppo_mini_batch_size"] == 128
    assert found["actor_rollout_ref.actor.ppo_epochs"] == 1
    assert found["algorithm.rollout_correction.bypass_mode"] is True
    assert found["actor_rollout_ref.rollout.calculate_log_probs"] is True
    assert found["actor_rollout_ref.actor.optim.weight_decay"] == 0.0
    assert not set(OURS) - {key.lstrip("+") for key in found}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"token_share": 0.5}, "token_share = 0.5 is not for --backend verl"),
        ({"schedule": "stable_decay"}, "schedule = 'stable_decay' is not for --backend verl"),
        ({"method": "gap", "samples_per_problem": 2}, "it needs two or more in each"),
        ({"method": "gap", "force_think": "ban"}, "force_think = 'ban' has no start"),
        ({"gpus_per_node": 7}, "2048 samples a step cannot be shared out evenly among 7 GPUs"),
        ({"gpus_per_node": 8, "tensor_parallel": 3}, "tensor_parallel = 3 does not divide gpus_per_node = 8"),
        ({"overrides": ("trainer.logger",)}, "'trainer.logger' is not of the form key=value"),
        ({"overrides": ("+actor_rollout_ref.rollout.n=4",)}, "actor_rollout_ref.rollout.n follows from the recipe"),
        ({"overrides": ("algorithm.rollout_correction={bypass_mode: false}",)}, "algorithm.rollout_correction follows"),
        ({"overrides": ("trainer.default_local_dir=/tmp",)}, "trainer.default_local_dir follows from the recipe"),
        ({"nodes": 2}, "nodes = 2 needs a running Ray cluster"),
    ],
)
def test_what_verl_cannot_do_is_refused(values, complaint):
    with pytest.raises(UserError, match=complaint.replace("(", r"\(")):
        check_config(recipe(**values))


def test_a_misspelt_key_among_the_refused_is_no_silence(monkeypatch):
    monkeypatch.setitem(REFUSED, "lora_rnak", (0, "a slip of the pen"))
    with pytest.raises(AttributeError, match="lora_rnak"):
        check_config(recipe())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "True"), (1e-06, "1e-06"), (None, "null"), (("a", "b"), "[a,b]"), ("/a/b-c", "/a/b-c"),
        ("1", '"1"'), ("true", '"true"'), ("/a b", '"/a b"'), ("a,b", '"a,b"'), ('say "x"', '"say \\"x\\""'),
        ("a=b", '"a=b"'),
    ],
)  # fmt: skip
def test_values_are_written_for_hydra(value, text):
    assert quote(value) == text


def test_an_override_takes_the_place_of_its_setting_and_comes_last():
    found = make_arguments({"a.b": 1, "+c.d": 2, "e": 3}, ["a.b=5", "c.d=6", "+new=[x]"])
    assert found == ["e=3", "a.b=5", "c.d=6", "+new=[x]"]


def test_environment_reaches_all_machines_as_text():
    [argument] = make_arguments(make_environment_settings({"OMP_NUM_THREADS": "1"}))
    assert argument == '+ray_kwargs.ray_init.runtime_env.env_vars.OMP_NUM_THREADS="1"'


def test_table_of_verl_in_a_recipe_adds_to_that_of_train(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('model = "tiny"\n[train]\nsteps = 7\n[verl]\nsteps = 8\ngpus_per_node = 2\noverrides = ["a=b"]\n')
    found = resolve("verl", VerlConfig, recipes=[path])
    assert (found.steps, found.gpus_per_node, found.overrides) == (8, 2, ("a=b",))
    assert resolve("train", TrainConfig, recipes=[path]).steps == 7


def test_the_entry_point_names_the_plugin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["verl.plugins"] == {"adaptthink": PLUGIN}
    assert (ROOT / "src" / Path(*PLUGIN.split("."))).with_suffix(".py").is_file()


def test_problems_come_back_from_the_data_set(tmp_path):
    problems = [
        make_problem("1+1=?", "2", level=3, source="arithmetic"),
        make_problem('Ünï "x"?', "B", kind=AnswerKind.CHOICE),
    ]
    reference = {
        one.id: Reference(one.id, verdicts, (5, 5))
        for one, verdicts in zip(
            problems, [(Verdict.CORRECT, Verdict.WRONG), (Verdict.WRONG, Verdict.WRONG)], strict=True
        )
    }
    path = tmp_path / "deep" / "train.parquet"
    assert write_problems(path, problems * 3, split=TRAIN, reference=reference) == 6
    rows = parquet.read_table(path).to_pylist()
    read = [read_row(row) for row in rows]
    assert [(one.id, one.prompt, one.answer, one.kind, one.source) for one, _ in read] == [
        (one.id, one.prompt, one.answer, one.kind, one.source) for one in problems
    ] * 3
    assert [one.level for one, _ in read[:2]] == ["3", None]
    assert [extra.reference_reward for _, extra in read] == [0.5, 0.0] * 3
    assert [extra.index for _, extra in read] == list(range(6))
    write_problems(path, problems, split=HELD_OUT)
    assert [read_row(row)[1].reference_reward for row in parquet.read_table(path).to_pylist()] == [None, None]


def test_a_data_set_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "train.parquet"
    with pytest.raises(KeyError):
        write_problems(path, [make_problem("1+1=?", "2")], split=TRAIN, reference={})
    assert not path.exists()


def test_settings_and_data_need_nothing_of_verl():
    code = (
        "import sys, adaptthink.integrations.verl.settings, adaptthink.integrations.verl.data\n"
        "sys.exit(any(name in sys.modules for name in ('verl', 'ray', 'transfer_queue')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_config_survives_its_file(tmp_path):
    config = recipe(overrides=("a=b",), nodes=2, ray_address="auto")
    assert VerlConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config
