r"""Compare two answers, without sympy as far as that goes.

Three outcomes: they are the same, they are not, or only a symbolic comparison can decide. The cheapest rules are
tried first; a structure (tuple, interval, set, union, list, matrix) is compared part by part, so a
comparison of parts, symbolic or not, can never confuse an interval with a set or ignore the order of a tuple.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from adaptthink.grading.notation import Answer, read_answer
from adaptthink.grading.numbers import read_number
from adaptthink.grading.verdict import Rule

MAX_PARTS = 100  # of an unordered structure, which is matched pair by pair

_BASE = re.compile(r"\(?(-?(?:[0-9][0-9A-Za-z]*|[A-Z][0-9A-Z]*[0-9][0-9A-Z]*))\)?(?:_\{?(\d+)\}?)?")

_HUGE = re.compile(r"[+-]?[\d.]+[eE][+-]?\d{4,}")  # too large to expand, even for a comparison

Leaf = Callable[[str, str], bool | None]  # found and reference formula → the same, not the same, undecided


@dataclass(frozen=True, slots=True)
class Structure:
    """A formula made of parts. `form` is its type: its brackets, ``,`` for a bare list, ``cup``, ``matrix`` …"""

    form: str
    parts: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        """Whether the order of the parts counts."""
        return self.form not in ("{}", ",", "cup", "pm")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two answers are the same (None: undecided), and by which rule."""

    same: bool | None
    rule: Rule


def leave_undecided(_found: str, _gold: str) -> bool | None:
    """Return None: on the fast path leaves are left to a worker."""
    return None


def compare(found: str, reference_answer: str, leaf: Leaf = leave_undecided) -> Comparison:
    """Compare two raw answers; raises ValueError if one of them cannot be parsed."""
    if found.strip() == reference_answer.strip():
        return Comparison(True, Rule.EXACT)
    return compare_answers(read_answer(found), read_answer(reference_answer), leaf)


def compare_answers(found: Answer, reference_answer: Answer, leaf: Leaf) -> Comparison:
    """Compare two answers in one notation."""
    if found.unit and reference_answer.unit and found.unit != reference_answer.unit:
        return Comparison(False, Rule.STRUCTURE)
    if found.text == reference_answer.text:
        return Comparison(True, Rule.EXACT)
    number = compare_numbers(found, reference_answer)
    if number is not None:
        return Comparison(number, Rule.NUMBER)
    if reference_answer.is_words or found.is_words:
        return Comparison(found.words == reference_answer.words, Rule.WORDS)
    return compare_formulas(found.text, reference_answer.text, leaf)


def compare_numbers(found: Answer, reference_answer: Answer) -> bool | None:
    """Compare two plain numbers exactly. A percentage equals its number with and without the sign's factor of 100."""
    left, right = read_number(found.text), read_number(reference_answer.text)
    if left is None or right is None:
        return False if _HUGE.fullmatch(found.text) or _HUGE.fullmatch(reference_answer.text) else None
    if found.percent != reference_answer.percent:
        percent, plain = (left, right) if found.percent else (right, left)
        return percent in (plain, 100 * plain)
    return left == right


def compare_formulas(found: str, reference_answer: str, leaf: Leaf) -> Comparison:
    """Compare two formulas: as numbers, as structures part by part, by their base, or as leaves."""
    if found == reference_answer:
        return Comparison(True, Rule.EXACT)
    left, right = read_number(found), read_number(reference_answer)
    if left is not None and right is not None:
        return Comparison(left == right, Rule.NUMBER)
    left_base, right_base = read_base(found), read_base(reference_answer)
    if left_base and right_base and (left_base[1] is not None or right_base[1] is not None):
        same_base = left_base[1] == right_base[1] or None in (left_base[1], right_base[1])
        return Comparison(same_base and left_base[0] == right_base[0], Rule.NUMBER)
    mine, other = read_structure(found), read_structure(reference_answer)
    if mine is None and other is None:
        same = leaf(found, reference_answer)
        return Comparison(same, Rule.SYMBOLIC)
    if mine is None or other is None:
        return _compare_with_single(found, reference_answer, mine, other, leaf)
    if not _same_form(mine, other) or len(mine.parts) != len(other.parts):
        return Comparison(_after_expansion(mine, other, leaf), Rule.STRUCTURE)
    ordered = mine.ordered or other.ordered
    same = (compare_in_order if ordered else compare_in_any_order)(mine.parts, other.parts, leaf)
    return Comparison(same, Rule.STRUCTURE)


