"""Prompts that need no reference answer: of sets and files, one a line, or as objects. None is held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from adaptthink.errors import UserError
from adaptthink.problems import Problem, make_problem
from adaptthink.problems.files import Fields, make_each
from adaptthink.problems.sources import Purpose, Reading, read_every_problem
from adaptthink.storage.rows import BadRow

PER_LEVEL = 100  # of procedural problems


def read_prompts(name: str, reading: Reading) -> Iterator[Problem]:
    """Yield every problem of a name (see `sources`), in order and with repeats.

    Raises UserError for the first row that cannot be used, named by its number.
    """
    rows = read_every_problem(
        name, Purpose.EVALUATION, per_level=PER_LEVEL, seed=0, reading=reading, needs_answer=False
    )
    for problem in rows:
        if isinstance(problem, BadRow):
            raise UserError(str(problem))
        yield problem


def read_prompt_lines(lines: Iterable[bytes], name: str) -> Iterator[Problem]:
    """Yield the prompt of each line that is not blank; raises UserError for one that is not UTF-8, or if there is none.

    `name` is that of the lines' source for people.
    """
    empty = True
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {number}: not UTF-8 text ({error.reason} at byte {error.start} of the line)"
            ) from None
        if text:
            empty = False
            yield make_problem(text, "")
    if empty:
        raise UserError(f"{name} holds no prompt; give one a line")


def make_prompts(prompts: Iterable[str | Mapping[str, Any] | Problem], mapping: Fields) -> Iterator[Problem]:
    """Yield texts and mappings as problems, and problems as they are, in order and with repeats.

    Raises UserError for the first that cannot be used, named by its number.
    """
    rows = (make_text_problem(one, number) if isinstance(one, str) else one for number, one in enumerate(prompts, 1))
    return make_each(rows, mapping, needs_answer=False)


def make_text_problem(text: str, number: int) -> Problem:
    """Return the problem of a text; raises UserError with its number if nothing can encode it."""
    try:
        return make_problem(text, "")
    except UserError as error:
        raise UserError(f"prompt {number}: {str(error).removeprefix('problem: ')}") from None
