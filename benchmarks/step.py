r"""A whole AdaptThink step (rollouts, grading, update): our native trainer beside TRL's GRPOTrainer.

    python benchmarks/step.py [--model tiny|smollm2|random-0.5b|random-1.5b] [--prompts 16] [--steps 5]
                              [--device cpu|cuda] [--dtype float32|bfloat16]

Same model, problems, K = 16 (half the responses forced into each mode), max_tokens, T = 1, data type, AdamW, and the
length-normalised ratio of the official code, which TRL calls sequence-level importance sampling. TRL generates with
transformers through its `rollout_func`, with the decision token forced; it knows one cap, the larger. It takes the same
number of sequences per micro-batch as ours has on average. Both run in processes of their own and take turns, a step
each; the first step of each is not counted. Ours is measured twice: `ours` with advantages that are never zero, and
`ours_reference` with R̄_ref sampled beforehand, as in real training, where a response whose advantage is exactly zero is
left out of the update (the gradient is the same). Needs trl 1.16 and accelerate.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from models import model_folder
from record import device_name, shown, spread, surroundings, write_result

SAMPLES = 16
MAX_TOKENS = {"tiny": (128, 16), "smollm2": (64, 16), "random-0.5b": (1024, 128), "random-1.5b": (1024, 128)}  # by mode
DEVICE = "cuda" if "cuda" in sys.argv else "cpu"
DTYPE = "bfloat16" if "bfloat16" in sys.argv else "float32"  # of the arithmetic; the weights are float32
MICRO_TOKENS = 4096  # of our update; TRL gets micro-batches of as many rows


def wait_for_turn() -> None:
    """Wait for a line on standard input."""
    if not sys.stdin.readline():
        raise SystemExit(0)


def report(started: float, tokens: int) -> None:
    """Say how a step went."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - started, "tokens": tokens, "peak_mb": peak}), flush=True)


def run_ours(model: str, num_prompts: int, steps: int, *, sample_reference: bool = False) -> None:
    """Steps of our trainer, without its probe and checkpoints."""
    import torch  # noqa: PLC0415

    from adaptthink.config.schema import TrainConfig  # noqa: PLC0415
    from adaptthink.engines.native import NativeEngine  # noqa: PLC0415
    from adaptthink.grading import Verdict  # noqa: PLC0415
    from adaptthink.models.loading import load_policy  # noqa: PLC0415
    from adaptthink.problems.arithmetic import Split, generate_problems  # noqa: PLC0415
    from adaptthink.sampling.requests import MaxTokens  # noqa: PLC0415
    from adaptthink.sampling.sampler import Sampler, Sampling, sample_rollouts  # noqa: PLC0415
    from adaptthink.training.advantages import compute_step_advantages  # noqa: PLC0415
    from adaptthink.training.reference import Reference  # noqa: PLC0415
    from adaptthink.training.rollout import collect  # noqa: PLC0415
    from adaptthink.training.train import choose_problems  # noqa: PLC0415
    from adaptthink.training.update import update  # noqa: PLC0415

    think, no_think = MAX_TOKENS[model]
    config = TrainConfig(
        problems_per_step=num_prompts, samples_per_problem=SAMPLES, temperature=1.0, learning_rate=1e-6,
        max_think_tokens=think, max_no_think_tokens=no_think, micro_batch_tokens=MICRO_TOKENS, dtype=DTYPE,
    )  # fmt: skip
    policy = load_policy(str(model_folder(model)))
    policy.model.to(DEVICE, torch.float32)
    problems = generate_problems(num_prompts * 2, seed=0, split=Split.TRAIN)
    mixed = (Verdict.CORRECT, Verdict.WRONG)  # a reference of one half, so that no advantage is zero
    reference = {problem.id: Reference(problem.id, mixed, (1, 1)) for problem in problems}
    engine = NativeEngine(policy.model, policy.eos_ids, dtype=getattr(torch, DTYPE))
    sampler = Sampler(engine, policy.tokenizer, policy.template)
    if sample_reference:
        settings = Sampling(MaxTokens(think, no_think), config.temperature)
        for problem in problems:
            [rollouts] = sample_rollouts(sampler, [problem], [None] * SAMPLES, settings)
            verdicts = tuple(rollout.verdict for rollout in rollouts)
            reference[problem.id] = Reference(problem.id, verdicts, tuple(len(one.response_ids) for one in rollouts))
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=config.learning_rate)
    for step in range(1, steps + 2):
        wait_for_turn()
        started = time.perf_counter()
        rollouts = collect(sampler, choose_problems(problems, num_prompts, config.seed, step), config, step)
        advantages_N = compute_step_advantages(rollouts, reference, config)
        update(policy.model, optimizer, rollouts, advantages_N, config, step)
        report(started, sum(len(rollout.response_ids) for rollout in rollouts))


