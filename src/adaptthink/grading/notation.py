r"""Normalise the notation of an answer, so that answers that only look different become the same text.

LaTeX has many spellings for one thing (``\dfrac12``, ``\frac{1}{2}``, ``\tfrac 1 2``; ``\left( 3, 5 \right)`` and
``(3,5)``). `read_answer` chooses one of each, removes decoration, units, currency and percent signs, and distinguishes
words from formulas. It does no mathematics: equality of values is decided in `compare.py`.

Every substitution is a pattern without nested repetition, and answers longer than `MAX_ANSWER` are not read at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from adaptthink.grading.brackets import split_top
from adaptthink.grading.names import is_name
from adaptthink.grading.numbers import read_number
from adaptthink.grading.signs import spell_signs
from adaptthink.grading.units import MONEY, find_unit, is_counted, read_scale

MAX_ANSWER = 1_000  # characters; far above any known reference answer
MAX_NESTING = 20  # brackets in brackets; `compare.py` follows them down one call after the other


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in one notation."""

    text: str  # the formula: no spaces but between digits and after commands, one spelling for each sign
    words: str  # the answer read as words: single spaces, no punctuation
    is_words: bool  # whether the words are what is meant
    unit: str | None = None  # a known unit by its one name, for example "cm"; area and volume units by their side
    percent: bool = False
    any_order: bool = True  # of single letters with commas: false where they are in no alphabetical order


_TEXT = (
    r"\\(?:text|textbf|textit|textnormal|textrm|texttt|textsf|textsc|textup|textmd|mbox|hbox|mathrm|mathbf|mathit"
    r"|mathsf|mathtt|operatorname|bold|boldsymbol|bm|pmb)(?![A-Za-z])\*?"
)
_WRAPPED = re.compile(rf"{_TEXT}\s*\{{([^{{}}]*)\}}")
_ALL_WRAPPED = re.compile(rf"\s*{_TEXT}\s*\{{([^{{}}]*)\}}\s*[.,;]?\s*")

# Decoration: how an answer looks, not what it says.
_DECORATION: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\{\s*\\(?:rm|textrm)(?![A-Za-z])\s*([^{}\\]*)\}", r"\\mathrm{\1}"),
        (r"\\(?:textcolor|colorbox)\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}|\\color\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}", " "),
        (
            r"\\(?:underline|underbar|uline|emph|ensuremath|mathstrut|strut|displaystyle|textstyle|scriptstyle|bf|it|rm"
            r"|sf|tt|sc|sl|em|cal|bfseries|itshape|rmfamily|sffamily|ttfamily|mathnormal|tiny|scriptsize|footnotesize"
            r"|small|normalsize|large|Large|LARGE|huge|Huge|boldmath|centering|mathopen|mathclose|mathord)(?![A-Za-z])",
            " ",
        ),
        (r"\\(?:mathrm|text|rm|textrm|operatorname)\s*\{\s*([eid])\s*\}", r"\1 "),
        (
            r"\\(?:mathbb|Bbb)\s*([RNZQC])(?![A-Za-z])|\\(?:mathbb|Bbb|mathbf(?=\{R))\s*\{\s*([RNZQC])\s*\}",
            r"\\mathbb{\1\2}",
        ),
        (r"\\(?:R|reals|Reals)(?![A-Za-z])", r"\\mathbb{R}"),
        (rf"(?i:{_TEXT}\s*\{{\s*all\s+real(?:\s+number)?s\s*\}}|^\s*all\s+real(?:\s+number)?s\s*$)", r"\\mathbb{R}"),
        (rf"({_TEXT}\s*\{{)\s*{_TEXT}\s*\{{([^{{}}]*)\}}\s*\}}", r"\1\2}"),
        (r"(?i:\b(hundred|thousand|million|billion)\s+and\s+(?=[a-z]))", r"\1 "),
        (r"\.\.\.", r"\\ldots "),
        (r"\\lbrack(?![A-Za-z])", "["),
        (r"\\rbrack(?![A-Za-z])", "]"),
        (r"(?:\\\\\s*)+$|\\newline(?![A-Za-z])", " "),
        (r"\\(?:imath|jmath)(?![A-Za-z])", "i"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\(?:degrees?|textdegree)(?![A-Za-z])", r"^\\circ "),
        (r"\^\s*(?:\{\s*\\prime\s*\}|\\prime(?![A-Za-z]))", "'"),
        (r"\^\s*(?:\{\s*\\(?:top|intercal)\s*\}|\\(?:top|intercal)(?![A-Za-z]))", "^T"),
        (rf"{_TEXT}\s*(?=\{{[^{{}}]*\{{)", " "),  # \mathbf{{\frac12}}
        (
            rf"\\[dt]?frac\s*\{{\s*{_TEXT}\s*\{{([^{{}}]*)\}}\s*\}}\s*\{{\s*{_TEXT}\s*\{{([^{{}}]*)\}}\s*\}}",
            r"\\text{\1/\2}",
        ),
        (rf"(?i:{_TEXT}\s*\{{\s*infinity\s*\}}|^\s*infinity\s*$)", r"\\infty "),
        (rf"(?<=\d)\s*{_TEXT}\s*\{{\s*to\s*\}}\s*(?=\d)", ":"),
        (r"\^\s*\{\s*\\prime\s*\\prime\s*\}", "''"),
        (r"\^\s*\{\s*\\prime\s*\\prime\s*\\prime\s*\}", "'''"),
        (rf"{_TEXT}\s*\{{\s*(?:\\?%|[Pp]er\s?cent|pct\.?)\s*\.?\s*\}}", r"\\%"),
        (
            r"\^\s*(?:\{\s*(?:\\rm\s+)?(?:st|nd|rd|th)\s*\}|\{?\s*\\(?:text|mathrm|textrm)\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?)\s*$",
            "",
        ),
    )
)
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")

