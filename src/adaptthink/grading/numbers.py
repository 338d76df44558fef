r"""Exact numbers from text in one notation (`notation.py`): whole, decimal, periodic, fraction, mixed, scientific."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 400  # longer ones are left to comparison as text

_DECIMAL = r"\d+(?:\.\d*)?|\.\d+"
_PLAIN = re.compile(rf"({_DECIMAL})(?:[eE]([+-]?\d{{1,3}}))?")
_SCIENTIFIC = re.compile(rf"(?:({_DECIMAL})\\cdot)?10\^\{{?([+-]?\d{{1,3}})\}}?")
_FRACTION = re.compile(rf"(?:\\frac\{{([+-]?(?:{_DECIMAL}))\}}\{{([+-]?(?:{_DECIMAL}))\}}|({_DECIMAL})/({_DECIMAL}))")
_MIXED = re.compile(r"(\d+)\\frac\{(\d+)\}\{(\d+)\}")
_PERIODIC = re.compile(r"(\d*)\.(\d*)\\overline\{(\d+)\}")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_WORDS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
]


def read_number(text: str) -> Fraction | None:
    """Return the value of `text`, or None if it is not a plain number."""
    if not text or len(text) > MAX_DIGITS:
        return None
    if text.isalpha():
        return Fraction(_WORDS.index(text.lower())) if text.lower() in _WORDS else None
    negative = False
    while text[:1] in ("-", "+"):
        negative ^= text[0] == "-"
        text = text[1:]
    value = _read_unsigned(text)
    return -value if negative and value is not None else value


def _read_unsigned(text: str) -> Fraction | None:
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    if match := _PLAIN.fullmatch(text):
        return Fraction(match[1]) * _power_of_ten(match[2])
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


def _power_of_ten(exponent: str | None) -> Fraction:
    return Fraction(10) ** int(exponent or 0)
