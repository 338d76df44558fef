"""Compare formulas by their value, with sympy. Only worker processes import this module.

latex2sympy reads a formula. Two values are equal if they are the same exact number, or agree to `DIGITS` digits in
value, or, with variables, at several points that are chosen so that formulas with different values part: positive,
negative, small and large. math-verify decides only what cannot be evaluated.
"""

from __future__ import annotations

import logging
import random
import re
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy import (
    Abs,
    Basic,
    Eq,
    Expr,
    Float,
    I,
    Integral,
    Interval,
    Limit,
    MatrixBase,
    Product,
    S,
    Sum,
    Symbol,
    Union,
    fraction,
    gcd,
    nan,
    oo,
    simplify,
    solveset,
    together,
    zoo,
)
from sympy.core.function import AppliedUndef
from sympy.sets.sets import FiniteSet, Set

from adaptthink.grading.brackets import split_top
from adaptthink.grading.compare import compare, find_leaves
from adaptthink.grading.numbers import PREFIXED
from adaptthink.grading.sets import IS_SET, Cut, Intervals, Reader, normalize_chain, read_set
from adaptthink.grading.verdict import Rule, Verdict

logging.disable(logging.CRITICAL)  # math-verify warns about time limits, which are the pool's here

TOLERANCE = 1e-6  # absolute and relative; so a decimal with six digits equals sqrt(2)
DIGITS = 45  # to which exact values have to agree
POINTS = 8
MIN_POINTS = 3  # that both formulas can be evaluated at
EXPONENT_DIGITS = 15  # to which formulas with decimals and variables have to agree

_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)

# What latex2sympy would misread is written for it as something else, the same way on both sides.
_REWRITINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\Gamma(?![A-Za-z(])", r"\\mathit{capitalgamma}"),  # no function, but read as Euler's constant
        (r"(?<=\d)''", r"\\mathit{seconds}"),
        (r"(?<=\d)'", r"\\mathit{minutes}"),
        (r"([\^_])(\w)", r"\1{\2}"),  # the parser reads \sin^{2}t but not \sin^2t
        (r"(?<![A-Za-z\\])([fghFGH])\^\{-1\}(?=\()", r"\1_{inverse}"),
        (r"([A-Za-z])_\{([^{}]*)\}'''", r"\1_{\2ppp}"),
        (r"([A-Za-z])_\{([^{}]*)\}''", r"\1_{\2pp}"),
        (r"([A-Za-z])_\{([^{}]*)\}'", r"\1_{\2p}"),
        (r"([A-Za-z])'''", r"\1_{ppp}"),
        (r"([A-Za-z])''", r"\1_{pp}"),
        (r"([A-Za-z])'", r"\1_{p}"),
        (r"\\(bmod|pmod|mod)(?![A-Za-z])", r"\\mod "),
        (r"(\d|\))(?=\((?![^()]*,)|\\binom|\\begin|\\gcd|\\max|\\min)", r"\1\\cdot "),  # 2(3) is no mixed number
        (r"\)(?=\\frac|\d)", r")\\cdot "),
        (r"(\\frac\{[^{}]*\}\{[^{}]*\})(?=\(|\d)", r"\1\\cdot "),
    )
)


_SYMBOLS = re.compile(r"\\(?:overline|bar|vec|hat|tilde|dot|math[a-z]*)\{[^{}]*\}|\\[A-Za-z]+|[EI]|e(?=_)|d")
_CONJUGATE = re.compile(r"\\(?:overline|bar)\{([^{}]*[+-][^{}]*)\}")
_MIXED = re.compile(r"(?<![\w.}])(\d+)(\\frac\{(\d{1,9})\}\{(\d{1,9})\})")
_IN_BASE = re.compile(r"(?<![\w.\\}])(\d+)_\{(\d{1,2})\}")
_PREFIXED = re.compile(rf"(?<![\w.}}]){PREFIXED.pattern}(?![\w.^])")
_OPEN_ENDED = re.compile(r"\d+\.\d*(?=\\ldots)")
_UNIT = re.compile(r"\\[A-Za-z]+|i")


class UnparsableReferenceError(Exception):
    """The reference answer cannot be parsed."""


