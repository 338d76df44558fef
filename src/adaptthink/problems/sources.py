"""Problems by name: what a job trains on, holds out and evaluates on.

A name is one of these, or several joined by commas:

* `arithmetic`: procedural, endless;
* `words`: procedural problems in words; `words:shifted`: those of the families that no training sees;
* `reasoning_gym:<family>`: procedural, see `gym`;
* a named set (`sets.SETS`), with a split or a filter after colons: `gsm8k`, `gsm8k:train`, `mmlu:stem`;
* the path of a file, a folder or a pattern (`files`), with a split after a colon where there are several.
"""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import assert_never

import numpy as np

from adaptthink.config.schema import Kind, ProblemsConfig
from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind, find_parsable
from adaptthink.problems import Problem, arithmetic, gym, make_problem_id, words
from adaptthink.problems.arithmetic import Split
from adaptthink.problems.files import Fields, name_source, parse_fields, read_file
from adaptthink.problems.sets import SETS, read_set
from adaptthink.problems.table import Selection, Spool, find_first_of_each, parse_id, parse_ids
from adaptthink.storage.datafiles import exists, is_pattern
from adaptthink.storage.rows import BadRow

HELD_OUT_SHARE = 0.1
BOXED = r"Please reason step by step, and put your final answer within \boxed{}."  # usage notes of DeepSeek-R1
BOXED_LETTER = r"Please reason step by step, and put the letter of the correct option within \boxed{}."
PARSED_AT_ONCE = 1000
MAX_ID = 2**64 - 1
GYM = "reasoning_gym"
WORDS, SHIFTED = "words", "shifted"


class Purpose(StrEnum):
    """What problems are used for; it decides the split of a name that has none."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    CHECK = "check"  # the training split where there is one
    AGAINST = "against"  # the evaluation split where there is one


@dataclass(frozen=True, slots=True)
class ArithmeticSource:
    """Procedural arithmetic (`arithmetic`)."""


@dataclass(frozen=True, slots=True)
class WordsSource:
    """Procedural problems in words (`words`), or of the families for evaluation alone (`words:shifted`)."""

    shifted: bool = False


@dataclass(frozen=True, slots=True)
class GymSource:
    """One family of reasoning-gym."""

    family: str


@dataclass(frozen=True, slots=True)
class SetSource:
    """One split of a named set, or the part of it that a filter keeps."""

    name: str
    split: str
    only: str | None = None


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file, or the files of a folder or a pattern; of one split if it is named."""

    path: Path
    split: str | None = None


Procedural = ArithmeticSource | WordsSource | GymSource
Stored = SetSource | FileSource
Source = Procedural | Stored


@dataclass(frozen=True, slots=True)
class Reading:
    """How problems are read.

    `data` holds local copies of named sets. `instruction` is appended to each prompt; None means the source's own.
    With `max_problems` only the problems with the smallest ids are kept. `boxed_only`: no other answers will be read.
    """

    data: Path | None = None
    fields: Fields = field(default_factory=Fields)
    instruction: str | None = None
    max_problems: int | None = None
    boxed_only: bool = True


@dataclass(frozen=True, slots=True)
class Chosen:
    """Problems for a job; no problem is both in `problems` and `held_out` (empty for an evaluation).

    `num_unparsable` were left out because their reference answer cannot be parsed. `notes` are what a user should know
    of the choice, a line each.
    """

    problems: Sequence[Problem]
    held_out: list[Problem]
    num_unparsable: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """The usable problems of sets and files: their numbers in a spool, ordered by the ids without instruction.

    `num_levels` counts their different levels, `num_unparsable` the problems that were left out, `num_repeats` the rows
    that repeat one of the problems, and `num_unboxed` the prompts that do not mention a box.
    """

    numbers: np.ndarray
    num_levels: int
    num_unparsable: int
    num_unboxed: int
    num_repeats: int = 0


def make_reading(config: ProblemsConfig) -> Reading:
    """Return how a command's settings read problems; raises UserError for a bad mapping."""
    boxed_only = config.boxed_only and not config.reward
    return Reading(config.data, parse_fields(config.fields or ""), config.instruction, config.max_problems, boxed_only)


