"""OpenAI's dialect: /v1/chat/completions and /v1/completions, their answers and their streams."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from adaptthink.config.schema import ReasoningFormat
from adaptthink.modes import ThinkTemplate
from adaptthink.sampling.reading import Response
from adaptthink.serving.calls import Call, ChatCall, TextCall, read_call, read_request
from adaptthink.serving.dialects.blocks import KEEP_ALIVE, write_event
from adaptthink.serving.generation import (
    CallError,
    Decided,
    Delta,
    Dialect,
    Ended,
    Event,
    Part,
    Usage,
    count_usage,
    describe_decision,
)


def make_dialects(name: str, template: ThinkTemplate, reasoning_format: ReasoningFormat) -> list[Dialect]:
    """Return the two routes for a model of this name; the format holds for calls that name none."""

    def read_chat(body: bytes) -> ChatExchange:
        return ChatExchange(read_call(ChatCall, body), name, template, reasoning_format)

    def read_text(body: bytes) -> TextExchange:
        return TextExchange(read_call(TextCall, body), name)

    return [
        Dialect("/v1/chat/completions", read_chat, call=ChatCall),
        Dialect("/v1/completions", read_text, call=TextCall),
    ]


def write_error(error: CallError) -> dict[str, Any]:
    """Return an error in OpenAI's format."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(error.status, kind)
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


class _Exchange:
    """What both kinds of call have in common."""

    media_type = "text/event-stream"
    keep_alive = KEEP_ALIVE

    def __init__(self, call: Call, name: str, kind: str) -> None:
        self.call, self.request = call, read_request(call, name)
        self.head: dict[str, Any] = {
            "id": f"{kind}-{self.request.id}",
            "created": int(time.time()),
            "model": call.model,
        }
        self.decided: Decided | None = None
        self.ended: list[Ended] = []

    def keep(self, event: Event) -> None:
        """Keep what later parts of a stream need."""
        if isinstance(event, Decided):
            self.decided = event
            self.head["x_think"] = describe_decision(event)
        elif isinstance(event, Ended):
            self.ended.append(event)
            if self.decided and len(self.ended) == self.request.n:
                self.head["x_think"] = describe_decision(self.decided, self.ended)

    def write_chunk(self, choices: list[dict[str, Any]], **others: Any) -> str:
        """Return one chunk of a stream."""
        return write_event(self.head | {"choices": choices} | others)

    def end_stream(self) -> Iterator[str]:
        """See `Exchange`."""
        if self.decided and self.call.stream_options.include_usage:
            yield self.write_chunk([], usage=self.write_usage(count_usage(self.decided, self.ended)))
        yield "data: [DONE]\n\n"

    def fail_stream(self, error: CallError) -> Iterator[str]:
        """See `Exchange`."""
        yield write_event(write_error(error))

    def write_usage(self, usage: Usage) -> dict[str, Any]:
        """Return token counts in OpenAI's format."""
        return {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }


class ChatExchange(_Exchange):
    """A call of /v1/chat/completions."""

    def __init__(self, call: ChatCall, name: str, template: ThinkTemplate, reasoning_format: ReasoningFormat) -> None:
        super().__init__(call, name, "chatcmpl")
        self.hides = not call.read_visibility()
        self.inline = (call.reasoning_format or reasoning_format) == "inline" and not self.hides
        self.open, self.close = f"{template.open}\n", template.close
        self.thought: set[int] = set()  # choices that have some thinking
        self.answered: set[int] = set()  # choices whose thinking has ended

    def write(self, decided: Decided, ended: Sequence[Ended]) -> dict[str, Any]:
        """See `Exchange`."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant"} | self.write_message(one.response),
                "mode": one.response.mode,
                "finish_reason": one.response.finish,
                "logprobs": None,
            }
            for index, one in enumerate(ended)
        ]
        usage = self.write_usage(count_usage(decided, ended))
        answer = {"object": "chat.completion", "choices": choices, "usage": usage}
        return self.head | answer | {"x_think": describe_decision(decided, ended)}

    def write_message(self, response: Response) -> dict[str, Any]:
        """Return thinking and answer, the thinking in both fields that clients read, or within the content."""
        if not self.inline:
            thinking = None if self.hides else response.thinking
            return {"content": response.answer, "reasoning": thinking, "reasoning_content": thinking}
        text = self.open + (response.thinking or "")
        if response.answer is not None:
            text += self.write_close(thought=response.thinking is not None) + response.answer
        return {"content": text}

    def write_close(self, *, thought: bool) -> str:
        """Return what stands between thinking and answer in an inline text."""
        return ("\n" if thought else "") + self.close

    def stream(self, event: Event) -> Iterator[str]:
        """See `Exchange`."""
        self.keep(event)
        self.head["object"] = "chat.completion.chunk"
        if isinstance(event, Decided):
            start = {"content": self.open} if self.inline else {"content": ""}
            for index in range(self.request.n):
                yield self.write_delta(index, {"role": "assistant"} | start)
        elif isinstance(event, Delta):
            if not (self.hides and event.part is Part.THINKING):
                yield self.write_delta(event.index, self.write_text(event))
        else:
            response = event.response
            if self.inline and response.answer is not None and event.index not in self.answered:
                close = self.write_close(thought=event.index in self.thought)
                yield self.write_delta(event.index, {"content": close})
            yield self.write_delta(event.index, {}, finish_reason=response.finish, mode=response.mode)

    def write_text(self, event: Delta) -> dict[str, Any]:
        """Return new text as fields of a delta."""
        if event.part is Part.THINKING:
            self.thought.add(event.index)
            return (
                {"content": event.text}
                if self.inline
                else dict.fromkeys(("reasoning", "reasoning_content"), event.text)
            )
        first = event.index not in self.answered
        self.answered.add(event.index)
        close = self.write_close(thought=event.index in self.thought) if self.inline and first else ""
        return {"content": close + event.text}

    def write_delta(self, index: int, delta: dict[str, Any], **others: Any) -> str:
        """Return a chunk with one choice's delta."""
        return self.write_chunk([{"index": index, "delta": delta, "finish_reason": None} | others])

    def write_usage(self, usage: Usage) -> dict[str, Any]:
        """Return token counts with those of the thinking."""
        details = {"completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens}}
        return super().write_usage(usage) | details


class TextExchange(_Exchange):
    """A call of /v1/completions."""

    def __init__(self, call: TextCall, name: str) -> None:
        super().__init__(call, name, "cmpl")
        self.head["object"] = "text_completion"

    def write(self, decided: Decided, ended: Sequence[Ended]) -> dict[str, Any]:
        """See `Exchange`."""
        choices = [
            write_choice(index, one.response.answer or "", one.response.finish) for index, one in enumerate(ended)
        ]
        answer = {"choices": choices, "usage": self.write_usage(count_usage(decided, ended))}
        return self.head | answer | {"x_think": describe_decision(decided, ended)}

    def stream(self, event: Event) -> Iterator[str]:
        """See `Exchange`."""
        self.keep(event)
        if isinstance(event, Delta):
            yield self.write_chunk([write_choice(event.index, event.text, None)])
        elif isinstance(event, Ended):
            yield self.write_chunk([write_choice(event.index, "", event.response.finish)])


def write_choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    """Return a choice of /v1/completions."""
    return {"index": index, "text": text, "finish_reason": finish, "logprobs": None}
