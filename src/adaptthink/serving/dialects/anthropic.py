"""Anthropic's dialect: /v1/messages, whose answers and streams are lists of content blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from adaptthink.config.schema import Positive
from adaptthink.modes import Message
from adaptthink.serving.calls import (
    MAX_STOPS,
    AnyCall,
    Parameters,
    Stop,
    Temperature,
    Text,
    TextPart,
    TopP,
    check_prompt,
    join_text,
    make_request,
    read_call,
    split_text,
)
from adaptthink.serving.controls import Controls, Effort, read_switch
from adaptthink.serving.dialects.blocks import BlockExchange, list_blocks, write_event
from adaptthink.serving.generation import (
    CallError,
    Decided,
    Dialect,
    Ended,
    GenerationRequest,
    Part,
    Usage,
    count_usage,
    describe_decision,
)

ERRORS = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
# Thinking blocks must have one. As earlier thinking is left out of the prompt, there is nothing to verify.
SIGNATURE = "adaptthink"


def make_dialects(name: str) -> list[Dialect]:
    """Return the route for a model of this name."""

    def read(body: bytes) -> MessagesExchange:
        return MessagesExchange(read_call(MessagesCall, body), name)

    return [Dialect("/v1/messages", read, call=MessagesCall)]


def write_error(error: CallError) -> dict[str, Any]:
    """Return an error in Anthropic's format."""
    kind = ERRORS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(error)}}


class _Thought(Parameters):
    """A thinking block of an earlier answer, which is left out of the prompt."""

    harmless = frozenset({"cache_control", "data", "signature", "thinking"})

    type: Literal["thinking", "redacted_thinking"]


class _TextBlock(TextPart):
    neutral = {"citations": ([],)}


class _Turn(Parameters):
    role: Literal["system", "user", "assistant"]
    content: Annotated[list[Annotated[_TextBlock | _Thought, Field(discriminator="type")]], BeforeValidator(split_text)]

    @property
    def text(self) -> str:
        """The text without earlier thinking."""
        return join_text(block for block in self.content if isinstance(block, TextPart))


class _Thinking(Parameters):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Positive | None = None
    display: Literal["summarized", "omitted"] | None = None


class _OutputConfig(Parameters):
    effort: Effort | None = None


class CountCall(AnyCall):
    """A call of /v1/messages/count_tokens."""

    harmless = frozenset(
        {"cache_control", "diagnostics", "inference_geo", "metadata", "service_tier", "speed", "user_profile_id"}
    )
    neutral = {"tool_choice": ({"type": "auto"}, {"type": "none"}), "tools": ([],), "top_k": (0, -1)}

    messages: Annotated[list[_Turn], Field(min_length=1)]
    output_config: _OutputConfig = _OutputConfig()
    system: Text = []
    thinking: _Thinking | None = None

    def read_controls(self, name: str) -> dict[str, Controls]:
        """See `AnyCall`."""
        effort, thinking = self.output_config.effort, self.thinking
        found = super().read_controls(name) | {"output_config.effort": Controls(effort=effort)}
        if not thinking:
            return found
        # Adaptive: the model decides whether to think, and an effort may say how much.
        adaptive = Controls(mode=None if effort else "auto")
        return found | {
            "thinking.type": adaptive if thinking.type == "adaptive" else read_switch(thinking.type == "enabled"),
            "thinking.budget_tokens": Controls(thinking_budget=thinking.budget_tokens),
        }


class MessagesCall(CountCall):
    """A call of /v1/messages."""

    max_tokens: Positive
    stop_sequences: Annotated[list[Stop], Field(max_length=MAX_STOPS)] = []
    stream: bool = False
    temperature: Temperature | None = None
    top_p: TopP | None = None


