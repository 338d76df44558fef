"""The records of a chat: what is asked, of whom, what came back, and what a dialect has to know.

Left out on purpose: conversations of several turns, system prompts, tools, images. An evaluation asks one question.
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
from adaptthink.modes import MARKERS, Mode, split_text

SMALLEST_BUDGET = 1024  # tokens, of Anthropic's thinking budget
CHARACTERS_PER_TOKEN = 4  # English text; only where a server does not count
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in any one currency; None: unknown."""

    input: float | None = None
    output: float | None = None  # thoughts are billed as output everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A model behind an API. Raises UserError for settings that do not go together.

    `url` is the server's, with or without /v1. `effort` is the level of thinking where a switch knows levels, None for
    the server's own (with `reasoning_effort` medium); `no_think_effort` is the level that stands for no_think.
    `budget_tokens` caps a thought for the switches `budget` and `reasoning`. `completion_cap` sends the cap as
    max_completion_tokens, which OpenAI's reasoning models ask for. `inline_thinking` says that prompts end inside an
    opened thought and that the server leaves thoughts in the text (vLLM without a reasoning parser): what never closes
    is then a thought. `silence_seconds` is how long a server may send nothing at all.
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
            raise UserError(f"the switch '{self.switch}' is not of the dialect '{self.dialect}'; choose {fitting}")
        if self.switch is Switch.BUDGET and (self.budget_tokens or 0) < SMALLEST_BUDGET:
            raise UserError(
                f"the switch 'budget' needs a budget of at least {SMALLEST_BUDGET} tokens, not {self.budget_tokens}; "
                "give one, or take the switch 'adaptive'"
            )
        if self.switch is Switch.REASONING and self.effort and self.budget_tokens:
            raise UserError("the switch 'reasoning' takes an effort or a budget, not both; give one of them")
        if self.concurrency < 1:
            raise UserError(f"{self.concurrency} questions in flight answer nothing; give a concurrency of 1 or more")

    @property
    def key_name(self) -> str:
        """The environment variable that holds the key."""
        return self.key_variable or KEY_VARIABLES[self.dialect]


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt. Settings that are None are not sent, so that the server's own apply."""

    prompt: str
    mode: Mode | None  # None: the model decides, nothing is switched
    max_tokens: int  # thought and answer together
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None  # not known to Anthropic's API, and not sent there


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, texts as written.

    `thought` is None if nothing was thought, and "" if something was but the server keeps its text. `answer` is None
    if it never came to one, as in a thought that was cut. `refused`: the model or a filter declined; the answer is
    then what was said instead, if anything. Where the server did not count, `tokens` are one for every four
    characters and `tokens_estimated` is True.
    """

    thinking: str | None
    answer: str | None
    finish: Finish
    tokens: int  # of thought and answer
    thinking_tokens: int | None  # None: not told
    prompt_tokens: int | None  # None: not told
    tokens_estimated: bool = False
    refused: bool = False

    @property
    def mode(self) -> Mode:
        """The mode in which the model answered, whatever was asked for."""
        return Mode.NO_THINK if self.thinking is None else Mode.THINK


class Counted(Protocol):
    """Anything with a server's counts: a `Reply`, or what was kept of it."""

    @property
    def prompt_tokens(self) -> int | None: ...  # noqa: D102
    @property
    def tokens(self) -> int: ...  # noqa: D102
    @property
    def tokens_estimated(self) -> bool: ...  # noqa: D102


def cost(reply: Counted, prices: Prices) -> float | None:
    """Return what a reply cost, in the currency of `prices`; None if a price or a count is unknown."""
    if prices.input is None or prices.output is None or reply.prompt_tokens is None or reply.tokens_estimated:
        return None
    return (reply.prompt_tokens * prices.input + reply.tokens * prices.output) / MILLION


class ServerFault(Exception):  # noqa: N818, the client makes the error for people of it
    """What a server says went wrong after it had begun to answer; `passing`: worth another attempt."""

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.passing = passing


def unreadable(error: ValidationError, wanted: str) -> ServerFault:
    """Make the fault of an answer in another form; names the place, not what stood there."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    return ServerFault(f"this is no {wanted}: {place} {fault['msg']}".replace("  ", " "), passing=False)


@dataclass(slots=True)
class Draft:
    """A reply while it arrives."""

    thinkings: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    thought_withheld: bool = False  # something was thought, whatever text came of it
    refused: bool = False
    finish: Finish | None = None
    complete: bool = False  # the dialect's last event has come
    tokens: int | None = None
    thinking_tokens: int | None = None
    prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """One dialect. `hear` takes the data of one event of a stream, or the whole of an answer that is no stream."""

    address: Callable[[Endpoint], str]
    headers: Callable[[str | None], dict[str, str]]  # from the key, if there is one
    body: Callable[[Endpoint, Question], dict[str, Any]]  # raises UserError for what the API documents to refuse
    hear: Callable[[Draft, str], None]  # raises ServerFault


def reply_of(draft: Draft, *, opened: bool) -> Reply:
    """Make the reply of a complete draft; `opened`: its prompt ended inside a thought that the server leaves in place.

    Raises ServerFault if the draft has no finish.
    """
    if draft.finish is None:
        raise ServerFault("the answer came without the reason of its end", passing=True)
    reasoning, content = "".join(draft.thinkings), "".join(draft.answers)
    thinking, answer = (reasoning, content) if reasoning.strip() else split_inline(content, opened=opened)
    if thinking is None and (draft.thought_withheld or draft.thinking_tokens):
        thinking = ""
    estimate = -(-len(reasoning + content) // CHARACTERS_PER_TOKEN)
    return Reply(
        thinking=thinking,
        answer=answer if answer and answer.strip() else None,
        finish=draft.finish,
        tokens=estimate if draft.tokens is None else draft.tokens,
        # Some servers write 0 under every reply; beside a thought that can be read it says nothing.
        thinking_tokens=None if thinking and not draft.thinking_tokens else draft.thinking_tokens,
        prompt_tokens=draft.prompt_tokens,
        tokens_estimated=draft.tokens is None,
        refused=draft.refused,
    )


def split_inline(text: str, *, opened: bool) -> tuple[str | None, str | None]:
    """Return (thought, answer) of a text that may hold both: what stands before and after the last close marker.

    The open marker may be missing, as some prompts end in it; `opened` says that this one did.
    """
    for opening, closing in MARKERS:
        if closing in text or text.lstrip().startswith(opening):
            return split_text(text, opening, closing)
    return (text if text.strip() else None, None) if opened else (None, text)
