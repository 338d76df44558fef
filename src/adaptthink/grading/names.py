r"""Names before a value: ``x = 3``, ``f(x) = 2x``, ``(x,y) = (3,4)``, ``x:y = 2:3``, ``\vec{u} = (2,5)``."""

from __future__ import annotations

import re

from adaptthink.grading.brackets import split_top
from adaptthink.grading.numbers import read_number

_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau"
    r"|upsilon|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega|ell|hbar)(?![A-Za-z]) ?"
)
_ACCENTED = (
    r"\\(?:vec|overline|bar|hat|widehat|tilde|overrightarrow|dot|mathcal|mathscr|mathfrak)(?:\{[^{}]*\}| ?[A-Za-z])"
)
_INDEX = r"(?:_(?:\w|\{[^{}]*\}))?(?:\^(?:\\ast|\*|\{\*\}))?'*"
_LETTER = rf"(?:{_ACCENTED}|(?:\\Delta ?)?(?:{_GREEK}|[A-Za-z])){_INDEX}"
_ARGUMENTS = r"\([^()=<>]*(?:\([^()=<>]*\)[^()=<>]*)?\)"  # x(x+1) is a product, f(x+1) a name
_FUNCTION = rf"(?:[fghpqrsuvwFGHPQRSTUVWENL]|{_GREEK}){_INDEX}(?:\^\{{-1\}})?{_ARGUMENTS}"
NAME = (
    rf"(?:{_FUNCTION}|{_LETTER}(?:\((?:[A-Za-z]|\d+)\))?"
    rf"|(?:m?\\(?:angle|triangle|widehat) ?)?[A-Z]{{1,4}}{_INDEX}|\|[A-Z]{{2}}\||\[[A-Z]{{3,4}}\]"
    r"|\\frac\{d\^?\d?[a-z]\}\{d[a-z]\^?\d?\}|d[a-z]/d[a-z])"
)
_LABEL = re.compile(r"(?<!\\)\b(?:[A-Za-z]{4,}|[A-Za-z]{3,}[A-Z][a-z]+)")  # a word, "Area", is no variable
_NAME = re.compile(NAME)
_BINDING = re.compile(r"\\(?:sum|prod|int|lim|frac\{d)(?![A-Za-z])")
_SYMBOL = re.compile(rf"({_GREEK})|\\[A-Za-z]+|([A-Za-z])")
_SEVERAL = re.compile(rf"\(?{NAME}(?:,{NAME})+\)?|{NAME}(?::{NAME})+|{NAME}/{NAME}|\\frac\{{{NAME}\}}\{{{NAME}\}}")


def split_name(formula: str) -> tuple[str | None, str]:
    r"""Return the name that a formula gives to a value, None if none, and the value: the last side of a chain.

    An equation whose sides are no names is left as it is; constants before the last side are steps to it.
    """
    sides = split_top(formula, "=")
    numbers = {read_number(side) for side in sides if "." not in side} - {None}
    if len(numbers) > 1 or len(set(sides)) < len(sides) == 2:
        return None, formula  # 1=2 and 0=0 give nothing a value
    if not sides or any(split_top(side, ",") for side in (*sides[1:-1], *(sides[:1] if not is_name(sides[0]) else ()))):
        return None, formula  # no value, or one for each of several names
    if is_name(sides[0]):
        return normalize_name(sides[0]), sides[-1] if not is_name(sides[-1]) or len(sides) == 2 else sides[-2]
    if _LABEL.fullmatch(sides[0]):
        return None, sides[-1]
    if is_name(sides[-1]) and not is_name(sides[-2]):
        return normalize_name(sides[-1]), sides[-2]
    if all(is_constant(side) for side in sides):
        return None, sides[-1]
    return None, formula


def is_name(formula: str) -> bool:
    """Return whether a side of an equation is a name and nothing else."""
    return (_NAME.fullmatch(formula) or _SEVERAL.fullmatch(formula)) is not None and formula not in ("e", "i")


def is_constant(formula: str) -> bool:
    """Return whether a formula has no variable."""
    return re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", formula)) is None


def loses_variable(formula: str) -> bool:
    r"""Return whether an equation has a variable on one side only, as ``x/x=1`` has.

    Variables under a sum, an integral or a limit, words, and the constants e and i do not count.
    """
    sides = [] if split_top(formula, ",") else split_top(formula, "=")
    return _BINDING.search(formula) is None and len(set(map(_find_letters, sides))) > 1


def _find_letters(formula: str) -> frozenset[str]:
    return frozenset(greek or letter for greek, letter in _SYMBOL.findall(_LABEL.sub("", formula))) - {"", "e", "i"}


def normalize_name(name: str) -> str:
    """Return a name in one spelling."""
    return re.sub(r"\{(\w)\}", r"\1", name.replace(" ", "").strip("()") if "," in name else name.replace(" ", ""))
