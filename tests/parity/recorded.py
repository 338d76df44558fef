"""Rollouts that were recorded once, and what the native trainer makes of them: what every backend is compared with.

`rollouts.json` holds responses of the embedded model with the log-probabilities that they were sampled with, four
to each of eight problems, half of them forced not to think. The second token of each problem's first response is marked
as forced, as where a family's no_think prefix has several tokens: it is no decision and carries no loss. The model
that is updated is the embedded one with noise on its weights, as a policy that has moved since: ratios lie on both
sides of 1 and outside of the clipping interval, so that a term that is lost or weighed wrongly shows. A method that
pulls to the model before training gets the embedded model with other noise for it.

Gradients are compared in float64, where two ways to the same numbers agree to rounding on every processor. In float32
they need not. Log-probabilities are off by 1e-7 to 2e-5, since matrix products add up in an order that depends on their
shapes and on the processor, and a few tokens carry much of the gradient. The gradient of log π is proportional to
1 − π, a small difference: of one token with π = 0.953 an error of 3.4e-6 in log π is 7e-5 of 1 − π. With the ratio of
each token, that token has 30% of the gradient's length in each of two equal responses.

To record again: `PYTHONPATH=tests python tests/parity/recorded.py`.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rollouts import make_rollout
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.qwen2 import modeling_qwen2

from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.grading import Verdict
from adaptthink.models.loading import load_policy
from adaptthink.models.scoring import compute_response_logprobs
from adaptthink.modes import Mode
from adaptthink.problems import Problem
from adaptthink.sampling.sampler import Rollout
from adaptthink.training.initial import InitialModel
from adaptthink.training.methods import credit_rollouts, load_method
from adaptthink.training.reference import Reference
from adaptthink.training.update import update

FILE = Path(__file__).parent / "rollouts.json"
PROBLEMS, SAMPLES, REFERENCE_SAMPLES = 8, 4, 4
NOISE = 0.15  # standard deviation of the noise, in those of each weight matrix
# How far a gradient may be from the native one, as a share of its length. Seen: 9e-15 in float64; in float32 2.5e-6 on
# an AMD EPYC and 4.6e-5 on an Intel Xeon. The smallest of the faults that the tests inject makes a difference of 0.025.
BOUNDS = {torch.float64: 1e-11, torch.float32: 5e-4}


def config(**values: object) -> TrainConfig:
    """One step on the recorded rollouts, with the paper's objective; `values` override."""
    own = {
        "steps": 1, "problems_per_step": PROBLEMS, "samples_per_problem": SAMPLES, "max_think_tokens": 64,
        "max_no_think_tokens": 16, "reference_samples": REFERENCE_SAMPLES, "max_grad_norm": 1e9, "temperature": 0.8,
    }  # fmt: skip
    return check(TrainConfig, own | values)


@cache
def rollouts() -> list[Rollout]:
    """The recorded responses, problem by problem, no_think first."""
    return [
        make_rollout(
            Problem(**row["problem"]),
            Mode(row["mode"]),
            tuple(row["prompt_ids"]),
            row["response_ids"],
            row["behavior_logprobs"],
            row["num_forced"],
            Verdict(row["verdict"]),
        )
        for row in json.loads(FILE.read_text(encoding="utf-8"))
    ]


def references() -> dict[str, Reference]:
    """References of the recorded problems: 0 to 4 of 4 samples correct, in turn."""
    ids = list(dict.fromkeys(one.problem.id for one in rollouts()))
    return {
        id_: Reference(
            id_,
            tuple(Verdict.CORRECT if k < index % 5 else Verdict.WRONG for k in range(REFERENCE_SAMPLES)),
            (20,) * REFERENCE_SAMPLES,
        )
        for index, id_ in enumerate(ids)
    }


