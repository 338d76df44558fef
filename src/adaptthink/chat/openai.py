"""OpenAI-style /v1/chat/completions, as OpenAI and the vendors that adopted it document it.

https://platform.openai.com/docs/api-reference/chat/create (request, answer, stream, usage)
https://docs.vllm.ai/en/stable/features/reasoning_outputs/ (chat_template_kwargs, `reasoning`, `reasoning_content`)
https://api-docs.deepseek.com/guides/thinking_mode (thinking, reasoning_content, finish_reason)
https://openrouter.ai/docs/use-cases/reasoning-tokens and /docs/api/errors (reasoning, comments, errors in the stream)
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from adaptthink.chat.base import Adapter, Draft, Endpoint, Question, ServerFault, make_format_fault
from adaptthink.config.chat import Switch
from adaptthink.engines.base import Finish
from adaptthink.engines.http_retry import QUOTA, is_transient_status
from adaptthink.modes import Mode

LAST = "[DONE]"
PATH = "/chat/completions"
DEFAULT_EFFORT = "medium"
FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "content_filter": Finish.STOP}
TRANSIENT_FINISHES = ("error", "abort", "insufficient_system_resource")  # OpenRouter, vLLM and SGLang, DeepSeek
PERMANENT = ("invalid_request_error", "authentication_error", "permission_error", "not_found_error")
BUSY_STATUS = "429"


class _Message(BaseModel):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    delta: _Message | None = None  # in a stream
    message: _Message | None = None  # in an answer that is none
    finish_reason: str | None = None
    mode: Any = None  # of our own servers: the mode of this choice


class _Details(BaseModel):
    reasoning_tokens: int | None = None


class _Usage(BaseModel):
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens_details: _Details | None = None


class _Error(BaseModel):
    message: str = ""
    type: str | None = None
    code: int | str | None = None


class _Chunk(BaseModel):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: _Error | str | None = None
    x_think: Any = Field(None, validation_alias=AliasChoices("x_think", "adaptthink"))  # of our own servers


class _Decision(BaseModel):
    """What our own servers say of the mode; of another server's field of the name nothing is read."""

    mode: Any = None  # "auto": the model samples it
    modes: Any = None  # of each choice, once it has ended: after a second look another than was decided
    no_think_probability: Annotated[float, Field(ge=0, le=1)] | None = None


def make_address(endpoint: Endpoint) -> str:
    """Return the URL to post to; /v1 is added to a server's bare address."""
    url = endpoint.url.rstrip("/").removesuffix(PATH)
    bare = "/" not in url.partition("://")[2]
    return f"{url}/v1{PATH}" if bare else url + PATH


def make_headers(key: str | None) -> dict[str, str]:
    """Return the headers that identify the caller."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def make_body(endpoint: Endpoint, question: Question) -> dict[str, Any]:
    """Return the call's JSON."""
    settings = {"temperature": question.temperature, "top_p": question.top_p, "seed": question.seed}
    return {
        "model": endpoint.model,
        "messages": [*map(asdict, question.context), {"role": "user", "content": question.prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        ("max_completion_tokens" if endpoint.completion_cap else "max_tokens"): question.max_tokens,
        **{name: value for name, value in settings.items() if value is not None},
        **(_mode(endpoint, thinks=question.mode is Mode.THINK) if question.mode else {}),
        # Where the markers are special tokens, vLLM and SGLang would otherwise drop them from the text.
        **({"skip_special_tokens": False} if endpoint.inline_thinking else {}),
    }


def _mode(endpoint: Endpoint, *, thinks: bool) -> dict[str, Any]:
    """Return the switch. It is sent for no_think too, because leaving it out means the server's default."""
    level = endpoint.effort
    match endpoint.switch:
        case Switch.ENABLE_THINKING:
            return {"chat_template_kwargs": {"enable_thinking": thinks}}
        case Switch.TEMPLATE_THINKING:
            return {"chat_template_kwargs": {"thinking": thinks}}
        case Switch.REASONING_EFFORT:
            return {"reasoning_effort": (level or DEFAULT_EFFORT) if thinks else endpoint.no_think_effort}
        case Switch.THINKING_TYPE:
            effort = {"reasoning_effort": level} if thinks and level else {}
            return {"thinking": {"type": "enabled" if thinks else "disabled"}, **effort}
        case Switch.REASONING:
            settings = {"effort": level, "max_tokens": endpoint.budget_tokens} if thinks else {}
            return {"reasoning": {"enabled": thinks, **{name: value for name, value in settings.items() if value}}}
    return {}


def read_event(draft: Draft, data: str) -> None:
    """Add one chunk, or a whole answer, to the draft. Raises ServerFault for an error and for another form."""
    if data.strip() == LAST:
        draft.complete = True
        return
    try:
        chunk = _Chunk.model_validate_json(data)
    except ValidationError as error:
        raise make_format_fault(error, "chat completion") from None
    if chunk.error:
        raise _fault(chunk.error)
    if chunk.usage:
        draft.tokens, draft.prompt_tokens = chunk.usage.completion_tokens, chunk.usage.prompt_tokens
        details = chunk.usage.completion_tokens_details
        draft.thinking_tokens = details.reasoning_tokens if details else None
    if chunk.x_think:
        _read_decision(draft, chunk.x_think)
    for choice in chunk.choices or ():
        _read_choice(draft, choice)


def _read_decision(draft: Draft, value: object) -> None:
    try:
        decision = _Decision.model_validate(value)
    except ValidationError:
        return
    if decision.no_think_probability is not None:
        draft.no_think_probability = decision.no_think_probability
    ended = decision.modes if isinstance(decision.modes, list) else []
    _read_mode(draft, ended[0] if ended else decision.mode)


def _read_mode(draft: Draft, value: object) -> None:
    if isinstance(value, str) and value in tuple(Mode):
        draft.stated_mode = Mode(value)


def _read_choice(draft: Draft, choice: _Choice) -> None:
    message = choice.delta or choice.message or _Message()
    # Servers that write both fields write the same text into both.
    draft.thinking_pieces.append(message.reasoning_content or message.reasoning or "")
    draft.answer_pieces.append(message.content or message.refusal or "")
    draft.refused = draft.refused or bool(message.refusal) or choice.finish_reason == "content_filter"
    if choice.finish_reason in TRANSIENT_FINISHES:
        raise ServerFault(f"the server gave up (finish_reason {choice.finish_reason})", transient=True)
    if choice.finish_reason and choice.finish_reason not in FINISHES:
        raise ServerFault(f"it ended with the finish_reason '{choice.finish_reason}', not known here", transient=False)
    if choice.finish_reason:
        draft.finish = FINISHES[choice.finish_reason]
    _read_mode(draft, choice.mode)
    draft.complete = draft.complete or choice.message is not None


def _fault(error: _Error | str) -> ServerFault:
    """Return the fault of an error sent in place of a chunk. It is transient unless our request caused it."""
    if isinstance(error, str):
        return ServerFault(error, transient=True)
    code = str(error.code or "")
    ours = code.isdecimal() and int(code) >= 400 and not is_transient_status(int(code))
    return ServerFault(
        error.message or error.type or f"error {error.code}",
        transient=not (ours or error.type in PERMANENT or QUOTA in (error.type, error.code)),
        busy=code == BUSY_STATUS and QUOTA not in (error.type, error.code),
    )


ADAPTER = Adapter(make_address, make_headers, make_body, read_event)
