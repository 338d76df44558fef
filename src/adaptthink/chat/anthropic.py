"""Anthropic's /v1/messages.

https://platform.claude.com/docs/en/api/messages/create (request, content blocks, usage)
https://platform.claude.com/docs/en/build-with-claude/streaming (events; errors among them)
https://platform.claude.com/docs/en/build-with-claude/thinking and /extended-thinking (types, budget, what it excludes)
https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons

The API has no seed, and counts thinking and answer together.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ValidationError

from adaptthink.chat.base import Adapter, Draft, Endpoint, Question, ServerFault, make_format_fault
from adaptthink.config.chat import Switch
from adaptthink.engines.base import Finish
from adaptthink.errors import UserError
from adaptthink.modes import Mode

PATH = "/v1/messages"
VERSION = "2023-06-01"
MIN_TOP_P = 0.95  # with thinking; the temperature is then 1
FINISHES = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "refusal": Finish.STOP,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
}
BUSY = ("overloaded_error", "rate_limit_error")
TRANSIENT = (*BUSY, "api_error", "timeout_error")


class _Block(BaseModel):
    """A content block, or a delta of one."""

    type: str
    text: str = ""
    thinking: str = ""


class _Usage(BaseModel):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None


class _End(BaseModel):
    stop_reason: str | None = None


class _Message(_End):
    content: list[_Block] = []
    usage: _Usage | None = None


class _Error(BaseModel):
    type: str = ""
    message: str = ""


class _Event(BaseModel):
    """Any event: `type` determines which other fields are set."""

    type: str
    message: _Message | None = None
    content_block: _Block | None = None
    delta: dict[str, Any] | None = None
    usage: _Usage | None = None
    error: _Error | None = None


def make_address(endpoint: Endpoint) -> str:
    """Return the URL to post to."""
    return endpoint.url.rstrip("/").removesuffix(PATH).removesuffix("/v1") + PATH


def make_headers(key: str | None) -> dict[str, str]:
    """Return the headers for the API's version and the caller."""
    return {"anthropic-version": VERSION} | ({"x-api-key": key} if key else {})


def make_body(endpoint: Endpoint, question: Question) -> dict[str, Any]:
    """Return the call's JSON. Raises UserError for settings that the API refuses beside thinking."""
    if question.mode is Mode.THINK:
        _check_thinking(endpoint, question)
    settings = {"temperature": question.temperature, "top_p": question.top_p}
    system = [message.content for message in question.context if message.role == "system"]
    turns = [asdict(message) for message in question.context if message.role != "system"]
    return {
        "model": endpoint.model,
        **({"system": "\n\n".join(system)} if system else {}),
        "messages": [*turns, {"role": "user", "content": question.prompt}],
        "stream": True,
        "max_tokens": question.max_tokens,
        **{name: value for name, value in settings.items() if value is not None},
        **(_mode(endpoint, thinks=question.mode is Mode.THINK) if question.mode else {}),
    }


def _mode(endpoint: Endpoint, *, thinks: bool) -> dict[str, Any]:
    """Return the switch. It is sent for no_think too, because newer models think by default."""
    if not thinks:
        return {"thinking": {"type": "disabled"}}
    if endpoint.switch is Switch.BUDGET:
        return {"thinking": {"type": "enabled", "budget_tokens": endpoint.budget_tokens}}
    effort = {"output_config": {"effort": endpoint.effort}} if endpoint.effort else {}
    return {"thinking": {"type": "adaptive"}, **effort}


def _check_thinking(endpoint: Endpoint, question: Question) -> None:
    if question.temperature not in (None, 1) or (question.top_p or 1) < MIN_TOP_P:
        raise UserError(
            f"with thinking this API accepts only temperature 1 and a top_p of at least {MIN_TOP_P}, not "
            f"{question.temperature} and {question.top_p}; leave both out"
        )
    if endpoint.switch is Switch.BUDGET and (endpoint.budget_tokens or 0) >= question.max_tokens:
        raise UserError(
            f"a thinking budget of {endpoint.budget_tokens} tokens leaves none of the {question.max_tokens} for the "
            "answer; lower the budget or raise max_tokens"
        )


def read_event(draft: Draft, data: str) -> None:
    """Add one event, or a whole message, to the draft. Raises ServerFault for an error and for another form."""
    try:
        event = _Event.model_validate_json(data)
        match event.type:
            case "message":
                _read_message(draft, _Message.model_validate_json(data))
                draft.complete = True
            case "message_start" if event.message:
                _read_message(draft, event.message)
                draft.tokens = None  # the count at the start is not the final one
            case "content_block_start" if event.content_block:
                _read_block(draft, event.content_block)
            case "content_block_delta":
                _read_block(draft, _Block.model_validate(event.delta))
            case "message_delta":
                _read_end(draft, _End.model_validate(event.delta).stop_reason)
                _read_usage(draft, event.usage)
            case "message_stop":
                draft.complete = True
            case "error":
                fault = event.error or _Error()
                raise ServerFault(
                    fault.message or fault.type or "an error",
                    transient=fault.type in TRANSIENT,
                    busy=fault.type in BUSY,
                )
    except ValidationError as error:
        raise make_format_fault(error, "message of Anthropic's API") from None


def _read_message(draft: Draft, message: _Message) -> None:
    for block in message.content:
        _read_block(draft, block)
    _read_end(draft, message.stop_reason)
    _read_usage(draft, message.usage)


def _read_block(draft: Draft, block: _Block) -> None:
    """Add a block or a delta. Newer models send thinking blocks without their text, older ones redacted blocks."""
    if block.type in ("thinking", "redacted_thinking", "thinking_delta"):
        draft.thinking_withheld = True
    draft.thinking_pieces.append(block.thinking)
    draft.answer_pieces.append(block.text)


def _read_end(draft: Draft, reason: str | None) -> None:
    if reason and reason not in FINISHES:
        raise ServerFault(f"it ended with the stop_reason '{reason}', which is not known here", transient=False)
    if reason:
        draft.finish = FINISHES[reason]
        draft.refused = reason == "refusal"


def _read_usage(draft: Draft, usage: _Usage | None) -> None:
    """Store counts; those of a stream are cumulative, and its last event may lack the prompt's."""
    if usage is None:
        return
    parts = (usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens)
    if usage.input_tokens is not None:
        draft.prompt_tokens = sum(part or 0 for part in parts)
    if usage.output_tokens is not None:
        draft.tokens = usage.output_tokens


ADAPTER = Adapter(make_address, make_headers, make_body, read_event)
