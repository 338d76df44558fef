r"""Normalise the notation of an answer, so that answers that only look different become the same text.

LaTeX has many spellings for one thing (``\dfrac12``, ``\frac{1}{2}``, ``\tfrac 1 2``; ``\left( 3, 5 \right)`` and
``(3,5)``). `read_answer` chooses one of each, removes units, currency and percent signs, and distinguishes words
from formulas. It does no mathematics: equality of values is decided in `compare.py`.

Every substitution is a pattern without nested repetition, and answers longer than `MAX_ANSWER` are not read at all.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

MAX_ANSWER = 1_000  # characters; far above any known reference answer
MAX_NESTING = 20  # brackets in brackets; `compare.py` follows them down one call after the other


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in one notation."""

    text: str  # the formula: no spaces, one spelling for each sign
    words: str  # the answer read as words: lower case, single spaces, no punctuation
    is_words: bool  # whether the words are what is meant
    unit: str | None = None  # a known unit by its one name, for example "cm"; area and volume units by their side
    percent: bool = False


_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": r"\cdot ",
    "÷": "/", "∕": "/", "⁄": "/", "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "√": r"\sqrt ",
    "∞": r"\infty ", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "°": r"^\circ ", "²": "^2", "³": "^3",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "±": r"\pm ", "€": "", "£": "", "％": "%",
    "，": ",", "（": "(", "）": ")", "’": "'", "‘": "'", "⟨": r"\langle ", "⟩": r"\rangle ",
}  # fmt: skip
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))

_TEXT = r"\\(?:text|textbf|textit|textnormal|textrm|texttt|mbox|hbox|mathrm|mathbf|mathit|operatorname|bold|boldsymbol)"
_WRAPPED = re.compile(rf"{_TEXT}\s*\{{([^{{}}]*)\}}")
_ALL_WRAPPED = re.compile(rf"\s*{_TEXT}\s*\{{[^{{}}]*\}}\s*[.,;]?\s*")
_CONJUNCTION = re.compile(rf",?\s*{_TEXT}\s*\{{\s*,?\s*(?:or|and)\s*\}}\s*|,?\s+(?:or|and)\s+")
_TEXT_UNIT = re.compile(rf"(.*\S)\s*{_TEXT}\s*\{{([^{{}}]*)\}}\s*(?:\^\s*\{{?[23]\}}?)?[.\s]*", re.DOTALL)
_LEADING_TEXT = re.compile(rf"\s*{_TEXT}\s*\{{[^{{}}]*\}}\s*[:=]?(?!\s*[_^])(?=.*\d)", re.DOTALL)
_APPROXIMATION = re.compile(r"^\s*\\approx(?![A-Za-z])|(?<=\S)\s*\\approx(?![A-Za-z]).*$", re.DOTALL)
_PLAIN_UNIT = re.compile(r"([^A-Za-z]*\d[^A-Za-z]*?)(\s*)([A-Za-z][A-Za-z .]*?)(?:\s*\^\s*\{?[23]\}?)?\.?")
_PERCENT = re.compile(r"(?:\\?%|\b[Pp]er\s?cent)\s*\.?\s*$")
_MIXED = re.compile(r"(?<![\d.^/])(\d+)\s+(\d+)/(\d+)(?![\d/])")