def choose_training_problems(
    name: str,
    *,
    per_level: int,
    held_out_per_level: int,
    seed: int,
    reading: Reading = Reading(),
) -> Chosen:
    """Return problems to train on, and held-out problems to measure the mode choice on.

    Of sets and files, the problems with the smallest ids (hashes, so a fixed random choice) are held out:
    `held_out_per_level` times the number of levels, but at most a tenth of them. Raises UserError if there are too few.
    """
    procedural, stored = split_sources(parse_name(name, Purpose.TRAINING))
    spool, held_out = Spool(), []
    for source in procedural:
        spool.extend(generate_problems(source, per_level, seed, Split.TRAIN, reading))
        held_out += generate_problems(source, held_out_per_level, seed, Split.HELD_OUT, reading)
    procedural_N = np.arange(len(spool))
    found = read_stored_problems(stored, reading, spool)
    count = min(held_out_per_level * found.num_levels, int(HELD_OUT_SHARE * len(found.numbers)))
    if stored and count == 0:
        raise UserError(
            f"{name}: {len(found.numbers)} problems are too few to train on; at least {int(1 / HELD_OUT_SHARE)}"
        )
    held_out += [spool[number] for number in found.numbers[:count]]
    problems = Selection(spool, np.concatenate([procedural_N, np.sort(found.numbers[count:])]))
    notes = tuple(describe_choice(found, reading))
    return Chosen(keep_smallest(problems, reading.max_problems), held_out, found.num_unparsable, notes)


def choose_evaluation_problems(
    name: str,
    *,
    per_level: int,
    seed: int,
    kind: Kind = Kind.CHAIN,
    reading: Reading = Reading(),
) -> Chosen:
    """Return problems to evaluate on: evaluation splits, and all of a file. `kind` is for arithmetic only.

    Raises UserError if no reference answer can be parsed.
    """
    procedural, stored = split_sources(parse_name(name, Purpose.EVALUATION))
    spool = Spool()
    for source in procedural:
        spool.extend(generate_problems(source, per_level, seed, Split.EVALUATION, reading, kind))
    return gather_problems(name, spool, stored, reading)


def choose_start_problems(name: str, *, per_level: int, seed: int, reading: Reading = Reading()) -> Chosen:
    """Return problems for a cold start: training splits, but of procedural ones a split that no training uses.

    reasoning_gym has no such split. Raises UserError if no reference answer can be parsed.
    """
    procedural, stored = split_sources(parse_name(name, Purpose.TRAINING))
    spool = Spool()
    for source in procedural:
        split = Split.TRAIN if isinstance(source, GymSource) else Split.SUPERVISED
        spool.extend(generate_problems(source, per_level, seed, split, reading))
    return gather_problems(name, spool, stored, reading)


def gather_problems(name: str, spool: Spool, stored: Sequence[Stored], reading: Reading) -> Chosen:
    """Return the procedural problems in a spool and those of sets and files; raises UserError if there is none."""
    procedural_N = np.arange(len(spool))
    found = read_stored_problems(stored, reading, spool)
    problems = Selection(spool, np.concatenate([procedural_N, np.sort(found.numbers)]))
    if not problems:
        raise UserError(
            f"{name}: none of its {found.num_unparsable} problems has a reference answer that can be parsed; see "
            "`data check`"
        )
    notes = tuple(describe_choice(found, reading))
    return Chosen(keep_smallest(problems, reading.max_problems), [], found.num_unparsable, notes)


def describe_choice(found: Found, reading: Reading) -> Iterator[str]:
    """Yield what a user should know of problems that were chosen, a line each."""
    if found.num_unparsable:
        yield f"{found.num_unparsable} problems skipped: their reference answers cannot be parsed"
    if found.num_repeats:
        yield f"{found.num_repeats} rows repeat an earlier problem, with the same answer: each problem counts once"
    if found.num_unboxed and reading.boxed_only and reading.instruction != "":
        yield (
            rf"{found.num_unboxed} of {len(found.numbers)} prompts do not mention \boxed{{}}, and only boxed answers "
            f"are read: add --instruction '{BOXED}', or read others too with --no-boxed-only; --instruction '' keeps "
            "the prompts as they are, without this line"
        )


def hold_out(problems: Sequence[Problem], per_level: int) -> tuple[Sequence[Problem], list[Problem]]:
    """Return problems to train on and held-out ones: those with the smallest ids, as `choose_training_problems` does.

    Held out are `per_level` times the number of levels, but at most a tenth. Raises UserError for fewer than ten.
    """
    ids_N = parse_ids(problems)
    first = find_first_of_each(ids_N)
    count = min(per_level * len({problem.level for problem in problems}), int(HELD_OUT_SHARE * len(first)))
    if not count:
        raise UserError(f"{len(first)} problems are too few to train on; at least {int(1 / HELD_OUT_SHARE)}")
    return Selection(problems, np.sort(first[count:])), [problems[number] for number in first[:count]]


