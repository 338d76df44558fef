"""What /v1/responses takes, OpenAI's newer call."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Tag

from adaptthink.config.schema import Positive
from adaptthink.modes import Message
from adaptthink.serving.calls import HARMLESS, AnyCall, Parameters, Temperature, TopP, check_prompt, make_request
from adaptthink.serving.controls import Controls, Effort
from adaptthink.serving.generation import CallError, GenerationRequest


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


def _check_json(values: dict[str, Any]) -> dict[str, Any]:
    """Return values of any kind; raises ValueError for NaN and infinity, which Python reads and JSON does not have."""
    json.dumps(values, allow_nan=False)
    return values


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
    metadata: Annotated[dict[str, Any], AfterValidator(_check_json)] = {}  # is given back
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
