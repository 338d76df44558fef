"""Problems by name: `arithmetic`, or the path of a JSONL file."""

from __future__ import annotations

from pathlib import Path

from adaptthink.errors import UserError
from adaptthink.tasks import Problem, arithmetic
from adaptthink.tasks.arithmetic import Kind, Split
from adaptthink.tasks.files import read_problems

HELD_OUT_SHARE = 0.1


def training_problems(
    name: str, *, per_level: int, held_out_per_level: int, seed: int
) -> tuple[list[Problem], list[Problem]]:
    """Return problems to train on, and held-out problems for looking at the mode choice; no problem is in both.

    Of a file, the problems with the smallest ids (a hash, so a random choice that never changes) are held out:
    `held_out_per_level` times the number of levels, but at most a tenth of the file.
    """
    if name == "arithmetic":
        held_out = _arithmetic(held_out_per_level, seed, Split.HELD_OUT, Kind.CHAIN)
        return _arithmetic(per_level, seed, Split.TRAIN, Kind.CHAIN), held_out
    problems = read_problems(Path(name))
    num_levels = len({problem.level for problem in problems})
    count = min(held_out_per_level * num_levels, int(HELD_OUT_SHARE * len(problems)))
    if count == 0:
        raise UserError(f"{name}: {len(problems)} problems are too few to train on; at least {int(1 / HELD_OUT_SHARE)}")
    by_id = sorted(problems, key=lambda problem: problem.id)
    held_out_ids = {problem.id for problem in by_id[:count]}
    return [problem for problem in problems if problem.id not in held_out_ids], by_id[:count]


def evaluation_problems(name: str, *, per_level: int, seed: int, kind: str = Kind.CHAIN) -> list[Problem]:
    """Return problems to evaluate on: the evaluation split of arithmetic, or all of a file."""
    if name == "arithmetic":
        return _arithmetic(per_level, seed, Split.EVALUATION, Kind(kind))
    return read_problems(Path(name))


def _arithmetic(per_level: int, seed: int, split: Split, kind: Kind) -> list[Problem]:
    try:
        return arithmetic.problems(per_level, seed=seed, split=split, kind=kind)
    except ValueError as error:
        raise UserError(str(error)) from None
