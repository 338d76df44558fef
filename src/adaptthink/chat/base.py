"""The records of a chat: endpoint, question and response, and the interface of a dialect.

Left out on purpose: tools, images. A question is one; a system message or earlier turns may precede it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from adaptthink.config.chat import KEY_VARIABLES, SWITCHES, Dialect, Switch
from adaptthink.engines.base import Finish
from adaptthink.engines.http_retry import check_url
from adaptthink.errors import UserError
from adaptthink.modes import MARKERS, Message, Mode, split_text

MIN_BUDGET = 1024  # of Anthropic's thinking budget, in tokens
CHARACTERS_PER_TOKEN = 4  # of English text; only for servers that do not count
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in any one currency; None: unknown."""

    input: float | None = None
    output: float | None = None  # thinking is billed as output everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A model behind an API. Raises UserError for settings that contradict each other.

    `url` is the server's, with or without /v1. `effort` is the level of thinking for switches that have levels, None
    for the server's own (with `reasoning_effort` medium); `no_think_effort` is the level that means no_think.
    `budget_tokens` limits the thinking for the switches `budget` and `reasoning`. `completion_cap` sends max_tokens as
    max_completion_tokens, which OpenAI's reasoning models require. `inline_thinking` means that prompts end inside an
    opened thinking section and that the server leaves thinking in the text (vLLM without a reasoning parser): text that
    never closes is then thinking. `silence_seconds` is the time-out between two events of a stream.
    """

    url: str
    model: str
    dialect: Dialect = Dialect.OPENAI
    switch: Switch = Switch.NONE
    key_variable: str | None = None  # the environment variable with the key; None: the dialect's usual one
    concurrency: int = 8  # questions in flight
    effort: str | None = None
    no_think_effort: str = "none"
    budget_tokens: int | None = None
    completion_cap: bool = False
    inline_thinking: bool = False
    silence_seconds: float = 900.0
    prices: Prices = Prices()

    def __post_init__(self) -> None:
        check_url(self.url)
        if self.switch not in SWITCHES[self.dialect]:
            fitting = ", ".join(SWITCHES[self.dialect])
            raise UserError(f"the dialect '{self.dialect}' has no switch '{self.switch}'; choose {fitting}")
        if self.switch is Switch.BUDGET and (self.budget_tokens or 0) < MIN_BUDGET:
            raise UserError(
                f"the switch 'budget' needs a budget of at least {MIN_BUDGET} tokens, not {self.budget_tokens}; "
                "give one, or use the switch 'adaptive'"
            )
        if self.switch is Switch.REASONING and self.effort and self.budget_tokens:
            raise UserError("the switch 'reasoning' takes an effort or a budget, not both; give one of them")
        if self.concurrency < 1:
            raise UserError(f"concurrency = {self.concurrency} sends no questions; give 1 or more")

    @property
    def key_name(self) -> str:
        """The environment variable that holds the key."""
        return self.key_variable or KEY_VARIABLES[self.dialect]


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt to send. Settings that are None are not sent, so that the server's own apply."""

    prompt: str
    mode: Mode | None  # None: the model decides, no switch is sent
    max_tokens: int  # thinking and answer together
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None  # not known to Anthropic's API, and not sent there
    context: tuple[Message, ...] = ()  # what precedes the prompt


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """A response from a server, texts as written.

    `thinking` is None if there was none, and "" if there was but the server withholds its text. `answer` is None if
    there is none, as after thinking that was cut. `refused`: the model or a filter declined; the answer is then the
    text sent instead, if any. If the server did not count, `tokens` is one for every four characters and
    `tokens_estimated` is True. Servers of this package alone state `no_think_probability`, where they computed it, and
    `stated_mode`, in which the model answered. `seconds`: from sending the request to the end of the response.
    """

    thinking: str | None
    answer: str | None
    finish: Finish
    tokens: int  # of thinking and answer
    thinking_tokens: int | None  # None: not reported
    prompt_tokens: int | None  # None: not reported
    tokens_estimated: bool = False
    refused: bool = False
    no_think_probability: float | None = None
    stated_mode: Mode | None = None
    seconds: float | None = field(default=None, compare=False)

    @property
    def mode(self) -> Mode:
        """The mode in which the model answered, whatever was requested."""
        return self.stated_mode or (Mode.NO_THINK if self.thinking is None else Mode.THINK)


