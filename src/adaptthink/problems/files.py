"""Problems from any JSON lines, JSON, CSV or Parquet file, with a mapping from its columns to ours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind
from adaptthink.problems import Problem, make_problem
from adaptthink.problems.choices import format_choices, read_choice_letter
from adaptthink.problems.rows import BadRow, Row, RowError, read_rows
from adaptthink.storage.jsonl import parse_integer

KINDS = ", ".join(AnswerKind)
EXAMPLE = '{"prompt": "1+1=?", "answer": "2"}'
MISSING = object()  # a row has no such column; None is the value of an empty one
EXPECTED = {
    ".csv": "a first line that names the columns, with 'prompt' and 'answer'",
    ".parquet": "columns 'prompt' and 'answer'",
    ".json": "an array of objects with 'prompt' and 'answer'",
}
EXPECTED_LINES = "one JSON object a line with 'prompt' and 'answer'"


@dataclass(frozen=True, slots=True)
class Fields:
    """The column of each part of a problem; None: one of its usual names.

    Dots reach into nested objects: `reward_model.ground_truth`.
    """

    prompt: str | None = None
    answer: str | None = None
    level: str | None = None
    kind: str | None = None
    choices: str | None = None


USUAL_NAMES = {
    "prompt": ("prompt", "problem", "question"),
    "answer": ("answer", "gold"),
    "level": ("level",),
    "kind": ("kind",),
    "choices": ("choices",),
}


def parse_fields(text: str) -> Fields:
    """Return the mapping of ``prompt=question,answer=final_answer``; raises UserError with what is allowed."""
    given: dict[str, str] = {}
    known = [field.name for field in fields(Fields)]
    for pair in filter(None, (pair.strip() for pair in text.split(","))):
        name, equals, column = (part.strip() for part in pair.partition("="))
        if not equals or not column or name not in known:
            raise UserError(
                f"fields: '{pair}' is no mapping; give pairs such as prompt=question,answer=final_answer with "
                f"{', '.join(known)} on the left and the file's own columns on the right"
            )
        if name in given:
            raise UserError(f"fields: '{name}' is mapped twice, to '{given[name]}' and to '{column}'; give one")
        given[name] = column
    return Fields(**given)


def read_file(path: Path, mapping: Fields = Fields()) -> Iterator[Problem | BadRow]:
    """Yield the problems of a file one by one, in its order and with repeats.

    Raises UserError for a file that is missing or empty, and at its end if no row had a mapped column.
    """
    if not path.is_file():
        raise UserError(
            f"no problem file '{path}': give the path of a JSON lines, JSON, CSV or Parquet file, or the name of a set"
        )
    missing = {name: column for name, column in asdict(mapping).items() if column is not None}
    columns: dict[str, None] = {}
    empty = True
    for row in read_rows(path):
        empty = False
        if isinstance(row, BadRow):
            yield row
            continue
        if missing:
            columns |= dict.fromkeys(row.values)
            missing = {name: column for name, column in missing.items() if find_value(row.values, column) is MISSING}
        try:
            yield make_row_problem(row, mapping, source=path.name)
        except RowError as error:
            yield BadRow(row.where, str(error))
    if empty:
        raise UserError(f"{path}: holds no problem; expected {EXPECTED.get(path.suffix.lower(), EXPECTED_LINES)}")
    for name, column in missing.items():
        raise UserError(
            f"{path}: no row has the field '{column}' that '{name}' is mapped to; fields found: {', '.join(columns)}"
        )


def read_problems(path: Path, mapping: Fields = Fields()) -> list[Problem]:
    """Return every problem of a file once; raises UserError for the first row that cannot be used."""
    found: dict[str, Problem] = {}
    for problem in read_file(path, mapping):
        if isinstance(problem, BadRow):
            raise UserError(str(problem))
        found.setdefault(problem.id, problem)
    return list(found.values())


def make_problems(
    rows: Iterable[Mapping[str, Any] | Problem], mapping: Fields = Fields(), *, needs_answer: bool = True
) -> list[Problem]:
    """Return the problems of mappings (`Problem`s are taken as they are), each once and in order.

    Without `needs_answer` rows may lack a reference answer, for reward functions that need none. Raises UserError for
    the first row that cannot be used.
    """
    found: dict[str, Problem] = {}
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Problem):
            problem = row
        elif isinstance(row, Mapping):
            where = f"problem {number}"
            try:
                named = Row(where, number, dict(row))
                problem = make_row_problem(named, mapping, source="", needs_answer=needs_answer)
            except RowError as error:
                raise UserError(f"{where}: {error}") from None
        else:
            raise UserError(f"problem {number} is {type(row).__name__}; give a Problem, or a dict such as {EXAMPLE}")
        found.setdefault(problem.id, problem)
    if not found:
        raise UserError(f"no problems were given; give a list of dicts such as {EXAMPLE}")
    return list(found.values())


def make_row_problem(row: Row, mapping: Fields, *, source: str, needs_answer: bool = True) -> Problem:
    """Return the problem of one row; raises RowError if it cannot be used."""
    prompt = read_prompt(lookup(row, mapping.prompt, "prompt"))
    value = lookup(row, mapping.answer, "answer")
    answer = "" if value is None and not needs_answer else read_reference_answer(value)
    level = read_level(lookup_optional(row, mapping.level, "level"))
    kind = read_kind(lookup_optional(row, mapping.kind, "kind"))
    choices = read_choices(lookup_optional(row, mapping.choices, "choices"))
    if choices:
        prompt, answer = format_choices(prompt, choices), read_choice_letter(answer, len(choices))
        kind = AnswerKind.CHOICE
    return make_problem(prompt, answer, level=level, source=source, kind=kind)


def find_value(values: Mapping[str, Any], column: str) -> Any:
    """Return the value at a column or a dotted path; MISSING if there is none."""
    if column in values:
        return values[column]
    here: Any = values
    for part in column.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return MISSING
        here = here[part]
    return here


def lookup(row: Row, column: str | None, name: str) -> Any:
    """Return the value for `name`, None if unmapped and missing; raises RowError if a mapped column is missing."""
    names = USUAL_NAMES[name] if column is None else (column,)
    for candidate in names:
        value = find_value(row.values, candidate)
        if value is not MISSING:
            return value
    if column is None:
        return None
    raise RowError(f"no field '{column}', which '{name}' is mapped to; fields here: {', '.join(row.values)}")


def lookup_optional(row: Row, column: str | None, name: str) -> Any:
    """Return the value for `name`, None if the row has none."""
    try:
        return lookup(row, column, name)
    except RowError:
        return None


def read_prompt(value: object) -> str:
    """Return the question: a text, or the one user message of a chat (a system message is dropped)."""
    if isinstance(value, list):
        messages = [item for item in value if isinstance(item, Mapping)]
        questions = [item.get("content") for item in messages if item.get("role") == "user"]
        others = {item.get("role") for item in messages} - {"user", "system"}
        if len(messages) != len(value) or len(questions) != 1 or others:
            raise RowError("'prompt' is a list; expected chat messages with one from the user and no answers")
        value = questions[0]
    if not isinstance(value, str) or not value.strip():
        raise RowError("'prompt' is missing or empty; every problem needs a question")
    return value


def read_reference_answer(value: object) -> str:
    """Return the reference answer as text; raises RowError if it is missing."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise RowError("'answer' is missing or empty; a problem without an answer cannot be graded")
    return value


