"""Problems from any data file, with a mapping from its columns to ours."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind
from adaptthink.grading.reference_answer import read_reference_answer
from adaptthink.modes import Message
from adaptthink.problems import Problem, check_roles, check_texts, make_problem
from adaptthink.problems.choices import format_choices, read_choice_letter
from adaptthink.storage.datafiles import FORMAT_NAMES, exists, is_pattern
from adaptthink.storage.jsonl import parse_integer
from adaptthink.storage.rows import (
    SHOWN_CHARACTERS,
    BadRow,
    Row,
    RowError,
    read_rows,
    show_fields,
)

KINDS = ", ".join(AnswerKind)
EXAMPLE = '{"prompt": "1+1=?", "answer": "2"}'
MISSING = object()  # a row has no such column; None is the value of an empty one
EXPECTED = {
    ".tsv": "a first line that names the columns, with 'prompt' and 'answer'",
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
    "prompt": ("prompt", "problem", "question", "messages", "conversations"),
    "answer": ("answer", "gold", "reference_answer"),
    "level": ("level",),
    "kind": ("kind",),
    "choices": ("choices",),
}
ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}  # what some data sets write for our roles
CALLS = ("tool_calls", "function_call")  # of a message
BESIDE = ("tools", "image", "images", "audio", "audios", "video", "videos")  # fields beside messages, part of a prompt
_PAIR = re.compile(r'(?:[^,"]|"[^"]*")+')  # a comma within double quotes is part of a column's name


def parse_fields(text: str) -> Fields:
    """Return the mapping of ``prompt=question,answer=final_answer``; raises UserError with what is allowed.

    A column whose name has a comma stands in double quotes: ``prompt="question, in words"``.
    """
    if text.count('"') % 2:
        raise UserError(f"fields: {text!r} has a double quote that is not closed")
    given: dict[str, str] = {}
    known = [field.name for field in fields(Fields)]
    for pair in filter(None, (pair.strip() for pair in _PAIR.findall(text))):
        name, equals, column = (part.strip() for part in pair.partition("="))
        column = column[1:-1] if column.startswith('"') and column.endswith('"') else column
        if not equals or not column or name not in known:
            raise UserError(
                f"fields: '{pair}' is no mapping; give pairs such as prompt=question,answer=final_answer with "
                f"{', '.join(known)} on the left and the file's own columns on the right"
            )
        if name in given:
            raise UserError(f"fields: '{name}' is mapped twice, to '{given[name]}' and to '{column}'; give one")
        given[name] = column
    return Fields(**given)


def read_file(
    path: Path, mapping: Fields = Fields(), split: str | None = None, *, needs_answer: bool = True
) -> Iterator[Problem | BadRow]:
    """Yield the problems of a file, or of all files of a folder or pattern, one by one, in order and with repeats.

    Without `needs_answer` rows may lack a reference answer. Raises UserError for a file that is missing or empty, and
    at its end if no row had a mapped column.
    """
    if not exists(path) and not is_pattern(path):
        raise UserError(
            f"no problem file '{path}': give the path of a file or folder ({FORMAT_NAMES}), or the name of a set"
        )
    missing = {name: column for name, column in asdict(mapping).items() if column is not None}
    columns: dict[str, None] = {}
    empty = True
    source = name_source(path, split)
    for row in read_rows(path, split):
        empty = False
        if isinstance(row, BadRow):
            yield row
            continue
        if missing:
            columns |= dict.fromkeys(row.values)
            missing = {name: column for name, column in missing.items() if find_value(row.values, column) is MISSING}
        try:
            yield make_row_problem(row, mapping, source=source, needs_answer=needs_answer)
        except RowError as error:
            yield BadRow(row.where, str(error), row.number)
    if empty:
        raise UserError(f"{path}: holds no problem; expected {EXPECTED.get(path.suffix.lower(), EXPECTED_LINES)}")
    for name, column in missing.items():
        raise UserError(
            f"{path}: no row has the field '{column}' that '{name}' is mapped to; fields found: {show_fields(columns)}"
        )


def name_source(path: Path, split: str | None) -> str:
    """Return the source of a file's problems, which is part of their ids: its name without folders, and the split."""
    name = path.name or path.resolve().name  # "." and ".." have none
    return "/".join(filter(None, (os.fsencode(name).decode("utf-8", "replace"), split)))


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
    for problem in make_each(rows, mapping, needs_answer=needs_answer):
        found.setdefault(problem.id, problem)
    if not found:
        raise UserError(f"no problems were given; give a list of dicts such as {EXAMPLE}")
    return list(found.values())


def make_each(
    rows: Iterable[Mapping[str, Any] | Problem], mapping: Fields = Fields(), *, needs_answer: bool = True
) -> Iterator[Problem]:
    """Do what `make_problems` does one by one, with repeats."""
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Problem):
            try:
                check_texts(row.prompt, row.answer, level=row.level, context=row.context)
            except RowError as error:
                raise UserError(f"problem {number}: {error}") from None
            yield row
        elif isinstance(row, Mapping):
            where = f"problem {number}"
            try:
                named = Row(where, number, dict(row))
                yield make_row_problem(named, mapping, source="", needs_answer=needs_answer)
            except RowError as error:
                raise UserError(f"{where}: {error}") from None
        else:
            raise UserError(f"problem {number} is {type(row).__name__}; give a Problem, or a dict such as {EXAMPLE}")


