r"""A whole AdaptThink step (rollouts, grading, update), or its update alone: our native trainer beside TRL's.

    python benchmarks/step.py [--model tiny|smollm2|random-0.5b|random-1.5b] [--work 16x128,16 ...] [--steps 5]
                              [--trainers ours;trl] [--device cpu|cuda] [--dtype float32|bfloat16]
    python benchmarks/step.py --update 32x2048 8x8192 4x16384 --checkpointing ...

Same model, problems, K = 16 (half the responses forced into each mode), max_tokens, T = 1, data type, AdamW, and the
length-normalised ratio of the official code, which TRL calls sequence-level importance sampling. `--work 16x128,16` is
16 prompts with max_tokens 128 and 16. TRL generates with transformers through its `rollout_func`, with the decision
token forced; it knows one max_tokens, the larger. It takes the same number of sequences per micro-batch as ours has on
average. The first step of each is not counted. Ours is measured twice: `ours` with advantages that are never zero, and
`ours_reference` with R̄_ref sampled beforehand, as in real training, where a response whose advantage is exactly zero is
left out of the update (the gradient is the same). Needs trl 1.16 and accelerate.

`--update 8x8192` generates nothing: the step has 8 responses of 8,192 random tokens each, up to 16 to a prompt. `mfu`
is the least time of forward and backward at the measured peak of products over the time of the update; activations that
are computed again and padding do not count as work.

Each trainer has a process of its own. On a CPU they take turns, a step each; on a GPU, whose memory they share, one
follows the other.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from models import model_folder
from record import device_name, measure_peak_mb, shown, spread, surroundings, write_result

SAMPLES = 16
MAX_TOKENS = {"tiny": (128, 16), "smollm2": (64, 16), "random-0.5b": (1024, 128), "random-1.5b": (1024, 128)}  # by mode
DEVICE = "cuda" if "cuda" in sys.argv else "cpu"
DTYPE = "bfloat16" if "bfloat16" in sys.argv else "float32"  # of the arithmetic; the weights are float32
CHECKPOINTING = "--checkpointing" in sys.argv
MICRO_TOKENS = 4096  # of our update; TRL gets micro-batches of as many rows
UPDATE_MICRO_TOKENS = 16384  # of responses, with --update, for both
PROMPT_TOKENS = 64  # that no prompt reaches


@dataclass(frozen=True, slots=True)
class Work:
    """The responses of a step: `given` ones are random tokens and as long as max_tokens, others are generated."""

    num_prompts: int
    samples: int
    think: int  # max_tokens
    no_think: int
    given: bool

    @property
    def micro_rows(self) -> int:
        """Rows of TRL's micro-batches, which divide the step's."""
        rows = self.num_prompts * self.samples
        most = max(1, (UPDATE_MICRO_TOKENS if self.given else MICRO_TOKENS) // self.think)
        return next(count for count in range(min(rows, most), 0, -1) if rows % count == 0)

    @property
    def micro_tokens(self) -> int:
        """Tokens of our micro-batches, prompts included; for given responses, so many that they have TRL's rows."""
        return self.micro_rows * (self.think + PROMPT_TOKENS) if self.given else MICRO_TOKENS


