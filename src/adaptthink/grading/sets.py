r"""Sets of real numbers: intervals, unions, differences, inequalities in one variable, ``\{x \mid …\}``.

A set is a sorted tuple of disjoint intervals, each from one cut of the real line to another; a cut lies just before
(0) or just after (1) a number. So equal sets are equal tuples, whatever they were written as.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from adaptthink.grading.brackets import encloses, split_top
from adaptthink.grading.names import NAME, normalize_name

Cut = tuple[Fraction | float, int]
Intervals = tuple[tuple[Cut, Cut], ...]

LOW: Cut = (float("-inf"), 1)
HIGH: Cut = (float("inf"), 0)
REALS: Intervals = ((LOW, HIGH),)

IS_SET = re.compile(r"[<>]|\\(?:leq|geq|neq|lor|land|cup|cap|setminus|mathbb)(?![A-Za-z])|^\\\{[^|:]*[|:]")
_OPERATOR = r"<|>|\leq|\geq|\neq|="
_RELATIONS = ("<", ">", r"\leq", r"\geq", r"\neq")
_BUILDER = re.compile(rf"\\\{{({NAME})(?:\\in(.*?))?[|:](.*)\\\}}")
_MEMBER = re.compile(rf"({NAME})\\in(.*)")


@dataclass(frozen=True, slots=True)
class RealSet:
    """A set, and the variable of the inequalities that it was written with."""

    intervals: Intervals
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """How bounds and inequalities are read: on the fast path exact numbers only, in a worker with sympy."""

    read_bound: Callable[[str], Fraction | float | None]
    solve: Callable[[str], tuple[Intervals, str] | None] = lambda _relation: None


class UnreadableError(Exception):
    """Not a set, or one that this reader cannot read."""


def read_set(text: str, reader: Reader) -> RealSet | None:
    """Return the set that a formula in one notation stands for, or None."""
    try:
        return _read(text, reader)
    except UnreadableError:
        return None


def split_relation(text: str) -> list[str]:
    """Return sides and signs of a chain of (in)equalities in turn; a list of one if there is no sign."""
    return split_top(text, *_RELATIONS, "=", keep=True) or [text]


def normalize_chain(text: str) -> tuple[str, ...]:
    """Return a chain of inequalities so that it reads from the smaller to the larger side."""
    chain = split_relation(text)
    if any(sign in (">", r"\geq") for sign in chain[1::2]):
        turned = {">": "<", "<": ">", r"\geq": r"\leq", r"\leq": r"\geq"}
        return tuple(turned.get(part, part) if index % 2 else part for index, part in enumerate(reversed(chain)))
    return tuple(chain)


def _read(text: str, reader: Reader) -> RealSet:
    for separator, combine in ((r"\lor", unite), (r"\land", intersect)):
        if parts := split_top(text, separator):
            return _combine([_read(part, reader) for part in parts], combine)
    if parts := split_top(text, ","):
        return _read_listed(parts, reader)
    if parts := split_top(text, r"\cup"):
        return _combine([_read(part, reader) for part in parts], unite)
    if parts := split_top(text, r"\setminus"):
        return _combine([_read(part, reader) for part in parts], subtract)
    if parts := split_top(text, r"\cap"):
        return _combine([_read(part, reader) for part in parts], intersect)
    chain = split_relation(text)
    if len(chain) > 1:
        return _read_chain(text, chain, reader)
    if text == r"\mathbb{R}":
        return RealSet(REALS)
    if text == r"\emptyset":
        return RealSet(())
    if match := _BUILDER.fullmatch(text):
        name = normalize_name(match[1])
        condition = _read(match[3], reader)
        if condition.variable not in (None, name):
            raise UnreadableError
        domain = _read(match[2], reader).intervals if match[2] else REALS
        return RealSet(intersect(condition.intervals, domain))
    if match := _MEMBER.fullmatch(text):
        return RealSet(_read(match[2], reader).intervals, normalize_name(match[1]))
    return _read_bracketed(text, reader)


def _read_listed(parts: list[str], reader: Reader) -> RealSet:
    """Read inequalities with commas between them: all of them hold, or, if they cannot, one of them."""
    sets = [_read(part, reader) for part in parts]
    if any(one.variable is None for one in sets):
        raise UnreadableError
    both = _combine(sets, intersect)
    return both if both.intervals else _combine(sets, unite)


def _read_chain(text: str, chain: list[str], reader: Reader) -> RealSet:
    names = [normalize_name(side) if re.fullmatch(NAME, side) else None for side in chain[::2]]
    variables = {name for name in names if name}
    if len(variables) != 1 or names.count(None) > 2 or any(a and b for a, b in pairwise(names)):
        return _solve(text, reader)
    result = REALS
    for index, sign in enumerate(chain[1::2]):
        left, right = chain[2 * index], chain[2 * index + 2]
        if names[index] is None and names[index + 1] is None:
            return _solve(text, reader)
        bound = reader.read_bound(right if names[index] else left)
        if bound is None:
            return _solve(text, reader)
        result = intersect(result, _half(sign, bound, turned=names[index] is None))
    return RealSet(result, variables.pop())


def _solve(text: str, reader: Reader) -> RealSet:
    solved = reader.solve(text)
    if solved is None:
        raise UnreadableError
    return RealSet(*solved)


def _half(sign: str, bound: Fraction | float, *, turned: bool) -> Intervals:
    """Return the numbers x with ``x sign bound``, or, turned, ``bound sign x``."""
    if turned:
        sign = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}.get(sign, sign)
    before: Cut = (bound, 0)
    after: Cut = (bound, 1)
    pieces: list[tuple[Cut, Cut]]
    match sign:
        case "<":
            pieces = [(LOW, before)]
        case r"\leq":
            pieces = [(LOW, after)]
        case ">":
            pieces = [(after, HIGH)]
        case r"\geq":
            pieces = [(before, HIGH)]
        case "=":
            pieces = [(before, after)]
        case _:
            pieces = [(LOW, before), (after, HIGH)]
    return _merge(pieces)


def _read_bracketed(text: str, reader: Reader) -> RealSet:
    if text.startswith(r"\{") and text.endswith(r"\}") and encloses(text):
        points = [reader.read_bound(part) for part in split_top(text[2:-2], ",") or [text[2:-2]]]
        return RealSet(_merge([((_known(point), 0), (_known(point), 1)) for point in points]))
    if not (text[:1] in "([" and text[-1:] in ")]" and encloses(text)):
        raise UnreadableError
    inner = text[1:-1]
    ends = split_top(inner, ";") or split_top(inner, ",")
    if not ends and text[0] + text[-1] == "()" and inner:
        return _read(inner, reader)
    if len(ends) != 2:
        raise UnreadableError
    low, high = (_known(reader.read_bound(end)) for end in ends)
    return RealSet(_merge([((low, 0 if text[0] == "[" else 1), (high, 1 if text[-1] == "]" else 0))]))


def _known(bound: Fraction | float | None) -> Fraction | float:
    if bound is None:
        raise UnreadableError
    return bound


def _combine(sets: list[RealSet], combine: Callable[[Intervals, Intervals], Intervals]) -> RealSet:
    variables = {one.variable for one in sets if one.variable}
    if len(variables) > 1:
        raise UnreadableError
    result = sets[0].intervals
    for one in sets[1:]:
        result = combine(result, one.intervals)
    return RealSet(result, variables.pop() if variables else None)


def _merge(pieces: list[tuple[Cut, Cut]]) -> Intervals:
    merged: list[tuple[Cut, Cut]] = []
    for start, end in sorted((max(start, LOW), min(end, HIGH)) for start, end in pieces):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def unite(one: Intervals, other: Intervals) -> Intervals:
    """Return the union."""
    return _merge([*one, *other])


def intersect(one: Intervals, other: Intervals) -> Intervals:
    """Return the intersection."""
    return _merge([(max(a, c), min(b, d)) for a, b in one for c, d in other])


def subtract(one: Intervals, other: Intervals) -> Intervals:
    """Return the difference."""
    gaps = [LOW, *(cut for piece in other for cut in piece), HIGH]
    return intersect(one, _merge(list(zip(gaps[::2], gaps[1::2], strict=True))))
