"""Pieces of another server's stream in, deltas and the whole response out.

Where a server sends token ids, these are read as the native engine's are. Else the text is split at the close marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from adaptthink.engines.base import Finish
from adaptthink.modes import Mode, ThinkTemplate
from adaptthink.sampling.reading import Response, decode
from adaptthink.serving.generation import Delta, Ended, Part
from adaptthink.serving.speakers import Piece, UpstreamError
from adaptthink.serving.streaming import ChoiceReader, StopReader

Events = list[Delta | Ended]


class PieceReader(ChoiceReader):
    """The pieces of one choice, behind the tokens that were forced.

    Without token ids, a piece counts as one token until the server says how many there are, and the mode is the one
    that the text's beginning shows.
    """

    def __init__(
        self,
        index: int,
        tokenizer: Any,
        template: ThinkTemplate,
        stops: Sequence[str],
        eos_ids: Sequence[int],
        *,
        plain: bool,
        forced_ids: Sequence[int] = (),
        hidden: int = 0,
    ) -> None:
        super().__init__(index, tokenizer, template, stops, plain=plain, forced=hidden)
        self.eos_ids = eos_ids
        self.closing = StopReader((template.close,))
        self.beginning = ""  # of a text, where no ids come
        self.sign = decode(tokenizer, [template.no_think_id])
        self.begun_with: Events = [event for token in forced_ids for event in self.add(token, None)]
        self.forced_tokens = self.tokens
        self.total: int | None = None
        self.finish: Finish | None = None
        self.ended = False
        self.parted = False  # whether the server separates the thinking itself

    def take(self, piece: Piece) -> Events:
        """Return what is new in a piece.

        Without ids a response ends with its stream, as the number of its tokens comes behind it.
        """
        events, self.begun_with = self.begun_with, []
        if piece.tokens is not None:
            self.total = piece.tokens + self.forced_tokens
        self.finish = piece.finish or self.finish
        if piece.token_ids is not None:
            return events + self._take_ids(piece.token_ids, piece.finish)
        if piece.text:
            events += self._take_text(piece.text, piece.part)
        return events + self.end(None) if self.stopped else events

    def close(self) -> Events:
        """Return what is left at the end of the stream; raises UpstreamError if the response had not ended."""
        if self.ended:
            return []
        if self.finish is None:
            raise UpstreamError("the stream ended within a response")
        return self.end(self.finish)

    def end(self, finish: Finish | None) -> Events:
        """Return what was held back, and the whole response."""
        events: Events = []
        if not self.stopped:
            if self.part is Part.THINKING:
                events += self._take(self.closing.end())
            events += self._take(self.text.end(), last=True)
        return [*self.begun_with, *events, Ended(self.index, self._make_response(finish))]

    def _take_ids(self, ids: Sequence[int], finish: Finish | None) -> Events:
        events: Events = []
        for position, token in enumerate(ids):
            last = position == len(ids) - 1
            ends = finish and last and (finish is Finish.LENGTH or token in self.eos_ids)
            events += self.add(token, finish if ends else None)
            if ends or self.stopped:
                return events
        return events + self.end(finish) if finish else events

    def _take_text(self, text: str, part: Part | None) -> Events:
        if len(self.beginning) < len(self.sign):
            self.beginning += text
        self.parted = part is not None
        self.tokens += 1
        if part is None and self.part is Part.THINKING:
            events = self._take(self.text.end() + self.closing.add(text))
            if not self.closing.stopped:
                return [*events]
            text = self.closing.held.removeprefix(self.template.close)
            return [*events, *self._begin_answer(), *self._take(text)]
        begins = part is Part.ANSWER and self.part is Part.THINKING
        return [*(self._begin_answer() if begins else ()), *self._take(text)]

    def _begin_answer(self) -> list[Delta]:
        events = self._take("", last=True)
        self.part, self.before_close = Part.ANSWER, self.tokens - 1
        return events

    def _make_response(self, finish: Finish | None) -> Response:
        if self.total is not None and self.beginning:
            self.tokens = self.total
        response = super()._make_response(finish)
        self.ended = True
        if self.forced_tokens or not self.beginning:
            return response
        direct = response.thinking is None if self.parted else self.beginning.startswith(self.sign)
        return replace(response, mode=Mode.NO_THINK if direct else Mode.THINK)
