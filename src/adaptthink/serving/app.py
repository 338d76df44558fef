"""The routes: calls in, requests to the worker, OpenAI-style answers out.

Text and tokens meet here, on the event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from adaptthink.config.schema import ServeConfig
from adaptthink.engines.base import Completion, NonFiniteError
from adaptthink.errors import UserError
from adaptthink.modes import Mode, ThinkTemplate, encode, encode_prompt, encode_rendered, is_rendered
from adaptthink.sampling import reading
from adaptthink.sampling.reading import apply_stops, cut_at, decode, drop_end, join_response, read_response
from adaptthink.sampling.requests import MaxTokens, make_seed
from adaptthink.sampling.responses import PromptCompletions, PromptRequest
from adaptthink.serving.calls import MODES, Call, CallError, ChatCall, TextCall, read_call, read_mode
from adaptthink.serving.worker import Worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """The model that is served, under the name that clients know it by."""

    name: str
    tokenizer: Any
    template: ThinkTemplate
    context_tokens: int | None  # maximum of prompt and response together
    threshold: float | None


def make_app(served: Served, worker: Worker, config: ServeConfig) -> Starlette:
    """Return the application; it starts the worker and stops it at its end."""
    created = int(time.time())

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(_: Request) -> Response:
        names = [served.name, *(served.name + ending for ending in MODES)]
        listed = [{"id": name, "object": "model", "created": created, "owned_by": "adaptthink"} for name in names]
        return JSONResponse({"object": "list", "data": listed})

    async def chat(request: Request) -> Response:
        call = read_call(ChatCall, await request.body())
        mode = read_mode(call, served.name)
        if call.messages[-1].role != "user":
            raise CallError("the last message must be the user's: an answer cannot be continued", param="messages")
        prompt = encode_prompt(served.tokenizer, served.template, [turn.message for turn in call.messages])
        max_tokens = call.max_completion_tokens or call.max_tokens
        wanted = make_prompt_request(served, config, call, prompt, mode, max_tokens, threshold=served.threshold)
        done = await asyncio.wrap_future(worker.submit(wanted))
        responses = [
            apply_stops(read_response(served.tokenizer, served.template, completion), call.stops)
            for completion in done.completions
        ]
        as_pair = (call.reasoning_format or config.reasoning_format) == "inline"
        messages = [make_message(served, prompt, response, as_pair=as_pair) for response in responses]
        finishes = [str(response.finish) for response in responses]
        head = make_head("chatcmpl", call)
        usage = count_usage(done, prompt) | {
            "completion_tokens_details": {"reasoning_tokens": sum(response.thinking_tokens for response in responses)}
        }
        extra = {"adaptthink": make_decision(wanted, done)}
        if call.stream:
            pieces = make_chunks(messages, [response.mode for response in responses], finishes)
            return make_stream(head | {"object": "chat.completion.chunk"} | extra, pieces, usage, call)
        choices = [
            {"index": index, "message": message, "mode": response.mode, "finish_reason": finish, "logprobs": None}
            for index, (message, response, finish) in enumerate(zip(messages, responses, finishes, strict=True))
        ]
        return JSONResponse(head | {"object": "chat.completion", "choices": choices, "usage": usage} | extra)

    async def text(request: Request) -> Response:
        call = read_call(TextCall, await request.body())
        mode = read_mode(call, served.name)
        decides = is_rendered(served.tokenizer, served.template, call.prompt)
        if mode and not decides:
            raise CallError(
                "the prompt does not end as the chat template's prompts do, so there is no mode to choose; send "
                f"messages to /v1/chat/completions, or request the model '{served.name}'",
                param="model",
                code="invalid_value",
            )
        read = encode_rendered(served.tokenizer, served.template, call.prompt) if decides else None
        prompt = read or encode(served.tokenizer, call.prompt)
        threshold = served.threshold if decides else None
        wanted = make_prompt_request(served, config, call, prompt, mode, call.max_tokens, threshold=threshold)
        done = await asyncio.wrap_future(worker.submit(wanted))
        forced = len(served.template.no_think_prefix_ids) if done.decision.mode is Mode.NO_THINK else 0
        written = [read_plain_text(served.tokenizer, completion, forced, call.stops) for completion in done.completions]
        head = make_head("cmpl", call) | {"object": "text_completion", "adaptthink": make_decision(wanted, done)}
        usage = count_usage(done, prompt)
        choices = [
            {"index": index, "text": text, "finish_reason": finish, "logprobs": None}
            for index, (text, finish) in enumerate(written)
        ]
        if call.stream:
            return make_stream(head, choices, usage, call)
        return JSONResponse(head | {"choices": choices, "usage": usage})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.close)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", text, methods=["POST"]),
        ],
        exception_handlers={NonFiniteError: report_model, UserError: refuse, HTTPException: refuse, Exception: fail},
        lifespan=lifespan,
    )


def make_prompt_request(
    served: Served,
    config: ServeConfig,
    call: Call,
    prompt: tuple[int, ...],
    mode: Mode | None,
    max_tokens: int | None,
    *,
    threshold: float | None,
) -> PromptRequest:
    """Return the request to the worker; raises CallError for a prompt that leaves no context for a response."""
    limit = max_tokens or max(config.max_think_tokens, config.max_no_think_tokens)
    if served.context_tokens is not None:
        left = served.context_tokens - len(prompt)
        if left <= len(served.template.no_think_prefix_ids):
            raise CallError(
                f"the prompt has {len(prompt)} tokens, which leaves no tokens for a response in the model's context "
                f"of {served.context_tokens}; shorten it",
                code="context_length_exceeded",
            )
        limit = min(limit, left)
    seed = secrets.randbits(63) if call.seed is None else call.seed
    return PromptRequest(
        prompt_ids=prompt,
        streams=tuple(make_seed(seed, "choice", index) for index in range(call.n)),
        max_tokens=MaxTokens(min(limit, config.max_think_tokens), min(limit, config.max_no_think_tokens)),
        mode=mode,
        threshold=None if mode else threshold,
        force_think=config.force_think,
        temperature=config.temperature if call.temperature is None else call.temperature,
        top_p=config.top_p if call.top_p is None else call.top_p,
    )


def make_message(served: Served, prompt: Sequence[int], response: reading.Response, *, as_pair: bool) -> dict[str, Any]:
    """Return a response as a message, the thinking in both fields that clients read, or within the content."""
    if as_pair:
        text = join_response(response, served.template, decode(served.tokenizer, prompt))
        return {"role": "assistant", "content": text}
    thinking = response.thinking.strip() if response.thinking else None
    return {"role": "assistant", "content": response.answer, "reasoning": thinking, "reasoning_content": thinking}


def read_plain_text(tokenizer: Any, completion: Completion, forced: int, stops: Sequence[str]) -> tuple[str, str]:
    """Return a completion's text behind its forced tokens, up to a stop text, and its finish reason."""
    written = decode(tokenizer, drop_end(completion)[forced:])
    text = cut_at(written, stops)
    return text, str(completion.finish) if text == written else "stop"


