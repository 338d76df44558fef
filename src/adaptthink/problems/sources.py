"""Problems by name: what a job trains on, holds out and evaluates on.

A name is one of these, or several joined by commas:

* `arithmetic`: procedural, endless;
* `reasoning_gym:<family>`: procedural, see `gym`;
* a named set (`sets.SETS`), with a split or a filter after colons: `gsm8k`, `gsm8k:train`, `mmlu:stem`;
* the path of a file (`files`).
"""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import assert_never

import numpy as np

from adaptthink.config.schema import Kind, ProblemsConfig
from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind, parsable_references
from adaptthink.problems import Problem, arithmetic, gym, make_problem
from adaptthink.problems.arithmetic import Split
from adaptthink.problems.files import Fields, file_problems, parse_fields
from adaptthink.problems.rows import BadRow
from adaptthink.problems.sets import SETS, set_problems
from adaptthink.problems.table import Selection, Spool, first_of_each, id_number, id_numbers

HELD_OUT_SHARE = 0.1
BOXED = r"Please reason step by step, and put your final answer within \boxed{}."  # usage notes of DeepSeek-R1
BOXED_LETTER = r"Please reason step by step, and put the letter of the correct option within \boxed{}."
GOLDS_AT_A_TIME = 1000
MAX_ID = 2**64 - 1
GYM = "reasoning_gym"


class Purpose(StrEnum):
    """What problems are wanted for; it decides which split a name without one stands for."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    CHECK = "check"  # the training split where there is one
    AGAINST = "against"  # the evaluation split where there is one


@dataclass(frozen=True, slots=True)
class ArithmeticSource:
    """The miniature."""


@dataclass(frozen=True, slots=True)
class GymSource:
    """One family of reasoning-gym."""

    family: str


@dataclass(frozen=True, slots=True)
class SetSource:
    """One split of a named set, or what a filter keeps of it."""

    name: str
    split: str
    only: str | None = None


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file."""

    path: Path


Procedural = ArithmeticSource | GymSource
Stored = SetSource | FileSource
Source = Procedural | Stored


@dataclass(frozen=True, slots=True)
class Reading:
    """How problems are read.

    `data` holds local copies of named sets. `instruction` is put after each prompt; None means the source's own.
    `max_problems` are those with the smallest ids.
    """

    data: Path | None = None
    fields: Fields = field(default_factory=Fields)
    instruction: str | None = None
    max_problems: int | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """Problems for a job; no problem is both in `problems` and `held_out` (empty for an evaluation).

    `num_unreadable` were left out because their gold cannot be read.
    """

    problems: Sequence[Problem]
    held_out: list[Problem]
    num_unreadable: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a job can use of sets and files: numbers in a spool, ordered by the ids without instruction.

    `num_levels` counts the different levels among these, `num_unreadable` what was left out.
    """

    numbers: np.ndarray
    num_levels: int
    num_unreadable: int


def reading_of(config: ProblemsConfig) -> Reading:
    """Return what a command's settings say about reading; raises UserError for a bad mapping."""
    return Reading(config.data, parse_fields(config.fields or ""), config.instruction, config.max_problems)


def training_problems(
    name: str,
    *,
    per_level: int,
    held_out_per_level: int,
    seed: int,
    reading: Reading = Reading(),
) -> Chosen:
    """Return problems to train on, and held-out problems for looking at the mode choice.

    Of sets and files, the problems with the smallest ids (a hash, so a random choice that never changes) are held
    out: `held_out_per_level` times the number of levels, but at most a tenth of them.
    """
    procedural, stored = split_sources(parse_name(name, Purpose.TRAINING))
    spool, held_out = Spool(), []
    for source in procedural:
        spool.extend(drawn_problems(source, per_level, seed, Split.TRAIN, reading))
        held_out += drawn_problems(source, held_out_per_level, seed, Split.HELD_OUT, reading)
    drawn = np.arange(len(spool))
    found = stored_problems(stored, reading, spool)
    count = min(held_out_per_level * found.num_levels, int(HELD_OUT_SHARE * len(found.numbers)))
    if stored and count == 0:
        raise UserError(
            f"{name}: {len(found.numbers)} problems are too few to train on; at least {int(1 / HELD_OUT_SHARE)}"
        )
    held_out += [spool[number] for number in found.numbers[:count]]
    problems = Selection(spool, np.concatenate([drawn, np.sort(found.numbers[count:])]))
    return Chosen(smallest(problems, reading.max_problems), held_out, found.num_unreadable)


