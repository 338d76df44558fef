"""examples/train_with_trl.py as it is started: in one process, in two by torchrun, stopped and resumed."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from waiting import WAIT_SECONDS

if importlib.util.find_spec("trl") is None:
    pytest.skip("TRL is not installed here; pip install '.[trl]'", allow_module_level=True)

from adaptthink.models.loading import TINY, load_policy
from adaptthink.problems.sources import choose_training_problems, make_reading

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RECIPE = """
problems_per_level = 4
[train]
probe_problems_per_level = 2
"""
ROWS = 16  # of a step, over all processes
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
SMALL = ("--max_completion_length", "48", "--save_steps", "2", "--per_device_eval_batch_size", "10")
LOCAL = ("--use_cpu", "True", "--bf16", "False", "--save_total_limit", "2", "--disable_tqdm", "True")
PLAIN = ("--optim", "sgd", "--learning_rate", "0.01", "--max_grad_norm", "0", "--max_steps", "1", "--save_steps", "1")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A recipe, and a store with made-up references of its problems."""
    from adaptthink.config.resolve import resolve
    from adaptthink.config.schema import TrainConfig

    folder = tmp_path_factory.mktemp("given")
    recipe = folder / "small.toml"
    recipe.write_text(RECIPE)
    config = resolve("train", TrainConfig, recipes=[recipe])
    chosen = choose_training_problems(
        config.problems, per_level=4, held_out_per_level=2, seed=config.seed, reading=make_reading(config)
    )
    fingerprint = load_policy("tiny", device="cpu").fingerprint
    made_with = {"samples": 2, "model_fingerprint": fingerprint, "max_tokens": 48, "boxed_only": True}
    lines = [{"settings": made_with}]
    lines += [{"id": one.id, "verdicts": ["correct", "wrong"], "tokens": [20, 30]} for one in chosen.problems]
    (folder / "ref.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return "--recipe", str(recipe), "--reference", str(folder / "ref.jsonl")


def start(given, output, *flags, processes=1):
    """Run the example; return the steps of its last checkpoint's log, and what its evaluation found."""
    launcher = TORCHRUN if processes > 1 else ()
    command = [sys.executable, *launcher, str(ROOT / "examples" / "train_with_trl.py"), *given, "--output", str(output)]
    command += [*SMALL, *LOCAL, "--per_device_train_batch_size", str(ROWS // processes), *flags]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=WAIT_SECONDS, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return steps_of(output), ast.literal_eval(ran.stdout.splitlines()[-1])


def steps_of(output):
    last = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    rows = json.loads((last / "trainer_state.json").read_text())["log_history"]
    timed = {"step_time", "epoch"}
    return [{key: value for key, value in row.items() if key not in timed} for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def two_processes(given, tmp_path_factory):
    """Four steps in two processes, with checkpoints after the second and the last."""
    output = tmp_path_factory.mktemp("two") / "run"
    steps, _ = start(given, output, "--max_steps", "4", processes=2)
    return output, steps


def test_two_processes_take_the_step_that_one_takes(given, tmp_path):
    """The same rollouts, the same loss, and with plain gradient descent the same weights afterwards."""
    [one], evaluated_by_one = start(given, tmp_path / "one", *PLAIN)
    [two], evaluated_by_two = start(given, tmp_path / "two", *PLAIN, processes=2)
    assert one.keys() == two.keys()
    for name in one.keys() - {"loss", "grad_norm"}:
        rounding = {"abs": 1e-4} if name.startswith("mismatch") else {"rel": 1e-5}
        assert two[name] == pytest.approx(one[name], **rounding), name
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert evaluated_by_one["eval_responses"] == evaluated_by_two["eval_responses"] == 10, "each counts once"
    before = load_file(TINY / "model.safetensors")
    moved = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two")]
    changes = [torch.cat([(after[name] - before[name]).flatten() for name in before]) for after in moved]
    assert changes[0].norm() > 1e-4
    assert (changes[0] - changes[1]).norm() < 1e-3 * changes[0].norm()  # float32 weights hold the change to this


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(given, two_processes, tmp_path):
    output, steps = two_processes
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    shutil.copytree(output / "checkpoint-2", tmp_path / "checkpoint-2")
    resumed, _ = start(given, tmp_path, "--max_steps", "4", "--resume", processes=2)
    assert resumed == steps
    whole, continued = (load_file(folder / "model" / "model.safetensors") for folder in (output, tmp_path))
    assert all(torch.equal(tensor, continued[name]) for name, tensor in whole.items())


def test_the_model_of_two_processes_can_be_asked(two_processes):
    output, _ = two_processes
    policy = load_policy(str(output / "model"), device="cpu")
    before = load_file(TINY / "model.safetensors")
    assert any(
        not torch.equal(tensor, before[name])
        for name, tensor in load_file(output / "model" / "model.safetensors").items()
    )
    assert policy.template.close == "</think>"
    assert "4 steps of 8 problems x 2 responses" in (output / "model" / "README.md").read_text()
    assert "Backend: TRL" in (output / "checkpoint-4" / "README.md").read_text()
