"""Grade a file of responses, row by row: what `adaptthink grade` does.

The file is somebody's data and no store of ours, in any format of `storage.rows`: a row that cannot be used is named
and does not keep the others from being graded.
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
from adaptthink.grading.reference_answer import read_reference_answer
from adaptthink.storage.datafiles import exists, is_pattern
from adaptthink.storage.jsonl import encode, replace_file
from adaptthink.storage.rows import BadRow, Row, RowError, read_rows, show_fields

CHUNK = 1_000  # rows in memory at once
REFERENCE_FIELDS = ("reference_answer", "gold", "answer")  # the first that is there, and not null, counts
FINISHED = {None: True, "": True, "true": True, "false": False, True: True, False: False}  # CSV has texts only


@dataclass(slots=True)
class Tally:
    """What came out of a file."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    bad_rows: list[str] = field(default_factory=list)  # "r.jsonl, line 7: not valid JSON: …"


def grade_file(source: Path, target: Path | None, limits: Limits, on_line: Callable[[int], None]) -> Tally:
    """Grade every row of `source` and write one JSON line for each to `target`, in order; `on_line` counts them.

    A row that cannot be used gets the verdict `error` and a message; the others are graded all the same. The
    target appears under its name when it is complete. Raises UserError for a file that has no row to grade.
    """
    if not exists(source) and not is_pattern(source):
        raise UserError(
            f"no file '{source}' to grade; it should hold one JSON object a line: response, reference_answer, kind"
        )
    if target and target.resolve() == source.resolve():
        raise UserError(f"'{target}' is the file to be graded; give another --json file")
    tally = Tally()
    with replace_file(target) if target else nullcontext() as written:
        rows = read_rows(source)
        while chunk := list(islice(rows, CHUNK)):
            for row in grade_rows(chunk, limits, tally):
                if written:
                    written.write(encode(row))
            on_line(len(chunk))
        if not tally.verdicts:
            first = f" ({tally.bad_rows[0]})" if tally.bad_rows else ""
            raise UserError(
                f"{source}: no line can be graded{first}; expected objects with 'response' and 'reference_answer'"
            )
    return tally


def grade_rows(chunk: Iterable[Row | BadRow], limits: Limits, tally: Tally) -> Iterator[dict[str, object]]:
    """Yield one row of verdicts for each row of a file, in order, and count it in `tally`."""
    read = [(row.number, row if isinstance(row, BadRow) else read_submission(row)) for row in chunk]
    grades = iter(grade_all([item for _, item in read if isinstance(item, Submission)], limits=limits))
    for number, item in read:
        if isinstance(item, BadRow):
            tally.bad_rows.append(str(item))
            yield {"line": number, "verdict": "error", "extracted": None, "rule": "form", "message": item.reason}
        else:
            grade = next(grades)
            tally.verdicts[grade.verdict] += 1
            tally.rules[grade.rule] += 1
            yield {"line": number, "verdict": grade.verdict, "extracted": grade.extracted, "rule": grade.rule}


def read_submission(row: Row) -> Submission | BadRow:
    """Return what a row submits, or what is wrong with it.

    `kind` is math unless given; `finished: false` marks a response that was cut at its token limit. Fields of other
    names do not matter.
    """
    try:
        return make_submission(row.values)
    except RowError as error:
        return BadRow(row.where, str(error), row.number)


def make_submission(values: Mapping[str, Any]) -> Submission:
    """Return what the values of a row submit; raises RowError that names what is wrong with them."""
    response, kind, finished = values.get("response"), values.get("kind") or AnswerKind.MATH, values.get("finished")
    if not isinstance(response, str):
        raise RowError(f"'response' is missing or no text; fields here: {show_fields(values)}")
    name = next((name for name in REFERENCE_FIELDS if values.get(name) is not None), None)
    if name is None:
        raise RowError(
            f"'reference_answer' is missing (so are 'gold' and 'answer'); fields here: {show_fields(values)}"
        )
    reference_answer = read_reference_answer(values[name], name)
    if kind not in list(AnswerKind):
        raise RowError(f"unknown kind {shorten(kind)}; choose {', '.join(AnswerKind)}")
    key = finished.strip().lower() if isinstance(finished, str) else finished
    if not isinstance(key, bool | str | None) or key not in FINISHED:
        raise RowError(f"'finished' must be true or false, found {shorten(finished)}")
    ended = FINISHED[key]
    return Submission(drop_thinking(response) if ended else None, reference_answer, AnswerKind(kind), finished=ended)