def read_every_problem(
    name: str, purpose: Purpose, *, per_level: int, seed: int, reading: Reading, needs_answer: bool = True
) -> Iterator[Problem | BadRow]:
    """Yield all problems of a name, one by one, with repeats and with rows that cannot be used.

    Without `needs_answer` a file's rows may lack a reference answer.
    """
    split = Split.EVALUATION if purpose in (Purpose.EVALUATION, Purpose.AGAINST) else Split.TRAIN
    for source in parse_name(name, purpose):
        if isinstance(source, Procedural):
            yield from generate_problems(source, per_level, seed, split, reading)
        else:
            for problem in read_source(source, reading, needs_answer=needs_answer):
                yield problem if isinstance(problem, BadRow) else add_instruction(problem, source, reading)


def name_problem_set(source: Source) -> str:
    """Return the name that the problems of a source are grouped by, as `evaluation.levels.name_set` reads it."""
    match source:
        case ArithmeticSource():
            return "arithmetic"
        case WordsSource():
            return WORDS
        case GymSource():
            return f"{GYM}/{source.family}"
        case SetSource():
            return source.name
        case FileSource():
            return name_source(source.path, None)
        case _:
            assert_never(source)


def parse_name(name: str, purpose: Purpose) -> list[Source]:
    """Return the sources in the name of problems; raises UserError with the nearest known name."""
    parts = split_name(name)
    return [FileSource(Path(p)) if exists(p) and Path(p).is_file() else parse_part(p, purpose) for p in parts]


def split_name(name: str) -> list[str]:
    """Split names that are joined by commas; a path is one name even if there is a comma in it."""
    return [name] if exists(name) else [part.strip() for part in name.split(",")]


def parse_part(part: str, purpose: Purpose) -> Source:
    """Return the source of one name without commas."""
    first, colon, rest = part.partition(":")
    if part == "arithmetic":
        return ArithmeticSource()
    if first == WORDS:
        return parse_words(rest, purpose)
    if first == GYM and rest:
        return GymSource(rest)
    if first in SETS:
        return parse_set(first, rest.split(":") if colon else [], purpose)
    path, colon, split = part.rpartition(":")
    if colon and not exists(part) and (exists(path) or is_pattern(path)):
        return FileSource(Path(path), split)
    names = ["arithmetic", WORDS, f"{GYM}:<family>", *SETS]
    if not exists(part) and not is_pattern(part) and not Path(part).suffix and "/" not in part:
        near = difflib.get_close_matches(first, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"give the path of a file, or one of: {', '.join(names)}"
        raise UserError(f"no problems are called '{part}'; {hint}")
    return FileSource(Path(part))


def parse_words(part: str, purpose: Purpose) -> WordsSource:
    """Return the source of problems in words; raises UserError for an unknown part, and for one to be trained on."""
    if part not in ("", SHIFTED):
        raise UserError(f"'{WORDS}' has no part '{part}'; it has: {SHIFTED}")
    if part and purpose is Purpose.TRAINING:
        raise UserError(
            f"'{WORDS}:{SHIFTED}' is for evaluation alone, to show what a policy makes of situations that it was not "
            f"trained on; train on '{WORDS}'"
        )
    return WordsSource(bool(part))


def parse_set(name: str, words: Sequence[str], purpose: Purpose) -> SetSource:
    """Return the source of a set's name and the words behind it: a split, a filter, or both; raises UserError."""
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
    return SetSource(name, splits[0] if splits else choose_split(name, purpose), filters[0] if filters else None)


def choose_split(name: str, purpose: Purpose) -> str:
    """Return the split that a set's name alone means; raises UserError if the set has none for the purpose."""
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
            f"or give '{name}:{next(iter(named.splits))}' to use it all the same"
        )
    return split


def split_sources(sources: Sequence[Source]) -> tuple[list[Procedural], list[Stored]]:
    """Return procedural and stored sources apart."""
    procedural = [source for source in sources if isinstance(source, Procedural)]
    stored = [source for source in sources if isinstance(source, Stored)]
    return procedural, stored


def generate_problems(
    source: Procedural, per_level: int, seed: int, split: Split, reading: Reading, kind: Kind = Kind.CHAIN
) -> list[Problem]:
    """Return generated problems of one split; raises UserError if it does not have enough different ones."""
    try:
        match source:
            case GymSource(family):
                generated = gym.generate_problems(family, per_level, seed=seed, split=split)
            case WordsSource(shifted):
                chosen = Split.EVALUATION if shifted else split
                generated = words.generate_problems(per_level, seed=seed, split=chosen, shifted=shifted)
            case ArithmeticSource():
                generated = arithmetic.generate_problems(per_level, seed=seed, split=split, kind=kind)
    except ValueError as error:
        raise UserError(str(error)) from None
    return [add_instruction(problem, source, reading) for problem in generated]