def judge(found: str, reference_answer: str) -> tuple[Verdict, Rule]:
    """Return verdict and rule for an answer that was found, after all rules of `compare`."""
    try:
        result = compare(found, reference_answer, leaf=have_same_value)
    except UnparsableReferenceError:
        return Verdict.REFERENCE_UNPARSABLE, Rule.SYMBOLIC
    except ValueError:
        return Verdict.UNPARSED, Rule.SYMBOLIC
    return Verdict.CORRECT if result.same else Verdict.WRONG, result.rule


def have_same_value(found: str, reference_answer: str) -> bool:
    """Return whether two formulas, equations, inequalities or sets have the same value.

    Raises ValueError if the first cannot be parsed, UnparsableReferenceError if the second cannot.
    """
    if IS_SET.search(found) or IS_SET.search(reference_answer):
        return have_same_set(found, reference_answer)
    left, right = split_top(found, "="), split_top(reference_answer, "=")
    reference_values = [read_formula(side) for side in right or [reference_answer]]
    if None in reference_values:
        raise UnparsableReferenceError(reference_answer)
    values = [read_formula(side) for side in left or [found]]
    if None in values:
        raise ValueError(found)
    if left and right:
        return len(left) == len(right) == 2 and have_same_solutions(values, reference_values)
    if left:  # an equation that holds everywhere is a chain of steps to its last side
        return (
            len(set(left)) > 1
            and all(are_equal(value, values[-1]) for value in values)
            and are_equal(values[-1], reference_values[0])
        )
    if right:
        return (
            len(set(right)) > 1
            and all(are_equal(value, reference_values[-1]) for value in reference_values)
            and are_equal(values[0], reference_values[-1])
        )
    return are_equal(values[0], reference_values[0])


def are_equal(found: Any, reference_answer: Any) -> bool:
    """Return whether two sympy values are equal, whatever the values of their variables."""
    if isinstance(found, MatrixBase) or isinstance(reference_answer, MatrixBase):
        return (
            isinstance(found, MatrixBase)
            and isinstance(reference_answer, MatrixBase)
            and found.shape == reference_answer.shape
            and all(are_equal(*pair) for pair in zip(found, reference_answer, strict=True))
        )
    if found == reference_answer:
        return True
    if found.is_Rational and reference_answer.is_Rational:
        return False
    if not (isinstance(found, Expr) and isinstance(reference_answer, Expr)):
        return bool(verify(reference_answer, found, timeout_seconds=None, raise_on_error=True))
    symbols = sorted(found.free_symbols | reference_answer.free_symbols, key=str)
    if not symbols:
        return agree_as_numbers(found, reference_answer)
    same = agree_at_points(found, reference_answer, symbols)
    if same is None:
        same = bool(verify(reference_answer, found, timeout_seconds=None, raise_on_error=True))
    return same


def agree_as_numbers(found: Any, reference_answer: Any) -> bool:
    """Return whether two constants are equal: to all digits, or to six if one of them is a decimal."""
    left, right = (drop_noise(value.evalf(DIGITS + 15)) for value in (found, reference_answer))
    if not (is_finite(left) and is_finite(right)):
        return bool(left == right and left not in (nan, zoo))
    difference, size = Abs(left - right), max(Abs(left), Abs(right))
    if found.atoms(Float) or reference_answer.atoms(Float):
        return bool(difference <= TOLERANCE * min(1, size))
    return bool(difference <= size * Float(10) ** -DIGITS)


def drop_noise(value: Any) -> Any:
    """Return a value with 0 for what sympy found no digit of, such as the remainder of terms that cancel."""
    return value.xreplace({part: S.Zero for part in value.atoms(Float) if part._prec == 1})


def agree_at_points(found: Any, reference_answer: Any, symbols: list[Any]) -> bool | None:
    """Return whether two formulas agree at all points where both have a value; None if there are too few such."""
    chance = random.Random(0)
    agreed = 0
    digits = EXPONENT_DIGITS if found.atoms(Float) or reference_answer.atoms(Float) else DIGITS
    for number in range(POINTS):
        # Two points lie far out, one on each side, where |x + 100| and x + 100 part.
        sizes = (-2_000, 2_000)[number : number + 1] or (-0.3, 0.3, 0.3, -1, 1, 1, 1, -7, 7, -90, 90, 2_000)
        point = {symbol: Float(chance.choice(sizes) * chance.uniform(0.5, 2), 2 * DIGITS) for symbol in symbols}
        left, right = (evaluate(value, point) for value in (found, reference_answer))
        if not (is_finite(left) and is_finite(right)):
            continue
        if Abs(left - right) > max(Abs(left), Abs(right)) * Float(10) ** -digits:
            return False
        agreed += 1
    return True if agreed >= MIN_POINTS else None