def read_work(text: str, *, given: bool) -> Work:
    """Read 16x128,16 (prompts and max_tokens by mode), or 8x8192 (responses and their length) if they are given."""
    count, _, limits = text.partition("x")
    think, *others = map(int, limits.split(","))
    if not given:
        return Work(int(count), SAMPLES, think, *(others or [think]), given=False)
    samples = min(SAMPLES, int(count))
    return Work(int(count) // samples, samples, think, think, given=True)


def make_given_response(vocabulary: int, ends: Sequence[int], length: int, seed: int) -> list[int]:
    """Return random tokens, none of which ends a response."""
    rng = random.Random(seed)
    allowed = sorted(set(range(min(vocabulary, 256))) - set(ends))
    return rng.choices(allowed, k=length)


def wait_for_turn() -> None:
    """Wait for a line on standard input."""
    if not sys.stdin.readline():
        raise SystemExit(0)


def now() -> float:
    """Return the time when the accelerator has finished all queued work."""
    import torch  # noqa: PLC0415

    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def report(
    started: float, sampled: float, model: Any, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> None:
    """Print how a step went that started and had its graded rollouts at these times."""
    import torch  # noqa: PLC0415

    from adaptthink.planning.roofline import compute_update_bound, measure_machine, read_shape  # noqa: PLC0415

    ended, peak = now(), measure_peak_mb(DEVICE)
    dtype = getattr(torch, DTYPE)
    machine = measure_machine(torch.device(DEVICE), dtype)
    bound = compute_update_bound(read_shape(model, dtype), machine, prompts, responses)
    outcome = {
        "seconds": ended - started,
        "update_seconds": ended - sampled,
        "mfu": bound / (ended - sampled),
        "tokens": sum(map(len, responses)),
        "gflops_per_second": machine.flops_per_second / 1e9,
        "peak_mb": peak,
    }
    print(json.dumps(outcome), flush=True)


def run_ours(model: str, work: Work, steps: int, *, sample_reference: bool = False) -> None:
    """Steps of our trainer, without its probe and checkpoints."""
    import torch  # noqa: PLC0415

    from adaptthink.config.schema import TrainConfig  # noqa: PLC0415
    from adaptthink.engines.base import ScriptedEngine  # noqa: PLC0415
    from adaptthink.engines.native import NativeEngine  # noqa: PLC0415
    from adaptthink.grading import Verdict  # noqa: PLC0415
    from adaptthink.models.loading import load_policy  # noqa: PLC0415
    from adaptthink.problems.arithmetic import Split, generate_problems  # noqa: PLC0415
    from adaptthink.sampling.requests import MaxTokens  # noqa: PLC0415
    from adaptthink.sampling.sampler import Sampler, Sampling, sample_rollouts  # noqa: PLC0415
    from adaptthink.training.data import choose_problems  # noqa: PLC0415
    from adaptthink.training.methods import credit_rollouts  # noqa: PLC0415
    from adaptthink.training.reference import Reference  # noqa: PLC0415
    from adaptthink.training.rollout import collect  # noqa: PLC0415
    from adaptthink.training.update import make_optimizer, update  # noqa: PLC0415

    config = TrainConfig(
        problems_per_step=work.num_prompts, samples_per_problem=work.samples, temperature=1.0, learning_rate=1e-6,
        max_think_tokens=work.think, max_no_think_tokens=work.no_think, dtype=DTYPE,
        micro_batch_tokens=work.micro_tokens, gradient_checkpointing=CHECKPOINTING,
    )  # fmt: skip
    policy = load_policy(str(model_folder(model)), device=DEVICE, dtype=torch.float32)
    problems = generate_problems(work.num_prompts * 2, seed=0, split=Split.TRAIN)
    mixed = (Verdict.CORRECT, Verdict.WRONG)  # a reference of one half, so that no advantage is zero
    reference = {problem.id: Reference(problem.id, mixed, (1, 1)) for problem in problems}
    engine: Any = NativeEngine(policy.model, policy.eos_ids, dtype=getattr(torch, DTYPE))
    if work.given:
        vocabulary = policy.model.config.vocab_size
        engine = ScriptedEngine(
            lambda prompt, prefix: make_given_response(vocabulary, policy.eos_ids, work.think, sum(prompt + prefix))
        )
    sampler = Sampler(engine, policy.tokenizer, policy.template)
    if sample_reference:
        settings = Sampling(MaxTokens(work.think, work.no_think), config.temperature)
        for problem in problems:
            [rollouts] = sample_rollouts(sampler, [problem], [None] * SAMPLES, settings)
            verdicts = tuple(rollout.verdict for rollout in rollouts)
            reference[problem.id] = Reference(problem.id, verdicts, tuple(len(one.response_ids) for one in rollouts))
    optimizer = make_optimizer(policy.model, config)
    for step in range(1, steps + 2):
        wait_for_turn()
        started = now()
        rollouts = collect(sampler, choose_problems(problems, work.num_prompts, config.seed, step), config, step)
        credits = credit_rollouts(rollouts, reference, config, step)
        sampled = now()
        update(policy.model, optimizer, rollouts, credits, config, step)
        prompts, responses = [one.prompt_ids for one in rollouts], [one.response_ids for one in rollouts]
        report(started, sampled, policy.model, prompts, responses)


def run_trl(model: str, work: Work, steps: int) -> None:
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
    last: dict[str, Any] = {}  # of the step: prompts, responses, when they were graded

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        prompt_ids = [list(encode_prompt(tokenizer, template, prompt[-1]["content"])) for prompt in prompts]
        forced = [list(prefixes[index % work.samples >= work.samples // 2]) for index in range(len(prompts))]
        generate = generate_given if work.given else generate_rest
        responses = generate(trainer, prompt_ids, forced)
        last["prompts"], last["responses"] = prompt_ids, responses
        return {"prompt_ids": prompt_ids, "completion_ids": responses, "logprobs": None}

    def generate_given(trainer: Any, prompt_ids: list[list[int]], forced: list[list[int]]) -> list[list[int]]:
        ends, vocabulary = [tokenizer.eos_token_id], trainer.model.config.vocab_size
        return [
            (prefix + make_given_response(vocabulary, ends, work.think, sum(prompt + prefix)))[: work.think]
            for prompt, prefix in zip(prompt_ids, forced, strict=True)
        ]

    def generate_rest(trainer: Any, prompt_ids: list[list[int]], forced: list[list[int]]) -> list[list[int]]:
        rows = [ids + prefix for ids, prefix in zip(prompt_ids, forced, strict=True)]
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=DEVICE)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=DEVICE)
        with torch.no_grad():
            out = trainer.model.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0,
                max_new_tokens=work.think - 1, pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )[:, width:].tolist()  # fmt: skip
        ends = [row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row) for row in out]
        return [prefix + row[:end] for prefix, row, end in zip(forced, out, ends, strict=True)]

    def score(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        grades = grade_all(
            [
                Submission(drop_thinking(text), reference_answer)
                for text, reference_answer in zip(texts, answer, strict=True)
            ]
        )
        last["sampled"] = now()
        return [compute_reward(grade.verdict) for grade in grades]

    class Turns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            wait_for_turn()
            self.started = now()

        def on_step_end(self, *_: Any, model: Any, **__: Any) -> None:
            report(self.started, last["sampled"], model, last["prompts"], last["responses"])

    problems = generate_problems(work.num_prompts * 2, seed=0, split=Split.TRAIN)
    rows = [{"prompt": [{"role": "user", "content": one.prompt}], "answer": one.answer} for one in problems]
    settings = GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=DEVICE == "cpu", bf16=DTYPE == "bfloat16",
        num_generations=work.samples, max_steps=steps + 1, per_device_train_batch_size=work.micro_rows,
        gradient_accumulation_steps=work.samples * work.num_prompts // work.micro_rows,
        max_completion_length=work.think, learning_rate=1e-6, temperature=1.0, beta=0.0, scale_rewards="none",
        loss_type="grpo", importance_sampling_level="sequence", report_to=[], save_strategy="no", logging_steps=1000,
        model_init_kwargs={"dtype": "float32"}, gradient_checkpointing=CHECKPOINTING,
    )  # fmt: skip
    trainer = GRPOTrainer(
        folder, reward_funcs=score, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        rollout_func=rollout, callbacks=[Turns()],
    )  # fmt: skip
    trainer.train()


RUNS = {"ours": run_ours, "ours_reference": partial(run_ours, sample_reference=True), "trl": run_trl}


Rows = dict[str, dict[str, list[dict[str, float]]]]  # by work and trainer


def start(name: str, options: list[str], log: Path) -> subprocess.Popen[str]:
    """Start the process of one trainer."""
    command = [sys.executable, __file__, "--one", name, *options]
    with log.open("w") as errors:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)