def make_head(kind: str, call: Call) -> dict[str, Any]:
    """Return the fields that every answer begins with."""
    return {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": call.model}


def make_decision(request: PromptRequest, done: PromptCompletions) -> dict[str, Any]:
    """Return how the mode was decided; "auto": the model sampled it, and each choice has its own."""
    return {
        "mode": done.decision.mode or "auto",
        "no_think_probability": done.decision.no_think_probability,
        "threshold": request.threshold,
    }


def count_usage(done: PromptCompletions, prompt: Sequence[int]) -> dict[str, Any]:
    """Return token counts; forced tokens belong to the response, as they do where the model chose the mode itself."""
    completed = sum(len(completion.token_ids) for completion in done.completions)
    return {"prompt_tokens": len(prompt), "completion_tokens": completed, "total_tokens": len(prompt) + completed}


def make_chunks(
    messages: Sequence[dict[str, Any]], modes: Sequence[Mode], finishes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield each message as deltas: the role, the thinking, the answer, the finish reason."""
    for index, (message, mode, finish) in enumerate(zip(messages, modes, finishes, strict=True)):
        thinking = {name: text for name, text in message.items() if name.startswith("reasoning") and text}
        deltas = [{"role": "assistant"}, thinking, {"content": message["content"]} if message["content"] else {}]
        for delta in filter(None, deltas):
            yield {"index": index, "delta": delta, "finish_reason": None}
        yield {"index": index, "delta": {}, "mode": mode, "finish_reason": finish}


def make_stream(head: dict[str, Any], pieces: Any, usage: dict[str, Any], call: Call) -> Response:
    """Return an answer as server-sent events; it is complete before the first one is sent."""

    def events() -> Iterator[str]:
        for piece in pieces:
            yield f"data: {json.dumps(head | {'choices': [piece]}, ensure_ascii=False)}\n\n"
        if call.stream_options.include_usage:
            yield f"data: {json.dumps(head | {'choices': [], 'usage': usage}, ensure_ascii=False)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def refuse(_: Request, error: Exception) -> Response:
    """Return bad input as an error in OpenAI's format."""
    if isinstance(error, HTTPException):
        return make_error(error.status_code, f"{error.detail}; see docs/serving.md for the routes")
    if isinstance(error, CallError):
        return make_error(error.status, str(error), error.param, error.code)
    return make_error(400, str(error))


async def report_model(_: Request, error: Exception) -> Response:
    """Return a fault of the model, which no other call would get around; the server's log has it too."""
    logger.error("%s", error)
    return make_error(500, str(error), kind="server_error")


async def fail(_: Request, error: Exception) -> Response:
    """Return an internal error; the server's log has the traceback."""
    return make_error(500, f"the server failed ({type(error).__name__}); see its log", kind="server_error")


def make_error(
    status: int, message: str, param: str | None = None, code: str | None = None, kind: str = "invalid_request_error"
) -> Response:
    """Return an error in OpenAI's format."""
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)
