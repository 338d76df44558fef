"""Find the parts of a formula outside its brackets, in one pass."""

from __future__ import annotations

import re

_OPENING = ("(", "[", "{", r"\{", r"\lfloor", r"\lceil")
_CLOSING = (")", "]", "}", r"\}", r"\rfloor", r"\rceil")


def encloses(formula: str) -> bool:
    """Return whether the bracket that opens a formula is closed only by its last character."""
    depth = 0
    for token in re.finditer(r"\\.|[()\[\]{}]", formula):
        depth += _depth_change(token.group())
        if depth == 0:
            return token.end() == len(formula)
    return False


def split_top(formula: str, *separators: str, keep: bool = False) -> list[str]:
    """Return the parts between separators outside all brackets; with `keep`, the separators between them too.

    An empty list if there is no separator, if a part is empty, or if brackets are not balanced. The brackets of an
    interval may differ, ``[0,1)``.
    """
    parts: list[str] = []
    depth = start = 0
    for token in re.finditer(r"\\[A-Za-z]+|\\.|[()\[\]{},;:=<>]", formula):
        mark = token.group()
        depth += _depth_change(mark)
        if depth == 0 and mark in separators:
            parts += [formula[start : token.start()].strip(), mark]
            start = token.end()
    if not parts or depth != 0:
        return []
    parts.append(formula[start:].strip())
    return (parts if keep else parts[::2]) if all(parts[::2]) else []


def _depth_change(mark: str) -> int:
    return 1 if mark in _OPENING else -1 if mark in _CLOSING else 0
