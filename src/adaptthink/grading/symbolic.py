"""Symbolic comparison of two formulas by math-verify. Only worker processes import this module: it imports sympy."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Abs, Basic, MatrixBase, Max, Symbol

from adaptthink.grading.compare import compare, find_leaves
from adaptthink.grading.verdict import Rule, Verdict

logging.disable(logging.CRITICAL)  # math-verify warns about time limits, which are the pool's here

TOLERANCE = 1e-6  # relative; so a decimal with six digits equals sqrt(2)

_FORMULA = [  # units are off before: math-verify would take the t of \sin t for tons
    LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
        )
    )
]


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
    """Return whether two formulas have the same value.

    Raises ValueError if the first cannot be parsed, UnparsableReferenceError if the second cannot.
    """
    reference_value, found_value = read_formula(reference_answer), read_formula(found)
    if reference_value is None:
        raise UnparsableReferenceError(reference_answer)
    if found_value is None:
        raise ValueError(found)
    if isinstance(reference_value, Symbol) or isinstance(found_value, Symbol):
        return bool(found_value.doit() == reference_value.doit())  # math-verify takes lone symbols for names
    same = verify(reference_value, found_value, timeout_seconds=None, raise_on_error=True)
    return bool(same) and not differ_numerically(found_value, reference_value)


def differ_numerically(found: Any, reference_answer: Any) -> bool:
    """Return whether two numbers differ by more than `TOLERANCE` of the larger.

    math-verify rounds to places after the point. Without this, 2^-98 and 2^-97 would be the same:
    both round to 0.000000.
    """
    if not (getattr(found, "is_number", False) and getattr(reference_answer, "is_number", False)):
        return False
    left, right = found.evalf(), reference_answer.evalf()
    return bool((Abs(left - right) > TOLERANCE * Max(Abs(left), Abs(right))) == True)  # noqa: E712  (may be symbolic)


@lru_cache(maxsize=1_024)
def read_formula(formula: str) -> Any:
    """Return the sympy value of a formula in our notation, or None if it has none."""
    braced = re.sub(r"([\^_])(\w)", r"\1{\2}", formula)  # the parser reads \sin^{2}t but not \sin^2t
    try:
        values = parse(f"${braced}$", extraction_config=_FORMULA, parsing_timeout=None, raise_on_error=True)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001  (the parser raises many things on what it cannot parse)
        return None
    return next((value for value in values if isinstance(value, Basic | MatrixBase)), None)


def is_parsable(reference_answer: str) -> bool:
    """Return whether every formula in a reference answer can be parsed."""
    return all(read_formula(leaf) is not None for leaf in find_leaves(reference_answer))
