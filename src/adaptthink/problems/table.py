"""Problems on disk: written once, read one by one when they are needed, so that they take hardly any memory.

Why not Arrow or `datasets`: a mapped table counts as this process's memory once it has been read, takes longer for one
row than JSON does, and has no column type for levels that may be numbers or names.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Sequence
from operator import eq
from tempfile import SpooledTemporaryFile
from typing import overload

import numpy as np

from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind
from adaptthink.modes import Message
from adaptthink.problems import Problem

SPOOL_BYTES = 2**22  # that stay in memory; more goes to an unnamed file, which disappears with the process
LARGE_FILES = "/var/tmp"  # not /tmp, which is held in memory on many systems; TMPDIR overrides


class Spool:
    """Problems by the order in which they were written; eight bytes of each are in memory. For one thread."""

    def __init__(self) -> None:
        folder = os.environ.get("TMPDIR", LARGE_FILES)
        self.file = SpooledTemporaryFile(max_size=SPOOL_BYTES, dir=folder)  # noqa: SIM115  (open as long as this is)
        self.starts = array("Q")
        self.end = 0

    def append(self, problem: Problem) -> None:
        """Write one more; raises UserError if the disk is full."""
        row: list[object] = [problem.id, problem.prompt, problem.answer, problem.level, problem.source, problem.kind]
        row += [[message.role, message.content] for message in problem.context]
        try:
            self.file.seek(self.end)
            length = self.file.write(json.dumps(row).encode() + b"\n")
            self.file.flush()  # so that a full disk is an error here, not at some later read
        except OSError as error:
            raise UserError(
                f"cannot put the problems into a temporary file ({error}); set TMPDIR to a folder with free space, "
                "or use fewer with max_problems"
            ) from None
        self.starts.append(self.end)
        self.end += length

    def extend(self, problems: Iterable[Problem]) -> None:
        """Write several more."""
        for problem in problems:
            self.append(problem)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> Problem:
        self.file.seek(self.starts[number])
        id_, prompt, answer, level, source, kind, *context = json.loads(self.file.readline())
        messages = tuple(Message(*message) for message in context)
        return Problem(id_, prompt, answer, level, source, AnswerKind(kind), messages)


class Selection(Sequence[Problem]):
    """A selection of problems by their numbers in a spool or sequence; a slice is a list."""

    def __init__(self, problems: Sequence[Problem] | Spool, numbers: np.ndarray) -> None:
        self.problems, self.numbers = problems, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        if isinstance(index, slice):
            return [self.problems[number] for number in self.numbers[index]]
        return self.problems[self.numbers[index]]

    def __eq__(self, other: object) -> bool:
        """Compare with any sequence: the same problems in the same order."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]


def parse_id(id_: str) -> int:
    """Return a problem's id, 16 hex digits, as a 64-bit number."""
    return int(id_, 16)


def parse_ids(problems: Iterable[Problem]) -> np.ndarray:
    """Return the ids of problems as numbers, (N,) uint64."""
    return np.fromiter((parse_id(problem.id) for problem in problems), np.uint64)


def find_first_of_each(ids_N: np.ndarray) -> np.ndarray:
    """Return the index of the first occurrence of each different id, (N,), the smallest id first."""
    return np.unique(ids_N, return_index=True)[1]
