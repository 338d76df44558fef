"""Ollama's dialect: /api/chat and /api/generate, whose streams are lines of JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Field

from adaptthink.modes import Message
from adaptthink.serving.calls import (
    AnyCall,
    Parameters,
    Stops,
    Temperature,
    TopP,
    check_prompt,
    make_request,
    read_call,
)
from adaptthink.serving.controls import Controls, Effort, read_switch
from adaptthink.serving.generation import (
    CallError,
    Decided,
    Delta,
    Dialect,
    Ended,
    Event,
    GenerationRequest,
    Part,
    count_usage,
    describe_decision,
    write_json,
)

VERSION = "0.12.0"  # of Ollama, whose API we follow; clients want some least version


def make_dialects(name: str) -> list[Dialect]:
    """Return the two routes for a model of this name."""

    def read_chat(body: bytes) -> ChatExchange:
        call = read_call(ChatCall, body)
        messages = [Message(turn.role, turn.content) for turn in call.messages]
        return ChatExchange(call, call.read_request(check_prompt(messages), name))

    def read_text(body: bytes) -> TextExchange:
        call = read_call(GenerateCall, body)
        return TextExchange(call, call.read_request(call.read_prompt(), name))

    return [Dialect("/api/chat", read_chat, call=ChatCall), Dialect("/api/generate", read_text, call=GenerateCall)]


def write_error(error: CallError) -> dict[str, Any]:
    """Return an error in Ollama's format."""
    return {"error": str(error)}


class _Turn(Parameters):
    """A message; thinking of earlier answers is left out of the prompt."""

    harmless = frozenset({"thinking"})
    neutral = {"images": ([],), "tool_calls": ([],), "tool_name": ("",)}

    role: Literal["system", "user", "assistant"]
    content: str = ""


class _Options(Parameters):
    # How Ollama would load the model and keep its context, and details of what must be switched off anyway.
    harmless = frozenset(
        {
            *("embedding_only", "f16_kv", "logits_all", "low_vram", "main_gpu", "num_batch", "num_ctx", "num_gpu"),
            *("num_keep", "num_thread", "numa", "use_mlock", "use_mmap", "vocab_only"),
            *("mirostat_eta", "mirostat_tau", "penalize_newline", "repeat_last_n"),
        }
    )
    neutral = {
        "frequency_penalty": (0,),
        "min_p": (0,),
        "mirostat": (0,),
        "num_predict": (-1, -2),  # as many as there is room for
        "presence_penalty": (0,),
        "repeat_penalty": (1,),
        "tfs_z": (1,),
        "top_k": (0, -1),
        "typical_p": (1,),
    }

    num_predict: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    stop: Stops = []
    temperature: Temperature | None = None
    top_p: TopP | None = None


Name = Annotated[str, AfterValidator(lambda name: name.removesuffix(":latest"))]  # which some clients add


class ShowCall(Parameters):
    """A call of /api/show."""

    harmless = frozenset({"verbose"})
    neutral = {"options": ({},), "system": ("",), "template": ("",)}

    model: Annotated[Name, Field(validation_alias=AliasChoices("model", "name"))]  # `name` is the older one


class Call(AnyCall):
    """The parameters of both kinds of call."""

    harmless = frozenset({"keep_alive"})  # our model stays loaded
    neutral = {
        "context": ([],),
        "format": ("",),
        "images": ([],),
        "logprobs": (False,),
        "suffix": ("",),
        "template": ("",),
        "tools": ([],),
        "top_logprobs": (0,),
    }

    model: Name
    options: _Options = _Options()
    stream: bool = True
    think: Literal[True, False, Effort] | None = None

    def read_controls(self, name: str) -> dict[str, Controls]:
        """See `AnyCall`."""
        think = Controls(effort=self.think) if isinstance(self.think, str) else read_switch(self.think)
        return super().read_controls(name) | {"think": think}

    def read_request(self, prompt: tuple[Message, ...] | str, name: str) -> GenerationRequest:
        """Return what is requested of the model of this name; raises CallError where that cannot be."""
        return make_request(
            prompt,
            self.read_controls(name),
            max_tokens=self.options.num_predict,
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            seed=self.options.seed,
            stops=tuple(self.options.stop),
            stream=self.stream,
        )


