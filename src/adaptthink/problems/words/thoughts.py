"""Thoughts for problems in words: the steps of a solution with their arithmetic in small pieces, and a check.

A solution states each result at once, which a small model gets wrong the more often, the larger the numbers are and the
more steps there are. A thought works out each result before it states it. That can help little on the first levels, and
much on the last, once the pieces are more reliable than the whole: a short cold start does not get there
(docs/log/2026-11-28-smollm2-solutions.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


def write_thought(steps: Sequence[str], equations: Sequence[str]) -> str:
    """Return the steps, each behind the pieces of its equation, and all equations once more."""
    worked = []
    for step, equation in zip(steps, equations, strict=True):
        pieces = split_equation(equation)
        worked.append(f"{', '.join(pieces)}. {step}" if pieces else step)
    return f"{' '.join(worked)} Let me check: {', '.join(equations)}."


def split_equation(equation: str) -> list[str]:
    """Return the smaller equations that lead to the result of one; none where it is a small one itself.

    Raises ValueError for what is no equation of two whole numbers.

    >>> split_equation("85-17=68")
    ['85-10=75', '75-7=68']
    >>> split_equation("18*5=90")
    ['10*5=50', '8*5=40', '50+40=90']
    >>> split_equation("84/6=14")
    ['6*10=60', '84-60=24', '24/6=4']
    """
    match = EQUATION.fullmatch(equation)
    if match is None:
        raise ValueError(f"not an equation of two numbers: {equation!r}")
    sign = match[2]
    left, right, value = int(match[1]), int(match[3]), int(match[4])
    if sign in "+-":
        tens, ones = split_tens(right)
        middle = left + tens if sign == "+" else left - tens
        return [f"{left}{sign}{tens}={middle}", f"{middle}{sign}{ones}={value}"] if tens and ones else []
    if sign == "*":
        large, small = max(left, right), min(left, right)
        tens, ones = split_tens(large)
        parts = tens * small, ones * small
        pieces = [f"{tens}*{small}={parts[0]}", f"{ones}*{small}={parts[1]}", f"{parts[0]}+{parts[1]}={value}"]
        return pieces if tens and ones else []
    tens, ones = split_tens(value)
    taken = right * tens
    pieces = [f"{right}*{tens}={taken}", f"{left}-{taken}={left - taken}", f"{left - taken}/{right}={ones}"]
    return pieces if tens and ones else []


def split_tens(number: int) -> tuple[int, int]:
    """Return a number's multiple of ten and the rest: 80 and 5 of 85."""
    return number - number % 10, number % 10
