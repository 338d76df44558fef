"""verl's real trainer on a CPU, by our launcher: trained, stopped, resumed, exported; and on two Ray nodes.

Stock verl 0.9.1 with `verl_cpu.plugin` beside ours (see `verl_cpu/__init__.py` for what that stands in for). verl has
an environment of its own, `.venv-verl` (scripts/setup_verl.sh); these tests and the launcher run in the usual one.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from pyarrow import parquet

import adaptthink.training.rollout
from adaptthink.cli.jobs import presample_job, train_job
from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.integrations.verl.data import read_row
from adaptthink.integrations.verl.launcher import read_latest_step
from adaptthink.models.loading import load_policy
from adaptthink.models.scoring import compute_response_logprobs
from adaptthink.modes import encode_prompt
from adaptthink.storage.runs import read_metrics
from verl_cpu.launch import environment, settings

SOURCE = Path(adaptthink.__file__).parent.parent
PYTHON = Path(__file__).parent.parent.parent / ".venv-verl" / "bin" / "python"
STEPS, STOPPED_AFTER = 4, 3  # a checkpoint every second step: what was done after it is done again
RECIPE = {
    "model": "tiny", "problems": "arithmetic", "dtype": "float32", "max_think_tokens": 96, "max_no_think_tokens": 16,
    "problems_per_level": 8, "reference_samples": 2, "reference_temperature": 1.0, "reference_top_p": 1.0,
    "delta": 0.075, "temperature": 1.0, "steps": STEPS, "problems_per_step": 8, "samples_per_problem": 4,
    "learning_rate": 3e-4, "max_grad_norm": 1.0, "probe_every": 1, "probe_problems_per_level": 2,
    "checkpoint_every": 2, "seed": 1,
}  # fmt: skip
LEFT_TO_US = ("hydra.", "trainer.default_local_dir", "trainer.resume_mode", "trainer.nnodes", "trainer.n_gpus_per_node")
SALTS = range(10)  # native trainings that differ in what they sampled


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "reference.jsonl"
    presample_job(check(TrainConfig, RECIPE), path)
    return path


def start(run, store, *flags, ranks=2, ray=None):
    """Start `adaptthink train --backend verl` as a user would."""
    stand_in = settings(run, ranks)
    if ray:
        stand_in = {key: value for key, value in stand_in.items() if not key.lstrip("+").startswith("ray_kwargs")}
    overrides = [f"{key}={value}" for key, value in stand_in.items() if not key.startswith(LEFT_TO_US)]
    table = {"gpus_per_node": ranks, "max_prompt_tokens": 32, "overrides": overrides} | (ray or {})
    lines = [f"{key} = {json.dumps(value)}" for key, value in RECIPE.items()]
    lines += ["[verl]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    recipe = run.with_suffix(".toml")
    recipe.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "adaptthink", "train", str(recipe), "--backend", "verl", "--output", str(run)]
    command += ["--verl-python", str(PYTHON)]
    with run.with_suffix(".out").open("a") as output:
        return subprocess.Popen(
            [*command, "--reference", str(store), *flags],
            env=environment(1, paths=[SOURCE]),
            stdout=output,
            stderr=output,
        )


def finish(process, run):
    assert process.wait() == 0, (run / "verl" / "log.txt").read_text()[-4000:] + run.with_suffix(".out").read_text()


@pytest.fixture(scope="module")
def resumed(store, tmp_path_factory):
    """A run on two FSDP2 ranks that was interrupted and went on; with what was left over after the interruption."""
    run = tmp_path_factory.mktemp("verl") / "run"
    process = start(run, store)
    family = set()
    while process.poll() is None and len(read_metrics(run / "metrics.jsonl")) < STOPPED_AFTER:
        family |= set(psutil.Process(process.pid).children(recursive=True))
        time.sleep(0.1)
    before = read_metrics(run / "metrics.jsonl")
    process.send_signal(signal.SIGINT)
    status = process.wait()
    left = [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    checkpoint = read_latest_step(run)
    finish(start(run, store, "--resume"), run)
    return run, before, status, left, checkpoint


def test_an_interruption_ends_everything_and_keeps_the_checkpoint(resumed):
    _, before, status, left, checkpoint = resumed
    assert status == 130
    assert left == []
    assert [row["step"] for row in before] == list(range(1, STOPPED_AFTER + 1))
    assert checkpoint == 2


def test_a_resumed_run_has_every_step_once_and_the_half_in_each(resumed):
    run, before, *_ = resumed
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[:2] == before[:2]
    for row in rows:
        assert row["behavior_decision"] == pytest.approx(0.5, abs=1e-6)
        assert row["responses"] == 32
        assert row["mean_tokens_no_think"] <= RECIPE["max_no_think_tokens"]
        assert row["mean_tokens_think"] > row["mean_tokens_no_think"]
        assert sum(row[key] for key in row if key.startswith("verdict_share_")) == pytest.approx(1)
        assert row["learning_rate"] == pytest.approx(RECIPE["learning_rate"])


def test_the_model_comes_out_as_one_of_hugging_face_and_has_learned(resumed):
    run, *_ = resumed
    policy = load_policy(str(run / "model"))
    assert policy.tokenizer.chat_template == load_policy("tiny").tokenizer.chat_template
    assert policy.fingerprint != load_policy("tiny").fingerprint
    assert "verl 0.9.1" in (run / "model" / "README.md").read_text(encoding="utf-8")
    assert (run / "report.html").is_file()


def native_metrics(store, folder, salt, monkeypatch):
    """Metrics of the native trainer on the same problems and references; with a salt it samples other responses."""
    seed_of = adaptthink.sampling.sampler.make_seed

    def salted(seed, *purpose):
        return seed_of(seed + 1000 * salt if purpose[0] == "rollout" else seed, *purpose)

    with monkeypatch.context() as patch:
        patch.setattr(adaptthink.training.rollout, "make_seed", salted)
        train_job(check(TrainConfig, RECIPE), folder, reference_store=store, resume=False, clean=False)
    return read_metrics(folder / "metrics.jsonl")


def test_metrics_move_as_the_native_trainers(resumed, store, tmp_path, monkeypatch):
    rows = read_metrics(resumed[0] / "metrics.jsonl")
    native = [native_metrics(store, tmp_path / f"native-{salt}", salt, monkeypatch) for salt in SALTS]

    def within(value, values):
        middle = sum(values) / len(values)
        spread = (sum((one - middle) ** 2 for one in values) / (len(values) - 1)) ** 0.5
        # Five deviations: a few trainings say little of the deviation itself. The least one: rounding.
        return abs(value - middle) <= 5 * max(spread, 0.02 * abs(middle))

    for key in ("probe_no_think_logprob", "probe_mode_mass"):
        assert within(rows[-1][key], [run[-1][key] for run in native]), key
    # The first step's responses are sampled from the same model; its update moves log P(no_think) alike.
    for key in ("probe_no_think_logprob", "grad_norm"):
        assert within(rows[0][key], [run[0][key] for run in native]), key

    def moved(run):
        return run[-1]["probe_no_think_logprob"] - run[0]["probe_no_think_logprob"]

    assert moved(rows) * sum(map(moved, native)) > 0

    def mean(run, key):
        return sum(row[key] for row in run) / len(run)

    for key in ("reward_think", "reward_no_think", "mean_tokens_think", "mean_tokens_no_think"):
        assert within(mean(rows, key), [mean(run, key) for run in native]), key


def test_gap_trains_with_the_policys_own_decisions(store, tmp_path):
    """Its reference policy, pull and all: one step is checked against the model, the second one against the first."""
    run = tmp_path / "run"
    finish(start(run, store, "--method", "gap", "--steps", "2"), run)
    first, second = read_metrics(run / "metrics.jsonl")
    policy = load_policy("tiny")
    columns = parquet.read_table(run / "verl" / "train.parquet").to_pylist()[: RECIPE["problems_per_step"]]
    prompts = [encode_prompt(policy.tokenizer, policy.template, read_row(row)[0].messages) for row in columns]
    decisions = [policy.template.no_think_id, policy.template.think_id]
    logprobs = compute_response_logprobs(
        policy.model,
        [prompt for prompt in prompts for _ in decisions],
        [(token,) for _ in prompts for token in decisions],
        RECIPE["temperature"],
    )
    assert first["behavior_decision"] == pytest.approx(logprobs.exp().mean().item(), rel=1e-4)
    assert first["update_tokens"] > first["responses"] == 32
    assert first["probe_no_think_logprob"] < second["probe_no_think_logprob"]
    assert load_policy(str(run / "model")).fingerprint != policy.fingerprint


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Two Ray nodes on this machine, with one rank each; yields the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = environment(1, paths=[SOURCE]) | {"RAY_TMPDIR": "/tmp", "RAY_AUTH_MODE": "disabled"}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = [str(PYTHON.with_name("ray")), "start", "--num-cpus=16", "--resources", '{"NPU": 1}']
    before = {one.pid for one in psutil.process_iter()}
    quiet = ["--disable-usage-stats"]
    subprocess.run([*ray, *quiet, "--head", f"--port={port}", "--include-dashboard=false"], env=variables, check=True)
    subprocess.run([*ray, *quiet, f"--address=127.0.0.1:{port}"], env=variables, check=True)
    yield f"127.0.0.1:{port}"
    for process in psutil.process_iter():
        try:
            ours = process.pid not in before and str(port) in " ".join(process.cmdline())
        except psutil.Error:
            continue
        if ours:
            for one in [*process.children(recursive=True), process]:
                one.kill()


def test_two_ray_nodes(cluster, store, tmp_path):
    run = tmp_path / "run"
    ray = {"nodes": 2, "ray_address": cluster}
    finish(start(run, store, "--steps", "2", ranks=1, ray=ray), run)
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["behavior_decision"] == pytest.approx(0.5, abs=1e-6) for row in rows)
    assert load_policy(str(run / "model")).fingerprint != load_policy("tiny").fingerprint
