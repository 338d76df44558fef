"""The data of a training: problems to train on, held-out ones that are evaluated while it runs, and their order.

A training takes its problems epoch by epoch, each epoch in a seeded order. So which problems its steps use is known
before it starts: those alone need a reference (`settle_reference`, for every backend and for `presample`).
"""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from adaptthink.config.schema import ReferenceConfig, TrainConfig
from adaptthink.errors import UserError
from adaptthink.problems import Problem
from adaptthink.problems.files import make_problems
from adaptthink.problems.sources import (
    Reading,
    choose_training_problems,
    describe_choice,
    hold_out,
    keep_parsable,
    make_reading,
)
from adaptthink.problems.table import Selection
from adaptthink.sampling.requests import make_seed
from adaptthink.training.reference import Reference

References = TypeVar("References", bound=Mapping[str, Reference])
T = TypeVar("T")  # problems, or what else is learned from
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
            turns = [[message.role, message.content] for message in problem.context]
            parts = [problem.id, problem.prompt, problem.answer, problem.kind, *turns]
            digest.update(json.dumps(parts).encode() + b"\n")
        digest.update(b"\n")
    return digest.hexdigest()[:16]


# ---- which problems there are ---------------------------------------------------------------------------------------


def prepare_problems(
    problems: Problems, held_out: Sequence[Problem] | None, config: TrainConfig, *, needs_answer: bool = True
) -> TrainingProblems:
    """Return problems to train on and held-out ones, as `find_problems` does.

    Raises UserError if they are too few for a step.
    """
    chosen = find_problems(problems, held_out, config, needs_answer=needs_answer)
    if len(chosen.problems) < config.problems_per_step:
        raise UserError(
            f"problems_per_step = {config.problems_per_step}, but there are {len(chosen.problems)} problems to train "
            "on, and one that is sampled twice in a step would get the same responses twice; "
            f"use {len(chosen.problems)} a step at most, or more problems"
        )
    return chosen


def find_problems(
    problems: Problems, held_out: Sequence[Problem] | None, config: ReferenceConfig, *, needs_answer: bool = True
) -> TrainingProblems:
    """Return problems to train on and held-out ones; without `held_out` a tenth of them at most is held out.

    Left out are those whose reference answer cannot be parsed, unless no answer is needed. Raises UserError for
    problems that cannot be read and for fewer than ten.
    """
    per_level = config.probe_problems_per_level
    if isinstance(problems, str | Path):
        found = choose_training_problems(
            str(problems),
            per_level=config.problems_per_level,
            held_out_per_level=per_level,
            seed=config.seed,
            reading=make_reading(config),
        )
        return TrainingProblems(found.problems, held_out or found.held_out, found.num_unparsable, found.notes)
    given: Sequence[Problem] = make_problems(problems, needs_answer=needs_answer)
    num_unparsable, notes = 0, tuple[str, ...]()
    if needs_answer:
        parsable = keep_parsable(given, np.arange(len(given)))
        given, num_unparsable = Selection(given, parsable.numbers), parsable.num_unparsable
        notes = tuple(describe_choice(parsable, Reading(boxed_only=False)))  # no instruction can be added to a list
    chosen, kept = hold_out(given, per_level) if held_out is None else (given, held_out)
    return TrainingProblems(chosen, kept, num_unparsable, notes)


# ---- which of them the steps use ------------------------------------------------------------------------------------


def choose_problems(problems: Sequence[T], count: int, seed: int, step: int) -> list[T]:
    """Return the `count` problems of a step (counted from 1): epoch after epoch, each in its own seeded order.

    A step that ends one epoch and begins the next may hold a problem twice, with the same responses: it counts double.
    """
    first = (step - 1) * count
    chosen = []
    for epoch in range(first // len(problems), (first + count - 1) // len(problems) + 1):
        offset = epoch * len(problems)
        order = shuffle_epoch(len(problems), seed, epoch)
        chosen += [problems[index] for index in order[max(0, first - offset) : first + count - offset]]
    return chosen


@lru_cache(maxsize=2)
def shuffle_epoch(size: int, seed: int, epoch: int) -> array[int]:
    """Return the order of an epoch's problems, by index; four bytes each."""
    order = array("I", range(size))
    random.Random(make_seed(seed, "epoch", epoch)).shuffle(order)
    return order


def count_used(num_problems: int, config: ReferenceConfig) -> int:
    """Return how many of a training's problems its steps use."""
    return min(config.steps * config.problems_per_step, num_problems)


def select_used(problems: Sequence[Problem], config: ReferenceConfig) -> Sequence[Problem]:
    """Return the problems that the steps of a training use (`choose_problems`), in the order of `problems`."""
    count = count_used(len(problems), config)
    if count == len(problems):
        return problems
    return Selection(problems, np.sort(np.array(shuffle_epoch(len(problems), config.seed, 0)[:count])))


def select_gradable(problems: Sequence[Problem], reference: Mapping[str, Reference]) -> Sequence[Problem]:
    """Leave out the problems whose reference shows that they cannot be graded, and so have no R̄_ref."""
    known = (reference.get(problem.id) for problem in problems)
    gradable_N = np.fromiter((one is None or one.reward is not None for one in known), bool)
    return problems if gradable_N.all() else Selection(problems, np.flatnonzero(gradable_N))


def settle_reference(
    problems: Sequence[Problem], config: ReferenceConfig, find: Callable[[Sequence[Problem]], References]
) -> tuple[Sequence[Problem], References]:
    """Return the problems to train on, and the reference of those that the steps use; `find` samples or reads it.

    Problems that turn out not to be gradable are left out; then others are used in their place.
    """
    while True:
        reference = find(select_used(problems, config))
        gradable = select_gradable(problems, reference)
        if len(gradable) == len(problems):
            return problems, reference
        problems = gradable