def sampling_model(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model that sampled the rollouts: the embedded one."""
    return load_policy("tiny", device="cpu").model.to(dtype)


def moved_model(dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """The model to update: the embedded one, moved by seeded noise; the same numbers in every `dtype`."""
    model = sampling_model()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.std() * NOISE)
    return model.to(dtype)


def all_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a model in float64 compute in float64 throughout: transformers' norms and rotations are float32 always."""
    for layer in (modeling_qwen2.Qwen2RMSNorm, modeling_qwen2.Qwen2RotaryEmbedding):
        [wide] = in_float64(layer)
        monkeypatch.setattr(layer, "forward", wide.forward)


def in_float64(*definitions: Any) -> list[Any]:
    """Functions and classes of one module, from their own source with every float32 in it replaced by float64."""
    source = "\n".join(textwrap.dedent(inspect.getsource(one)) for one in definitions)
    source = re.sub(r"\btorch\.float(32)?\b", "torch.float64", source).replace(".float()", ".double()")
    namespace = vars(sys.modules[definitions[0].__module__]) | {}
    exec(source, namespace)
    return [namespace[one.__name__] for one in definitions]


def initial_model(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model before training, as far as these tests go: neither the one that sampled nor the one to update."""
    return moved_model(dtype, seed=1)


def native_rollouts(settings: TrainConfig, dtype: torch.dtype = torch.float32) -> list[Rollout]:
    """The recorded rollouts as the method takes them natively; they were recorded as π_IS has them."""
    method, sampled = load_method(settings.method), rollouts()
    if not method.samples_from_is:
        prompts, decisions = [one.prompt_ids for one in sampled], [one.response_ids[:1] for one in sampled]
        with torch.no_grad():
            logprob_B1 = compute_response_logprobs(sampling_model(dtype), prompts, decisions, settings.temperature)
        sampled = [
            replace(one, behavior_logprobs=(float(np.float32(logprob)), *one.behavior_logprobs[1:]))
            for one, (logprob,) in zip(sampled, logprob_B1.tolist(), strict=True)
        ]
    if method.initial_modes:
        sampled = InitialModel(load_policy("tiny", device="cpu"), initial_model(dtype)).score(
            sampled, method.initial_modes, settings
        )
    return sampled


def native_loss_and_gradient(
    settings: TrainConfig, dtype: torch.dtype = torch.float32
) -> tuple[float, dict[str, Tensor]]:
    """The native trainer's loss of the recorded step, and its gradient before the optimiser takes it."""
    model, gradients = moved_model(dtype), {}

    class Spy(torch.optim.SGD):
        def step(self, *_: object, **__: object) -> None:  # type: ignore[override]
            named = model.named_parameters()
            gradients.update({name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None})

    sampled = native_rollouts(settings, dtype)
    credits = credit_rollouts(sampled, references(), settings, step=1)
    metrics = update(model, Spy(model.parameters(), lr=0.0), sampled, credits, settings, step=1)
    return metrics["loss"], gradients


def record() -> None:
    """Sample the rollouts and write them down."""
    from adaptthink.engines.native import NativeEngine
    from adaptthink.problems.arithmetic import Split, generate_problems
    from adaptthink.sampling.sampler import Sampler
    from adaptthink.training.data import choose_problems
    from adaptthink.training.rollout import collect

    policy = load_policy("tiny", device="cpu")
    engine = NativeEngine(policy.model, policy.eos_ids, max_concurrent_sequences=64)
    chosen = choose_problems(generate_problems(2, seed=5, split=Split.TRAIN), PROBLEMS, config().seed, step=1)
    sampled = collect(Sampler(engine, policy.tokenizer, policy.template), chosen, config(), step=1)
    rows = [
        {
            "problem": asdict(one.problem),
            "mode": one.mode,
            "prompt_ids": one.prompt_ids,
            "response_ids": one.response_ids,
            "behavior_logprobs": one.behavior_logprobs,
            "num_forced": one.num_forced,
            "verdict": one.verdict,
        }
        for one in sampled
    ]
    for row in rows[::SAMPLES]:
        row["num_forced"] = 2
    FILE.write_text(json.dumps(rows, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