def _same_form(found: Structure, reference_answer: Structure) -> bool:
    """Return whether brackets agree; a bare list may mean a tuple or a set."""
    return found.form == reference_answer.form or (
        "," in (found.form, reference_answer.form) and {found.form, reference_answer.form} <= {",", "{}", "()"}
    )


def _after_expansion(found: Structure, reference_answer: Structure, leaf: Leaf) -> bool | None:
    """Compare once more with every ± written out as two values."""
    if "pm" not in (found.form, reference_answer.form) and not any(
        "\\pm" in part for part in (*found.parts, *reference_answer.parts)
    ):
        return False
    if not {found.form, reference_answer.form} <= {"pm", ",", "{}"}:
        return False
    return compare_in_any_order(_expanded(found), _expanded(reference_answer), leaf)


def _expanded(structure: Structure) -> tuple[str, ...]:
    values: list[str] = []
    for part in structure.parts:
        inner = read_structure(part)
        values += inner.parts if inner and inner.form == "pm" else (part,)
    return tuple(values)


def _compare_with_single(
    found: str, reference_answer: str, mine: Structure | None, other: Structure | None, leaf: Leaf
) -> Comparison:
    """Compare a structure with what has none: a set of one with its element, an interval with an inequality."""
    structure = mine or other
    assert structure is not None
    if structure.form == "{}" and len(structure.parts) == 1:
        single, rest = structure.parts[0], reference_answer if mine else found
        same = compare_formulas(single, rest, leaf).same if mine else compare_formulas(rest, single, leaf).same
        return Comparison(same, Rule.STRUCTURE)
    single_forms = ("()", "[]", "(]", "[)", "cup")
    if structure.form not in single_forms or not re.search("[<>]|\\\\[lg]eq|\\\\neq", found + reference_answer):
        return Comparison(False, Rule.STRUCTURE)
    return Comparison(leaf(found, reference_answer), Rule.SYMBOLIC)


@lru_cache(maxsize=65_536)
def compare_without_leaves(found: str, reference_answer: str) -> bool | None:
    """Compare two formulas without leaves. Cached, as each level of a nested structure needs all those below it."""
    return compare_formulas(found, reference_answer, leave_undecided).same


def compare_in_order(found: Sequence[str], reference_answer: Sequence[str], leaf: Leaf) -> bool | None:
    """Return whether parts agree in order; False as soon as one pair certainly differs, None if undecided."""
    certain = [compare_without_leaves(left, right) for left, right in zip(found, reference_answer, strict=True)]
    if False in certain:
        return False
    open_pairs = [
        pair for pair, same in zip(zip(found, reference_answer, strict=True), certain, strict=True) if same is None
    ]
    outcomes = [compare_formulas(*pair, leaf).same for pair in open_pairs]
    return False if False in outcomes else None if None in outcomes else True


def compare_in_any_order(found: Sequence[str], reference_answer: Sequence[str], leaf: Leaf) -> bool | None:
    """Return whether parts agree in some order: each reference part takes the first equal part of the answer."""
    if len(found) != len(reference_answer):
        return False
    left, right = list(found), list(reference_answer)
    for part in reference_answer:  # what is certain first, so that few pairs are left
        match = next((other for other in left if compare_without_leaves(other, part)), None)
        if match is not None:
            left.remove(match)
            right.remove(part)
    if len(left) > MAX_PARTS:
        return False
    certain = [[compare_without_leaves(other, part) for other in left] for part in right]
    if any(same.count(False) == len(same) for same in (*certain, *zip(*certain, strict=True))):
        return False  # one of them has no partner, whatever is undecided
    for part in right:
        outcomes = [(other, compare_formulas(other, part, leaf).same) for other in left]
        match = next((other for other, same in outcomes if same), None)
        if match is None:
            return None if any(same is None for _, same in outcomes) else False
        left.remove(match)
    return True