def read_source(source: Stored, reading: Reading, *, needs_answer: bool = True) -> Iterator[Problem | BadRow]:
    """Yield the problems of a set or a file, without instruction; see `read_file` on `needs_answer`."""
    match source:
        case SetSource(name, split, only):
            yield from read_set(name, split, only=only, data=reading.data)
        case FileSource(path, split):
            yield from read_file(path, reading.fields, split, needs_answer=needs_answer)
        case _:
            assert_never(source)


def read_stored_problems(sources: Sequence[Stored], reading: Reading, spool: Spool) -> Found:
    """Read sets and files into `spool`; return which of their problems a job can use, each once.

    The id without instruction decides what is kept and held out, so the choice does not change with the instruction.
    Raises UserError for the first row that cannot be used.
    """
    before, ids = len(spool), array("Q")
    largest, max_ids = MAX_ID, 2 * (reading.max_problems or 0) + PARSED_AT_ONCE
    for source in sources:
        for problem in read_source(source, reading):
            if isinstance(problem, BadRow):
                raise UserError(str(problem))
            id_ = parse_id(problem.id)
            if id_ > largest:
                continue
            ids.append(id_)
            spool.append(add_instruction(problem, source, reading))
            if (
                reading.max_problems and len(ids) > max_ids
            ):  # raise the bar now and then, so that less is written that is not kept
                kept = find_first_of_each(np.array(ids))[: reading.max_problems]
                largest = ids[kept[-1]] if len(kept) == reading.max_problems else largest
                max_ids = len(ids) + reading.max_problems + PARSED_AT_ONCE
    ids_N = np.array(ids)
    first = find_first_of_each(ids_N)[: reading.max_problems]
    found = keep_parsable(spool, before + first)
    return replace(found, num_repeats=int(np.isin(ids_N, ids_N[first]).sum()) - len(first))


def keep_parsable(problems: Spool | Sequence[Problem], numbers: np.ndarray) -> Found:
    """Return those of `numbers`, indices of `problems`, whose reference answer can be parsed, in their order."""
    parsable, levels, num_unboxed = np.zeros(len(problems), bool), set(), 0
    in_order = np.sort(numbers)
    for start in range(0, len(in_order), PARSED_AT_ONCE):
        part = in_order[start : start + PARSED_AT_ONCE]
        rows = [problems[number] for number in part]
        parsable[part] = find_parsable([(problem.answer, problem.kind) for problem in rows])
        usable = [problem for number, problem in zip(part, rows, strict=True) if parsable[number]]
        levels |= {problem.level for problem in usable}
        num_unboxed += sum(map(lacks_box, usable))
    kept = numbers[parsable[numbers]]
    return Found(kept, len(levels), len(numbers) - len(kept), num_unboxed)


def lacks_box(problem: Problem) -> bool:
    """Return whether nothing that is sent for a problem mentions a box, though its answer is read from one."""
    if problem.kind is AnswerKind.REASONING_GYM:
        return False  # read from tags as well
    return not any(box in message.content for message in problem.messages for box in ("\\boxed", "\\fbox"))


def keep_smallest(problems: Selection, count: int | None) -> Selection:
    """Return the `count` problems with the smallest ids, in their order; None returns all."""
    if count is None or len(problems) <= count:
        return problems
    return Selection(problems, np.sort(find_first_of_each(parse_ids(problems))[:count]))


def add_instruction(problem: Problem, source: Source, reading: Reading) -> Problem:
    """Return the problem with the instruction appended to its prompt; unchanged if there is none."""
    instruction = choose_instruction(source, problem.kind) if reading.instruction is None else reading.instruction
    if not instruction:
        return problem
    prompt = f"{problem.prompt}\n{instruction}"
    id_ = make_problem_id(prompt, problem.answer, problem.source, problem.context)
    return replace(problem, id=id_, prompt=prompt)


def choose_instruction(source: Source, kind: AnswerKind) -> str:
    """Return a source's own instruction: boxed answers for sets, letters for multiple choice, else nothing."""
    if kind is AnswerKind.CHOICE:
        return BOXED_LETTER
    return BOXED if isinstance(source, SetSource | GymSource) else ""
