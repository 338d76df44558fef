"""Where the thinking of a text ends, whole or as it comes, given how its prompt ends.

vLLM's reasoning parsers get text, so a close marker that is spelled in ordinary tokens counts here; everywhere else in
this package a completion is read by its tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from adaptthink.modes import MARKERS
from adaptthink.serving.streaming import StopReader, ThinkingReader


class Opening(StrEnum):
    """What a prompt's end leaves to be generated."""

    THINKING = "thinking"  # the prompt has opened the thought
    ANSWER = "answer"  # it has closed it
    EITHER = "either"  # it has done neither: the first marker of the text decides, and without one it is an answer


@dataclass(frozen=True, slots=True)
class Markers:
    """The markers around the thinking, a token each."""

    open: str
    close: str
    open_id: int
    close_id: int


def find_markers(vocabulary: dict[str, int]) -> Markers | None:
    """Return the markers that a vocabulary has, if any."""
    for opening, closing in MARKERS:
        if opening in vocabulary and closing in vocabulary:
            return Markers(opening, closing, vocabulary[opening], vocabulary[closing])
    return None


def find_opening(markers: Markers, prompt_ids: Sequence[int], added_ids: Collection[int]) -> Opening:
    """Return what a prompt's end leaves: its last added token decides, as those of earlier turns are before others."""
    last = next((token for token in reversed(prompt_ids) if token in added_ids), None)
    if last == markers.close_id:
        return Opening.ANSWER
    return Opening.THINKING if last == markers.open_id else Opening.EITHER


@dataclass(slots=True)
class TextSplitter:
    """Text in as it comes, thinking and answer out; without white space around the thinking."""

    markers: Markers
    opening: Opening
    part: Opening = field(init=False)
    held: str = ""  # white space, or the beginning of a marker, before the first text
    thinking: ThinkingReader = field(init=False)
    closing: StopReader = field(init=False)

    def __post_init__(self) -> None:
        """Begin with what the prompt's end leaves."""
        self.part = self.opening
        self.thinking, self.closing = ThinkingReader(self.markers.open), StopReader([self.markers.close])

    def add(self, text: str) -> tuple[str, str]:
        """Return the thinking and the answer that are certain by now."""
        if self.part is Opening.EITHER:
            text = self._decide(text)
        if self.part is not Opening.THINKING:
            return "", text
        before = self.closing.add(text)
        if not self.closing.stopped:
            return self.thinking.add(before), ""
        self.part = Opening.ANSWER
        return self.thinking.add(before, last=True), self.closing.held.removeprefix(self.markers.close)

    def end(self) -> tuple[str, str]:
        """Return what was held back."""
        if self.part is Opening.THINKING:
            return self.thinking.add(self.closing.end(), last=True), ""
        held, self.held = self.held, ""
        return "", held

    def _decide(self, text: str) -> str:
        """Return the text to be read on, once it is clear what it is; nothing before."""
        self.held += text
        begun = self.held.lstrip()
        markers = (self.markers.open, self.markers.close)
        if begun.startswith(markers):
            self.part = Opening.THINKING
        elif begun and not any(marker.startswith(begun) for marker in markers):
            self.part = Opening.ANSWER
        else:
            return ""
        held, self.held = self.held, ""
        return held


def split_text(markers: Markers, opening: Opening, text: str) -> tuple[str | None, str | None]:
    """Return (thinking, answer) of a whole text; None for a part without text."""
    splitter = TextSplitter(markers, opening)
    parts = zip(splitter.add(text), splitter.end(), strict=True)
    thinking, answer = ("".join(pair) for pair in parts)
    return thinking or None, answer or None
