"""Grade a response: a `Verdict`, not a number. Only what follows the last close marker is read."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from adaptthink.grading.verdict import AnswerKind, Grade, Rule, Verdict, reward

__all__ = ["AnswerKind", "Grade", "Rule", "Verdict", "grade", "readable_golds", "reward"]


def readable_golds(golds: Sequence[tuple[str, AnswerKind]]) -> list[bool]:
    """Say of each gold answer whether responses can be graded against it."""
    return [bool(gold.strip()) for gold, _ in golds]


def grade(response: str, gold: str, *, close: str, finished: bool) -> Verdict:
    """Grade `response` against `gold`.

    `close` is the marker that ends a thought. `finished` says whether the response ended by itself; one that ran
    into its cap, or that never closed its thought, is truncated.
    """
    thought_closed, answer = response.rpartition(close)[1:]
    if not finished or not thought_closed:
        return Verdict.TRUNCATED
    found = last_boxed(answer)
    if found is None:
        return Verdict.UNPARSED
    return Verdict.CORRECT if same_answer(found, gold) else Verdict.WRONG


def last_boxed(text: str) -> str | None:
    r"""Return what the last complete ``\boxed{…}`` holds, nested braces included; None if there is none."""
    start = text.rfind("\\boxed{")
    while start >= 0:
        depth = 0
        for position in range(start + len("\\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[start + len("\\boxed{") : position]
        start = text.rfind("\\boxed{", 0, start)
    return None


def same_answer(found: str, gold: str) -> bool:
    """Compare as exact numbers where both are numbers (``7`` = ``7.0`` = ``14/2``), else as trimmed strings."""
    found, gold = found.strip(), gold.strip()
    try:
        return exact_number(found) == exact_number(gold)
    except (ValueError, ZeroDivisionError):
        return found == gold


def exact_number(text: str) -> Fraction:
    """Read a whole number, a decimal or a fraction; raises ValueError for anything else.

    Exponents of more than three digits count as text: written out, ``1e999999999`` would fill the memory.
    """
    if len(text.lower().partition("e")[2].lstrip("+-")) > 3:
        raise ValueError(f"the exponent of {text!r} is too large")
    return Fraction(text)