_LAYOUT = re.compile(
    r"(?P<row>\\\\(?:\s*\[[^\]\\]{0,10}\])?)"
    r"|\\[()\[\]!,;:> $]"
    r"|\\(?:left|right|[bB]ig{1,2}[lrm]?|displaystyle|textstyle|qquad|quad|limits|nolimits|hspace\{[^{}]*\})(?![A-Za-z])"
    r"|[$~]|&nbsp;"
)
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\s?\\!|\\[,!])\s*(?=\d{3}(?!\d))")
_SPELLINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*([A-Za-z0-9])\s*([A-Za-z0-9])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([A-Za-z0-9])\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*([A-Za-z0-9])", r"\1{\2}"),
        (r"\\frac\s*(\\[A-Za-z]+)\s*([A-Za-z0-9])", r"\\frac{\1}{\2}"),
        (r"\\phantom\s*(?:\{[^{}]*\}|.)", ""),
        (r"\\sqrt\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![A-Za-z])", ""),
        (r"\\(?:times|ast|cdotp)(?![A-Za-z])|(?<!\*)\*(?!\*)", r"\\cdot "),
        (r"\*\*", "^"),
        (r"\\(?:leqslant|le)(?![A-Za-z])|<=", r"\\leq "),
        (r"\\(?:geqslant|ge)(?![A-Za-z])|>=", r"\\geq "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\ne(?![A-Za-z])", r"\\neq "),
        (r"\\(?:varnothing)(?![A-Za-z])", r"\\emptyset "),
        (r"\\(?:bigcup)(?![A-Za-z])", r"\\cup "),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\colon(?![A-Za-z])", ":"),
        (r"\\[lr]?vert(?![A-Za-z])", "|"),
        (r"\\(begin|end)\s*\{(?:[pbvBV]?matrix|smallmatrix|array)\}(?:\{[lcr|]*\})?", r"\\\1{matrix}"),
        (r"(?<![A-Za-z\\])(sqrt|pi|infty|sin|cos|tan|log|ln)(?![A-Za-z])", r"\\\1"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\d.])\.(?=\d)", "0."),
        (r"([\^_])\s*\{\s*([A-Za-z0-9])\s*\}", r"\1\2"),
    )
)
_NAME = re.compile(r"(^|,)[A-Za-z](?:_\w)?(?:\([A-Za-z]\))?=(?=[^=<>,]*(?:,|$))")
_EQUAL_TO = re.compile(r"^[^=<>,]*=(?=-?[\d.]+$|-?\\frac\{\d+\}\{\d+\}$|-?\d+/\d+$)")  # 1/2 = 0.5 ends with its value
_ELEMENT_OF = re.compile(r"^[A-Za-z]\\in(?![A-Za-z])")
_PLUS_INFINITY = re.compile(r"(?<![\w})])\+(?=\\infty)")
_COMMAND_SPACE = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])")  # the two places where a space means something:
_LIST_SPACE = re.compile(r"(?<=\d,)\s+(?=\d{3}(?!\d))")  # 1, 100 are two numbers
_WORDS = re.compile(r"[A-Za-z][A-Za-z ,'()./&-]*")

# One name per unit. Two known units that differ make two answers differ; an unknown unit is ignored.
_UNITS = {
    spelling: name
    for name, spellings in {
        "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "meter": "m meter metre",
        "km": "km kilometer kilometre", "inch": "in inch inche", "foot": "ft foot feet", "yard": "yd yard",
        "mile": "mi mile", "gram": "g gram", "kg": "kg kilogram", "pound": "lb pound", "ounce": "oz ounce",
        "second": "s sec second", "minute": "min minute", "hour": "h hr hour", "day": "day", "week": "week",
        "month": "month", "year": "yr year", "dollar": "dollar usd buck", "cent": "cent", "euro": "euro",
        "mph": "mph", "liter": "liter litre", "ml": "ml milliliter", "gallon": "gallon", "am": "am", "pm": "pm",
        "degree": "degree", "radian": "radian rad",
    }.items()
    for spelling in spellings.split()
}  # fmt: skip
_MEASURE = re.compile(r"\b(?:square|sq|cubic|cu)\b\.?\s*")


