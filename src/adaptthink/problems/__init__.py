"""The `Problem` record and its stable id. Where problems come from: `sources`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from adaptthink.grading import AnswerKind


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its reference answer.

    `id` is derived from the content (`make_problem_id`), so it is the same on every machine and in every run.
    `level` is the difficulty or the group where the source knows one (arithmetic: 1-5), else None.
    `kind` is how a response's answer is compared with the reference answer.

    >>> import adaptthink as at
    >>> problem = at.load_problems("arithmetic", split="train", per_level=1)[0]
    >>> problem.level, problem.source
    (1, 'arithmetic/chain/train')
    """

    id: str
    prompt: str
    answer: str
    level: int | str | None = None
    source: str = ""
    kind: AnswerKind = AnswerKind.MATH


def make_problem_id(prompt: str, answer: str, source: str = "") -> str:
    """Return 16 hex digits that identify a problem by its content (SHA-256 of source, prompt and answer)."""
    content = "\x1f".join((source, prompt, answer))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def has_content_id(problem: Problem) -> bool:
    """Return whether a problem's id was derived from its content, and not given by its user."""
    return problem.id == make_problem_id(problem.prompt, problem.answer, problem.source)


def hash_answer(problem: Problem) -> str:
    """Return what tells a problem's reference answer from others with the same id; stored beside its verdicts.

    That is 16 hex digits, or nothing for the usual problem, a mathematical one whose id follows from its answer.
    """
    if problem.kind is AnswerKind.MATH and has_content_id(problem):
        return ""
    return hashlib.sha256(f"{problem.kind}\x1f{problem.answer}".encode()).hexdigest()[:16]


def make_problem(
    prompt: str,
    answer: str,
    *,
    level: int | str | None = None,
    source: str = "",
    kind: AnswerKind = AnswerKind.MATH,
) -> Problem:
    """Return a `Problem` whose id follows from its content.

    >>> import adaptthink as at
    >>> at.make_problem("2+2=?", "4", level=1).answer
    '4'
    """
    return Problem(make_problem_id(prompt, answer, source), prompt, answer, level, source, kind)
