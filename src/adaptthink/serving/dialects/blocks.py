"""What dialects have in common whose answer is a list of blocks: the thought, if there is one, then the answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from adaptthink.sampling.reading import Response
from adaptthink.serving.generation import Decided, Delta, Ended, Event, GenerationRequest, Part, write_json

KEEP_ALIVE = ": still generating\n\n"  # a comment


def write_event(content: dict[str, Any], name: str | None = None) -> str:
    """Return one server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {write_json(content)}\n\n"


def list_blocks(response: Response) -> list[tuple[Part, str]]:
    """Return the blocks of a whole response."""
    texts = ((Part.THINKING, response.thinking), (Part.ANSWER, response.answer))
    return [(part, text) for part, text in texts if text is not None]


class BlockExchange(ABC):
    """One call with one choice, streamed as blocks: each is opened, grows and is closed before the next one."""

    media_type = "text/event-stream"
    keep_alive = KEEP_ALIVE

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.decided: Decided | None = None
        self.part: Part | None = None  # of the block that is open
        self.index = -1  # of that block
        self.text = ""  # of that block, so far

    def stream(self, event: Event) -> Iterator[str]:
        """See `Exchange`."""
        if isinstance(event, Decided):
            self.decided = event
            yield from self.start(event)
        elif isinstance(event, Delta):
            yield from self._turn_to(event.part)
            self.text += event.text
            yield from self.write_delta(event.part, event.text)
        else:
            assert self.decided
            if event.response.answer is not None:  # which may be empty
                yield from self._turn_to(Part.ANSWER)
            yield from self._turn_to(None, whole=event.response.finished)
            yield from self.finish(self.decided, event)

    def _turn_to(self, part: Part | None, *, whole: bool = True) -> Iterator[str]:
        if part is self.part:
            return
        if self.part:
            yield from self.close_block(self.part, whole=whole)
        self.part, self.text = part, ""
        if part:
            self.index += 1
            yield from self.open_block(part)

    def end_stream(self) -> Iterator[str]:
        """See `Exchange`."""
        yield from ()

    @abstractmethod
    def start(self, decided: Decided) -> Iterator[str]:
        """Yield what begins a stream."""

    @abstractmethod
    def open_block(self, part: Part) -> Iterator[str]:
        """Yield what begins a block."""

    @abstractmethod
    def write_delta(self, part: Part, text: str) -> Iterator[str]:
        """Yield what adds to the block."""

    @abstractmethod
    def close_block(self, part: Part, *, whole: bool) -> Iterator[str]:
        """Yield what ends the block; `whole`: it was not cut."""

    @abstractmethod
    def finish(self, decided: Decided, ended: Ended) -> Iterator[str]:
        """Yield what ends the stream."""