@lru_cache(maxsize=16_384)
def read_answer(raw: str) -> Answer:
    """Return `raw` in normal notation; raises ValueError if it is empty, too long, unbalanced or nested too deeply."""
    if len(raw) > MAX_ANSWER:
        raise ValueError(f"longer than {MAX_ANSWER} characters")
    text = spell_signs(raw)
    if not is_balanced(text):
        raise ValueError("unbalanced braces")
    text = " ".join(_LAYOUT.sub(_keep_rows, _THOUSANDS.sub("", text)).split())  # the patterns below rely on it
    text = text.rstrip(".,;: ")
    while text.startswith("{") and text.endswith("}") and is_balanced(text[1:-1]):
        text = text[1:-1].strip()
    text = _APPROXIMATION.sub("", text)
    all_wrapped = _ALL_WRAPPED.fullmatch(text) is not None
    text, percent = _take_off(_PERCENT, text)
    text = _CONJUNCTION.sub(",", text)
    text, unit = split_unit(text)
    if not all_wrapped:
        text = _LEADING_TEXT.sub("", text)
    unwrapped = _WRAPPED.sub(r" \1 ", text).strip()
    words = read_words(unwrapped)
    formula = unify_spelling(unwrapped)
    if not formula:
        raise ValueError("empty")
    if measure_nesting(formula) > MAX_NESTING:
        raise ValueError("nested too deeply")
    is_words = bool(_WORDS.fullmatch(unwrapped)) and (all_wrapped or re.search("[A-Za-z]{4}", unwrapped) is not None)
    return Answer(formula, words, is_words or (all_wrapped and not formula[0].isdigit()), unit, percent)


def spell_signs(text: str) -> str:
    """Return text with non-ASCII signs as LaTeX, digits of any script as ASCII, and no control characters."""
    if not text.isascii():
        text = _SIGN.sub(lambda match: _SIGNS[match.group()], text)
        text = "".join(str(unicodedata.decimal(sign)) if sign.isdecimal() else sign for sign in text)
    return "".join(sign if sign.isprintable() else " " if sign.isspace() else "" for sign in text)


def is_balanced(text: str) -> bool:
    """Return whether grouping braces are balanced; escaped ones are ordinary characters."""
    depth = 0
    for brace in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def measure_nesting(text: str) -> int:
    """Return the nesting depth of brackets of any kind."""
    depth = deepest = 0
    for bracket in re.findall(r"[()\[\]{}]", text):
        depth = max(0, depth + (1 if bracket in "([{" else -1))
        deepest = max(deepest, depth)
    return deepest


def split_unit(text: str) -> tuple[str, str | None]:
    """Return a text without the unit at its end, and the unit's standard name (None if there is none, or unknown)."""
    if match := _TEXT_UNIT.fullmatch(text):
        head, unit = match.groups()
        if head[-1] not in "+-=*/^_,{" and not _WRAPPED.fullmatch(head):
            return head, find_unit(unit)
        return text, None
    if match := _PLAIN_UNIT.fullmatch(text):
        head, space, unit = match.groups()
        name = find_unit(unit)
        if (name and len(unit) > 1) or (space and len(unit.strip()) > 2):
            return head.strip(), name
    return text, None


def find_unit(unit: str) -> str | None:
    """Return the standard name of a unit, or None if it is unknown."""
    bare = _MEASURE.sub("", unit.lower().replace("p.m", "pm").replace("a.m", "am")).strip(" .\\")
    return _UNITS.get(bare) or _UNITS.get(bare.removesuffix("s"))


def read_words(text: str) -> str:
    """Return `text` as words: lower case, punctuation gone, single spaces; single letters with commas in order."""
    words = re.findall(r"\w+", text.replace("_", " ").casefold())
    if "," in text and all(len(word) == 1 for word in words):
        words.sort()  # which options hold, not in which order
    return " ".join(words)


def unify_spelling(text: str) -> str:
    """Return a formula in standard spelling, without spaces."""
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = _LIST_SPACE.sub("\0", _COMMAND_SPACE.sub("\\1\0", text))
    text = "".join(text.split()).replace("\0", " ")
    text = _PLUS_INFINITY.sub("", _ELEMENT_OF.sub("", _NAME.sub(r"\1", text)))
    text = _EQUAL_TO.sub("", text) if not re.search("[A-Za-z]", text.partition("=")[0].replace("frac", "")) else text
    return text.strip(".;:") if text.strip(".;:") else text


def _take_off(pattern: re.Pattern[str], text: str) -> tuple[str, bool]:
    shorter = pattern.sub("", text)
    return (shorter.strip(), True) if shorter.strip() and shorter != text else (text, False)


def _keep_rows(match: re.Match[str]) -> str:
    return r"\\" if match["row"] else ""