_OR_AND = re.compile(
    rf",?\s*{_TEXT}\s*\{{\s*,?\s*(or|and)\s*,?\s*\}}\s*,?\s*|,?\s+(or|and)\s+|(?<=[\d)\]}}])(or|and)(?=[\d(\[\\])"
)
_RELATION = re.compile(r"[<>]|\\(?:leq?|geq?|neq?|lt|gt|leqslant|geqslant)(?![A-Za-z])")
_APPROXIMATE = re.compile(r"\\(?:approx|doteq|simeq|approxeq)(?![A-Za-z])")
_ABOUT = re.compile(rf"^\s*(?:{_TEXT}\s*\{{\s*)?(?:about|around|approximately|roughly|approx\.?)\s+(?=[\d\\$.-])", re.I)
_LEADING_TEXT = re.compile(rf"^\s*{_TEXT}\s*\{{([^{{}}]*)\}}\s*[:=]?(?!\s*[_^(])(?=.*\d)", re.DOTALL)
_LABEL = re.compile(r"^[A-Za-z][A-Za-z ]{3,40}(?<! )\s*:\s*(?=[\d\\$(\[-])")
_UNIT_PART = rf"(?:{_TEXT}\s*\{{[^{{}}]*\}}|\^\s*\{{?\s*-?\s*[123]\s*\}}?|[/.]|\\cdot(?![A-Za-z])|\s)"
_TEXT_UNIT = re.compile(rf"\s*(?:/\s*)?{_TEXT}\s*\{{[^{{}}]*\}}{_UNIT_PART}*$")
_COMPOUND = re.compile(rf"\d\s*{_TEXT}\s*\{{[^{{}}]*[A-Za-z]{{2}}[^{{}}]*\}}\s*\d")  # 3 hours 30 minutes
_PLAIN_UNIT = re.compile(
    r"((?:\\[A-Za-z]+\s*|[^A-Za-z\\])*\d(?:\\[A-Za-z]+\s*|[^A-Za-z\\])*?)(\s*)([A-Za-z][A-Za-z ./'-]*?)"
    r"(?:\s*\^\s*\{?([23])\}?)?\.?"
)
_BRACKETED_UNIT = re.compile(r"(.*\d)\s+\(([A-Za-z][A-Za-z .]*[A-Za-z])\)")
_FOREIGN_UNIT = re.compile(r"(.*\d)\s*([^\W\d_a-zA-Z][^\x00-\x7f\s]*(?:\s[^\x00-\x7f\s]+)*)\s*")
_TEMPERATURE = re.compile(r"(.*\d)\s*\^\\circ\s*(?:\\[a-z]+\{\s*)?([CFK])\s*\}?")
_CODES = r"USD|EUR|GBP|INR|JPY|CNY|RMB|CAD|AUD|CHF|Rs\.?|US|HK|AU|CA"
_CURRENCY = re.compile(rf"^\s*(?:{_CODES})\s*(?=[\d$])")
_MONEY = re.compile(rf"^[\s${{(-]*(?:{_TEXT}\s*\{{\s*)?(\\\$|[€£₹¥]|(?:{_CODES})(?![A-Za-z]))")
_THOUSANDS_SIGN = re.compile(r"\{\s*K\s*\}\s*$")  # $7 K is no temperature
_PERCENT = re.compile(r"(?:\\?%|\b(?:[Pp]er\s?cent|pct))\s*\.?\s*$")
_MIXED = re.compile(r"(?<![\d.^/])(\d+)\s+(\d+)/(\d+)(?![\d/])")

