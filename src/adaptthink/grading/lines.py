"""Grade a JSONL file of responses, line by line: what `adaptthink grade` does.

The file is somebody's data and no store of ours: blank lines are passed over, a last line needs no line end, and a line
that cannot be used is named and does not keep the others from being graded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind, Limits, Submission, Verdict, drop_thinking, grade_all
from adaptthink.grading.extract import join_parts
from adaptthink.storage.jsonl import encode, parse_object, replace_file

CHUNK = 1_000  # lines in memory at once
REFERENCE_FIELDS = ("reference_answer", "gold", "answer")  # the first that is there, and not null, counts


@dataclass(slots=True)
class Tally:
    """What came out of a file."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    bad_lines: list[str] = field(default_factory=list)  # "line 7: not valid JSON: …"


def grade_file(source: Path, target: Path | None, limits: Limits, on_line: Callable[[int], None]) -> Tally:
    """Grade every line of `source` and write one JSON line for each to `target`, in order; `on_line` counts them.

    A line that cannot be used gets the verdict `error` and a message; the others are graded all the same. The
    target appears under its name when it is complete. Raises UserError for a file that has no line to grade.
    """
    if not source.is_file():
        raise UserError(
            f"no file '{source}' to grade; it should hold one JSON object a line: response, reference_answer, kind"
        )
    if target and target.resolve() == source.resolve():
        raise UserError(f"'{target}' is the file to be graded; give another --json file")
    tally = Tally()
    with source.open("rb") as lines, replace_file(target) if target else nullcontext() as written:
        numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        while chunk := list(islice(numbered, CHUNK)):
            for row in grade_lines(chunk, limits, tally):
                if written:
                    written.write(encode(row))
            on_line(len(chunk))
        if not tally.verdicts:
            first = f" ({tally.bad_lines[0]})" if tally.bad_lines else ""
            raise UserError(
                f"{source}: no line can be graded{first}; expected objects with 'response' and 'reference_answer'"
            )
    return tally


def grade_lines(chunk: Iterable[tuple[int, bytes]], limits: Limits, tally: Tally) -> Iterator[dict[str, object]]:
    """Yield one row for each numbered line, in order, and count it in `tally`."""
    read = [(number, read_line(line)) for number, line in chunk]
    grades = iter(grade_all([item for _, item in read if isinstance(item, Submission)], limits=limits))
    for number, item in read:
        if isinstance(item, str):
            tally.bad_lines.append(f"line {number}: {item}")
            yield {"line": number, "verdict": "error", "extracted": None, "rule": "form", "message": item}
        else:
            grade = next(grades)
            tally.verdicts[grade.verdict] += 1
            tally.rules[grade.rule] += 1
            yield {"line": number, "verdict": grade.verdict, "extracted": grade.extracted, "rule": grade.rule}


def read_line(line: bytes) -> Submission | str:
    """Read one line: a submission, or what is wrong with it.

    `kind` is math unless given; `finished: false` marks a response that was cut at its token limit. Fields of other
    names do not matter.
    """
    try:
        row = parse_object(line)
    except ValueError as error:
        return str(error)
    response, kind = row.get("response"), row.get("kind", AnswerKind.MATH)
    if not isinstance(response, str):
        return f"'response' is missing or no text; found {fields_of(row)}"
    name = next((name for name in REFERENCE_FIELDS if row.get(name) is not None), None)
    if name is None:
        return f"'reference_answer' is missing (so are 'gold' and 'answer'); found {fields_of(row)}"
    parts = row[name] if isinstance(row[name], list) else [row[name]]
    texts = [repr(part) if is_number(part) else part for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        return f"'{name}' must be text, a number or a list of those, found {describe(row[name])}"
    reference_answer = join_parts(texts) if isinstance(row[name], list) else texts[0]
    if kind not in list(AnswerKind):
        return f"unknown kind {shorten(kind)}; choose {', '.join(AnswerKind)}"
    finished = row.get("finished", True)
    if not isinstance(finished, bool):
        return f"'finished' must be true or false, found {shorten(finished)}"
    answer = drop_thinking(response) if finished else None
    return Submission(answer, reference_answer, AnswerKind(kind), finished=finished)


def is_number(value: object) -> bool:
    """Return whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def describe(value: object) -> str:
    """Return the type of a JSON value, of a list with the types of its elements."""
    if isinstance(value, list):
        return f"a list of {', '.join(sorted({type(item).__name__ for item in value})) or 'nothing'}"
    return type(value).__name__


def fields_of(row: Mapping[str, Any]) -> str:
    """The names of a line's fields as text."""
    return ", ".join(map(repr, row)) or "no field"
