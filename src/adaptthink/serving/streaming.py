"""Tokens of one choice in, deltas and the whole response out, as `sampling.reading` reads a completion.

Never half a character: a piece of text is held back until its last character is whole. Text that may be the beginning
of a stop text is held back too. White space around the thinking and before the answer belongs to neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adaptthink.engines.base import Finish
from adaptthink.modes import Mode, ThinkTemplate
from adaptthink.sampling.reading import Response, decode
from adaptthink.serving.generation import Delta, Ended, Part

HALF = "\ufffd"  # what a decoder writes for half a character


class TextReader:
    """Tokens in, whole characters out."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        # The last tokens, as some are written differently at the beginning: those before `start` have been given out.
        self.ids: list[int] = []
        self.start = 0
        self.given = ""  # the text of ids[:start]

    def add(self, token: int) -> str:
        """Return the text that a token completes."""
        self.ids.append(token)
        text = decode(self.tokenizer, self.ids)
        return "" if text.endswith(HALF) else self._give(text)

    def end(self) -> str:
        """Return what is left: half a character, as the decoder writes it."""
        return self._give(decode(self.tokenizer, self.ids))

    def _give(self, text: str) -> str:
        new = text[len(self.given) :]
        self.ids = self.ids[self.start :]
        self.start = len(self.ids)
        self.given = decode(self.tokenizer, self.ids)
        return new


class StopReader:
    """Text in, text before the first stop text out."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = [stop for stop in stops if stop]
        self.held = ""
        self.found: str | None = None  # the stop text that came

    @property
    def stopped(self) -> bool:
        """Whether a stop text came."""
        return self.found is not None

    def add(self, text: str) -> str:
        """Return the text that is certain to be before a stop text."""
        self.held += text
        found = [(self.held.index(stop), stop) for stop in self.stops if stop in self.held]
        if found:
            first, self.found = min(found)
            return self._give(first)
        return self._give(len(self.held) - max(map(self._count_begun, self.stops), default=0))

    def end(self) -> str:
        """Return what was held back, if no stop text came."""
        return "" if self.stopped else self._give(len(self.held))

    def _give(self, size: int) -> str:
        text, self.held = self.held[:size], self.held[size:]
        return text

    def _count_begun(self, stop: str) -> int:
        """Return how many characters at the end of the text are the beginning of a stop text."""
        longest = min(len(stop) - 1, len(self.held))
        return next((size for size in range(longest, 0, -1) if self.held.endswith(stop[:size])), 0)


class ThinkingReader:
    """Text in, the thinking out: without an open marker at its beginning, and without white space around it."""

    def __init__(self, opening: str) -> None:
        self.opening = opening
        self.begun = False
        self.held = ""

    def add(self, text: str, *, last: bool = False) -> str:
        """Return the text that is certain to be in the thinking; what is left at the end if this is the last text."""
        self.held += text
        if not self.begun:
            self.held = self.held.lstrip()
            if self.held.startswith(self.opening):
                self.held, self.opening = self.held[len(self.opening) :].lstrip(), ""
            if not self.held or (not last and self.opening.startswith(self.held)):
                return ""
            self.begun = True
        given = self.held.rstrip()
        self.held = self.held[len(given) :]
        return given


class ChoiceReader:
    """The tokens of one choice, read as they come. `stopped`: a stop text came, and nothing more is needed.

    A `plain` text is continued as it is: all but `forced` tokens at its beginning are its answer.
    """

    def __init__(
        self, index: int, tokenizer: Any, template: ThinkTemplate, stops: Sequence[str], *, plain: bool, forced: int = 0
    ) -> None:
        self.index, self.tokenizer, self.template = index, tokenizer, template
        self.forced = forced
        self.part = Part.ANSWER if plain else Part.THINKING
        self.begun = plain  # whether the answer has more than white space
        self.text = TextReader(tokenizer)
        self.thinking, self.stop = ThinkingReader(template.open), StopReader(stops)
        self.written = {Part.THINKING: "", Part.ANSWER: ""}
        self.mode = Mode.THINK
        self.tokens = 0
        self.before_close: int | None = None  # tokens, once the thinking has ended

    @property
    def stopped(self) -> bool:
        """Whether a stop text ended the answer."""
        return self.stop.stopped

    def add(self, token: int, finish: Finish | None) -> list[Delta | Ended]:
        """Take the next token, and why it is the last one if it is; return what is new."""
        if self.tokens == 0:
            self.mode = self.template.mode_of([token])
        self.tokens += 1
        events: list[Delta | Ended] = []
        if finish is not Finish.STOP and self.tokens > self.forced:  # the token that ends a response is no text
            if self.part is Part.THINKING and token == self.template.close_id:
                events += self._take(self.text.end(), last=True)
                self.part, self.text, self.before_close = Part.ANSWER, TextReader(self.tokenizer), self.tokens - 1
            else:
                events += self._take(self.text.add(token))
        if finish and not self.stopped:
            events += self._take(self.text.end(), last=True)
        if finish or self.stopped:
            events.append(Ended(self.index, self._make_response(finish), stop=self.stop.found))
        return events

    def _take(self, text: str, *, last: bool = False) -> list[Delta]:
        """Return the delta for new text of the part that is being written, if any of it can be given out."""
        if self.part is Part.THINKING:
            given = self.thinking.add(text, last=last)
        else:
            text = text if self.begun else text.lstrip()
            self.begun = self.begun or bool(text)
            given = self.stop.add(text) + (self.stop.end() if last else "")
        self.written[self.part] += given
        return [Delta(self.index, self.part, given)] if given else []

    def _make_response(self, finish: Finish | None) -> Response:
        thinking = self.written[Part.THINKING] or None
        counted = self.tokens if self.before_close is None else self.before_close
        return Response(
            mode=self.mode,
            thinking=thinking,
            answer=self.written[Part.ANSWER] if self.part is Part.ANSWER else None,
            finish=Finish.STOP if self.stopped or finish is None else finish,
            tokens=self.tokens,
            thinking_tokens=counted if thinking else 0,
        )
