"""Multiple choice: how options are written below a question, for MMLU and for files alike."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from adaptthink.storage.rows import SHOWN_CHARACTERS, RowError


def format_choices(question: str, choices: Sequence[str]) -> str:
    """Return the question with one lettered line per option; raises RowError unless there are 2 to 26 options."""
    if not 2 <= len(choices) <= len(ascii_uppercase):
        raise RowError(f"{len(choices)} choices; a multiple-choice problem has 2 to {len(ascii_uppercase)}")
    options = "".join(f"\n{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))
    return question.strip() + options


def read_choice_letter(answer: object, num_choices: int) -> str:
    """Return the correct letter, given as a letter or as an index from 0; raises RowError for anything else."""
    text = str(answer).strip().upper()
    letters = ascii_uppercase[:num_choices]
    if len(text) == 1 and text in letters:
        return text
    if text.isdecimal() and len(text) <= len("26") and int(text) < num_choices:
        return letters[int(text)]
    shown = repr(answer) if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]!r}…"
    raise RowError(f"the answer {shown} is none of the letters {letters[0]} to {letters[-1]}, nor an index from 0")
