"""Rollouts that were recorded once, and what the native trainer makes of them: what every backend is compared with.

`rollouts.json` holds responses of the embedded model with the log-probabilities that they were drawn with, four to
each of eight problems, half of them forced not to think. The second token of each problem's first response is marked
as forced, as where a family's no_think prefix has several tokens: it is no decision and carries no loss. The model
that is updated is the embedded one with noise on its weights, as a policy that has moved since: ratios lie on both
sides of 1 and outside of the clipping interval, so that a term that is lost or weighed wrongly shows.

To record again: `python tests/parity/recorded.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.grading import Verdict
from adaptthink.models.loading import load_policy
from adaptthink.modes import Mode
from adaptthink.problems import Problem
from adaptthink.sampling.sampler import Rollout
from adaptthink.training.reference import Reference
from adaptthink.training.train import step_advantages, update

FILE = Path(__file__).parent / "rollouts.json"
PROBLEMS, SAMPLES, REFERENCE_SAMPLES = 8, 4, 4
NOISE = 0.15  # standard deviation of the noise, in those of each weight matrix


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
        Rollout(
            problem=Problem(**row["problem"]),
            mode=Mode(row["mode"]),
            prompt_ids=tuple(row["prompt_ids"]),
            response_ids=tuple(row["response_ids"]),
            behavior_logprobs=tuple(row["behavior_logprobs"]),
            in_loss=tuple(row["in_loss"]),
            text=row["text"],
            verdict=Verdict(row["verdict"]),
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


def moved_model() -> PreTrainedModel:
    """The model to update, in float32: the embedded one, moved by seeded noise."""
    model = load_policy("tiny", device="cpu").model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.std() * NOISE)
    return model


def native_loss_and_gradient(settings: TrainConfig) -> tuple[float, dict[str, Tensor]]:
    """The native trainer's loss of the recorded step, and its gradient before the optimiser takes it."""
    model, gradients = moved_model(), {}

    class Spy(torch.optim.SGD):
        def step(self, *_: object, **__: object) -> None:  # type: ignore[override]
            named = model.named_parameters()
            gradients.update({name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None})

    advantages_N = step_advantages(rollouts(), references(), settings)
    metrics = update(model, Spy(model.parameters(), lr=0.0), rollouts(), advantages_N, settings, step=1)
    return metrics["loss"], gradients


def record() -> None:
    """Draw the rollouts and write them down."""
    from adaptthink.engines.native import NativeEngine
    from adaptthink.problems.arithmetic import Split, problems
    from adaptthink.sampling.sampler import Sampler
    from adaptthink.training.train import collect_step

    policy = load_policy("tiny", device="cpu")
    engine = NativeEngine(policy.model, policy.eos_ids, max_concurrent_sequences=64)
    chosen = problems(2, seed=5, split=Split.TRAIN)
    drawn = collect_step(Sampler(engine, policy.tokenizer, policy.template), chosen, config(), step=1)
    rows = [{key: value for key, value in asdict(one).items() if key != "weight"} for one in drawn]
    for row in rows[::SAMPLES]:
        row["in_loss"] = [index != 1 for index in range(len(row["in_loss"]))]
    FILE.write_text(json.dumps(rows, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