def evaluation_problems(
    name: str,
    *,
    per_level: int,
    seed: int,
    kind: Kind = Kind.CHAIN,
    reading: Reading = Reading(),
) -> Chosen:
    """Return problems to evaluate on: evaluation splits, and all of a file. `kind` is for arithmetic only."""
    procedural, stored = split_sources(parse_name(name, Purpose.EVALUATION))
    spool = Spool()
    for source in procedural:
        spool.extend(drawn_problems(source, per_level, seed, Split.EVALUATION, reading, kind))
    drawn = np.arange(len(spool))
    found = stored_problems(stored, reading, spool)
    problems = Selection(spool, np.concatenate([drawn, np.sort(found.numbers)]))
    if not problems:
        raise UserError(
            f"{name}: none of its {found.num_unreadable} problems has a gold that can be read; see `data check`"
        )
    return Chosen(smallest(problems, reading.max_problems), [], found.num_unreadable)


def every_problem(
    name: str, purpose: Purpose, *, per_level: int, seed: int, reading: Reading
) -> Iterator[Problem | BadRow]:
    """Yield everything that a name stands for, one by one, with repeats and with rows that cannot be used."""
    split = Split.EVALUATION if purpose in (Purpose.EVALUATION, Purpose.AGAINST) else Split.TRAIN
    for source in parse_name(name, purpose):
        if isinstance(source, Procedural):
            yield from drawn_problems(source, per_level, seed, split, reading)
        else:
            for problem in rows_of(source, reading):
                yield problem if isinstance(problem, BadRow) else requested(problem, source, reading)


def parse_name(name: str, purpose: Purpose) -> list[Source]:
    """Read the name of problems; raises UserError that names the nearest known one."""
    return [FileSource(Path(part)) if Path(part).is_file() else parse_part(part, purpose) for part in split_name(name)]


def split_name(name: str) -> list[str]:
    """Split names that are joined by commas; the path of a file is one name even if there is a comma in it."""
    return [name] if Path(name).is_file() else [part.strip() for part in name.split(",")]