def find_leaves(raw: str) -> tuple[str, ...]:
    """Return the formulas in a raw answer that only a symbolic comparison can parse; raises ValueError as `compare`."""
    answer = read_answer(raw)
    return () if answer.is_words else tuple(_leaves(answer.text))


def _leaves(formula: str) -> Iterator[str]:
    base = read_base(formula)
    if read_number(formula) is not None or (base and base[1]):
        return
    structure = read_structure(formula)
    if structure is None:
        yield formula
    else:
        for part in structure.parts:
            yield from _leaves(part)


def read_base(formula: str) -> tuple[str, str | None] | None:
    """Read digits with the base they are written in: ``2516_8`` gives ("2516", "8"); None for anything else."""
    match = _BASE.fullmatch(formula)
    return (match[1].upper(), match[2]) if match else None


@lru_cache(maxsize=16_384)
def read_structure(formula: str) -> Structure | None:
    """Take a formula apart if it is a structure; None for a single expression."""
    if parts := split_top(formula, r"\cup"):
        return Structure("cup", parts)
    if parts := split_top(formula, ","):
        return Structure(",", parts)
    if parts := split_top(formula, ";"):
        return Structure(",", parts)
    for opening, closing in ((r"\{", r"\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if formula.startswith(opening) and formula.endswith(closing) and encloses(formula):
            inner = formula[len(opening) : len(formula) - len(closing)]
            parts = split_top(inner, ",")
            form = opening.strip("\\") + closing.strip("\\")
            if parts:
                return Structure(form, parts)
            if form == "{}":
                return Structure(form, (inner,) if inner else ())
            if form == "()" and inner:
                return read_structure(inner)
    if formula == r"\emptyset":
        return Structure("{}", ())
    matrix = re.fullmatch(r"\\begin\{matrix\}(.*)\\end\{matrix\}", formula)
    if matrix and r"\begin" not in matrix[1]:
        rows = [row for row in matrix[1].split(r"\\") if row]
        cells = tuple(cell for row in rows for cell in row.split("&"))
        return Structure(f"matrix {len(rows)}x{len(cells) // max(1, len(rows))}", cells)
    if re.fullmatch(r"[\d.]+(?::[\d.]+)+", formula):
        return Structure(":", tuple(formula.split(":")))
    if formula.count(r"\pm") == 1 and "=" not in formula:
        head, tail = formula.split(r"\pm")
        return Structure("pm", (f"{head}+{tail}" if head else tail, f"{head}-{tail}"))
    return None


def encloses(formula: str) -> bool:
    """Return whether the bracket that opens a formula is closed only by its last character."""
    depth = 0
    for token in re.finditer(r"\\.|[()\[\]{}]", formula):
        depth += _depth_change(token.group())
        if depth == 0:
            return token.end() == len(formula)
    return False


def split_top(formula: str, separator: str) -> tuple[str, ...]:
    """Return the parts between `separator`s outside all brackets; an empty tuple if there is none."""
    parts, depth, start = [], 0, 0
    for token in re.finditer(r"\\[A-Za-z]+|\\.|[()\[\]{},;]", formula):
        mark = token.group()
        depth += _depth_change(mark)
        if depth == 0 and mark == separator:
            parts.append(formula[start : token.start()])
            start = token.end()
    if not parts or depth != 0:
        return ()
    parts = [part.strip() for part in (*parts, formula[start:])]
    return tuple(parts) if all(parts) else ()


def _depth_change(mark: str) -> int:
    return 1 if mark in ("(", "[", "{", r"\{") else -1 if mark in (")", "]", "}", r"\}") else 0