def take_turn(process: subprocess.Popen[str], name: str, log: Path) -> dict[str, Any]:
    """Let a trainer make one step and return what it says of it."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # which then shows in the missing line
        print("go", file=process.stdin, flush=True)
    line = next((line for line in process.stdout if line.startswith('{"seconds"')), None)
    if line is None:
        raise SystemExit(f"{name} ended early; see {log}")
    return json.loads(line)


def serve(name: str, model: str, works: Sequence[Work], steps: int) -> None:
    """Run one trainer's works, one after the other, a step for each line on standard input."""
    import torch  # noqa: PLC0415

    for work in works:
        RUNS[name](model, work, steps)
        gc.collect()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def measure(
    names: Sequence[str], texts: Sequence[str], steps: int, options: list[str], on_row: Callable[[Rows, str], None]
) -> None:
    """Let the trainers make their steps; `on_row` gets all rows, and the work that was just finished.

    A trainer that ends early, such as for want of memory, is left out of what follows.
    """
    logs = {name: Path(tempfile.gettempdir()) / f"step-{name}.log" for name in names}
    rows: Rows = {text: {} for text in texts}
    teams = [[name] for name in names] if DEVICE == "cuda" else [list(names)]
    for team in teams:
        processes = {name: start(name, options, logs[name]) for name in team}
        for text in texts:
            for step in range(steps + 1):
                for name in list(processes) if step % 2 else reversed(list(processes)):
                    try:
                        row = take_turn(processes[name], name, logs[name])
                    except SystemExit as ended:
                        print(f"{ended}\n{logs[name].read_text()[-1000:]}", flush=True)
                        del processes[name]
                        continue
                    print(
                        f"{text} {step}/{steps} {name}: {row['seconds']:.2f} s, of it update "
                        f"{row['update_seconds']:.2f} s; {row['tokens']} tokens",
                        flush=True,
                    )
                    if step:
                        rows[text].setdefault(name, []).append(row)
            on_row(rows, text)
        for process in processes.values():
            process.kill()


