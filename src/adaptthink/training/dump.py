"""A step whose loss or gradient is not finite: kept with the weights it began with, so that it can be repeated.

A dump is a folder of safetensors and JSON: `model.safetensors` (what is trained), `rollouts.jsonl` (what the update
gets, one line a response), `step.json` (the step, the reason, the settings, and the hashes of the other two).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.engines.base import Finish
from adaptthink.errors import UserError
from adaptthink.grading import Grade, Rule, Verdict
from adaptthink.modes import Mode
from adaptthink.problems import from_row, to_row
from adaptthink.sampling.reading import Response
from adaptthink.sampling.sampler import OnFinished, Rollout
from adaptthink.storage.jsonl import readable
from adaptthink.storage.records import Count, read_record_file
from adaptthink.storage.runs import write_json
from adaptthink.training.checkpoint import compute_file_hash, save_tensors, select_trained_parameters
from adaptthink.training.credit import Credit
from adaptthink.training.metrics import Metrics, NonFiniteStepError
from adaptthink.training.update import accumulate_gradients, compute_gradient

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEP, ROLLOUTS, MODEL = "step.json", "rollouts.jsonl", "model.safetensors"
REMEDY = "take it from a copy"
KEPT = ("prompt_ids", "response_ids", "behavior_logprobs", "num_forced", "weight", "within_mode", "initial_logprobs")


@dataclass(frozen=True, slots=True)
class Dump:
    """A step as the update gets it."""

    step: int
    reason: str
    config: TrainConfig
    rollouts: list[Rollout]
    credits: list[Credit]


@dataclass(frozen=True, slots=True)
class About:
    """The content of `step.json`."""

    step: Count
    reason: str
    settings: dict[str, Any]
    sha256: dict[str, str]  # of the other files, by their names


@dataclass(slots=True)
class Skipping:
    """Takes steps; one whose loss or gradient is not finite is dumped in `folder` and skipped."""

    folder: Path
    limit: int  # steps in a row that may be skipped
    warn: Callable[[str], None]
    in_a_row: int = 0

    def compute_gradient(
        self,
        model: PreTrainedModel,
        rollouts: Sequence[Rollout],
        credits: Sequence[Credit],
        config: TrainConfig,
        step: int,
        on_finish: OnFinished | None = None,
    ) -> Metrics:
        """Do what `training.update.compute_gradient` does; a skipped step has its reason as metrics, and no gradient.

        Raises NonFiniteStepError for one more in a row than may be skipped.
        """
        try:
            metrics = compute_gradient(model, rollouts, credits, config, step, on_finish)
        except NonFiniteStepError as error:
            model.zero_grad(set_to_none=True)
            path = self.folder / f"step-{step:06d}"
            kept, advice = f"kept: adaptthink replay {path}", f"look into them: adaptthink replay {path}"
            try:
                write_dump(path, model, Dump(step, str(error), config, list(rollouts), list(credits)))
            except OSError as fault:  # a full disk, which ends no training
                shutil.rmtree(path, ignore_errors=True)
                kept = advice = f"not kept, as {path} cannot be written: {fault.strerror or fault}"
            self.in_a_row += 1
            if self.in_a_row > self.limit:
                raise NonFiniteStepError(f"{error}; {self.in_a_row} steps in a row; {advice}") from None
            self.warn(f"warning: {error}; skipped, and {kept}")
            return {"loss": None, "grad_norm": None, "skipped": str(error)}
        self.in_a_row = 0
        return metrics


@dataclass(frozen=True, slots=True)
class Repeated:
    """What one response gives when the step is repeated with it alone."""

    row: int  # in rollouts.jsonl, from 1
    problem_id: str
    mode: Mode
    tokens: int
    loss: float
    grad_norm: float

    @property
    def finite(self) -> bool:
        """Whether both are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def write_dump(folder: Path, model: torch.nn.Module, dump: Dump) -> None:
    """Write a dump; the model's weights are those that the step began with."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({name: one.detach().contiguous() for name, one in select_trained_parameters(model)}, folder / MODEL)
    lines = [write_row(*pair) for pair in zip(dump.rollouts, dump.credits, strict=True)]
    (folder / ROLLOUTS).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    hashes = {name: compute_file_hash(folder / name) for name in (MODEL, ROLLOUTS)}
    about = About(dump.step, dump.reason, dump.config.model_dump(mode="json"), hashes)
    write_json(folder / STEP, asdict(about))


def write_row(one: Rollout, credit: Credit) -> dict[str, Any]:
    """Return one response and its credit as JSON; a number that is not finite is written as a text."""
    values = {name: getattr(one, name) for name in (*KEPT, "sampled_decision")}
    row = values | {"mode": one.mode, "problem": to_row(one.problem), "credit": asdict(credit)}
    return {name: _write_numbers(value) for name, value in row.items()}


def _write_numbers(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, tuple | list):
        return [_write_numbers(one) for one in value]
    return {key: _write_numbers(one) for key, one in value.items()} if isinstance(value, Mapping) else value


def read_dump(folder: Path) -> Dump:
    """Read a dump; raises UserError for a folder that holds none, and for one that is not as it was written."""
    try:
        about = read_record_file(About, folder / STEP, remedy=REMEDY)
        for name in (MODEL, ROLLOUTS):
            with readable(folder / name, REMEDY):
                if compute_file_hash(folder / name) != about.sha256.get(name):
                    raise UserError(f"'{folder / name}' does not match its hash in {STEP}; {REMEDY}")
        rows = [read_row(json.loads(line)) for line in (folder / ROLLOUTS).read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise UserError(
            f"'{folder}' holds no step to repeat ({Path(error.filename).name} is missing); give one that a training "
            "left in RUN/skipped"
        ) from None
    except (KeyError, ValueError) as error:
        raise UserError(f"'{folder / ROLLOUTS}' is not as this version writes it ({error}); {REMEDY}") from None
    config = check(TrainConfig, about.settings)
    return Dump(about.step, about.reason, config, [one for one, _ in rows], [credit for _, credit in rows])


def read_row(row: Mapping[str, Any]) -> tuple[Rollout, Credit]:
    """Return one response and its credit."""
    mode, credit = Mode(row["mode"]), row["credit"]
    numbers = {name: tuple(map(float, row[name])) for name in ("behavior_logprobs", "initial_logprobs")}
    rollout = Rollout(
        problem=from_row(row["problem"]),
        prompt_ids=tuple(row["prompt_ids"]),
        response_ids=tuple(row["response_ids"]),
        num_forced=row["num_forced"],
        response=Response(mode, None, None, Finish.STOP, len(row["response_ids"]), 0),  # the update reads no text
        grade=Grade(Verdict.WRONG, None, Rule.FORM),  # nor any grade: the credit is here
        weight=float(row["weight"]),
        within_mode=float(row["within_mode"]),
        sampled_decision=None if row["sampled_decision"] is None else float(row["sampled_decision"]),
        **numbers,
    )
    decision, body, pull = (float(credit[name]) for name in ("decision", "body", "pull"))
    return rollout, Credit(decision, body, pull, credit["tokens"])


def load_weights(folder: Path, model: torch.nn.Module) -> None:
    """Give a model the weights of a dump that was read; raises UserError where they are those of another model."""
    saved, own = load_file(folder / MODEL), dict(select_trained_parameters(model))
    others = saved.keys() ^ own.keys() or {name for name in own if saved[name].shape != own[name].shape}
    if others:
        raise UserError(
            f"'{folder}' holds the weights of another model than its settings name ({', '.join(sorted(others)[:3])}); "
            "put back the model that was trained"
        )
    for name, parameter in own.items():
        parameter.data.copy_(saved[name])


def repeat(model: PreTrainedModel, dump: Dump) -> list[Repeated]:
    """Return what each response gives alone, by the loss and the gradient that the step has; nothing is updated."""
    found = []
    for row, (one, credit) in enumerate(zip(dump.rollouts, dump.credits, strict=True), start=1):
        model.zero_grad(set_to_none=True)
        loss = accumulate_gradients(model, [one], [credit], dump.config).loss
        norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        norm = float(torch.stack(norms).norm()) if norms else 0.0
        found.append(Repeated(row, one.problem.id, one.mode, len(one.response_ids), loss, norm))
    model.zero_grad(set_to_none=True)
    return found
