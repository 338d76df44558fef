r"""The letter of an option: boxed, or announced ("The answer is (C)"), or alone at the end.

Only capital letters count outside of a box and of brackets, so that the article "a" is never an answer; patterns are
anchored and have no nested repetition, so reading takes time linear in the text.
"""

from __future__ import annotations

import re

from adaptthink.grading.extract import TAIL, find_last_boxed

LETTERS = "ABCDEFGHIJ"

_BLANKS = re.compile(r"[ \t]+")
_WRAPPING = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textrm|boxed)\s*\{|\\[()\[\]!,;: ]|[\s{}$*]")
_BOXED = re.compile(r"(?:option|choice|answer)?[:.]?\(?([A-Ja-j])(?:\)|[.:),].*|)", re.IGNORECASE | re.DOTALL)
_END = r"(?=[\s.,;:)\]*!]*(?:$|\n)|[).:,;*\]]|[ \t]+(?:because|since|as|which|with|and)\b)"
_PHRASE = re.compile(
    rf"\b(?:(?:answer|choice|option)(?:[ \t]+is)?[ \t]*[:=]?|correct[ \t]+is)[ \t]*(?:option|choice)?[ \t]*"
    rf"(?:\*\*|\$)?(?:\(([A-Ja-j])\)|([A-J]){_END})",
    re.IGNORECASE,
)
_ONLY = re.compile(r"[*(\[ \t]*([A-J])[*)\] \t]*[.:]?[* \t]*")


def find_letter(text: str) -> str | None:
    """Return the letter of the option that `text` chooses, or None."""
    boxed = find_last_boxed(text)
    if boxed is not None:
        return boxed_letter(boxed)
    tail = _BLANKS.sub(" ", text[-TAIL:]).strip()  # one blank at most, where patterns allow for any number of them
    letters = [bracketed or bare for bracketed, bare in _PHRASE.findall(tail) if bracketed or bare.isupper()]
    if letters:
        return letters[-1].upper()
    lines = tail.splitlines()
    if not lines:
        return None
    match = _ONLY.fullmatch(lines[-1]) or (_first_option(tail) if len(lines) == 1 else None)
    return match[1] if match else None


def boxed_letter(content: str) -> str | None:
    r"""Read the letter in a box: ``C``, ``(c)``, ``\text{C}``, ``C. Paris``, ``(C) 42``."""
    if len(content) > TAIL:
        return None
    match = _BOXED.fullmatch(_WRAPPING.sub("", content))
    return match[1].upper() if match else None


def read_reference_letter(reference_answer: str) -> str | None:
    """Return the letter of a reference answer such as ``C``, ``(C)`` or ``c``; None if it is not one."""
    return boxed_letter(reference_answer.strip())


def _first_option(line: str) -> re.Match[str] | None:
    r"""A single line that starts with its option: ``C. Paris``, ``(B) 42``."""
    return re.match(r"[*( ]*([A-J])[*]*[).:](?:\s|$)", line)