_LAYOUT = re.compile(
    r"(?P<row>\\\\(?:\s*\[[^\]\\]{0,10}\])?)"
    r"|(?P<space>\\[,;:> ]|~|&nbsp;|\\(?:qquad|quad|hspace\*?\{[^{}]*\}|hfill|enspace|thinspace)(?![A-Za-z]))"
    r"|\\[()\[\]!$]"
    r"|\\(?:left|right|[bB]ig{1,2}[lrm]?|limits|nolimits)(?![A-Za-z])"
    r"|\$"
)
# "(0,\! 100)" is a pair: no number begins with a group of 0, and none has white space behind ",\!".
_THOUSANDS = re.compile(r"(?:(?<=[1-9])|(?<=\d\d))(?:(?:\{,\}|\\[,!])\s*|,\s?\\!)(?=\d{3}(?!\d))")
_GROUPS = re.compile(r"(?<![\d.,\w])\d{1,3}(?: \d{3})+(?![\d])")
_QUOTIENT_GROUPS = re.compile(r"(?<![\d,.])(\d{1,3}(?:,\d{3})+)(?=(?:\.\d+)?/)|(?<=/)(\d{1,3}(?:,\d{3})+)(?![\d,])")
_SPELLINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:[dtc]frac|nicefrac|sfrac|xfrac)(?![A-Za-z])", r"\\frac"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (r"\\frac\s*([A-Za-z0-9])\s*([A-Za-z0-9])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([A-Za-z0-9])\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*([A-Za-z0-9])", r"\1{\2}"),
        (r"\\frac\s*(\\[A-Za-z]+)\s*([A-Za-z0-9])", r"\\frac{\1}{\2}"),
        (r"\\phantom\s*(?:\{[^{}]*\}|.)", ""),
        (r"\\sqrt\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\\(?:times|ast|cdotp|bullet)(?![A-Za-z])|(?<!\*)\*(?!\*)", r"\\cdot "),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\*\*", "^"),
        (r"\\(?:leqslant|leqq|le)(?![A-Za-z])|<=|=<", r"\\leq "),
        (r"\\(?:geqslant|geqq|ge)(?![A-Za-z])|>=", r"\\geq "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\ne(?![A-Za-z])|\\not\s*=|!=", r"\\neq "),
        (r"\\(?:lor|vee)(?![A-Za-z])", r"\\lor "),
        (r"\\(?:land|wedge)(?![A-Za-z])", r"\\land "),
        (r"\\(?:varnothing)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\(?:bigcup)(?![A-Za-z])", r"\\cup "),
        (r"\\(?:bigcap)(?![A-Za-z])", r"\\cap "),
        (r"\\(?:smallsetminus|backslash)(?![A-Za-z])|(?<=[})\]])\s*-\s*(?=\\(?:\{|lbrace))", r"\\setminus "),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\colon(?![A-Za-z])", ":"),
        (r"\\[ch]?dots[bcimo]?(?![A-Za-z])", r"\\ldots "),
        (r"\\(?:mid|vert|lvert|rvert)(?![A-Za-z])", "|"),
        (r"\\(begin|end)\s*\{(?:[pbB]?matrix|smallmatrix|array)\*?\}(?:\s*\{[lcr| ]*\})?", r"\\\1{matrix}"),
        (r"\\lg(?![A-Za-z])", r"\\log "),
        (r"\\tg(?![A-Za-z])", r"\\tan "),
        (r"\\ctg(?![A-Za-z])", r"\\cot "),
        (r"\\arctg(?![A-Za-z])", r"\\arctan "),
        (
            r"(?<![A-Za-z\\])(sqrt|pi|infty|arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln|exp|gcd|lcm)(?![A-Za-z])",
            r"\\\1",
        ),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"_\s*\{\s*\\(max|min)\s*\}|_\s*\\(max|min)(?![A-Za-z])", r"_{\1\2}"),
        (r"\\(max|min|gcd|lcm)\s*\\\{([^{}]*)\\\}", r"\\\1(\2)"),
        (r"(?<=\d)_\s*\{\s*two\s*\}", "_2"),
        (r"(?<=\d)_\s*\{\s*eight\s*\}", "_8"),
        (r"(?<=\d)_\s*\{\s*ten\s*\}", "_{10}"),
        (r"(?<=\d)_\s*\{\s*sixteen\s*\}", "_{16}"),
        (r"(?<![\d.])\.(?=\d)", "0."),
        (r"([\^_])\s*\{\s*([A-Za-z0-9])\s*\}", r"\1\2"),
    )
)
_OPEN_ENDS = re.compile(r"([\[\](])([^\[\](),]+,[^\[\](),]+)([\[\])])")  # ]2,3[ is (2,3)
_PERIOD: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(\d*\.\d*)\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?"), r"\1\\overline{\2\3\4}"),
    (re.compile(r"(\d*\.\d*)\\(?:dot|bar)\s*\{?(\d+)\}?"), r"\1\\overline{\2}"),
    (re.compile(r"(\d*\.\d*)\\overline\s*(\d)(?!\d)"), r"\1\\overline{\2}"),
    (re.compile(r"(?<![\d.])(\d+\.\d*)\((\d+)\)"), r"\1\\overline{\2}"),
    (re.compile(r"(?<![\d.])(\d+\.\d*?)(\d)\2{2,}\\ldots"), r"\1\\overline{\2}"),
)
_KNOWN_SET = re.compile(r"\\(?:\{|mathbb|emptyset)|[(\[\]].*[,;]")  # its begin: a letter may be any set
_PLUS_INFINITY = re.compile(r"(?<![\w})])\+(?=\\infty)")
_COMMAND_SPACE = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])")  # the places where a space means something:
_LIST_SPACE = re.compile(r"(?<=\d)(?:\s+,\s*|,\s+)(?=\d{3}(?!\d))")  # 1, 100 are two numbers
_SCRIPT_SPACE = re.compile(r"([_^])(\d)\s+(?=\d)")
_DIGIT_SPACE = re.compile(r"(?<=\d)\s+(?=\d)")  # 3 4 is not 34
_ANGLE = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_POINT = re.compile(
    r"^([A-Z]'?)(?=\((?:\\[a-z]+|[^()A-Za-z\\])*,(?:\\[a-z]+|[^()A-Za-z\\])*\)$)"
)  # P(1,2) is the point P=(1,2)
_MODULUS = re.compile(r"\(?\\?[pb]?mod ?\{?(\w+)\}?\)?$")
_NOT_BOTH = re.compile(r"^([A-Za-z])\\neq ?\\pm ?([^,\\]+)$")
_SEGMENT = re.compile(r"([,;=<>&]|\\(?:leq|geq|neq|cup|pm|\\)(?![A-Za-z]))")
_BRACKETED_MATRIX = re.compile(r"[\[(](\\begin\{matrix\}(?:(?!\\begin).)*?\\end\{matrix\})[\])]")
_DETERMINANT = re.compile(r"\|\\begin\{matrix\}((?:(?!\\begin).)*?)\\end\{matrix\}\|")
_WORDS = re.compile(r"[A-Za-z][A-Za-z ,'()./&-]*")
_SHORT_WORDS = re.compile(r"yes|no|odd|all|both|true|\d{4}-\d{2}-\d{2}|\d{1,2}/\d{1,2}/\d{4}", re.IGNORECASE)