class Counted(Protocol):
    """Anything with a server's counts: a `ChatResponse`, or the sample stored from it."""

    @property
    def prompt_tokens(self) -> int | None: ...  # noqa: D102
    @property
    def tokens(self) -> int: ...  # noqa: D102
    @property
    def tokens_estimated(self) -> bool: ...  # noqa: D102


def compute_cost(response: Counted, prices: Prices) -> float | None:
    """Return the cost of a response, in the currency of `prices`; None if a price or a count is unknown."""
    if prices.input is None or prices.output is None or response.prompt_tokens is None or response.tokens_estimated:
        return None
    return (response.prompt_tokens * prices.input + response.tokens * prices.output) / MILLION


class ServerFault(Exception):  # noqa: N818, the client turns it into a UserError
    """An error that a server reports after it began to answer; if `transient`, another attempt may succeed.

    `busy`: the server had too many calls.
    """

    def __init__(self, message: str, *, transient: bool, busy: bool = False) -> None:
        super().__init__(message)
        self.transient, self.busy = transient, busy


def make_format_fault(error: ValidationError, wanted: str) -> ServerFault:
    """Return the fault of an answer in another form; it names the field, not its content."""
    fault = error.errors()[0]
    field_name = ".".join(str(part) for part in fault["loc"])
    return ServerFault(f"this is no {wanted}: {field_name} {fault['msg']}".replace("  ", " "), transient=False)


@dataclass(slots=True)
class Draft:
    """A response while it arrives."""

    thinking_pieces: list[str] = field(default_factory=list)
    answer_pieces: list[str] = field(default_factory=list)
    thinking_withheld: bool = False  # there was thinking, whether or not its text was sent
    refused: bool = False
    finish: Finish | None = None
    complete: bool = False  # the dialect's last event has come
    tokens: int | None = None
    thinking_tokens: int | None = None
    prompt_tokens: int | None = None
    no_think_probability: float | None = None
    stated_mode: Mode | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """One dialect. `read_event` takes the data of one event of a stream, or a whole answer that is no stream."""

    address: Callable[[Endpoint], str]
    headers: Callable[[str | None], dict[str, str]]  # from the key, if there is one
    body: Callable[[Endpoint, Question], dict[str, Any]]  # raises UserError for what the API documents to refuse
    read_event: Callable[[Draft, str], None]  # raises ServerFault


def make_response(draft: Draft, requested: Mode | None, *, opened: bool) -> ChatResponse:
    """Return the response of a complete draft; `opened`: its prompt ended inside thinking that the server leaves there.

    Raises ServerFault if the draft has no finish.
    """
    if draft.finish is None:
        raise ServerFault("the answer came without a finish reason", transient=True)
    reasoning, content = "".join(draft.thinking_pieces), "".join(draft.answer_pieces)
    thinking, answer = (reasoning, content) if reasoning.strip() else split_inline(content, requested, opened=opened)
    if thinking is None and (draft.thinking_withheld or draft.thinking_tokens):
        thinking = ""
    estimate = -(-len(reasoning + content) // CHARACTERS_PER_TOKEN)
    return ChatResponse(
        thinking=thinking,
        answer=answer if answer and answer.strip() else None,
        finish=draft.finish,
        tokens=estimate if draft.tokens is None else draft.tokens,
        # Some servers report 0 with every response; where there is thinking, 0 means that they do not count it.
        thinking_tokens=None if thinking and not draft.thinking_tokens else draft.thinking_tokens,
        prompt_tokens=draft.prompt_tokens,
        tokens_estimated=draft.tokens is None,
        refused=draft.refused,
        no_think_probability=draft.no_think_probability,
        stated_mode=draft.stated_mode,
    )


def split_inline(text: str, requested: Mode | None, *, opened: bool) -> tuple[str | None, str | None]:
    """Return (thinking, answer) of a text that may hold both: what is before and after the first close marker.

    The open marker may be missing, as some prompts end in it; `opened` means that these prompts do. Where no_think was
    requested the prompt has closed the thinking: a later marker is part of the answer, which may mention it.
    """
    closed = requested is Mode.NO_THINK
    for opening, closing in MARKERS:
        marked = text.lstrip().startswith((opening, closing)) or (closing in text and not closed)
        if marked:
            return split_text(text, opening, closing)
    return (text if text.strip() else None, None) if opened and not closed else (None, text)
