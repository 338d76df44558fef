r"""Compare two answers, without sympy as far as that goes.

Three outcomes: they are the same, they are not, or only a symbolic comparison can decide. The cheapest rules are
tried first; a structure (tuple, interval, set, union, list, matrix) is compared part by part, so a
comparison of parts, symbolic or not, can never confuse an interval with a set or ignore the order of a tuple.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from adaptthink.grading.brackets import encloses, split_top
from adaptthink.grading.names import is_constant, is_name, loses_variable, split_name
from adaptthink.grading.notation import Answer, read_answer
from adaptthink.grading.numbers import PREFIXED, goes_on_to, read_number
from adaptthink.grading.sets import IS_SET, Reader, normalize_chain, read_set
from adaptthink.grading.verdict import Rule
from adaptthink.grading.words import is_same_word

MAX_PARTS = 100  # of an unordered structure, which is matched pair by pair

_PREFIXES = {"0x": "16", "0o": "8", "0b": "2"}
_BASE = re.compile(r"\(?(-?(?:[0-9][0-9A-Za-z]*|[A-Z][0-9A-Z]*[0-9][0-9A-Z]*))\)?(?:_\{?(\d+)\}?)?")

_HUGE = re.compile(r"[+-]?[\d.]+[eE][+-]?\d{4,}")  # too large to expand, even for a comparison

_CONDITION = re.compile(r"[<>]|\\(?:leq|geq|neq|lor|land)(?![A-Za-z])")

_LETTERS = re.compile(r"[A-Z]{2,}")  # a triangle, a Roman numeral: no product in any order

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


def read_exact_bound(text: str) -> Fraction | float | None:
    """Return a bound that is a plain number or infinite."""
    if text in (r"\infty", r"+\infty", r"-\infty"):
        return float("-inf" if text.startswith("-") else "inf")
    return read_number(text)


EXACT = Reader(read_exact_bound)


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
    values = compare_names(found.text, reference_answer.text)
    if values and values[0] == values[1]:
        return Comparison(True, Rule.EXACT)
    number = compare_numbers(found, reference_answer, values or ("", ""))
    if number is not None:
        return Comparison(number, Rule.NUMBER)
    if reference_answer.is_words or found.is_words:
        return Comparison(have_same_words(found, reference_answer), Rule.WORDS)
    return compare_formulas(found.text, reference_answer.text, leaf)


def have_same_words(found: Answer, reference_answer: Answer) -> bool:
    """Compare two answers in words; single letters with commas are a set of options, or else an order."""
    left, right = found.words.split(), reference_answer.words.split()
    letters, others = (
        [word for word in map(str.casefold, words) if word not in ("and", "or")] for words in (left, right)
    )
    if "," in reference_answer.text and all(len(word) == 1 for word in (*letters, *others)):
        return sorted(letters) == sorted(others) if reference_answer.any_order else letters == others
    return len(left) == len(right) and all(map(is_same_word, left, right))


def compare_numbers(found: Answer, reference_answer: Answer, values: tuple[str, str]) -> bool | None:
    """Compare the values of two answers, if they are plain numbers, exactly; None if they are not.

    A percentage equals its number with and without the sign's factor of 100.
    """
    left, right = map(read_number, values)
    if left is None or right is None:
        return False if any(map(_HUGE.fullmatch, values)) else None
    if found.percent != reference_answer.percent:
        percent, plain = (left, right) if found.percent else (right, left)
        return percent in (plain, 100 * plain)
    return left == right


def compare_names(found: str, reference_answer: str) -> tuple[str, str] | None:
    """Return two formulas without the names before them; None if both have one and the names differ.

    A value of the reference that has a name may be given without it, and the other way round. None too if one has a
    name and the other is an equation that gives none to a value (``x/x=1`` is not ``x=1``).
    """
    if "=" not in found and "=" not in reference_answer:
        return found, reference_answer
    (name, value), (other_name, other) = (
        (None, one) if _CONDITION.search(one) else split_name(one) for one in (found, reference_answer)
    )
    if name and other_name and name != other_name:
        return None
    if (name is None) != (other_name is None) and loses_variable(found if name is None else reference_answer):
        return None
    return value, other


def compare_formulas(found: str, reference_answer: str, leaf: Leaf) -> Comparison:
    """Compare two formulas: as numbers, by their names, as sets, as structures part by part, or as leaves."""
    if found == reference_answer:
        return Comparison(True, Rule.EXACT)
    if _LETTERS.fullmatch(found) and _LETTERS.fullmatch(reference_answer):
        return Comparison(False, Rule.WORDS)
    mine, other = _split_membership(found), _split_membership(reference_answer)
    if mine or other:
        return Comparison(len(mine) == len(other) and compare_in_order(mine, other, leaf), Rule.STRUCTURE)
    values = compare_names(found, reference_answer)
    if values is None:
        return _compare_equations(found, reference_answer, leaf)
    if values != (found, reference_answer):
        result = compare_formulas(*values, leaf)
        both_equations = "=" in found and "=" in reference_answer
        return _compare_equations(found, reference_answer, leaf) if both_equations and not result.same else result
    left, right = read_number(found), read_number(reference_answer)
    if left is not None and right is not None:
        return Comparison(left == right, Rule.NUMBER)
    for number, text in ((left, reference_answer), (right, found)):
        if number is not None and (goes_on := goes_on_to(text, number)) is not None:
            return Comparison(goes_on, Rule.NUMBER)
    left_base, right_base = read_base(found), read_base(reference_answer)
    if left_base and right_base and (left_base[1] is not None or right_base[1] is not None):
        same_base = left_base[1] == right_base[1] or None in (left_base[1], right_base[1])
        return Comparison(same_base and left_base[0] == right_base[0], Rule.NUMBER)
    if IS_SET.search(found) or IS_SET.search(reference_answer):
        return _compare_sets(found, reference_answer, leaf)
    return _compare_structures(found, reference_answer, leaf)


def _split_membership(formula: str) -> list[str]:
    r"""Return element and set of ``x\in A``, which says nothing of what A is; an empty list for anything else."""
    return [] if split_top(formula, ",") else split_top(formula, r"\in")


def _compare_equations(found: str, reference_answer: str, leaf: Leaf) -> Comparison:
    """Compare two equations as a whole, ``x+2y=6`` and ``y=3-x/2``; two values of different names differ."""
    constants = all(
        len(sides) == 2 and any(is_name(side) for side in sides) and any(map(is_constant, sides))
        for sides in (split_top(found, "="), split_top(reference_answer, "="))
    )
    if constants or split_top(found, ",") or split_top(reference_answer, ","):
        return Comparison(False, Rule.STRUCTURE)
    return Comparison(leaf(found, reference_answer), Rule.SYMBOLIC)


def _compare_sets(found: str, reference_answer: str, leaf: Leaf) -> Comparison:
    """Compare sets of real numbers, or inequalities, at least one of which is no plain interval, list or number."""
    if normalize_chain(found) == normalize_chain(reference_answer):
        return Comparison(True, Rule.STRUCTURE)
    if read_number(found) is not None or read_number(reference_answer) is not None:
        return Comparison(False, Rule.STRUCTURE)
    mine, other = read_set(found, EXACT), read_set(reference_answer, EXACT)
    if mine and other:
        variables = {mine.variable, other.variable} - {None}
        return Comparison(mine.intervals == other.intervals and len(variables) < 2, Rule.STRUCTURE)
    structures = read_structure(found), read_structure(reference_answer)
    if all(structures):
        result = _compare_structures(found, reference_answer, leaf)
        if result.same or leaf is leave_undecided:
            return Comparison(result.same or None, Rule.STRUCTURE)
    return Comparison(leaf(found, reference_answer), Rule.SYMBOLIC)


def _compare_structures(found: str, reference_answer: str, leaf: Leaf) -> Comparison:
    mine, other = read_structure(found), read_structure(reference_answer)
    if mine is None and other is None:
        return Comparison(leaf(found, reference_answer), Rule.SYMBOLIC)
    if mine is None or other is None:
        return _compare_with_single(found, reference_answer, mine, other, leaf)
    if mine.form == other.form == "{}":
        once, other_once = drop_repeated(mine), drop_repeated(other)
        if len(once.parts) == len(other_once.parts) or len(mine.parts) != len(other.parts):
            mine, other = once, other_once  # else an element may be written in two ways
    if not _same_form(mine, other) or len(mine.parts) != len(other.parts):
        return Comparison(_after_expansion(mine, other, leaf), Rule.STRUCTURE)
    ordered = mine.ordered or other.ordered
    if ordered:
        mine, other = _sort_by_name(mine), _sort_by_name(other)
    same = (compare_in_order if ordered else compare_in_any_order)(mine.parts, other.parts, leaf)
    return Comparison(same, Rule.STRUCTURE)


def drop_repeated(structure: Structure) -> Structure:
    """Return a set with each element once."""
    kept: list[str] = []
    for part in structure.parts[: MAX_PARTS + 1]:
        if not any(compare_without_leaves(part, other) for other in kept):
            kept.append(part)
    return Structure(structure.form, (*kept, *structure.parts[MAX_PARTS + 1 :]))


def _sort_by_name(structure: Structure) -> Structure:
    """Return a list of named values in the order of their names: ``y=2,x=1`` is the point (1,2)."""
    if structure.form != "," or not all("=" in part for part in structure.parts):
        return structure
    named = [split_name(part) for part in structure.parts]
    if any(name is None for name, _ in named):
        return structure
    return Structure(",", tuple(value for _, value in sorted(named, key=lambda pair: str(pair[0]))))


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
    """Compare a structure with what has none: a set of one with its element, a matrix with a product of matrices."""
    structure = mine or other
    assert structure is not None
    if structure.form.startswith("matrix"):
        same = leaf(found, reference_answer) if r"\begin" in (found if other else reference_answer) else False
        return Comparison(same, Rule.SYMBOLIC if same is not False else Rule.STRUCTURE)
    if structure.form == "{}" and len(structure.parts) == 1 and not is_set(structure.parts[0]):
        pair = (structure.parts[0], reference_answer) if mine else (found, structure.parts[0])
        return Comparison(compare_formulas(*pair, leaf).same, Rule.STRUCTURE)
    return Comparison(False, Rule.STRUCTURE)


def is_set(formula: str) -> bool:
    """Return whether a formula is a set that is written with its elements."""
    structure = read_structure(split_name(formula)[1])
    return structure is not None and structure.form == "{}"


@lru_cache(maxsize=65_536)
def compare_without_leaves(found: str, reference_answer: str) -> bool | None:
    """Compare two parts of structures without leaves: as a part, a set of one is not its element.

    Cached, as each level of a nested structure needs all those below it.
    """
    if is_set(found) != is_set(reference_answer) and not (IS_SET.search(found) or IS_SET.search(reference_answer)):
        return False
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
    if _CONDITION.search(formula) or IS_SET.search(formula):
        if read_set(formula, EXACT) is None:
            yield from _leaves_of_set(formula)
        return
    formula = split_name(formula)[1]
    base = read_base(formula)
    if read_number(formula) is not None or (base and base[1]):
        return
    structure = read_structure(formula)
    if structure is not None:
        for part in structure.parts:
            yield from _leaves(part)
    elif sides := split_top(formula, "="):
        for side in sides:
            yield from _leaves(side)
    else:
        yield formula


def _leaves_of_set(formula: str) -> Iterator[str]:
    for separators in (
        (r"\lor", r"\land"),
        (",",),
        (r"\cup", r"\cap", r"\setminus"),
        ("<", ">", r"\leq", r"\geq", r"\neq"),
    ):
        if parts := split_top(formula, *separators):
            for part in parts:
                yield from _leaves(part)
            return
    yield formula


def read_base(formula: str) -> tuple[str, str | None] | None:
    """Read digits with the base they are written in, ``1F_{16}`` or ``0x1F``: ("1F", "16"); None for anything else."""
    if PREFIXED.fullmatch(formula):
        return formula[2:].upper(), _PREFIXES[formula[:2].lower()]
    match = _BASE.fullmatch(formula)
    return (match[1].upper(), match[2]) if match else None


@lru_cache(maxsize=16_384)
def read_structure(formula: str) -> Structure | None:
    """Take a formula apart if it is a structure; None for a single expression."""
    if parts := split_top(formula, r"\cup"):
        return Structure("cup", tuple(parts))
    if parts := split_top(formula, ";") or split_top(formula, ","):
        return Structure(",", tuple(parts))
    if len(parts := re.split(r"(?<=\d) (?=\d)", formula)) > 1:
        return Structure(" ", tuple(parts))
    for opening, closing in ((r"\{", r"\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if formula.startswith(opening) and formula.endswith(closing) and encloses(formula):
            inner = formula[len(opening) : len(formula) - len(closing)]
            parts = split_top(inner, ";") or split_top(inner, ",")
            form = opening.strip("\\") + closing.strip("\\")
            if parts:
                return Structure(form, tuple(parts))
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