def run_trl(model: str, num_prompts: int, steps: int) -> None:
    """Steps of TRL's trainer, the decision token forced."""
    import torch  # noqa: PLC0415
    from datasets import Dataset  # noqa: PLC0415
    from transformers import AutoTokenizer, TrainerCallback  # noqa: PLC0415
    from trl import GRPOConfig, GRPOTrainer  # noqa: PLC0415

    from adaptthink.grading import Submission, compute_reward, drop_thinking, grade_all  # noqa: PLC0415
    from adaptthink.modes import Mode, encode_prompt, probe  # noqa: PLC0415
    from adaptthink.problems.arithmetic import Split, generate_problems  # noqa: PLC0415

    folder = str(model_folder(model))
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    template = probe(tokenizer)
    prefixes = [template.prefix_ids(Mode.NO_THINK), template.prefix_ids(Mode.THINK)]
    think, _ = MAX_TOKENS[model]
    tokens = 0

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        nonlocal tokens
        prompt_ids = [list(encode_prompt(tokenizer, template, prompt[-1]["content"])) for prompt in prompts]
        forced = [list(prefixes[index % SAMPLES >= SAMPLES // 2]) for index in range(len(prompts))]
        rows = [ids + prefix for ids, prefix in zip(prompt_ids, forced, strict=True)]
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=DEVICE)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=DEVICE)
        with torch.no_grad():
            out = trainer.model.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0,
                max_new_tokens=think - 1, pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )[:, width:].tolist()  # fmt: skip
        ends = [row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row) for row in out]
        responses = [prefix + row[:end] for prefix, row, end in zip(forced, out, ends, strict=True)]
        tokens = sum(map(len, responses))
        return {"prompt_ids": prompt_ids, "completion_ids": responses, "logprobs": None}

    def score(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        grades = grade_all(
            [
                Submission(drop_thinking(text), reference_answer)
                for text, reference_answer in zip(texts, answer, strict=True)
            ]
        )
        return [compute_reward(grade.verdict) for grade in grades]

    class Turns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            wait_for_turn()
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            report(self.started, tokens)

    problems = generate_problems(num_prompts * 2, seed=0, split=Split.TRAIN)
    rows = [{"prompt": [{"role": "user", "content": one.prompt}], "answer": one.answer} for one in problems]
    micro = max(SAMPLES, SAMPLES * num_prompts // 8)
    settings = GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=DEVICE == "cpu", bf16=DTYPE == "bfloat16",
        num_generations=SAMPLES, max_steps=steps + 1,
        per_device_train_batch_size=micro, gradient_accumulation_steps=SAMPLES * num_prompts // micro,
        max_completion_length=think, learning_rate=1e-6, temperature=1.0, beta=0.0, scale_rewards="none",
        loss_type="grpo", importance_sampling_level="sequence", report_to=[], save_strategy="no", logging_steps=1000,
        model_init_kwargs={"dtype": "float32"}, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = GRPOTrainer(
        folder, reward_funcs=score, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        rollout_func=rollout, callbacks=[Turns()],
    )  # fmt: skip
    trainer.train()


RUNS = {"ours": run_ours, "ours_reference": partial(run_ours, sample_reference=True), "trl": run_trl}


def start(name: str, options: list[str], log: Path) -> subprocess.Popen[str]:
    """Start the process of one trainer."""
    command = [sys.executable, __file__, "--one", name, *options]
    with log.open("w") as errors:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)


def take_turn(process: subprocess.Popen[str], name: str, log: Path) -> dict[str, Any]:
    """Let a trainer make one step and return what it says of it."""
    assert process.stdin is not None
    assert process.stdout is not None
    print("go", file=process.stdin, flush=True)
    line = next((line for line in process.stdout if line.startswith('{"seconds"')), None)
    if line is None:
        raise SystemExit(f"{name} ended early; see {log}")
    return json.loads(line)


def main() -> None:
    """Let both take turns and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MAX_TOKENS, default="tiny")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--one", choices=RUNS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        RUNS[arguments.one](arguments.model, arguments.prompts, arguments.steps)
        return
    options = ["--model", arguments.model, "--prompts", str(arguments.prompts), "--steps", str(arguments.steps)]
    options += ["--device", DEVICE, "--dtype", DTYPE]
    logs = {name: Path(tempfile.gettempdir()) / f"step-{name}.log" for name in RUNS}
    processes = {name: start(name, options, logs[name]) for name in RUNS}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    for step in range(arguments.steps + 1):
        for name in RUNS if step % 2 else reversed(RUNS):
            row = take_turn(processes[name], name, logs[name])
            print(f"{step}/{arguments.steps} {name}: {row['seconds']:.2f} s, {row['tokens']} tokens", flush=True)
            if step:
                rows[name].append(row)
    for pipe in processes.values():
        pipe.kill()
    seconds = {name: [row["seconds"] for row in rows[name]] for name in RUNS}
    result = surroundings(["torch", "transformers", "trl", "accelerate"]) | {
        "model": arguments.model,
        "device": device_name(DEVICE),
        "dtype": DTYPE,
        "responses_per_step": arguments.prompts * SAMPLES,
        "max_tokens": MAX_TOKENS[arguments.model],
        "seconds_per_step": {name: spread(values) for name, values in seconds.items()},
        "tokens_per_step": {name: spread([row["tokens"] for row in rows[name]]) for name in RUNS},
        "peak_mb": {name: rows[name][-1]["peak_mb"] for name in RUNS},
        "times_as_fast_as_trl": {
            name: spread([trl / own for own, trl in zip(seconds[name], seconds["trl"], strict=True)])
            for name in ("ours", "ours_reference")
        },
    }
    for name in RUNS:
        print(f"{name:16}{shown(result['seconds_per_step'][name])} s/step, peak {result['peak_mb'][name]:.0f} MB")
    for name, ratio in result["times_as_fast_as_trl"].items():
        print(f"{name} is {shown(ratio)} times as fast as trl")
    print(f"written to {write_result(f'step-{arguments.model}-{DTYPE}', result)}")


if __name__ == "__main__":
    main()
