"""Pieces of another server's stream in, deltas and the whole response out.

Where a server sends token ids, these are read as the native engine's are. Else the text is split at the close marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from adaptthink.engines.base import Finish
from adaptthink.engines.jobs import Closing
from adaptthink.modes import Mode, ThinkTemplate
from adaptthink.sampling.reading import Response, decode
from adaptthink.serving.generation import Delta, Ended, Part
from adaptthink.serving.speakers import Piece, UpstreamError
from adaptthink.serving.streaming import ChoiceReader, StopReader

Events = list[Delta | Ended]


class PieceReader(ChoiceReader):
    """The pieces of one choice, over one call or several.

    Without token ids a piece counts as one token until the server says how many there were, and the mode is the one
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
        hidden: int = 0,
    ) -> None:
        super().__init__(index, tokenizer, template, stops, plain=plain, forced=hidden)
        self.eos_ids = eos_ids
        self.closing = StopReader((template.close,))
        self.sign = decode(tokenizer, [template.no_think_id])  # with which a text of mode no_think begins
        self.ids_so_far: list[int] = []  # forced ones included; of a server that sends none, the forced ones alone
        self.text_so_far = ""
        self.ended = False
        self.sends_ids = False
        self.parted = False  # whether the server separates the thinking itself
        self.begin_call()

    def begin_call(self) -> None:
        """Begin to read a call's pieces, behind what there is."""
        self.before = self.tokens
        self.finish: Finish | None = None
        self.end_token = False  # whether an end token came, which is counted and is no text

    @property
    def closed(self) -> bool:
        """Whether the thinking has ended."""
        return self.template.close_id in self.ids_so_far or self.template.close in self.text_so_far

    def force(self, ids: Sequence[int]) -> Events:
        """Take tokens that were not generated."""
        events: Events = [*self._take(self.closing.end())] if self.part is Part.THINKING and not self.closed else []
        self.ids_so_far += ids
        self.text_so_far += decode(self.tokenizer, ids)
        return [*events, *(event for token in ids for event in self.add(token, None))]

    def take(self, piece: Piece) -> Events:
        """Return what is new in a piece; a stop text ends the response."""
        self.finish = piece.finish or self.finish
        events: Events = []
        if piece.token_ids is not None:
            self.sends_ids = True
            ids = piece.token_ids
            if piece.finish is Finish.STOP and ids and ids[-1] in self.eos_ids:
                ids, self.end_token = ids[:-1], True
            self.ids_so_far += ids
            for token in ids:
                events += self.add(token, None)
                if self.ended:
                    return events
        elif piece.text:
            events += self._take_text(piece.text, piece.part)
        if piece.tokens is not None and not self.sends_ids:
            self.tokens = self.before + piece.tokens
        return events + self.end(None) if self.stopped and not self.ended else events

    def wants_more(self, closing: Closing | None, max_tokens: int) -> bool:
        """Return whether a call that has ended was limited by a thinking budget, and another one follows it."""
        if closing is None or self.ended or self.finish is None:
            return False
        return not self.closed or (self.finish is Finish.LENGTH and self.tokens < max_tokens)

    def end(self, finish: Finish | None) -> Events:
        """Return what was held back, and the whole response."""
        events: Events = []
        if not self.stopped:
            if self.part is Part.THINKING:
                events += self._take(self.closing.end())
            events += self._take(self.text.end(), last=True)
        ends = {decode(self.tokenizer, [token]) for token in self.eos_ids}  # stop texts of ours, not of the call
        stop = None if self.stop.found in ends else self.stop.found
        return [*events, Ended(self.index, self._make_response(finish), stop=stop)]

    def close(self) -> Events:
        """Return what is left at the end of the last call; raises UpstreamError if it had not ended."""
        if self.finish is None:
            raise UpstreamError("the stream ended within a response")
        return [] if self.ended else self.end(self.finish)

    def _take_text(self, text: str, part: Part | None) -> Events:
        self.text_so_far += text
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
        self.ended = True
        self.tokens += self.end_token
        response = super()._make_response(finish)
        if self.ids_so_far:
            return response
        direct = response.thinking is None if self.parted else self.text_so_far.startswith(self.sign)
        return replace(response, mode=Mode.NO_THINK if direct else Mode.THINK)