# Words that change what a number says: a text that holds one of them is no unit and no label.
_CHANGING = re.compile(
    r"\b(?:not?|non|none|never|without|except|least|most|more|less|fewer|greater|larger|smaller|under|over|above|below"
    r"|minus|negative|plus|times|or|and|if|than|half|halves|quarters?|thirds?|fourths?|fifths?|tenths?|hundredths?"
    r"|thousandths?|mil|squared|cubed|factorial|twice|double|triple|only|unless|until|mod|modulo|root|base|power)\b",
    re.IGNORECASE,
)


@lru_cache(maxsize=16_384)
def read_answer(raw: str) -> Answer:
    """Return `raw` in normal notation; raises ValueError if it is empty, too long, unbalanced or nested too deeply."""
    if len(raw) > MAX_ANSWER:
        raise ValueError(f"longer than {MAX_ANSWER} characters")
    text = spell_signs(raw)
    if not is_balanced(text):
        raise ValueError("unbalanced braces")
    text = strip_layout(text).rstrip(".,;: ")
    while text.startswith("{") and text.endswith("}") and is_balanced(text[1:-1]):
        text = text[1:-1].strip()
    wrapped = _ALL_WRAPPED.fullmatch(text)
    if wrapped and re.match(r"\s*-?[\d.]", wrapped[1]):
        text, wrapped = wrapped[1].strip().rstrip(".,;: "), None
    text = take_exact_side(_ABOUT.sub("", text))
    text = _CURRENCY.sub("", text)
    text, percent = _take_off(_PERCENT, text)
    text = spell_conjunctions(text)
    money = _MONEY.match(raw)
    text, unit = (text, None) if money and _THOUSANDS_SIGN.search(text) else split_unit(text)
    if unit == "percent":
        unit, percent = None, True
    if unit is None and money:
        unit = MONEY.get(money[1].rstrip("."))
    leading = _LEADING_TEXT.match(text)
    changed = not wrapped and leading is not None and _CHANGING.search(leading[1]) is not None
    if not wrapped and not changed:
        text = _LABEL.sub("", _LEADING_TEXT.sub("", text, count=1))
    unwrapped = _WRAPPED.sub(r" \1 ", text).strip()
    formula = unify_spelling(unwrapped)
    if not formula:
        raise ValueError("empty")
    if measure_nesting(formula) > MAX_NESTING:
        raise ValueError("nested too deeply")
    is_words = bool(_WORDS.fullmatch(unwrapped)) and (bool(wrapped) or re.search("[A-Za-z]{4}", unwrapped) is not None)
    is_words = (
        is_words
        or changed
        or _SHORT_WORDS.fullmatch(unwrapped) is not None
        or (bool(wrapped) and not formula[0].isdigit())
    )
    return Answer(formula, read_words(unwrapped), is_words, unit, percent, _has_any_order(raw))


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


