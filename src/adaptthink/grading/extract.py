r"""Find the answer in a response: what follows the thinking, and in it the last ``\boxed{…}`` or an announced answer.

Every search is one pass over the text: patterns have no nested repetition, and besides boxes
only the last `TAIL` characters are searched.
"""

from __future__ import annotations

import re

TAIL = 2_000  # characters at the end of a response in which an announced answer is searched

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[\\{}]|[{}]")
_BARE_BOX = re.compile(r"\\boxed\s+([^\s${}]+)")
_LINE_ANCHOR = re.compile(
    r"^[ \t>*#-]*(?:####|(?:final[ \t]+)?answer[ \t]*(?:\*\*)?[ \t]*:|A:)[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE
)
_PHRASE_ANCHOR = re.compile(r"\banswer(?:[ \t]+is|[ \t]*=)[ \t]*:?[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_MATH_SPAN = re.compile(r"\\\((.{1,500}?)\\\)|\$([^$\n]{1,500})\$")
_NUMBER = re.compile(r"(?<![\w.,/])-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?%?")
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z]|\s*$)")
_MARKS = " \t*_`\"'"


def drop_thinking(response: str, *, open_marker: str = "<think>", close_marker: str = "</think>") -> str | None:
    """Return what follows the first close marker; None if the thinking was opened and never closed.

    A response with neither marker is an answer as a whole. Later markers are part of the answer, which may mention
    them.
    """
    _, found, answer = response.partition(close_marker)
    if found:
        return answer
    return None if open_marker in response else response


def find_answer(text: str) -> str | None:
    r"""Return the answer that `text` gives, or None.

    In this order: the last complete ``\boxed{…}``; the last line that announces it (``Answer: 5``, ``#### 5``,
    ``A: 5``, "the answer is 5"); a text that is an answer and nothing else; the last number of the last line.
    """
    boxed = find_last_boxed(text)
    if boxed is not None:
        return boxed
    tail = text[-TAIL:].strip()
    announced = find_announced_answer(tail)
    if announced:
        return announced
    lines = tail.splitlines()
    if not lines:
        return None
    if len(lines) == 1 and len(tail) == len(text.strip()) and not re.search(r"[A-Za-z]{2,} +[A-Za-z]{2,}", tail):
        return tail.strip(_MARKS) or None
    return find_last_value(lines[-1])


def find_last_boxed(text: str) -> str | None:
    r"""Return the content of the last complete ``\boxed{…}``, nested braces included; None if there is none.

    Of nested boxes the innermost counts. One pass over any text.
    """
    open_braces: list[int | None] = []  # where the content of a box starts; None for any other brace
    best: tuple[int, int] | None = None
    for token in _BOX.finditer(text):
        mark = token.group()
        if mark == "{":
            open_braces.append(None)
        elif mark == "}":
            start = open_braces.pop() if open_braces else None
            if start is not None and (best is None or start > best[0]):
                best = (start, token.start())
        elif mark.startswith("\\boxed") or mark.startswith("\\fbox"):
            open_braces.append(token.end())
    if best:
        return text[best[0] : best[1]]
    bare = _BARE_BOX.findall(text[-TAIL:])
    return bare[-1] if bare else None


def find_announced_answer(text: str) -> str | None:
    """Return the last answer that is announced as one, without what follows its sentence."""
    found = [*_LINE_ANCHOR.finditer(text), *_PHRASE_ANCHOR.finditer(text)]
    if not found:
        return None
    return cut_first_sentence(max(found, key=lambda match: match.start(1)).group(1))


def cut_first_sentence(text: str) -> str | None:
    """Return an announced answer up to the end of its sentence, or the formula that it begins with."""
    sentence = _SENTENCE_END.split(text, maxsplit=1)[0].strip(_MARKS)
    span = _MATH_SPAN.match(sentence)
    if span:
        sentence = span.group(1) or span.group(2)
    return sentence.strip(_MARKS) or None


def find_last_value(line: str) -> str | None:
    """Return the last formula or number of a line."""
    spans = [match.group(1) or match.group(2) for match in _MATH_SPAN.finditer(line)]
    if spans:
        return spans[-1]
    numbers = _NUMBER.findall(line)
    return numbers[-1].rstrip(",") if numbers else None


def find_reference_answer(reference_answer: str) -> str:
    r"""Return the answer in a reference that may be a whole solution: ``\boxed{…}``, ``#### 5``; else all of it."""
    boxed = find_last_boxed(reference_answer)
    if boxed is not None:
        return boxed
    if "####" in reference_answer or "\n" in reference_answer.strip():
        return find_announced_answer(reference_answer[-TAIL:]) or reference_answer
    return reference_answer


def find_tagged_answer(text: str) -> str | None:
    """Return the content of the last ``<answer>…</answer>``, the form that reasoning-gym's own prompts require."""
    before, tag, _ = text.rpartition("</answer>")
    return before.rpartition("<answer>")[2].strip() or None if tag and "<answer>" in before else None
