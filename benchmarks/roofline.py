r"""How near generation and update come to what this machine could do: measured peak of products, measured bandwidth.

    python benchmarks/roofline.py [--model tiny|smollm2] [--prompts 8] [--repetitions 5] [--dtype float32|bfloat16]

One process; before each repetition the machine is measured again, as other load changes what it gives. Responses are K
= 16 to each prompt, half forced into each mode, as long as max_tokens allows: no token ends them. The update runs on
all of them, with an advantage that is never zero. Its work is counted as if each response carried its prompt; what
sharing saves counts as speed.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import Any

import torch
from models import model_folder
from record import shown, spread, surroundings, write_result

from adaptthink.config.schema import TrainConfig
from adaptthink.engines.native import NativeEngine
from adaptthink.grading import Verdict
from adaptthink.models.loading import load_policy
from adaptthink.planning.roofline import compute_generation_bound, compute_update_bound, measure_machine, read_shape
from adaptthink.problems.arithmetic import Split, generate_problems
from adaptthink.sampling.sampler import Sampler
from adaptthink.training.data import choose_problems
from adaptthink.training.methods import credit_rollouts
from adaptthink.training.reference import Reference
from adaptthink.training.rollout import collect
from adaptthink.training.update import update

MAX_TOKENS = {"tiny": (128, 16), "smollm2": (64, 16)}  # think, no_think


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MAX_TOKENS, default="tiny")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    think, no_think = MAX_TOKENS[arguments.model]
    dtype = getattr(torch, arguments.dtype)
    policy = load_policy(str(model_folder(arguments.model)))
    config = TrainConfig(
        problems_per_step=arguments.prompts, samples_per_problem=16, temperature=1.0, learning_rate=1e-6,
        max_think_tokens=think, max_no_think_tokens=no_think, dtype=arguments.dtype,
    )  # fmt: skip
    problems = generate_problems(-(-arguments.prompts // 5) + 1, seed=0, split=Split.TRAIN)[: arguments.prompts]
    reference = {one.id: Reference(one.id, (Verdict.CORRECT, Verdict.WRONG), (1, 1)) for one in problems}
    sampler = Sampler(NativeEngine(policy.model, [10**9], dtype=dtype), policy.tokenizer, policy.template)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=config.learning_rate)
    shape = read_shape(policy.model, dtype)
    rows: list[dict[str, float]] = []
    for step in range(1, arguments.repetitions + 2):
        machine = measure_machine(policy.model.device, dtype)
        sampler.clock.take()
        rollouts = collect(sampler, choose_problems(problems, arguments.prompts, config.seed, step), config, step)
        generated = sampler.clock.take()["generate_seconds"]
        prompts, responses = [one.prompt_ids for one in rollouts], [one.response_ids for one in rollouts]
        started = time.perf_counter()
        credits = credit_rollouts(rollouts, reference, config, step)
        update(policy.model, optimizer, rollouts, credits, config, step)
        updated = time.perf_counter() - started
        row = {
            "gflops_per_second": machine.flops_per_second / 1e9,
            "gbytes_per_second": machine.bytes_per_second / 1e9,
            "generate_seconds": generated,
            "update_seconds": updated,
            "generate_share": compute_generation_bound(shape, machine, prompts, responses) / generated,
            "update_share": compute_update_bound(shape, machine, prompts, responses) / updated,
        }
        print({name: round(value, 3) for name, value in row.items()}, flush=True)
        if step > 1:
            rows.append(row)
    figures = {name: spread([row[name] for row in rows]) for name in rows[0]}
    result: dict[str, Any] = surroundings(["torch", "transformers"]) | {
        "model": arguments.model,
        "dtype": arguments.dtype,
        "responses": 16 * arguments.prompts,
        "max_tokens": [think, no_think],
        "shape": asdict(shape),
    }
    for name, values in figures.items():
        print(f"{name:20}{shown(values)}")
    print(f"written to {write_result(f'roofline-{arguments.model}-{arguments.dtype}', result | figures)}")


if __name__ == "__main__":
    main()