def summarize(work: Work, rows: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the figures of a work, by trainer; ratios are of the steps that stood beside each other."""
    key = "update_seconds" if work.given else "seconds"

    def collect_spreads(compute: Callable[[dict[str, float]], float]) -> dict[str, dict[str, float]]:
        return {name: spread([compute(row) for row in own]) for name, own in rows.items()}

    return {
        "responses_per_step": work.num_prompts * work.samples,
        "max_tokens": [work.think, work.no_think],
        "seconds_per_step": collect_spreads(lambda row: row["seconds"]),
        "update_seconds": collect_spreads(lambda row: row["update_seconds"]),
        "update_tokens_per_second": collect_spreads(lambda row: row["tokens"] / row["update_seconds"]),
        "mfu": collect_spreads(lambda row: row["mfu"]),
        "gflops_per_second": collect_spreads(lambda row: row["gflops_per_second"]),
        "tokens_per_step": collect_spreads(lambda row: row["tokens"]),
        "peak_mb": {name: own[-1]["peak_mb"] for name, own in rows.items()},
        "times_as_fast_as_trl": {
            name: spread([trl[key] / ours[key] for ours, trl in zip(rows[name], rows["trl"], strict=False)])
            for name in rows
            if name != "trl" and "trl" in rows
        },
    }


def main() -> None:
    """Let the trainers make their steps and write the result, after each work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MAX_TOKENS, default="tiny")
    parser.add_argument("--work", nargs="+", help="PROMPTSxTHINK[,NO_THINK]")
    parser.add_argument("--update", nargs="+", help="RESPONSESxTOKENS")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--trainers", default=";".join(RUNS), help="joined by ;")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--one", choices=RUNS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    think, no_think = MAX_TOKENS[arguments.model]
    texts = arguments.update or arguments.work or [f"16x{think},{no_think}"]
    works = {text: read_work(text, given=bool(arguments.update)) for text in texts}
    if arguments.one:
        serve(arguments.one, arguments.model, list(works.values()), arguments.steps)
        return
    model_folder(arguments.model)
    names, kind = arguments.trainers.split(";"), "update" if arguments.update else "step"
    options = ["--model", arguments.model, f"--{'update' if arguments.update else 'work'}", *texts]
    options += ["--steps", str(arguments.steps), "--device", DEVICE, "--dtype", DTYPE]
    options += ["--checkpointing"] if CHECKPOINTING else []
    result = surroundings(["torch", "transformers", "trl", "accelerate"]) | {
        "model": arguments.model,
        "device": device_name(DEVICE),
        "dtype": DTYPE,
        "gradient_checkpointing": CHECKPOINTING,
        "micro_batch_tokens": UPDATE_MICRO_TOKENS if arguments.update else MICRO_TOKENS,
    }
    name = f"{kind}-{arguments.model}-{DTYPE}" + ("-gpu" if DEVICE == "cuda" else "")

    def write(rows: Rows, finished: str) -> None:
        figures = {text: summarize(works[text], own) for text, own in rows.items() if own}
        if finished in figures:
            show(finished, figures[finished])
            print(f"written to {write_result(name, result | {'works': figures})}", flush=True)

    measure(names, texts, arguments.steps, options, write)


def show(text: str, figures: dict[str, Any]) -> None:
    """Print the figures of a work."""
    for name, seconds in figures["seconds_per_step"].items():
        over = figures["times_as_fast_as_trl"].get(name)
        print(
            f"{text} {name:16}{shown(seconds)} s/step, update {shown(figures['update_tokens_per_second'][name])} "
            f"tokens/s, MFU {shown(figures['mfu'][name], '.1%')}, peak {figures['peak_mb'][name]:.0f} MB"
            + (f"; {shown(over)} times as fast as trl" if over else "")
        )


if __name__ == "__main__":
    main()
