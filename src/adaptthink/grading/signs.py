r"""Signs outside ASCII as LaTeX: Greek letters, super- and subscripts, full-width forms, fractions, relations."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import groupby

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": r"\cdot ",
    "•": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "√": r"\sqrt ", "∛": r"\sqrt[3]", "∞": r"\infty ",
    "≤": r"\leq ", "≥": r"\geq ", "⩽": r"\leq ", "⩾": r"\geq ", "≦": r"\leq ", "≧": r"\geq ", "≠": r"\neq ",
    "≈": r"\approx ", "≃": r"\approx ", "≒": r"\approx ", "∼": r"\sim ", "°": r"^\circ ", "º": r"^\circ ",
    "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "±": r"\pm ", "∖": r"\setminus ", "∣": r"\mid ",
    "∨": r"\lor ", "∧": r"\land ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∠": r"\angle ",
    "△": r"\triangle ", "’": "'", "‘": "'", "′": "'", "″": "''", "“": '"', "”": '"', "⟨": r"\langle ",
    "⟩": r"\rangle ", "、": ",", "。": ".", "…": r"\ldots ", "【": "[", "】": "]", "¢": r"\text{ cents}",
    "∑": r"\sum ", "∏": r"\prod ",
    "∫": r"\int ", "\u200b": "", "ı": "i", "ϕ": r"\phi ", "ϑ": r"\theta ", "ϵ": r"\epsilon ",
}  # fmt: skip
_SCRIPTS = {"<super>": "^", "<sub>": "_"}


def spell_signs(text: str) -> str:
    """Return text with non-ASCII signs as LaTeX, digits of any script as ASCII, and no control characters."""
    if not text.isascii():
        runs = ((script, "".join(signs)) for script, signs in groupby(text, key=find_script))
        text = "".join(
            f"{script}{{{spell_run(unicodedata.normalize('NFKC', run))}}}" if script else spell_run(run)
            for script, run in runs
        )
    return "".join(sign if sign.isprintable() else " " if sign.isspace() else "" for sign in text)


def spell_run(signs: str) -> str:
    """Return signs as LaTeX, one by one."""
    return "".join(sign if sign.isascii() else spell_sign(sign) for sign in signs)


@lru_cache(maxsize=4_096)
def find_script(sign: str) -> str:
    """Return ``^`` for a superscript sign, ``_`` for a subscript, and nothing for others."""
    return (
        "" if sign.isascii() or sign in _SIGNS else _SCRIPTS.get(unicodedata.decomposition(sign).partition(" ")[0], "")
    )


@lru_cache(maxsize=4_096)
def spell_sign(sign: str) -> str:
    """Return one sign outside ASCII as LaTeX, or as it is."""
    if sign in _SIGNS:
        return _SIGNS[sign]
    if sign.isdecimal():
        return str(unicodedata.decimal(sign))
    if unicodedata.category(sign) == "Sc":  # currency
        return ""
    kind, _, rest = unicodedata.decomposition(sign).partition(" ")
    if kind == "<fraction>":
        above, _, below = unicodedata.normalize("NFKC", sign).partition("⁄")
        return rf"\frac{{{above}}}{{{below}}}" if below else sign
    if kind.startswith("<") and rest:
        plain = unicodedata.normalize("NFKC", sign)
        return "".join(one if one.isascii() else spell_sign(one) for one in plain if one != sign)
    name = unicodedata.name(sign, "")
    if match := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)", name):
        letter = {"LAMDA": "lambda"}.get(match[2], match[2].lower())
        return rf"\{letter if match[1] == 'SMALL' else letter.title()} "
    return sign
