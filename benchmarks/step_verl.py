r"""A whole AdaptThink step (rollouts, grading, update): our native trainer beside verl's on a CPU.

    python benchmarks/step_verl.py [--prompts 16] [--steps 5]      # after scripts/setup_verl.sh

Same model (the embedded one), the same problems in each step, K = 16 (half the responses forced into each mode),
max_tokens, T = 1, float32, AdamW, and the length-normalised ratio of the official code, which verl calls `gspo`. Both
take turns, a step each, and the first step of each is not counted. A step of verl is timed by the clock from giving out
the prompts to the moment when its rollout has the new weights; verl's metrics, logs and clean-up after that are left
out.

verl 0.9.1 is stock, run by `tests/verl_cpu`: it was not made for a CPU, and a rollout by transformers in a Ray actor
stands for its vLLM (which was measured to be slower than transformers on models as small as this one). On a GPU, for
which verl is made, nothing of this says how the two compare. What was set in its favour:

* one rank and one rollout, each with all threads, since they take turns; one worker each for agent loops and rewards;
* `bypass_mode`: it uses the rollout's log-probabilities instead of computing them again before the update;
* all responses of a mode in one batch of `generate`, which starts as soon as the last request is there, and the short
  mode apart, so that it does not wait for the long one;
* it looks for finished responses every 20 ms instead of every two seconds, and does not warn at each response;
* no KL term, entropy, reference model, validation, checkpoint, compilation or gradient checkpointing;
* micro-batches by tokens (`use_dynamic_bsz`), as many as ours.

What it does differently: advantages are GRPO's, within the group (the arithmetic is negligible); it trains on every
response, ours leaves out those whose advantage is zero, but the references are chosen so that none is.

Memory is the sum over processes of each one's own peak, where pages that processes share count once. Processor time
is that of all processes during a step; it depends less than the clock on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from models import model_folder
from record import shown, spread, surroundings, write_result
from step import MAX_TOKENS, MICRO_TOKENS, SAMPLES, start, take_turn

HERE = Path(__file__).parent
MODEL = "tiny"
MAX_PROMPT_TOKENS = 128
START_SECONDS = 600  # of verl and Ray together, at the most
sys.path.insert(0, str(HERE.parent / "tests"))

from verl_cpu.launch import arguments, environment, settings  # noqa: E402


def write_problems(path: Path, num_prompts: int, num_steps: int) -> None:
    """Write the problems that our trainer takes in these steps, in its order, as verl's data set."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    from adaptthink.config.schema import TrainConfig  # noqa: PLC0415
    from adaptthink.problems.arithmetic import Split, generate_problems  # noqa: PLC0415
    from adaptthink.training.data import choose_problems  # noqa: PLC0415

    problems = generate_problems(num_prompts * 2, seed=0, split=Split.TRAIN)
    rows = [
        {
            "data_source": "arithmetic",
            "prompt": [{"role": "user", "content": problem.prompt}],
            "reward_model": {"style": "rule", "ground_truth": problem.answer},
            "extra_info": {"index": index},
        }
        for index, problem in enumerate(
            problem
            for step in range(1, num_steps + 1)
            for problem in choose_problems(problems, num_prompts, TrainConfig().seed, step)
        )
    ]
    parquet.write_table(pa.Table.from_pylist(rows), path)


def make_verl_settings(folder: Path, num_prompts: int, num_steps: int) -> dict[str, str | int | float | bool]:
    """Return verl's settings for the same step as ours."""
    think, _ = MAX_TOKENS[MODEL]
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    return settings(folder) | {
        "actor_rollout_ref.model.path": str(model_folder(MODEL)),
        "data.train_files": str(folder / "problems.parquet"),
        "data.val_files": str(folder / "problems.parquet"),
        "data.shuffle": False,
        "data.train_batch_size": num_prompts,
        "data.max_prompt_length": MAX_PROMPT_TOKENS,
        "data.max_response_length": think,
        "algorithm.adv_estimator": "grpo",
        "algorithm.rollout_correction.bypass_mode": True,
        f"{actor}.policy_loss.loss_mode": "gspo",
        f"{actor}.loss_agg_mode": "seq-mean-token-mean",
        f"{actor}.ppo_mini_batch_size": num_prompts,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": MICRO_TOKENS,
        f"{actor}.optim.lr": 1e-6,
        f"{actor}.optim.weight_decay": 0.01,  # as torch's AdamW has it, which ours takes in step.py
        f"{actor}.use_kl_loss": False,
        f"{actor}.entropy_coeff": 0,
        f"{rollout}.n": SAMPLES,
        f"{rollout}.temperature": 1.0,
        f"{rollout}.calculate_log_probs": True,
        f"{rollout}.max_num_seqs": num_prompts * SAMPLES,
        f"{rollout}.agent.default_agent_loop": "half_forced",
        "reward.custom_reward_function.path": "pkg://verl_side",
        "trainer.v1.trainer_mode": "turns",
        "trainer.v1.sampler.custom_sampler.path": "pkg://verl_side",
        "trainer.v1.sampler.custom_sampler.name": "QuickReplayBuffer",
        "trainer.logger": "[]",
        "trainer.val_before_train": False,
        "trainer.test_freq": -1,
        "trainer.save_freq": -1,
        "trainer.total_epochs": 1,
        "trainer.total_training_steps": num_steps,
    }


