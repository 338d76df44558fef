"""OpenAI's newer dialect: /v1/responses, whose answers and streams are lists of items."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Tag

from adaptthink.config.schema import Positive
from adaptthink.modes import Message
from adaptthink.serving.calls import (
    HARMLESS,
    AnyCall,
    Parameters,
    Temperature,
    TopP,
    check_prompt,
    make_request,
    read_call,
)
from adaptthink.serving.controls import Controls, Effort
from adaptthink.serving.dialects.blocks import BlockExchange, list_blocks, write_event
from adaptthink.serving.generation import (
    CallError,
    Decided,
    Dialect,
    Ended,
    GenerationRequest,
    Part,
    count_usage,
    describe_decision,
)


def make_dialects(name: str) -> list[Dialect]:
    """Return the route for a model of this name."""
    return [Dialect("/v1/responses", lambda body: ResponsesExchange(read_call(ResponsesCall, body), name))]


class _Part(Parameters):
    harmless = frozenset({"annotations", "logprobs"})

    type: Literal["input_text", "output_text", "text"]
    text: str


class _Message(Parameters):
    harmless = frozenset({"id", "phase", "status"})

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[_Part], BeforeValidator(lambda text: [{"type": "text", "text": text}] if isinstance(text, str) else text)
    ]


class _Thought(Parameters):
    """A reasoning item of an earlier answer, which is left out of the prompt."""

    harmless = frozenset({"content", "encrypted_content", "id", "status", "summary"})

    type: Literal["reasoning"]


def _find_type(item: Any) -> str:
    return str(item.get("type") or "message") if isinstance(item, dict) else ""


_Item = Annotated[
    Annotated[_Message, Tag("message")] | Annotated[_Thought, Tag("reasoning")], Discriminator(_find_type)
]


class _Reasoning(Parameters):
    neutral = {"context": ("auto", "current_turn"), "mode": ("standard",)}

    effort: Effort | None = None
    summary: Literal["auto", "detailed"] | None = None
    generate_summary: Literal["auto", "detailed"] | None = None  # its older name


class _TextFormat(Parameters):
    neutral = {"format": ({"type": "text"},), "verbosity": ("medium",)}


class _StreamOptions(Parameters):
    harmless = frozenset({"include_obfuscation"})  # pads events to hide their lengths: ours are never padded


class ResponsesCall(AnyCall):
    """A call of /v1/responses."""

    harmless = (HARMLESS | {"max_tool_calls", "prompt_cache_options"}) - {"metadata"}
    neutral = {
        "background": (False,),
        "parallel_tool_calls": (False, True),  # without tools
        "tool_choice": ("none", "auto"),  # without tools
        "tools": ([],),
        "top_logprobs": (0,),
        "truncation": ("disabled",),
    }

    input: Annotated[
        list[_Item],
        BeforeValidator(lambda text: [{"role": "user", "content": text}] if isinstance(text, str) else text),
    ]
    instructions: str | None = None
    max_output_tokens: Positive | None = None
    metadata: dict[str, str] = {}  # is given back
    reasoning: _Reasoning = _Reasoning()
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    temperature: Temperature | None = None
    text: _TextFormat = _TextFormat()
    top_p: TopP | None = None
    # What these may ask for beside log-probabilities belongs to tools, or is given anyway.
    include: list[
        Literal[
            "code_interpreter_call.outputs",
            "computer_call_output.output.image_url",
            "file_search_call.results",
            "message.input_image.image_url",
            "reasoning.encrypted_content",
            "web_search_call.action.sources",
        ]
    ] = []
    previous_response_id: Any = None
    conversation: Any = None

    def read_controls(self, name: str) -> dict[str, Controls]:
        """See `AnyCall`."""
        return super().read_controls(name) | {"reasoning.effort": Controls(effort=self.reasoning.effort)}


def read_request(call: ResponsesCall, name: str) -> GenerationRequest:
    """Return what a call requests of the model of this name; raises CallError where that cannot be."""
    for param in ("previous_response_id", "conversation"):
        if getattr(call, param) is not None:
            message = f"'{param}' is not supported, as the server stores nothing; send the earlier turns in 'input'"
            raise CallError(message, param=param, code="unsupported_parameter")
    messages = [Message("system", call.instructions)] if call.instructions else []
    messages += [
        Message(item.role, "".join(part.text for part in item.content))
        for item in call.input
        if isinstance(item, _Message)
    ]
    return make_request(
        check_prompt(messages, "input"),
        call.read_controls(name),
        max_tokens=call.max_output_tokens,
        temperature=call.temperature,
        top_p=call.top_p,
        stream=call.stream,
    )


class ResponsesExchange(BlockExchange):
    """A call of /v1/responses. The thought is reasoning text, or the summary where the call asks for one."""

    def __init__(self, call: ResponsesCall, name: str) -> None:
        super().__init__(read_request(call, name))
        self.call = call
        self.summarises = bool(call.reasoning.summary or call.reasoning.generate_summary)
        self.id, self.created = uuid.uuid4().hex, int(time.time())
        self.events = 0
        self.item_id = ""  # of the item that is open
        self.output: list[dict[str, Any]] = []  # items that are closed

    def write(self, decided: Decided, ended: Sequence[Ended]) -> dict[str, Any]:
        """See `Exchange`."""
        [one] = ended
        blocks = list_blocks(one.response)
        for part, text in blocks:
            self.item_id = make_item_id(part)
            last = part is blocks[-1][0]
            self.output.append(
                self.write_item(part, text, "completed" if one.response.finished or not last else "incomplete")
            )
        return self.write_response(decided, one)

    def write_response(
        self, decided: Decided | None, ended: Ended | None = None, error: CallError | None = None
    ) -> dict[str, Any]:
        """Return the response as far as it is known."""
        call, status = self.call, "failed" if error else "in_progress"
        if ended:
            status = "completed" if ended.response.finished else "incomplete"
        usage = None
        if decided and ended:
            count = count_usage(decided, [ended])
            usage = {
                "input_tokens": count.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": count.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": count.thinking_tokens},
                "total_tokens": count.prompt_tokens + count.completion_tokens,
            }
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": {"code": "server_error", "message": str(error)} if error else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": call.instructions,
            "max_output_tokens": call.max_output_tokens,
            "metadata": call.metadata,
            "model": call.model,
            "output": list(self.output),
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": call.reasoning.effort, "summary": call.reasoning.summary},
            "store": False,
            "temperature": call.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": call.top_p,
            "truncation": "disabled",
            "usage": usage,
            "x_think": decided and describe_decision(decided, [ended] if ended else ()),
        }

    def write_item(self, part: Part, text: str, status: str) -> dict[str, Any]:
        """Return the item of a block; while it is in progress it has no content."""
        parts = [] if status == "in_progress" else [self.write_part(part, text)]
        item: dict[str, Any] = {"id": self.item_id, "status": status}
        if part is Part.ANSWER:
            return item | {"type": "message", "role": "assistant", "content": parts}
        summary, content = (parts, []) if self.summarises else ([], parts)
        return item | {"type": "reasoning", "summary": summary, "content": content}

    def write_part(self, part: Part, text: str) -> dict[str, Any]:
        """Return the only part of an item."""
        if part is Part.ANSWER:
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "summary_text" if self.summarises else "reasoning_text", "text": text}

    def write_event(self, name: str, **fields: Any) -> str:
        """Return one event of a stream."""
        event = {"type": name, "sequence_number": self.events} | fields
        self.events += 1
        return write_event(event, name)

    def write_part_event(self, of: Part, names: tuple[str, str], **fields: Any) -> str:
        """Return an event about the open item's part; of two names the second one is a summary's."""
        summary = of is Part.THINKING and self.summarises
        place = {
            "item_id": self.item_id,
            "output_index": self.index,
            "summary_index" if summary else "content_index": 0,
        }
        return self.write_event(names[summary], **place, **fields)

    def start(self, decided: Decided) -> Iterator[str]:
        """See `BlockExchange`."""
        yield self.write_event("response.created", response=self.write_response(decided))
        yield self.write_event("response.in_progress", response=self.write_response(decided))

    def open_block(self, part: Part) -> Iterator[str]:
        """See `BlockExchange`."""
        self.item_id = make_item_id(part)
        item = self.write_item(part, "", "in_progress")
        yield self.write_event("response.output_item.added", output_index=self.index, item=item)
        names = ("response.content_part.added", "response.reasoning_summary_part.added")
        yield self.write_part_event(part, names, part=self.write_part(part, ""))

    def write_delta(self, part: Part, text: str) -> Iterator[str]:
        """See `BlockExchange`."""
        yield self._write_text_event(part, "delta", {"delta": text})

    def close_block(self, part: Part, *, whole: bool) -> Iterator[str]:
        """See `BlockExchange`."""
        yield self._write_text_event(part, "done", {"text": self.text})
        names = ("response.content_part.done", "response.reasoning_summary_part.done")
        yield self.write_part_event(part, names, part=self.write_part(part, self.text))
        item = self.write_item(part, self.text, "completed" if whole else "incomplete")
        self.output.append(item)
        yield self.write_event("response.output_item.done", output_index=self.index, item=item)

    def _write_text_event(self, part: Part, kind: str, fields: dict[str, Any]) -> str:
        if part is Part.ANSWER:
            name = f"response.output_text.{kind}"
            return self.write_part_event(part, (name, name), **fields, logprobs=[])
        names = (f"response.reasoning_text.{kind}", f"response.reasoning_summary_text.{kind}")
        return self.write_part_event(part, names, **fields)

    def finish(self, decided: Decided, ended: Ended) -> Iterator[str]:
        """See `BlockExchange`."""
        response = self.write_response(decided, ended)
        yield self.write_event(f"response.{response['status']}", response=response)

    def fail_stream(self, error: CallError) -> Iterator[str]:
        """See `Exchange`."""
        yield self.write_event("response.failed", response=self.write_response(self.decided, error=error))


def make_item_id(part: Part) -> str:
    """Return a new id, by which clients tell the kind of item."""
    return f"{'msg' if part is Part.ANSWER else 'rs'}_{uuid.uuid4().hex}"
