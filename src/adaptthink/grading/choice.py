r"""The letter of an option: boxed, or announced ("The answer is (C)"), or alone at the end.

Only capital letters count outside of a box and of brackets, so that the article "a" is never an answer. Two letters, "B
or C", are none. Patterns are anchored and have no nested repetition, so reading takes time linear in the text.
"""

from __future__ import annotations

import re

from adaptthink.grading.extract import (
    TAIL,
    WORDS_FOR_ANSWER,
    find_announced_answer,
    find_boxed,
    find_last_boxed,
    join_displays,
)

LETTERS = "ABCDEFGHIJ"

_COMMAND = re.compile(
    r"\\(?:text|math)(?:bf|it|rm|sf|tt|normal|sc|up)?(?![A-Za-z])|\\(?:mbox|hbox|bm|pmb|boldsymbol|bold|underline|emph"
    r"|boxed|fbox|displaystyle|textstyle|ensuremath|operatorname|bf|it|rm|sf|tt|large|Large|huge|Huge|quad|qquad|left"
    r"|right)(?![A-Za-z])|\\(?:textcolor|color)\s*\{[^{}]*\}|\\[()\[\]!,;: ]|[{}$*`_\"“”~]"
)
_BOXED = re.compile(
    r"\s*'?(?:option|choice|answer)?\s*[:.]?\s*(?:(\()\s*)?([A-J])(?:\s*'?\s*|\s*\).*|\s*[.:,].*)", re.I | re.S
)
_SECOND = re.compile(
    r"\s*\(?\s*[A-J]\s*\)?\s*(?:[,;/&+]|\band\b|\bor\b|或|和)+\s*(?:and\b|or\b|either\b)?\s*\(?\s*[A-J]\s*(?![A-Za-z]|\.\w)",
    re.I,
)
_LETTER = r"(?:\(\s*([A-Ja-j])\s*\)|([A-J])(?![A-Za-z0-9'’]))"
_END = r"(?=[\s.,;:)\]!。，]*(?:$|\n)|\s*[).:,;\]。，]|\s+[–—-]\s|\s+(?:because|since|as|which|with)\b|\s*\()"
_CUE = rf"(?:{WORDS_FOR_ANSWER}|choice|option|statement|selection|pick|正确选项|选项)"
_IS = (
    r"(?:(?:is|are|was|would|should|must|will|be|therefore|thus|clearly|option|choice|letter|the|answer|es|est|ist|é|è|la"
    r"|le|die|adalah|to)(?!\w)|[:：=]|是|为|為|は|은|는|это)"
)
_STATEMENTS = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        rf"(?<![a-z])(?:final\s+)?{_CUE}(?![a-z])(?:\s*{_IS})*\s*{_LETTER}{_END}",
        rf"(?<![a-z])(?:final\s+)?{_CUE}(?![a-z])(?:\s*{_IS})+\s*\(\s*([A-Ja-j])\s*\)()",
        rf"(?<![^\W\d_])(?:correct|right|best)\s+(?:\w+\s+)?(?:is|would\s+be)\s*:?\s*{_LETTER}{_END}",
        rf"\b(?:must|should|has\s+to|would)\s+be\s+(?:option\s+)?{_LETTER}{_END}",
        rf"\b(?:choose|select|selected|pick|picked|chose|chosen|go\s+with|went\s+with)\s*:?\s*(?:option\s+|choice\s+)?{_LETTER}{_END}",
        rf"(?:答案|正解|答え|정답|답|选项)[^A-Za-z\n(不非]{{0,8}}{_LETTER}",
        rf"(?:选择|选|選擇|選|选项|選ぶ)\s*[:：]?\s*{_LETTER}",
        rf"(?<![A-Za-z]){_LETTER}\s+is\s+(?:the\s+)?(?:correct|right|best|true|most\s+\w+)\b",
        rf"\bnot\s+\(?[A-J]\)?,?\s+but\s+(?:rather\s+)?{_LETTER}{_END}",
        r"\b(?:is|are)\s+\(\s*([A-Ja-j])\s*\)()(?=\s*[.,;]|\s+[A-Z]|\s*$)",
    )
)
_OPTION = re.compile(r"\s*(?:\(([A-J])\)|([A-J])[.):])(?:\s+\S|\s*$)")
_ALONE = re.compile(r"\s*'?\(?\s*([A-J])\s*\)?'?\s*[.:]?\s*")
_DENIED = re.compile(
    r"(?:not|n't|never|neither|nor|except|isn’t|wrong|incorrect|false)\s*(?:option\s+|choice\s+)?\(?\s*$", re.IGNORECASE
)


def find_letter(text: str) -> str | None:
    """Return the letter of the option that `text` chooses, or None."""
    if boxed := find_boxed(text):
        letters = {boxed_letter(content) for content in boxed}
        return letters.pop() if len(letters) == 1 else None
    tail = unwrap(join_displays(text[-TAIL:])).strip()
    found = (0, "")
    for statement in _STATEMENTS:
        for match in statement.finditer(tail):
            letter, bare = match.groups()
            start = match.start(1 if letter else 2)
            denied = any(_DENIED.search(tail[max(0, end - 20) : end]) for end in (start, match.start()))
            if (letter or bare.isupper()) and start >= found[0] and not denied:
                found = (start, "" if _SECOND.match(tail, start) else (letter or bare).upper())
    if found[1] or found[0]:
        return found[1] or None
    lines = [line for line in tail.splitlines() if line.strip()]
    if not lines:
        return None
    if alone := _ALONE.fullmatch(lines[-1]):
        return alone[1]
    options = [_OPTION.match(line) for line in lines[-2:]]
    if options[-1] and (len(options) == 1 or not options[0]):  # a list of options chooses none
        return None if _SECOND.match(lines[-1]) else options[-1][1] or options[-1][2]
    return None


def unwrap(text: str) -> str:
    """Return a text without LaTeX commands, dollar signs and Markdown around letters."""
    return re.sub(r"[ \t]+", " ", _COMMAND.sub(" ", text))


def boxed_letter(content: str) -> str | None:
    r"""Read the letter in a box: ``C``, ``(c)``, ``\text{C}``, ``C. Paris``, ``(C) 42``.

    A bare ``i`` or ``e`` is a number and no option.
    """
    return None if unwrap(content[: TAIL + 1]).strip() in ("i", "e") else read_letter(content)


def read_letter(content: str) -> str | None:
    """Return the one letter that a text begins with and chooses."""
    if len(content) > TAIL:
        return None
    plain = unwrap(content)
    match = _BOXED.fullmatch(plain)
    return match[2].upper() if match and not _SECOND.match(plain) else None


def read_reference_letter(reference_answer: str) -> str | None:
    """Return the letter of a reference answer such as ``C``, ``(C)``, ``c`` or ``Answer: C``; None if it is not one."""
    content = find_last_boxed(reference_answer) or reference_answer
    return read_letter(content) or read_letter(find_announced_answer(content[-TAIL:]) or "")
