"""What every dialect translates to and from: a request, the events that answer it, and how a call is refused.

A dialect is a module of `dialects/` that reads a body into an `Exchange` and writes events in its own format. It needs
no tokenizer, engine or web framework: `app.py` has the routes, `prepare.py` and `streaming.py` have the tokens.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from pydantic import BaseModel

from adaptthink.errors import UserError
from adaptthink.modes import Message, Mode
from adaptthink.sampling.reading import Response

LINE_BREAKS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}  # JSON escapes the others


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a client requests, whatever its dialect. None: the server's setting."""

    prompt: tuple[Message, ...] | str  # a conversation that ends with the user's turn, or a text to continue as it is
    mode: Mode | None = None  # None: auto
    effort: str | None = None  # a level of the dial
    threshold: float | None = None  # on P(no_think), for this request in mode auto
    tolerance: float | None = None  # the level that is certified to lose at most this share of accuracy
    thinking_budget: int | None = None  # tokens from 1, after which a thought is closed and the answer begins
    second_look: bool = False  # whether a doubtful direct answer is followed by a thought
    max_tokens: int | None = None  # of each choice, thinking and forced tokens included
    temperature: float | None = None  # 0: the most likely token
    top_p: float | None = None
    seed: int | None = None  # None: another one each time
    stops: tuple[str, ...] = ()  # texts that end an answer, and are not part of it; of a continued text, anywhere
    n: int = 1  # number of choices
    stream: bool = False  # whether events are sent as they come
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # dialects may write something and "-" or "_" before it


class Reason(StrEnum):
    """What decided a request's mode."""

    REQUEST = "request"  # it requested the mode
    EFFORT = "effort"  # the threshold of a level that it named, or that its tolerance chose
    THRESHOLD = "threshold"  # its own, or the server's
    ONLINE = "online"  # the online dial's threshold
    EXPLORATION = "exploration"  # the online dial, which takes the other mode to learn from it
    MODEL = "model"  # the model samples it


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
    reason: Reason
    effort: str | None = None  # the level that was applied
    thinking_budget: int | None = None  # that was applied; it may be less than requested
    think_tokens: float | None = None  # of a response with thinking, the mean of the calibration's problems
    at: float = field(default_factory=time.monotonic, compare=False)  # seconds of that clock


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of one choice: whole characters, nothing of a stop text, no white space around the thinking."""

    index: int  # of the choice
    part: Part
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of one choice: its whole response, of which the deltas are the pieces.

    After a second look `direct_tokens` is the length of the direct answer that was given up.
    """

    index: int
    response: Response
    direct_tokens: int = 0
    stop: str | None = None  # the stop text that ended it


Event = Decided | Delta | Ended


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts over all choices. Forced tokens and end tokens belong to the completion."""

    prompt_tokens: int
    completion_tokens: int
    thinking_tokens: int


def write_json(content: Mapping[str, Any]) -> str:
    """Return one line of a stream.

    Clients in Python split lines at characters that JSON leaves as they are, where the standard of server-sent events
    has no line break; these are escaped.
    """
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).translate(LINE_BREAKS)


def count_usage(decided: Decided, ended: Iterable[Ended]) -> Usage:
    """Return the token counts of an answer; a direct answer that was given up belongs to the completion."""
    done = list(ended)
    return Usage(
        decided.prompt_tokens,
        sum(one.response.tokens + one.direct_tokens for one in done),
        sum(one.response.thinking_tokens for one in done),
    )


def describe_decision(decided: Decided, ended: Sequence[Ended] = ()) -> dict[str, Any]:
    """Return what was decided and why, the same in every dialect; what is not known yet is left out.

    "auto": the model sampled the mode, and each choice has its own. Tokens are saved by direct answers, against the
    mean of the calibration's thoughts; a second look costs the direct answer that was given up.
    """
    known: dict[str, Any] = {
        "mode": decided.mode or "auto",
        "reason": decided.reason,
        "no_think_probability": decided.no_think_probability,
        "threshold": decided.threshold,
        "effort": decided.effort,
        "thinking_budget": decided.thinking_budget,
    }
    if not ended:
        return known
    saved = None
    if decided.think_tokens is not None:
        direct = [one.response.tokens for one in ended if one.response.mode is Mode.NO_THINK]
        saved = round(sum(decided.think_tokens - tokens for tokens in direct)) - sum(one.direct_tokens for one in ended)
    return known | {
        "modes": [one.response.mode for one in ended],
        "tokens_saved": saved,
        "second_looks": sum(one.direct_tokens > 0 for one in ended),
    }


class Exchange(Protocol):
    """One call in a dialect: what it requests, and how its answer is written. An object belongs to one call."""

    request: GenerationRequest
    media_type: str  # of a stream
    keep_alive: str  # sent where a stream had no news for a while; "": nothing

    def write(self, decided: Decided, ended: Sequence[Ended]) -> dict[str, Any]:
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
    """A route that generates: `read` takes a body, and raises CallError for one that is refused.

    `call` is the schema of a body.
    """

    path: str
    read: Callable[[bytes], Exchange]
    call: type[BaseModel]


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