def evaluate(value: Any, point: dict[Any, Any]) -> Any:
    """Return the value at a point, or nan."""
    try:
        return value.evalf(DIGITS + 15, subs=point)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001  (sympy raises many things on what has no value at a point)
        return nan


def is_finite(value: Any) -> bool:
    """Return whether a value is a number, real or complex."""
    return bool(value.is_number and value.is_finite and not value.has(nan, zoo, oo, AppliedUndef)) and not isinstance(
        value, Integral | Sum | Product | Limit
    )


def have_same_solutions(found: list[Any], reference_answer: list[Any]) -> bool:
    """Return whether two equations differ by a factor that is nowhere 0, so that they hold for the same values."""
    if not all(isinstance(side, Expr) for side in (*found, *reference_answer)):
        return False
    left, right = found[0] - found[1], reference_answer[0] - reference_answer[1]
    if left.free_symbols != right.free_symbols:
        return False
    if left.equals(0) or right.equals(0):
        return False
    (above, below), (other_above, other_below) = (fraction(together(side)) for side in (left, right))
    if gcd(above, below) != 1 or gcd(other_above, other_below) != 1:
        return False
    ratio = simplify(above / other_above)
    return bool(ratio.is_number and ratio.is_finite and ratio != 0)


# ---- sets and inequalities ------------------------------------------------------------------------------------------


def have_same_set(found: str, reference_answer: str) -> bool:
    """Return whether two sets of real numbers, or two inequalities, are the same."""
    other = read_set(reference_answer, SYMBOLIC)
    mine = read_set(found, SYMBOLIC)
    if mine and other:
        return mine.intervals == other.intervals and len({mine.variable, other.variable} - {None}) < 2
    mine_chain, other_chain = normalize_chain(found), normalize_chain(reference_answer)
    if other is None:
        sides = [read_formula(side) for side in other_chain[::2]]
        if len(other_chain) == 1 or None in sides:
            raise UnparsableReferenceError(reference_answer)
    if mine_chain[1::2] != other_chain[1::2] or len(mine_chain) == 1:
        return False
    values = [[read_formula(side) for side in chain[::2]] for chain in (mine_chain, other_chain)]
    if None in values[0]:
        raise ValueError(found)
    if None in values[1]:
        raise UnparsableReferenceError(reference_answer)
    if all(are_equal(*pair) for pair in zip(*values, strict=True)):
        return True
    if len(values[0]) != 2 or any(isinstance(side, MatrixBase) for chain in values for side in chain):
        return False
    ratio = simplify((values[0][0] - values[0][1]) / (values[1][0] - values[1][1]))
    return bool(ratio.is_number and (ratio.is_positive or (mine_chain[1] == r"\neq" and ratio.is_nonzero)))


def read_bound(text: str) -> Fraction | float | None:
    """Return a real constant as a fraction, exact or to 25 digits."""
    value = read_formula(text)
    if value is None or not isinstance(value, Expr) or value.free_symbols or not value.is_extended_real:
        return None
    return make_bound(value)


def make_bound(value: Any) -> Fraction | float:
    """Return a real sympy number as a fraction, so that equal ones become equal."""
    if value in (oo, -oo):
        return float("inf") if value == oo else float("-inf")
    if value.is_Rational:
        return Fraction(int(value.p), int(value.q))
    return Fraction(Context(prec=25).create_decimal(Decimal(str(value.evalf(40)))))


