"""OpenAI's newer dialect: /v1/responses, whose answers and streams are lists of items."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from adaptthink.serving.calls import read_call
from adaptthink.serving.dialects.blocks import BlockExchange, list_blocks, write_event
from adaptthink.serving.dialects.responses_calls import ResponsesCall, read_request
from adaptthink.serving.generation import (
    CallError,
    Decided,
    Dialect,
    Ended,
    Part,
    count_usage,
    describe_decision,
)


def make_dialects(name: str) -> list[Dialect]:
    """Return the route for a model of this name."""

    def read(body: bytes) -> ResponsesExchange:
        return ResponsesExchange(read_call(ResponsesCall, body), name)

    return [Dialect("/v1/responses", read, call=ResponsesCall)]


class ResponsesExchange(BlockExchange):
    """A call of /v1/responses. The thought is reasoning text, or the summary where the call asks for one."""

    def __init__(self, call: ResponsesCall, name: str) -> None:
        super().__init__(read_request(call, name))
        self.call = call
        self.summarises = bool(call.reasoning.summary or call.reasoning.generate_summary)
        self.created = int(time.time())
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
            "id": f"resp_{self.request.id}",
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