class Verl:
    """verl's trainer in processes of its own, which does a step on request."""

    def __init__(self, python: Path, num_prompts: int, num_steps: int, threads: int, further: Sequence[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="step-verl-"))
        self.log = self.folder / "log.txt"
        self.num_responses = num_prompts * SAMPLES
        write_problems(self.folder / "problems.parquet", num_prompts, num_steps)
        values = make_verl_settings(self.folder, num_prompts, num_steps)
        own = {"STEP_VERL_TURNS": str(self.folder), "STEP_VERL_MAX_NO_THINK_TOKENS": str(MAX_TOKENS[MODEL][1])}
        source = HERE.parent / "src"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, "-m", "verl.trainer.main_ppo", *arguments(values), *further],
                env=environment(threads, ["verl_side"], [HERE, source]) | own,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        self.seen: list[psutil.Process] = []

    def processes(self) -> list[psutil.Process]:
        """Return the driver and all that Ray has started, and keep them to be ended."""
        driver = psutil.Process(self.process.pid)
        self.seen = [driver, *driver.children(recursive=True)]
        return self.seen

    def step(self, number: int) -> dict[str, Any]:
        """Let it do a step, counted from 1."""
        (self.folder / f"go-{number}").touch()
        result = self.folder / f"step-{number}.json"
        deadline = time.monotonic() + START_SECONDS
        while not result.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise SystemExit(f"verl ended early or hung; see {self.log}")
            time.sleep(0.05)
        row = json.loads(result.read_text(encoding="utf-8"))
        if row["responses"] != self.num_responses:
            raise SystemExit(f"verl trained on {row['responses']} responses of {self.num_responses}; see {self.log}")
        return row

    def close(self) -> None:
        """End it and everything it started."""
        if self.process.poll() is None:
            self.processes()
        for process in self.seen:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


def peak_mb(processes: list[psutil.Process]) -> float:
    """Add up the peaks of processes (Linux); of pages that several have mapped, each counts its part."""
    total = 0
    for process in processes:
        try:
            memory = process.memory_full_info()
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except (psutil.NoSuchProcess, FileNotFoundError):
            continue
        high = next((line for line in status.splitlines() if line.startswith("VmHWM")), None)
        total += (int(high.split()[1]) * 1024 if high else memory.rss) - memory.rss + memory.pss
    return total / 2**20


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Add up the processor time that processes have used so far."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def versions_of(python: Path, packages: list[str]) -> dict[str, str]:
    """Ask another environment what it has."""
    code = (
        f"import json; from importlib.metadata import version; print(json.dumps({{p: version(p) for p in {packages}}}))"
    )
    return json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Let both take turns and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--verl-set", action="append", default=[], metavar="KEY=VALUE", help="a further setting")
    parser.add_argument("--verl-python", type=Path, default=HERE.parent / ".venv-verl/bin/python")
    parser.add_argument("--no-result", action="store_true", help="a trial: write no result")
    options = parser.parse_args()
    num_prompts, steps, python = options.prompts, options.steps, options.verl_python
    threads = int(os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count())))
    # Both are configured for one step more than is measured, so that their processes are there at the end.
    verl = Verl(python, num_prompts, steps + 2, threads, options.verl_set)
    log = verl.folder / "ours.txt"
    ours = start("ours", ["--model", MODEL, "--prompts", str(num_prompts), "--steps", str(steps + 1)], log)
    turns = {"verl": verl.step, "ours": lambda _: take_turn(ours, "ours", log)}
    processes = {"verl": verl.processes, "ours": lambda: [psutil.Process(ours.pid)]}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in turns}
    try:
        for step in range(1, steps + 2):
            for name in turns if step % 2 else reversed(turns):
                used = cpu_seconds(processes[name]())
                row = turns[name](step)
                row["cpu_seconds"] = cpu_seconds(processes[name]()) - used
                parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in row.get("parts", {}).items())
                print(
                    f"{step - 1}/{steps} {name}: {row['seconds']:.2f} s, {row['cpu_seconds']:.2f} s of processors,"
                    f" {row['tokens']} tokens {parts}",
                    flush=True,
                )
                rows[name].append(row)
        peaks = {name: peak_mb(processes[name]()) for name in turns}
        num_processes = len(verl.processes())
    finally:
        ours.kill()
        verl.close()
    warm = {name: rows[name][1:] for name in turns}
    seconds = {name: [row["seconds"] for row in warm[name]] for name in turns}
    result = surroundings(["torch", "transformers"]) | {
        "versions_of_verl": versions_of(python, ["verl", "ray", "TransferQueue", "torch", "transformers"]),
        "threads": threads,
        "model": MODEL,
        "responses_per_step": num_prompts * SAMPLES,
        "max_tokens": MAX_TOKENS[MODEL],
        "seconds_per_step": {name: spread(values) for name, values in seconds.items()},
        "seconds_of_parts_of_verl": {
            part: spread([row["parts"][part] for row in warm["verl"]]) for part in warm["verl"][0]["parts"]
        },
        "cpu_seconds_per_step": {name: spread([row["cpu_seconds"] for row in warm[name]]) for name in turns},
        "tokens_per_step": {name: spread([row["tokens"] for row in warm[name]]) for name in turns},
        "peak_mb": peaks,
        "processes_of_verl": num_processes,
        "ours_over_verl": spread([verl / ours for ours, verl in zip(seconds["ours"], seconds["verl"], strict=True)]),
    }
    for name in turns:
        used = shown(result["cpu_seconds_per_step"][name])
        print(f"{name:5}{shown(result['seconds_per_step'][name])} s/step, processors {used}, {peaks[name]:.0f} MB")
    print(f"ours is {shown(result['ours_over_verl'])} times as fast")
    if not options.no_result:
        print(f"written to {write_result(f'step-verl-{MODEL}', result)}")


if __name__ == "__main__":
    main()
