"""What every dialect translates to and from: a request, the events that answer it, and how a call is refused.

A dialect is a module that reads a body into an `Exchange` and writes events in its own format (`openai.py` is one). It
needs no tokenizer, engine or web framework: `app.py` has the routes, `prepare.py` and `streaming.py` have the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from adaptthink.errors import UserError
from adaptthink.modes import Message, Mode
from adaptthink.sampling.reading import Response


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a client requests, whatever its dialect. None: the server's setting."""

    prompt: tuple[Message, ...] | str  # a conversation that ends with the user's turn, or a text to continue as it is
    mode: Mode | None = None  # None: auto
    threshold: float | None = None  # on P(no_think), for this request in mode auto
    max_tokens: int | None = None  # of each choice, thinking and forced tokens included
    temperature: float | None = None  # 0: the most likely token
    top_p: float | None = None
    seed: int | None = None  # None: another one each time
    stops: tuple[str, ...] = ()  # texts that end an answer, and are not part of it; of a continued text, anywhere
    n: int = 1  # number of choices
    stream: bool = False  # whether events are sent as they come


class Part(StrEnum):
    """The parts of a response. All of a continued text is its answer."""

    THINKING = "thinking"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Decided:
    """The first event: the prompt was read and the mode decided; None: the model samples it, each choice its own."""

    mode: Mode | None
    no_think_probability: float | None  # None: it was not needed
    threshold: float | None  # None: no threshold was applied
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of one choice: whole characters, nothing of a stop text, no white space around the thinking."""

    index: int  # of the choice
    part: Part
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of one choice: its whole response, of which the deltas are the pieces."""

    index: int
    response: Response


Event = Decided | Delta | Ended


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts over all choices. Forced tokens and end tokens belong to the completion."""

    prompt_tokens: int
    completion_tokens: int
    thinking_tokens: int


def count_usage(decided: Decided, responses: Iterable[Response]) -> Usage:
    """Return the token counts of an answer."""
    done = list(responses)
    return Usage(decided.prompt_tokens, sum(one.tokens for one in done), sum(one.thinking_tokens for one in done))


class Exchange(Protocol):
    """One call in a dialect: what it requests, and how its answer is written. An object belongs to one call."""

    request: GenerationRequest
    media_type: str  # of a stream

    def write(self, decided: Decided, responses: Sequence[Response]) -> dict[str, Any]:
        """Return the whole answer, for a call that does not stream."""
        ...

    def stream(self, event: Event) -> Iterable[str]:
        """Yield what is sent for one event."""
        ...

    def end_stream(self) -> Iterable[str]:
        """Yield what is sent when every choice has ended."""
        ...

    def fail_stream(self, error: CallError) -> Iterable[str]:
        """Yield what is sent when generation failed after the stream began."""
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """A route: `read` takes a body, and raises CallError for one that is refused; errors have the dialect's format."""

    path: str
    read: Callable[[bytes], Exchange]
    write_error: Callable[[CallError], dict[str, Any]]


class CallError(UserError):
    """A call that is refused or failed, with an HTTP status; `param` and `code` are fields of OpenAI's error format.

    `retry_seconds` are those after which it may be sent again.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status, self.retry_seconds = param, code, status, retry_seconds