def strip_layout(text: str) -> str:
    """Return a text without decoration, sizing and math delimiters, with single spaces."""
    for pattern, replacement in _DECORATION:
        text = pattern.sub(replacement, text)
    text = _LAYOUT.sub(_keep_rows_and_spaces, _THOUSANDS.sub("", text))
    return " ".join(text.split())  # later patterns rely on it


def take_exact_side(text: str) -> str:
    r"""Return the exact side of ``\sqrt2 \approx 1.41``; ``x \approx 1.41`` becomes ``x=1.41``."""
    sides = [side.strip() for side in _APPROXIMATE.split(text)]
    if len(sides) == 1:
        return re.sub(r"^\s*\\sim(?![A-Za-z])", "", text)
    head = sides[0]
    if not head:
        return sides[1]
    exact = re.search(r"\d", re.sub(r"_\s*\{?\w+\}?|\([^()]*\)", "", head)) or "\\pi" in head or "\\frac" in head
    return head if exact else f"{head}={sides[1]}"


def split_unit(text: str) -> tuple[str, str | None]:
    """Return a text without the unit at its end, and the unit's standard name (None if there is none, or unknown).

    Numerals ("million", "dozen") multiply the number before them. Words that are neither a unit nor a noun that can be
    counted stay, as they may be factors.
    """
    if _WRAPPED.search(text) and (parts := split_top(text, ",")):
        return _split_units(text, parts)
    if _COMPOUND.search(text):
        return text, None
    if match := _TEMPERATURE.fullmatch(text):
        return match[1], {"C": "celsius", "F": "fahrenheit", "K": "kelvin"}[match[2]]
    if match := _BRACKETED_UNIT.fullmatch(text):
        return match[1], find_unit(match[2])
    if (match := _FOREIGN_UNIT.fullmatch(text)) and "text" not in match[1]:
        return _scaled(match[1], match[2])
    if (match := _TEXT_UNIT.search(text)) and (head := text[: match.start()].rstrip()) and head[-1] not in "+-=*/^_,{(":
        unit = " ".join(_WRAPPED.sub(r" \1 ", match.group()).split()).strip(". ")
        is_vector = len(unit) == 1 and match.group().lstrip().startswith(("\\mathbf", "\\bold", "\\bm", "\\mathit"))
        if is_vector or _CHANGING.search(unit) or _WRAPPED.fullmatch(head):
            return text, None
        is_roman = match.group().lstrip().startswith(("\\mathrm", "\\operatorname", "\\mathbf", "\\boldsymbol"))
        is_unit = (is_counted(unit) if is_roman else _is_text(unit)) or find_unit(unit) or read_scale(unit)[0] != 1
        return _scaled(head, unit) if is_unit else (text, None)
    if match := _PLAIN_UNIT.fullmatch(text):
        head, space, unit, _ = match.groups()
        is_unit = find_unit(unit) or (space and (is_counted(unit) or read_scale(unit)[0] != 1))
        if is_unit and len(unit) > 1:
            return _scaled(head.strip(), unit)
    if match := _ORDINAL.fullmatch(text):
        return match[1], None
    return text, None


