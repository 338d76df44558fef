"""Implicit thinking: no_think answers that reflect all the same. Text only.

A model that is rewarded for no_think may move its thinking into the answer. The paper counts answers with words such
as "Wait" and "Alternatively" (7.9% of the no_think answers of its 1.5B model, 4.2% of its 7B model). Two more signs
are measured here: an answer much longer than the others of its group, and one that goes in circles.

Left out: a model as judge. An answer that reasons in plain steps is not implicit thinking, and is not counted.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

# Capitalised, as such a word begins a sentence when it begins a second thought: "they wait 5 minutes" is a problem's.
KEYWORD = re.compile(
    r"\b(?:Wait|Alternatively|Hold on|On second thought|[Hh]mm+|[Bb]ut wait"
    r"|Let me (?:re-?|double[- ])?(?:check|verify|reconsider|think|try again|start over))\b"
)
LONG = 3.0  # times the median of the other answers
REPETITIVE = 0.3
WORDS = 4  # in a run that counts as repeated


@dataclass(frozen=True, slots=True)
class Signs:
    """What one answer shows."""

    keywords: tuple[str, ...]  # as written
    repetition: float  # share of its runs of four words that occurred earlier in it, in [0, 1]
    relative_length: float | None  # characters, over the median of the others of its group; None if there are none


def thinks_implicitly(signs: Signs) -> bool:
    """Return whether an answer reflects: by a keyword, or by being both long for its group and repetitive.

    Neither of the latter is enough alone: hard problems make an answer long, and tables make it repetitive.
    """
    long = signs.relative_length is not None and signs.relative_length >= LONG
    return bool(signs.keywords) or (long and signs.repetition >= REPETITIVE)


def read_signs(answers: Iterable[tuple[str, str]]) -> list[Signs]:
    """Return the signs of answers, given as (group, text); a group is what makes lengths comparable, such as a level.

    No text is kept, so the answers may come from a file.
    """
    found = []
    lengths: dict[str, list[int]] = {}
    indices = []  # of each answer within its group
    for group, text in answers:
        same = lengths.setdefault(group, [])
        indices.append((group, len(same)))
        same.append(len(text))
        found.append(Signs(tuple(KEYWORD.findall(text)), measure_repetition(text), None))
    typical = {group: compute_medians_of_others(same) for group, same in lengths.items()}
    return [
        replace(signs, relative_length=lengths[group][index] / median if (median := typical[group][index]) else None)
        for signs, (group, index) in zip(found, indices, strict=True)
    ]


def measure_repetition(text: str) -> float:
    """Return the share of runs of four words that occurred earlier in the text, in [0, 1]; 0 for fewer words.

    1 − distinct / all, known as seq-rep-4 (Welleck et al. 2020, on words instead of tokens).
    """
    words = text.split()
    runs = [tuple(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def compute_medians_of_others(values: Sequence[int]) -> list[float]:
    """Return for each value the median of all the others; 0 if there are none."""
    ordered = sorted(values)
    if len(ordered) < 2:
        return [0.0] * len(ordered)
    low, high = (len(ordered) - 2) // 2, (len(ordered) - 1) // 2  # the middle of one value fewer

    def without(left_out: int) -> float:
        return (ordered[low + (low >= left_out)] + ordered[high + (high >= left_out)]) / 2

    return [without(bisect_left(ordered, value)) for value in values]
