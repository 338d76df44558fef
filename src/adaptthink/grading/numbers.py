r"""Exact numbers from text in one notation (`notation.py`): whole, decimal, periodic, fraction, mixed, scientific."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 400  # longer ones are left to comparison as text
OPEN_DIGITS = 6  # that a decimal with an ellipsis needs to stand for one number

_DECIMAL = r"\d+(?:\.\d*)?|\.\d+"
_PLAIN = re.compile(rf"({_DECIMAL})(?:[eE]([+-]?\d{{1,3}}))?")
_SCIENTIFIC = re.compile(rf"(?:({_DECIMAL})\\cdot)?10\^\{{?([+-]?\d{{1,3}})\}}?")
_FRACTION = re.compile(rf"(?:\\frac\{{([+-]?(?:{_DECIMAL}))\}}\{{([+-]?(?:{_DECIMAL}))\}}|({_DECIMAL})/({_DECIMAL}))")
_MIXED = re.compile(r"(\d+)\\frac\{(\d+)\}\{(\d+)\}")
_PERIODIC = re.compile(r"(\d*)\.(\d*)\\overline\{(\d+)\}")
PREFIXED = re.compile(r"0(?:[xX][0-9A-Fa-f]+|[oO][0-7]+|[bB][01]+)")
_OPEN_ENDED = re.compile(r"([+-]?)(\d+)(?:\.(\d*))?\\ldots")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SMALL = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_WORDS = (
    {word: value for value, word in enumerate(_SMALL)}
    | {word: 10 * value for value, word in enumerate(_TENS, 2)}
    | _SCALES
)
_WORD = "|".join(sorted(_WORDS, key=len, reverse=True))
_IN_WORDS = re.compile(rf"(?:{_WORD})(?:-?(?:and)?(?:{_WORD}))*", re.IGNORECASE)


def read_number(text: str) -> Fraction | None:
    """Return the value of `text`, or None if it is not a plain number."""
    if not text or len(text) > MAX_DIGITS:
        return None
    if text[0].isalpha():
        return _read_words(text.lower()) if _IN_WORDS.fullmatch(text) else None
    negative = False
    while text[:1] in ("-", "+"):
        negative ^= text[0] == "-"
        text = text[1:]
    value = _read_unsigned(text)
    return -value if negative and value is not None else value


def goes_on_to(text: str, number: Fraction) -> bool | None:
    r"""Return whether a decimal with an ellipsis, ``0.142857\ldots``, is a number; None if the text is none.

    The number begins with its digits, `OPEN_DIGITS` of them or more, and its own never end.
    """
    match = _OPEN_ENDED.fullmatch(text)
    if not match:
        return None
    sign, whole, decimals = match[1], match[2], match[3] or ""
    ends = pow(10, number.denominator.bit_length(), number.denominator) == 0
    scaled = (-number if sign == "-" else number) * 10 ** len(decimals)
    return not ends and len((whole + decimals).lstrip("0")) >= OPEN_DIGITS and scaled // 1 == int(whole + decimals)


def _read_unsigned(text: str) -> Fraction | None:
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    if match := _PLAIN.fullmatch(text):
        return Fraction(match[1]) * _power_of_ten(match[2])
    if PREFIXED.fullmatch(text):
        return Fraction(int(text, 0))
    if match := _FRACTION.fullmatch(text):
        above, below = Fraction(match[1] or match[3]), Fraction(match[2] or match[4])
        return above / below if below else None
    if match := _MIXED.fullmatch(text):
        return int(match[1]) + Fraction(int(match[2]), int(match[3])) if int(match[3]) else None
    if match := _SCIENTIFIC.fullmatch(text):
        return Fraction(match[1] or 1) * _power_of_ten(match[2])
    if match := _PERIODIC.fullmatch(text):
        whole, fixed, period = match.groups()
        scale = 10 ** len(fixed)
        return Fraction(int((whole + fixed) or "0"), scale) + Fraction(int(period), (10 ** len(period) - 1) * scale)
    return None


def _read_words(text: str) -> Fraction | None:
    """Return the value of a number in words without blanks, ``onehundredtwenty-one``; None for ``onetwo``."""
    total = part = 0
    before = ""
    for word in re.findall(_WORD, text):
        value = _WORDS[word]
        if word in _SCALES:
            if word == "hundred" and part > 19:
                return None
            part = max(1, part) * value
            if word != "hundred":
                total, part = total + part, 0
        elif before in _SMALL or (before in _TENS and value > 9):
            return None
        else:
            part += value
        before = word
    return Fraction(total + part)


def _power_of_ten(exponent: str | None) -> Fraction:
    return Fraction(10) ** int(exponent or 0)