def solve(relation: str) -> tuple[Intervals, str] | None:
    """Return the real solutions of a chain of inequalities in one variable, and its name; None if they stay open."""
    chain = normalize_chain(relation)
    sides = [read_formula(side) for side in chain[::2]]
    if len(chain) == 1 or not all(isinstance(side, Expr) for side in sides):
        return None
    symbols = set().union(*(side.free_symbols for side in sides))
    if len(symbols) != 1 or any(side.has(AppliedUndef) for side in sides):
        return None
    (symbol,) = symbols
    solutions: Any = S.Reals
    for sign, left, right in zip(chain[1::2], sides, sides[1:], strict=False):
        difference = left - right
        condition = {"<": difference < 0, r"\leq": difference <= 0, "=": Eq(difference, 0)}.get(sign)
        found = solveset(condition if condition is not None else Eq(difference, 0), symbol, S.Reals)
        solutions = solutions.intersect(found if condition is not None else S.Reals - found)
    pieces = make_intervals(solutions)
    return None if pieces is None else (pieces, str(symbol))


def make_intervals(solutions: Set) -> Intervals | None:
    """Return a sympy set as intervals, None if it is none."""
    pieces: list[tuple[Cut, Cut]] = []
    for part in solutions.args if isinstance(solutions, Union) else [solutions]:
        if part is S.EmptySet:
            continue
        if isinstance(part, FiniteSet) and all(point.is_real for point in part):
            pieces += [((make_bound(point), 0), (make_bound(point), 1)) for point in part]
        elif isinstance(part, Interval):
            pieces.append(
                ((make_bound(part.start), int(bool(part.left_open))), (make_bound(part.end), int(not part.right_open)))
            )
        else:
            return None
    return tuple(sorted(pieces))


SYMBOLIC = Reader(read_bound, solve)


# ---- reading --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1_024)
def read_formula(formula: str) -> Any:
    """Return the sympy value of a formula in our notation, or None if it has none."""
    if re.search(r"\d \d", formula):
        return None
    formula = _CONJUGATE.sub(conjugate, formula)
    calculus = r"\int" in formula or r"\frac{d" in formula  # elsewhere d is a letter like others
    formula = _SYMBOLS.sub(
        lambda match: match[0] if len(match[0]) > 1 or (calculus and match[0] == "d") else rf"\mathit{{{match[0]}}}",
        formula,
    )
    for pattern, replacement in _REWRITINGS:
        formula = pattern.sub(replacement, formula)
    formula = _MIXED.sub(bracket_mixed, formula)
    formula = _IN_BASE.sub(convert_base, formula)
    formula = _PREFIXED.sub(lambda number: str(int(number[0], 0)), formula)
    formula = _OPEN_ENDED.sub(r"\g<0>5", formula)  # 0.12... is more than 0.12
    try:
        value = latex2sympy(
            formula,
            is_real=True,
            convert_degrees=True,
            normalization_config=_NORMALIZATION,
            conversion_config=_CONVERSION,
        )
        return settle(value) if isinstance(value, Basic | MatrixBase) else None
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001  (the parser raises many things on what it cannot parse)
        return None


def settle(value: Any) -> Any:
    """Return a value as it is computed with: i the imaginary unit, functions without a meaning as symbols."""
    value = value.subs(Symbol("i", real=True), I)
    value = value.doit()
    if isinstance(value, Basic) and not isinstance(value, MatrixBase):
        value = value.replace(lambda part: isinstance(part, AppliedUndef), lambda call: Symbol(str(call), real=True))
    return value.as_explicit() if hasattr(value, "as_explicit") else value


def conjugate(bar: re.Match[str]) -> str:
    """Return the complex conjugate of the formula under a bar; variables are real."""
    return f"({_UNIT.sub(lambda match: '(-i)' if match[0] == 'i' else match[0], bar[1])})"


def bracket_mixed(number: re.Match[str]) -> str:
    """Return a mixed number as a sum in brackets; one whose fraction is not below 1 is a product, and left."""
    return f"({number[1]}+{number[2]})" if int(number[3]) < int(number[4]) else number[0]


def convert_base(number: re.Match[str]) -> str:
    """Return a number with its base in decimal digits; what is none is left as it is."""
    try:
        return str(int(number[1], int(number[2])))
    except ValueError:
        return number[0]


def is_parsable(reference_answer: str) -> bool:
    """Return whether every formula in a reference answer can be parsed."""
    return all(read_formula(leaf) is not None for leaf in find_leaves(reference_answer))
