r"""Find the answer in a response: what follows the thinking, and in it the last ``\boxed{…}`` or an announced answer.

Every search is one pass over the text: patterns have no nested repetition, and besides boxes
only the last `TAIL` characters are searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from adaptthink.grading.units import is_same_kind

TAIL = 2_000  # characters at the end of a response in which an announced answer is searched

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[\\{}]|[{}]")
_BARE_BOX = re.compile(r"\\boxed(?:\s+|(?=[\d\\-]))(\\[dt]?frac\s*\w\s*\w|[^\s${}\\]+)")
_BETWEEN_BOXES = re.compile(
    r"[\s$.,;:&/()\[\]]|\\[,;:!() ]|\\(?:text|mbox|quad|qquad)(?![a-z])|[{}]"
    r"|\b(?:and|or|maybe|possibly|perhaps|either|also)\b"
    r"|(?<![A-Za-z\\])[A-Za-z](?:_\w|_\{\w+\})?\s*=",
    re.IGNORECASE,
)

WORDS_FOR_ANSWER = (
    r"answer|ans|r[ée]ponse|respuesta|resposta|risposta|antwort|antwoord|jawaban|cevap|odpowied[źz]|svar|svaret|vastaus"
    r"|odpov[ěe][dď]|ответ|відповідь|απάντηση|উত্তর|उत्तर|جواب|الجواب|الإجابة|答案|答え|解答|정답|답"
    r"|đáp án|คำตอบ|תשובה|பதில்"
)
_IS = r"(?:(?:is|est|es|é|è|ist|adalah|är|on|je|jest|to|là)(?!\w)|[=:：]|ที่|คือ|это|은|는|は|が|是|为|為|होगा|है)"
_ANCHOR = re.compile(
    rf"(?:^[ \t>*#-]*(?:####|A[ \t]*[:：]|(?:result|output|solution|final\s+result)\**[ \t]*[:：])"
    rf"|####|(?<![^\W\d_])(?:{WORDS_FOR_ANSWER})(?![a-zé])[\s*_]*(?:{_IS}[\s*_]*)+"
    rf"|(?:^|(?<=[.!?]\s))[*_# ]*(?:final\s+)?(?:answer|ans\.?)[*_]*\.?(?=\s+(?:\\\(|\$|-?\d)))",
    re.IGNORECASE | re.MULTILINE,
)
_DISPLAY = re.compile(r"\\\[(.{1,500}?)\\\]|\$\$(.{1,500}?)\$\$", re.DOTALL)
_MATH_SPAN = re.compile(r"\\\((.{1,500}?)\\\)|\$((?!\s)[^$\n]{1,500}?)(?<!\s)\$(?!\d)")
_NUMBER = re.compile(r"(?<![A-Za-z0-9_.,/])-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?%?")
_GAP = r"[\s$~{}]|\\(?:text|mathrm|[ ,;!()])"
_QUANTITY = re.compile(rf"(?<![\w.,/])\d[\d.,/]*(?:{_GAP}|-)*([A-Za-z]+)\b")
_JOINT = re.compile(rf"(?:{_GAP}|[.,&]|and\b)*")
_LABELLED = re.compile(r"\W*[^\W\d_]+\s*\d+:")  # Day 1:50
_IN_PARTS = re.compile(  # 3:05, 5'4", 3 1/2, 5 and a half, $3 and 5 cents
    r"(?<!\d)\d+(?:(?::\d+)+|\s*['′’]\s*\d+(?:\s*[\"″”])?|\s+(?:and\s+)?\d+/\d+|\s+and\s+an?\s+(?:half|third|quarter)\b)"
    r"|\$\d+\s+and\s+\d+\s+cents?\b"
)
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z(]|\s*$)|[。！？]")
_GOES_ON = re.compile(
    r"\s*(?:,?\s*(?:or|and)\s+(?=[$\\\d(])|,\s*[$\\\d(]|\\?%|/|(?:percent|hundred|thousand|million|billion|trillion|dozen)\b)",
    re.IGNORECASE,
)
_BOUNDED = re.compile(
    r"\b(?:(?:more|less|fewer|greater)\s+than|at\s+(?:least|most)|between)\b|\d\s*[或和]\s*\d", re.IGNORECASE
)
_ASIDE = re.compile(
    r",\s*(?:not|since|because|as|so|which|where|while|but|and\s+not)\b|\s\(?(?:since|because|instead|rather)\b"
    r"|\s+\((?:not|since|because|as|i\.e|that|which|for)\b"
)
_PROSE = re.compile(r"[^\W\d_]{2,}\W+[^\W\d_]{2,}|[^\x00-\u036f\u2000-\u2bff\uff00-\uffef]")
_ANNOUNCED = re.compile(
    rf"\s*[*_# ]*(?:the\s+|final\s+|correct\s+)*(?:A|(?:{WORDS_FOR_ANSWER}))[*_]*\s*(?:is\b|[:：=是])", re.IGNORECASE
)
_GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_NOTHING = re.compile(
    r"(?:\\text\s*\{)?\s*(?:proof|see\s+(?:the\s+)?(?:proof|solution|explanation|above|below)|not\s?found|not\s+available"
    r"|not\s+provided|not\s+given|not\s+applicable|no\s?answer|no\s+answer\s+(?:found|given|provided)|n/?a|n\.a|nan|null|nil"
    r"|none|unknown|tbd|todo|tba|-+|\?+|_+|placeholder|unanswered)\s*\}?",
    re.IGNORECASE,
)
_MARKS = " \t\n*_`\"'#“”~"


def drop_thinking(response: str, *, open_marker: str = "<think>", close_marker: str = "</think>") -> str | None:
    """Return what follows the first close marker; None if the thinking was opened and never closed.

    A response with neither marker is an answer as a whole. Later markers are part of the answer, which may mention
    them.
    """
    _, found, answer = response.partition(close_marker)
    if found:
        return answer
    return None if open_marker in response else response


def find_answer(text: str, boxes: int = 1) -> str | None:
    r"""Return the answer that `text` gives, or None.

    In this order: the last complete ``\boxed{…}``, with those that a conjunction or a comma joins to it; what is
    announced as the answer last (``Answer: 5``, ``#### 5``, "the answer is 5"); a text that is an answer and nothing
    else; the last formula or number of the last line. `boxes` is the number of boxes of the reference answer: as many
    make one answer, wherever they stand.
    """
    boxed = find_boxed(text, boxes)
    if boxed:
        return ", ".join(boxed)
    tail = join_displays(text[-TAIL:]).strip()
    announced = find_announced_answer(tail)
    if announced:
        return announced
    lines = tail.splitlines()
    if not lines:
        return None
    if len(lines) == 1 and len(text.strip()) <= TAIL and is_answer_alone(tail):
        return tail.strip(_MARKS) or None
    return find_last_value(lines[-1])


def join_displays(text: str) -> str:
    r"""Return a text with each displayed formula on one line, as ``\(…\)``."""
    return _DISPLAY.sub(lambda match: rf"\({' '.join((match[1] or match[2]).split())}\)", text)


def is_answer_alone(line: str) -> bool:
    """Return whether a line is an answer and nothing else: a formula, a word, a number with or without a unit."""
    bare = re.sub(r"\\[A-Za-z]+|\$", " ", line)
    if not re.search(r"\d", bare):
        return _PROSE.search(bare) is None
    words = re.findall(r"[^\W\d_]{2,}", bare)
    return (
        "**" not in line
        and not (words and line.rstrip().endswith("!"))  # without words it is a factorial
        and _PROSE.search(bare) is None
        and (
            not words
            or re.match(r"\W*\d", bare) is not None
            or re.fullmatch(r"(?:(?:or|[a-z]{3,5})\W|[\W\d_]|\w(?!\w))*", bare) is not None
        )
    )


def find_boxed(text: str, boxes: int = 1) -> list[str]:
    r"""Return the content of the last box, or of the last boxes that belong together; an empty list if there is none.

    Boxes belong together that only a comma or a conjunction parts. `boxes` is the number of those in the reference
    answer: as many make one answer, wherever they stand.
    """
    spans = find_boxes(text)
    if not spans:
        bare = _BARE_BOX.findall(text[-TAIL:])
        return bare[-1:]
    first = len(spans) - 1
    while first > 0 and not _BETWEEN_BOXES.sub("", text[spans[first - 1][1] + 1 : spans[first][0]].rpartition("\\")[0]):
        first -= 1
    if boxes > 1 and len(spans) >= boxes:
        first = min(first, len(spans) - boxes)
    return list(dict.fromkeys(text[start:end] for start, end in spans[first:]))


def find_boxes(text: str) -> list[tuple[int, int]]:
    r"""Return start and end of the content of every complete ``\boxed{…}`` that holds no other one."""
    open_braces: list[int | None] = []  # where the content of a box starts; None for any other brace
    found: list[tuple[int, int]] = []
    for token in _BOX.finditer(text):
        mark = token.group()
        if mark == "{":
            open_braces.append(None)
        elif mark == "}":
            start = open_braces.pop() if open_braces else None
            if start is not None and (not found or start > found[-1][0]):
                found.append((start, token.start()))
        elif mark.startswith("\\boxed") or mark.startswith("\\fbox"):
            open_braces.append(token.end())
    return found


def find_last_boxed(text: str) -> str | None:
    r"""Return the content of the last complete ``\boxed{…}``, nested braces included; None if there is none.

    Of nested boxes the innermost counts. One pass over any text.
    """
    boxed = find_boxed(text)
    return boxed[-1] if boxed else None


def find_announced_answer(text: str) -> str | None:
    """Return the last answer that is announced as one, without what follows its sentence."""
    found = None
    for match in _ANCHOR.finditer(text):
        found = match.end()
    if found is None:
        return None
    rest = text[found:].lstrip(_MARKS + ":：\r")
    return read_announced(rest.splitlines()[0].strip()) if rest else None


def read_announced(line: str) -> str | None:
    """Return the answer at the begin of a line: a formula, or a sentence without its reasons and asides."""
    line = line.strip(_MARKS)
    span = _MATH_SPAN.match(line)
    if span and not _GOES_ON.match(line, span.end()) and not find_whole(line, span):
        return (span.group(1) or span.group(2)).strip(_MARKS) or None
    sentence = _ASIDE.split(_SENTENCE_END.split(line, maxsplit=1)[0], maxsplit=1)[0].strip(_MARKS)
    words_first = re.match(r"(?:[^\W\d_]{2,}\W+){2,}", sentence)
    if _BOUNDED.search(sentence):
        return sentence
    if words_first and re.search(r"\d|\$|\\\(", sentence):
        return find_last_value(sentence)
    foreign = re.match(r"[^\x00-\x7f]", sentence) is None and re.search(
        r"[^\x00-\u036f\u2000-\u2bff\uff00-\uffef]", sentence
    )
    return (find_last_value(sentence) if foreign else sentence.strip(_MARKS)) or None


def find_last_value(line: str) -> str | None:
    """Return the last formula or number of a line, whichever ends later; of one in parts, ``3 h 5 min``, all parts."""
    spans = list(_MATH_SPAN.finditer(line))
    outside = _MATH_SPAN.sub(lambda match: " " * len(match.group()), line)
    numbers = list(_NUMBER.finditer(outside))
    if not spans and not numbers:
        return None
    last = max((*spans[-1:], *numbers[-1:]), key=re.Match.end)
    if whole := find_whole(line, last):
        return whole
    return last.group(1) or last.group(2) if last in spans else last.group().rstrip(",")


def find_whole(line: str, number: re.Match[str]) -> str | None:
    """Return the quantity of which a number or formula is only a part (``3 hours and 5 minutes``), or None."""
    for start, end in find_compounds(line):
        if start < number.end() and number.start() < end and (start < number.start() or number.end() < end):
            return re.sub(r"\band\s+(?=\d+/)", "", line[start:end])
    return None


def find_compounds(line: str) -> Iterator[tuple[int, int]]:
    """Yield where quantities in several parts begin and end: mixed numbers, times, units of one kind in a row."""
    label = _LABELLED.match(line)
    yield from (match.span() for match in _IN_PARTS.finditer(line, label.end() if label else 0))
    for before, quantity in pairwise(_QUANTITY.finditer(line)):
        if _JOINT.fullmatch(line, before.end(), quantity.start()) and is_same_kind(before[1], quantity[1]):
            yield before.start(), quantity.end()


def find_reference_answer(reference_answer: str) -> str:
    r"""Return the answer in a reference that may be a whole solution: all boxes, ``#### 5``, ``Answer: 5``, or all."""
    if boxed := find_boxed(reference_answer, boxes=len(find_boxes(reference_answer))):
        return ", ".join(boxed)
    if parts := read_listed_parts(reference_answer):
        return join_parts(parts)
    tail = reference_answer[-TAIL:]
    if "####" in tail or "\n" in tail.strip() or _ANNOUNCED.match(tail):
        return find_announced_answer(tail) or reference_answer
    return reference_answer


def count_boxes(reference_answer: str) -> int:
    """Return the number of different boxes in a reference answer."""
    return len({reference_answer[start:end] for start, end in find_boxes(reference_answer)})


def read_listed_parts(text: str) -> list[str]:
    """Return the texts of a list that is written as one in JSON or Python, ``["3", "4"]``; else none."""
    if not re.fullmatch(r"\s*\[\s*([\"']).*\1\s*\]\s*", text, re.DOTALL) or len(text) > TAIL:
        return []
    return [first or second for first, second in re.findall(r"\"([^\"]*)\"|'([^']*)'", text)]


def join_parts(parts: Iterable[str]) -> str:
    """Return the parts of an answer as one reference answer, ``3, 4``."""
    return ", ".join(_GROUPED.sub(lambda match: match.group().replace(",", ""), part.strip()) for part in parts)


def says_nothing(reference_answer: str) -> bool:
    """Return whether a reference answer only marks that there is none: ``N/A``, ``NaN``, ``proof``."""
    return _NOTHING.fullmatch(reference_answer.strip(" \t\r\n.$*\"'`()[]<>")) is not None


def find_tagged_answer(text: str) -> str | None:
    """Return the content of the last ``<answer>…</answer>``, the form that reasoning-gym's own prompts require."""
    before, tag, _ = text.rpartition("</answer>")
    return before.rpartition("<answer>")[2].strip() or None if tag and "<answer>" in before else None