def read_request(call: CountCall, name: str, **sampling: Any) -> GenerationRequest:
    """Return what a call requests of the model of this name; raises CallError where that cannot be.

    Turns in a row of one role are one turn, its parts separated by a blank line; so are the parts of the system prompt.
    """
    system = "\n\n".join(part.text for part in call.system)
    messages = [Message("system", system)] if system else []
    for role, turns in groupby(call.messages, key=lambda turn: turn.role):
        messages.append(Message(role, "\n\n".join(turn.text for turn in turns)))
    return make_request(check_prompt(messages), call.read_controls(name), **sampling)


class MessagesExchange(BlockExchange):
    """A call of /v1/messages."""

    keep_alive = write_event({"type": "ping"}, "ping")

    def __init__(self, call: MessagesCall, name: str) -> None:
        request = read_request(
            call,
            name,
            max_tokens=call.max_tokens,
            temperature=call.temperature,
            top_p=call.top_p,
            stops=tuple(call.stop_sequences),
            stream=call.stream,
        )
        super().__init__(request)
        self.model = call.model
        self.shows = not (call.thinking and call.thinking.display == "omitted")
        self.id = f"msg_{request.id}"

    def write(self, decided: Decided, ended: Sequence[Ended]) -> dict[str, Any]:
        """See `Exchange`."""
        [one] = ended
        content = [self.write_block(part, text) for part, text in list_blocks(one.response)]
        usage = write_usage(count_usage(decided, ended))
        return self.write_message(content, usage) | write_stop(one) | {"x_think": describe_decision(decided, ended)}

    def write_message(self, content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        """Return a message that has not ended."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def write_block(self, part: Part, text: str, signature: str = SIGNATURE) -> dict[str, Any]:
        """Return a content block; thinking that the call wants to be omitted is empty."""
        if part is Part.ANSWER:
            return {"type": "text", "text": text}
        return {"type": "thinking", "thinking": text if self.shows else "", "signature": signature}

    def write_block_event(self, kind: str, **fields: Any) -> str:
        """Return an event about the open block."""
        name = f"content_block_{kind}"
        return write_event({"type": name, "index": self.index} | fields, name)

    def start(self, decided: Decided) -> Iterator[str]:
        """See `BlockExchange`."""
        message = self.write_message([], write_usage(count_usage(decided, [])))
        message["x_think"] = describe_decision(decided)
        yield write_event({"type": "message_start", "message": message}, "message_start")

    def open_block(self, part: Part) -> Iterator[str]:
        """See `BlockExchange`."""
        yield self.write_block_event("start", content_block=self.write_block(part, "", ""))

    def write_delta(self, part: Part, text: str) -> Iterator[str]:
        """See `BlockExchange`."""
        if part is Part.ANSWER:
            yield self.write_block_event("delta", delta={"type": "text_delta", "text": text})
        elif self.shows:
            yield self.write_block_event("delta", delta={"type": "thinking_delta", "thinking": text})

    def close_block(self, part: Part, *, whole: bool) -> Iterator[str]:
        """See `BlockExchange`."""
        if part is Part.THINKING:
            yield self.write_block_event("delta", delta={"type": "signature_delta", "signature": SIGNATURE})
        yield self.write_block_event("stop")

    def finish(self, decided: Decided, ended: Ended) -> Iterator[str]:
        """See `BlockExchange`."""
        delta = {
            "type": "message_delta",
            "delta": write_stop(ended),
            "usage": write_usage(count_usage(decided, [ended])),
            "x_think": describe_decision(decided, [ended]),
        }
        yield write_event(delta, "message_delta")
        yield write_event({"type": "message_stop"}, "message_stop")

    def fail_stream(self, error: CallError) -> Iterator[str]:
        """See `Exchange`."""
        yield write_event(write_error(error), "error")


def write_stop(ended: Ended) -> dict[str, Any]:
    """Return why a message ended."""
    reason = "stop_sequence" if ended.stop else "end_turn" if ended.response.finished else "max_tokens"
    return {"stop_reason": reason, "stop_sequence": ended.stop}


def write_usage(usage: Usage) -> dict[str, Any]:
    """Return token counts in Anthropic's format."""
    return {
        "input_tokens": usage.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.thinking_tokens},
    }
