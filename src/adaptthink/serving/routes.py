"""Which routes there are: those that generate, in every dialect, those that say what there is, and errors by path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adaptthink.config.schema import ReasoningFormat
from adaptthink.serving.calls import read_call
from adaptthink.serving.dialects import anthropic, ollama, openai, responses
from adaptthink.serving.generation import CallError, Dialect
from adaptthink.serving.listing import find_model, list_models, list_tags, show_model
from adaptthink.serving.prepare import Served, encode_request

ERRORS = {"/v1/messages": anthropic.write_error, "/api/": ollama.write_error}  # by the beginning of a path


@dataclass(frozen=True, slots=True)
class Lookup:
    """A route that generates nothing: `answer` takes the body and the path's parameters, and may take long."""

    method: str
    path: str
    answer: Callable[[bytes, Mapping[str, str]], dict[str, Any]]


def make_dialects(served: Served, reasoning_format: ReasoningFormat) -> list[Dialect]:
    """Return the routes that generate; the format holds for calls of chat completions that name none."""
    return [
        *openai.make_dialects(served.name, served.template, reasoning_format),
        *responses.make_dialects(served.name),
        *anthropic.make_dialects(served.name),
        *ollama.make_dialects(served.name),
    ]


def make_lookups(offer: Callable[[], Served], created: int) -> list[Lookup]:
    """Return the other routes of the dialects. `offer` returns what is served now; it began `created` s after 1970."""

    def count_tokens(body: bytes, _: Mapping[str, str]) -> dict[str, Any]:
        served = offer()
        request = anthropic.read_request(read_call(anthropic.CountCall, body), served.name)
        prompt, _decides = encode_request(served, request)
        return {"input_tokens": len(prompt)}

    def show(body: bytes, _: Mapping[str, str]) -> dict[str, Any]:
        return show_model(offer(), created, read_call(ollama.ShowCall, body).model)

    return [
        Lookup("GET", "/v1/models", lambda *_: list_models(offer(), created)),
        Lookup("GET", "/v1/models/{name:path}", lambda _, params: find_model(offer(), created, params["name"])),
        Lookup("POST", "/v1/messages/count_tokens", count_tokens),
        Lookup("GET", "/api/tags", lambda *_: list_tags(offer(), created)),
        Lookup("POST", "/api/show", show),
        Lookup("GET", "/api/version", lambda *_: {"version": ollama.VERSION}),
    ]


def write_error(error: CallError, path: str) -> dict[str, Any]:
    """Return an error in the format of a path's dialect; OpenAI's, where it has none."""
    write = next((write for start, write in ERRORS.items() if path.startswith(start)), openai.write_error)
    return write(error)