class ChatCall(Call):
    """A call of /api/chat."""

    messages: Annotated[list[_Turn], Field(min_length=1)]


class GenerateCall(Call):
    """A call of /api/generate."""

    prompt: Annotated[str, Field(min_length=1)]
    system: str = ""
    raw: bool = False

    def read_prompt(self) -> tuple[Message, ...] | str:
        """Return a conversation of one turn; of a raw call, the text to continue as it is."""
        if self.raw and self.system:
            raise CallError("a raw prompt is continued as it is; put the system prompt into it", param="system")
        system = [Message("system", self.system)] if self.system else []
        return self.prompt if self.raw else (*system, Message("user", self.prompt))


class _Exchange:
    media_type = "application/x-ndjson"
    keep_alive = ""  # a line would be an event

    def __init__(self, call: Call, request: GenerationRequest) -> None:
        self.model, self.request = call.model, request
        self.began = time.monotonic()
        self.decided: Decided | None = None

    def write_texts(self, thinking: str | None, answer: str) -> dict[str, Any]:
        """Return the fields for thinking and answer."""
        raise NotImplementedError

    def write_part(self, thinking: str | None, answer: str, **others: Any) -> dict[str, Any]:
        """Return a part of the answer."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return {"model": self.model, "created_at": now} | self.write_texts(thinking, answer) | {"done": False} | others

    def write_end(self, decided: Decided, ended: Ended) -> dict[str, Any]:
        """Return the fields that end an answer; durations are in nanoseconds."""
        now, usage = time.monotonic(), count_usage(decided, [ended])
        return {
            "done": True,
            "done_reason": ended.response.finish,
            "total_duration": count_nanoseconds(self.began, now),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": count_nanoseconds(self.began, decided.at),
            "eval_count": usage.completion_tokens,
            "eval_duration": count_nanoseconds(decided.at, now),
            "thinking_count": usage.thinking_tokens,  # ours: of eval_count
            "x_think": describe_decision(decided, [ended]),
        }

    def write(self, decided: Decided, ended: Sequence[Ended]) -> dict[str, Any]:
        """See `Exchange`."""
        [one] = ended
        return self.write_part(one.response.thinking, one.response.answer or "", **self.write_end(decided, one))

    def stream(self, event: Event) -> Iterator[str]:
        """See `Exchange`."""
        if isinstance(event, Decided):
            self.decided = event
            part = self.write_part(None, "", x_think=describe_decision(event))
        elif isinstance(event, Delta):
            thinks = event.part is Part.THINKING
            part = self.write_part(event.text if thinks else None, "" if thinks else event.text)
        else:
            assert self.decided
            part = self.write_part(None, "", **self.write_end(self.decided, event))
        yield write_line(part)

    def end_stream(self) -> Iterator[str]:
        """See `Exchange`."""
        yield from ()

    def fail_stream(self, error: CallError) -> Iterator[str]:
        """See `Exchange`."""
        yield write_line(write_error(error))


class ChatExchange(_Exchange):
    """A call of /api/chat."""

    def write_texts(self, thinking: str | None, answer: str) -> dict[str, Any]:
        """See `_Exchange`."""
        message = {"role": "assistant", "content": answer} | ({} if thinking is None else {"thinking": thinking})
        return {"message": message}


class TextExchange(_Exchange):
    """A call of /api/generate."""

    def write_texts(self, thinking: str | None, answer: str) -> dict[str, Any]:
        """See `_Exchange`."""
        return {"response": answer} | ({} if thinking is None else {"thinking": thinking})


def write_line(content: dict[str, Any]) -> str:
    """Return one line of a stream."""
    return write_json(content) + "\n"


def count_nanoseconds(start: float, end: float) -> int:
    """Return the time between two readings of the clock in seconds."""
    return max(0, round((end - start) * 1e9))