def parse_part(part: str, purpose: Purpose) -> Source:
    """Read one name without commas."""
    first, colon, rest = part.partition(":")
    if part == "arithmetic":
        return ArithmeticSource()
    if first == GYM and rest:
        return GymSource(rest)
    if first in SETS:
        return parse_set(first, rest.split(":") if colon else [], purpose)
    names = ["arithmetic", f"{GYM}:<family>", *SETS]
    if not Path(part).is_file() and not Path(part).suffix and "/" not in part:
        near = difflib.get_close_matches(first, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"give the path of a file, or one of: {', '.join(names)}"
        raise UserError(f"no problems are called '{part}'; {hint}")
    return FileSource(Path(part))


def parse_set(name: str, words: Sequence[str], purpose: Purpose) -> SetSource:
    """Read what stands after a set's name: a split, a filter, or both; raises UserError."""
    named = SETS[name]
    splits = [word for word in words if word in named.splits]
    filters = [word for word in words if word in named.filters]
    for word in words:
        if word not in (*named.splits, *named.filters):
            known = (*named.splits, *named.filters)
            near = difflib.get_close_matches(word, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(known[:12])}"
            raise UserError(f"'{name}' has no split or part '{word}'; {hint}")
    if len(splits) > 1 or len(filters) > 1:
        raise UserError(f"'{name}:{':'.join(words)}' names more than one split or part; join several sets by commas")
    return SetSource(name, splits[0] if splits else default_split(name, purpose), filters[0] if filters else None)


def default_split(name: str, purpose: Purpose) -> str:
    """Return the split that a set's name alone stands for; raises UserError where it has none for the purpose."""
    named = SETS[name]
    match purpose:
        case Purpose.TRAINING:
            split = named.train
        case Purpose.EVALUATION:
            split = named.evaluation
        case Purpose.CHECK:
            split = named.train or named.evaluation
        case Purpose.AGAINST:
            split = named.evaluation or named.train
    if split is None:
        others = [
            other for other, set_ in SETS.items() if (set_.train if purpose is Purpose.TRAINING else set_.evaluation)
        ]
        raise UserError(
            f"'{name}' has no split for {purpose}; sets that have one: {', '.join(others)}; "
            f"or say '{name}:{next(iter(named.splits))}' to use it all the same"
        )
    return split


def split_sources(sources: Sequence[Source]) -> tuple[list[Procedural], list[Stored]]:
    """Tell sources that are drawn from those that are read."""
    procedural = [source for source in sources if isinstance(source, Procedural)]
    stored = [source for source in sources if isinstance(source, Stored)]
    return procedural, stored


def drawn_problems(
    source: Procedural, per_level: int, seed: int, split: Split, reading: Reading, kind: Kind = Kind.CHAIN
) -> list[Problem]:
    """Draw problems of one split; raises UserError where there are not so many."""
    if isinstance(source, GymSource):
        drawn = gym.problems(source.family, per_level, seed=seed, split=split)
    else:
        try:
            drawn = arithmetic.problems(per_level, seed=seed, split=split, kind=kind)
        except ValueError as error:
            raise UserError(str(error)) from None
    return [requested(problem, source, reading) for problem in drawn]


def rows_of(source: Stored, reading: Reading) -> Iterator[Problem | BadRow]:
    """Yield the problems of a set or a file, without instruction."""
    match source:
        case SetSource(name, split, only):
            yield from set_problems(name, split, only=only, data=reading.data)
        case FileSource(path):
            yield from file_problems(path, reading.fields)
        case _:
            assert_never(source)


def stored_problems(sources: Sequence[Stored], reading: Reading, spool: Spool) -> Found:
    """Read sets and files into `spool` and say which of them a job can use.

    Each problem is used once. The id without instruction decides what is kept and held out, so that the choice does
    not change with the instruction. Raises UserError that names the first row that cannot be used.
    """
    before, ids = len(spool), array("Q")
    largest, look = MAX_ID, 2 * (reading.max_problems or 0) + GOLDS_AT_A_TIME
    for source in sources:
        for problem in rows_of(source, reading):
            if isinstance(problem, BadRow):
                raise UserError(str(problem))
            id_ = id_number(problem.id)
            if id_ > largest:
                continue
            ids.append(id_)
            spool.append(requested(problem, source, reading))
            if reading.max_problems and len(ids) > look:  # so that what will not be kept is not written either
                kept = first_of_each(np.array(ids))[: reading.max_problems]
                largest = ids[kept[-1]] if len(kept) == reading.max_problems else largest
                look = len(ids) + reading.max_problems + GOLDS_AT_A_TIME
    return with_readable_golds(spool, before + first_of_each(np.array(ids))[: reading.max_problems])


def with_readable_golds(spool: Spool, numbers: np.ndarray) -> Found:
    """Keep the problems whose gold can be read."""
    readable, levels = np.zeros(len(spool), bool), set()
    in_order = np.sort(numbers)
    for start in range(0, len(in_order), GOLDS_AT_A_TIME):
        part = in_order[start : start + GOLDS_AT_A_TIME]
        problems = [spool[number] for number in part]
        readable[part] = parsable_references([(problem.answer, problem.kind) for problem in problems])
        levels |= {problem.level for number, problem in zip(part, problems, strict=True) if readable[number]}
    kept = numbers[readable[numbers]]
    return Found(kept, len(levels), len(numbers) - len(kept))


def smallest(problems: Selection, count: int | None) -> Selection:
    """Keep the `count` problems with the smallest ids, in their order; None keeps all."""
    if count is None or len(problems) <= count:
        return problems
    return Selection(problems, np.sort(first_of_each(id_numbers(problems))[:count]))


def requested(problem: Problem, source: Source, reading: Reading) -> Problem:
    """Put the instruction after a prompt; with none, the problem stays as it is."""
    instruction = own_instruction(source, problem.kind) if reading.instruction is None else reading.instruction
    if not instruction:
        return problem
    prompt = f"{problem.prompt}\n{instruction}"
    return make_problem(prompt, problem.answer, level=problem.level, source=problem.source, kind=problem.kind)


def own_instruction(source: Source, kind: AnswerKind) -> str:
    """Return what a source asks for by itself: boxed answers of sets, letters of multiple choice, else nothing."""
    if kind is AnswerKind.CHOICE:
        return BOXED_LETTER
    return BOXED if isinstance(source, SetSource | GymSource) else ""