def _split_units(text: str, parts: list[str]) -> tuple[str, str | None]:
    """Return a list without its unit, if only the last part has one or all have the same."""
    units = [_WRAPPED.findall(part)[-1:] for part in parts]
    split = [split_unit(part) for part in parts]
    if not any(units[:-1]):
        return ",".join((*parts[:-1], split[-1][0])), split[-1][1]
    if all(unit == units[0] for unit in units) and all(
        head != part for (head, _), part in zip(split, parts, strict=True)
    ):
        return ",".join(head for head, _ in split), split[0][1]
    return text, None


def _scaled(head: str, unit: str) -> tuple[str, str | None]:
    """Multiply a number with the numeral that its unit begins with; return it with the rest of the unit."""
    scale, rest = read_scale(unit)
    name = find_unit(rest) if rest else None
    if scale == 1:
        return head, name
    number = read_number(unify_spelling(head))
    if number is None:
        return f"({head})\\cdot {scale}", name
    value = number * scale
    whole = value.denominator == 1
    return str(value.numerator) if whole else f"\\frac{{{value.numerator}}}{{{value.denominator}}}", name


def _is_text(unit: str) -> bool:
    r"""Return whether what stands in ``\text`` can be a unit: words, not letters that may be factors."""
    words = [word for word in re.findall(r"[A-Za-z]+", unit) if len(word) != 2]
    return bool(words) and all(len(word) > 2 and re.search("[aeiou]", word, re.IGNORECASE) for word in words)