def make_row_problem(row: Row, mapping: Fields, *, source: str, needs_answer: bool = True) -> Problem:
    """Return the problem of one row; raises RowError if it cannot be used."""
    context, prompt = read_prompt(*lookup(row, mapping.prompt, "prompt"), row.values)
    column, value = lookup(row, mapping.answer, "answer")
    if is_blank(value) and needs_answer:
        raise RowError(describe_missing("answer", column, row.values))
    answer = "" if is_blank(value) else read_reference_answer(value, column, option="--fields answer=")
    level = read_level(lookup_optional(row, mapping.level, "level"))
    kind = read_kind(lookup_optional(row, mapping.kind, "kind"))
    choices = read_choices(lookup_optional(row, mapping.choices, "choices"))
    if choices:
        prompt, answer = format_choices(prompt, choices), read_choice_letter(answer, len(choices))
        kind = AnswerKind.CHOICE
    check_texts(prompt, answer, level=level, context=context)
    return make_problem(prompt, answer, level=level, source=source, kind=kind, context=context)


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


def lookup(row: Row, column: str | None, name: str) -> tuple[str, Any]:
    """Return where the value for `name` stands, and the value; None if unmapped and missing.

    Of the usual names the first counts that is not blank; case does not matter. Raises RowError if a mapped column is
    missing.
    """
    if column is not None:
        value = find_value(row.values, column)
        if value is MISSING:
            raise RowError(f"no field '{column}', which '{name}' is mapped to; fields here: {show_fields(row.values)}")
        return column, value
    by_name = {str(key).strip().casefold(): key for key in reversed(row.values)}
    keys = [usual if usual in row.values else by_name.get(usual) for usual in USUAL_NAMES[name]]
    found = [(key, row.values[key]) for key in keys if key is not None]
    return next((one for one in found if not is_blank(one[1])), found[0] if found else (name, None))


def lookup_optional(row: Row, column: str | None, name: str) -> Any:
    """Return the value for `name`, None if the row has none."""
    try:
        return lookup(row, column, name)[1]
    except RowError:
        return None


def is_blank(value: object) -> bool:
    """Return whether a cell holds nothing."""
    return value is None or (isinstance(value, str) and not value.strip())


def describe_missing(name: str, column: str, fields_here: Iterable[str]) -> str:
    """Return that a row lacks its question or answer, what it has, and what to do."""
    why = "every problem needs a question" if name == "prompt" else "a problem without an answer cannot be graded"
    return (
        f"'{column}' is missing or empty; {why}; fields here: {show_fields(fields_here)}; "
        f"name another with --fields {name}=FIELD"
    )


def read_prompt(column: str, value: object, values: Mapping[str, Any]) -> tuple[tuple[Message, ...], str]:
    """Return the question, a text or the last message of a conversation, and the messages before it.

    `values` is the whole row. Raises RowError for what cannot be kept of a conversation.
    """
    context: tuple[Message, ...] = ()
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        [value] = value
    if isinstance(value, list):
        context, question = read_turns(column, value, values)
        value = question.content
    if is_blank(value):
        raise RowError(describe_missing("prompt", column, values))
    if not isinstance(value, str):
        raise RowError(
            f"'{column}' is of type {type(value).__name__}; a text or a list of chat messages is needed; fields here: "
            f"{show_fields(values)}; name another with --fields prompt=FIELD"
        )
    return context, value


def read_turns(column: str, turns: list[Any], values: Mapping[str, Any]) -> tuple[tuple[Message, ...], Message]:
    """Return the messages before the question, and the question.

    A field `system` beside the messages, as some data sets have it, is the system message.
    """
    for name in BESIDE:
        if values.get(name):
            raise RowError(f"'{name}' belongs to the prompt, and only text is supported; leave the row out")
    messages = [read_message(item, column) for item in turns] or [Message("user", "")]
    system = values.get("system")
    if isinstance(system, str) and system.strip():
        messages.insert(0, Message("system", system))
    *before, question = messages
    if question.role != "user":
        raise RowError(
            f"'{column}' ends in a message of role '{question.role}'; the last one must be the user's question"
        )
    check_roles(before, column)
    if before and before[0].role == "system" and not before[0].content.strip():
        del before[0]  # a data set's way to say that there is none
    for message in before:
        if not message.content.strip():
            raise RowError(f"'{column}' has an empty message of role '{message.role}'; fill it, or leave the row out")
    return tuple(before), question


def read_message(item: object, column: str) -> Message:
    """Return one message of a conversation, in either usual form (role and content, from and value)."""
    if not isinstance(item, Mapping):
        raise RowError(
            f"'{column}' is a list with {shorten(item)}; one text, or chat messages with role and content, are needed"
        )
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if any(item.get(name) for name in CALLS):
        raise RowError(f"'{column}' has a message that calls tools, which are not supported; leave the row out")
    if isinstance(content, list):
        if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            raise RowError(f"'{column}' has a message whose parts are not all text; images and files are not supported")
        content = "\n".join(part["text"] for part in content)
    role = ROLES.get(role, role) if isinstance(role, str) else role
    if content is not None and not isinstance(content, str):
        raise RowError(f"'{column}' has a message whose content is of type {type(content).__name__}; text is needed")
    message = Message(role, content or "")
    check_roles([message], column)
    return message


def read_level(value: object) -> int | str | None:
    """Return a level as an int if it is a whole number (``3``, ``3.0``, ``"3"``), else as text; raises RowError."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        value = value.strip()
        if value.removeprefix("-").isdecimal():
            level = parse_integer(value)
            if isinstance(level, str):
                raise RowError(f"'level' has {len(level):,} digits; a whole number or a name is needed")
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
        except (ValueError, RecursionError):
            raise RowError(f"'choices' must be a list, found {shorten(value)}") from None
    if value is None or value == "":
        return []
    if not isinstance(value, list) or not all(isinstance(item, str | int | float) for item in value):
        raise RowError(f"'choices' must be a list of texts, found {shorten(value)}")
    return [str(item) for item in value]


def shorten(value: object) -> str:
    """Return a value as a message shows it."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}…"
