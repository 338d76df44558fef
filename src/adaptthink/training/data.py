"""The data of a training: problems to train on, and held-out problems that are evaluated while it runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptthink.config.schema import PresampleConfig, TrainConfig
from adaptthink.errors import UserError
from adaptthink.problems import Problem
from adaptthink.problems.files import make_problems
from adaptthink.problems.sources import Chosen, choose_training_problems, hold_out, make_reading

Problems = str | Path | Iterable[Problem | Mapping[str, Any]]  # a name, a file, or problems and dicts


@dataclass(frozen=True, slots=True)
class TrainingProblems:
    """Problems to train on, held-out ones, how many were left out, and what a user should know (see `Chosen`)."""

    problems: Sequence[Problem]
    held_out: Sequence[Problem]
    num_unparsable: int = 0
    notes: tuple[str, ...] = ()


def compute_problems_digest(chosen: TrainingProblems) -> str:
    """Return 16 hex digits that change with the problems, their order, prompts, reference answers or kinds."""
    digest = hashlib.sha256()
    for part in (chosen.problems, chosen.held_out):
        for problem in part:
            digest.update(json.dumps([problem.id, problem.prompt, problem.answer, problem.kind]).encode() + b"\n")
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def prepare_problems(
    problems: Problems, held_out: Sequence[Problem] | None, config: TrainConfig, *, needs_answer: bool = True
) -> TrainingProblems:
    """Return problems to train on and held-out ones; without `held_out` a tenth of them at most is held out.

    Raises UserError if they are too few for a step.
    """
    per_level = config.probe_problems_per_level
    if isinstance(problems, str | Path):
        named = config.model_copy(update={"problems": str(problems)})
        found = read_training_problems(named, held_out_per_level=per_level)
        chosen = TrainingProblems(found.problems, held_out or found.held_out, found.num_unparsable, found.notes)
    else:
        given = make_problems(problems, needs_answer=needs_answer)
        chosen = TrainingProblems(*(hold_out(given, per_level) if held_out is None else (given, held_out)))
    if len(chosen.problems) < config.problems_per_step:
        raise UserError(
            f"problems_per_step = {config.problems_per_step}, but there are {len(chosen.problems)} problems to train "
            "on, and one that is sampled twice in a step would get the same responses twice; "
            f"use {len(chosen.problems)} a step at most, or more problems"
        )
    return chosen


def read_training_problems(config: PresampleConfig, *, held_out_per_level: int) -> Chosen:
    """Return the problems that a config names, to train on, and held-out ones."""
    return choose_training_problems(
        config.problems,
        per_level=config.problems_per_level,
        held_out_per_level=held_out_per_level,
        seed=config.seed,
        reading=make_reading(config),
    )