def read_words(text: str) -> str:
    """Return `text` as words: punctuation gone, single spaces."""
    return " ".join(re.findall(r"\w+", text.replace("_", " ")))


def _has_any_order(raw: str) -> bool:
    """Return whether single letters with commas stand for a set: joined by a conjunction, or in alphabetical order."""
    letters = re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", raw)
    return letters == sorted(letters) or re.search(r"\b(?:and|or)\b", raw) is not None


def unify_spelling(text: str) -> str:
    """Return a formula in standard spelling, without spaces but between digits and after commands."""
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = _GROUPS.sub(lambda match: match.group().replace(" ", ""), text)
    text = _QUOTIENT_GROUPS.sub(lambda match: match.group().replace(",", ""), text)
    text = _SCRIPT_SPACE.sub(r"\1{\2}", text)
    text = _COMMAND_SPACE.sub("\\1\0", _DIGIT_SPACE.sub("\0", _LIST_SPACE.sub(",\0", text)))
    text = "".join(text.split()).replace("\0", " ")
    for pattern, replacement in _PERIOD:
        text = pattern.sub(replacement, text)
    text = _DETERMINANT.sub(r"\\begin{vmatrix}\1\\end{vmatrix}", _BRACKETED_MATRIX.sub(r"\1", text))
    if "\\circ" in text:
        text = "".join(
            part if _ANGLE.search(part) else part.replace("^\\circ", "") for part in _SEGMENT.split(text)
        ).replace("^\\circ", "^{\\circ}")
    text = _PLUS_INFINITY.sub("", name_set(text))
    if re.search(r"(?:^|[(,;=]|\\(?:cup|cap|in))\]|\[(?:$|[),;]|\\(?:cup|cap))", text):
        text = _OPEN_ENDS.sub(lambda match: f"{match[1].replace(']', '(')}{match[2]}{match[3].replace('[', ')')}", text)
    if r"\equiv" in text:
        text = _MODULUS.sub(r"\\pmod{\1}", text)
    text = _POINT.sub(r"\1=", _NOT_BOTH.sub(r"\1\\neq\2,\1\\neq-\2", text))
    return text.strip(".;:") if text.strip(".;:") else text


def name_set(text: str) -> str:
    r"""Return ``x\in[1,2]`` as ``x=[1,2]``; an element of a set that only has a name, ``x\in A``, is left as it is."""
    name, *members = split_top(text, r"\in") or [text]
    if len(members) != 1 or not is_name(name):
        return text
    sets = split_top(members[0], r"\cup", r"\cap", r"\setminus", ",") or members
    return f"{name}={members[0]}" if all(map(_KNOWN_SET.match, sets)) else text


def spell_conjunctions(text: str) -> str:
    """Return a text with "or" and "and" as commas, and between inequalities as logical signs."""
    if _RELATION.search(text):
        return _OR_AND.sub(lambda match: r" \lor " if "or" in match.group() else r" \land ", text)
    return _OR_AND.sub(",", text)


def _take_off(pattern: re.Pattern[str], text: str) -> tuple[str, bool]:
    shorter = pattern.sub("", text)
    return (shorter.strip(), True) if shorter.strip() and shorter != text else (text, False)


def _keep_rows_and_spaces(match: re.Match[str]) -> str:
    return r"\\" if match["row"] else " " if match["space"] else ""
