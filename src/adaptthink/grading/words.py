r"""Words: the same in capital and small letters, but for those whose case says what they are.

``Co`` is cobalt and ``CO`` carbon monoxide, ``Aa`` and ``aa`` are different genotypes, ``mW`` and ``MW`` different
units.
"""

from __future__ import annotations

import re

_PLURAL = re.compile(r"(?<=[a-z]{4})(?<![su])s$")
_ELEMENTS = (
    "A[cglmrstu]|B[aehikr]?|C[adeflmnorsu]?|D[bsy]|E[rsu]|F[elmr]?|G[ade]|H[efgos]?|I[nr]?|Kr?|L[airuv]|M[cdgnot]"
    "|N[abdehiop]?|O[gs]?|P[abdmortu]?|R[abefghnu]|S[bcegimnr]?|T[abcehilms]|U|V|W|Xe|Yb?|Z[nr]"
)
_FORMULA = re.compile(rf"(?:(?:{_ELEMENTS})\d*)+")
_ALLELES = re.compile(r"(?:([a-z])\1)+", re.IGNORECASE)
_ROMAN = re.compile(r"[ivxlcdm]+|[IVXLCDM]+")
_UNIT = re.compile(r"[a-z][a-z]?[A-Z]")  # mW, kWh
_YES_OR_NO = ("yes", "no")


def is_same_word(one: str, other: str) -> bool:
    """Return whether two words are the same, whatever their case and number where these do not count."""
    if one == other:
        return True
    plain, other_plain = one.casefold(), other.casefold()
    if plain == other_plain:
        return not _counts_case(one, other)
    return _PLURAL.sub("", plain) == _PLURAL.sub("", other_plain)


def _counts_case(one: str, other: str) -> bool:
    """Return whether two words that differ in their case only are two formulas, genotypes or units."""
    if one.casefold() in _YES_OR_NO:
        return False
    formulas = _FORMULA.fullmatch(one) and _FORMULA.fullmatch(other)
    genotypes = _ALLELES.fullmatch(one) and not (_ROMAN.fullmatch(one) and _ROMAN.fullmatch(other))
    units = any(map(_UNIT.match, (one, other))) and len(one) <= 3 and not (one.islower() or other.islower())
    return bool(formulas or genotypes or units)