def read_level(value: object) -> int | str | None:
    """Return a level as an int if it is a whole number (``3``, ``3.0``, ``"3"``), else as text; raises RowError."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        value = value.strip()
        if value.removeprefix("-").isdecimal():
            level = parse_integer(value)
            if isinstance(level, str):
                raise RowError(f"'level' has {len(level)} digits; expected a whole number or a name")
            return level
        return value or None
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise RowError(f"'level' must be a whole number or a name, found {shorten(value)}")
    return value


def read_kind(value: object) -> AnswerKind:
    """Return the kind of answer, MATH by default; raises RowError for an unknown one."""
    if value is None or value == "":
        return AnswerKind.MATH
    if not isinstance(value, str) or value not in tuple(AnswerKind):
        raise RowError(f"'kind' must be one of {KINDS}, found {shorten(value)}")
    return AnswerKind(value)


def read_choices(value: object) -> list[str]:
    """Return the options of a multiple-choice problem: a list, or in CSV a JSON list; empty for an empty cell."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value, parse_int=parse_integer)
        except json.JSONDecodeError:
            raise RowError(f"'choices' must be a list, found {shorten(value)}") from None
    if value is None or value == "":
        return []
    if not isinstance(value, list) or not all(isinstance(item, str | int | float) for item in value):
        raise RowError(f"'choices' must be a list of texts, found {shorten(value)}")
    return [str(item) for item in value]
