"""The routes: calls in, asks to the worker, OpenAI-style answers out. Text and tokens meet here, on the event loop."""

from __future__ import annotations

import asyncio
import json
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
from adaptthink.engines.base import Completion
from adaptthink.errors import UserError
from adaptthink.modes import Mode, ThinkTemplate, encode, is_rendered, prompt_ids, rendered_ids
from adaptthink.sampling.responses import Answer, Ask, Reply, cut, inline, read_reply, without_end
from adaptthink.sampling.sampler import MaxTokens, stream_seed
from adaptthink.serve.calls import MODES, Call, CallError, ChatCall, TextCall, asked_mode, read_call
from adaptthink.serve.worker import Worker


@dataclass(frozen=True, slots=True)
class Served:
    """The model that is served, under the name that clients know it by."""

    name: str
    tokenizer: Any
    template: ThinkTemplate
    context_tokens: int | None  # that prompt and response may have together
    threshold: float | None


def make_app(served: Served, worker: Worker, config: ServeConfig) -> Starlette:
    """Return the application; the worker runs as long as it does."""
    created = int(time.time())

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(_: Request) -> Response:
        names = [served.name, *(served.name + ending for ending in MODES)]
        listed = [{"id": name, "object": "model", "created": created, "owned_by": "adaptthink"} for name in names]
        return JSONResponse({"object": "list", "data": listed})

    async def chat(request: Request) -> Response:
        call = read_call(ChatCall, await request.body())
        mode = asked_mode(call, served.name)
        if call.messages[-1].role != "user":
            raise CallError("the last message must be the user's: no answer is begun for the model", param="messages")
        prompt = prompt_ids(served.tokenizer, served.template, [turn.message for turn in call.messages])
        max_tokens = call.max_completion_tokens or call.max_tokens
        ask = make_ask(served, config, call, prompt, mode, max_tokens, threshold=served.threshold)
        answer = await asyncio.wrap_future(worker.submit(ask))
        replies = [
            read_reply(served.tokenizer, served.template, completion, forced=answer.forced, stops=call.stops)
            for completion in answer.completions
        ]
        as_pair = (call.reasoning_format or config.reasoning_format) == "inline"
        messages = [message_of(served, prompt, reply, as_pair=as_pair) for reply in replies]
        finishes = [str(reply.finish) for reply in replies]
        head = head_of("chatcmpl", call)
        usage = usage_of(answer, prompt) | {
            "completion_tokens_details": {"reasoning_tokens": sum(reply.thinking_tokens for reply in replies)}
        }
        extra = {"adaptthink": decision_of(ask, answer)}
        if call.stream:
            pieces = chat_pieces(messages, [reply.mode for reply in replies], finishes)
            return stream(head | {"object": "chat.completion.chunk"} | extra, pieces, usage, call)
        choices = [
            {"index": index, "message": message, "mode": reply.mode, "finish_reason": finish, "logprobs": None}
            for index, (message, reply, finish) in enumerate(zip(messages, replies, finishes, strict=True))
        ]
        return JSONResponse(head | {"object": "chat.completion", "choices": choices, "usage": usage} | extra)

    async def text(request: Request) -> Response:
        call = read_call(TextCall, await request.body())
        mode = asked_mode(call, served.name)
        decides = is_rendered(served.tokenizer, served.template, call.prompt)
        if mode and not decides:
            raise CallError(
                "the prompt does not end as the chat template's prompts do, so there is no mode to choose; send "
                f"messages to /v1/chat/completions, or ask for the model '{served.name}'",
                param="model",
                code="invalid_value",
            )
        read = rendered_ids(served.tokenizer, served.template, call.prompt) if decides else None
        prompt = read or encode(served.tokenizer, call.prompt)
        threshold = served.threshold if decides else None
        ask = make_ask(served, config, call, prompt, mode, call.max_tokens, threshold=threshold)
        answer = await asyncio.wrap_future(worker.submit(ask))
        written = [
            read_text(served.tokenizer, completion, answer.forced, call.stops) for completion in answer.completions
        ]
        head = head_of("cmpl", call) | {"object": "text_completion", "adaptthink": decision_of(ask, answer)}
        usage = usage_of(answer, prompt)
        choices = [
            {"index": index, "text": text, "finish_reason": finish, "logprobs": None}
            for index, (text, finish) in enumerate(written)
        ]
        if call.stream:
            return stream(head, choices, usage, call)
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
        exception_handlers={UserError: refuse, HTTPException: refuse, Exception: fail},
        lifespan=lifespan,
    )


def make_ask(
    served: Served,
    config: ServeConfig,
    call: Call,
    prompt: tuple[int, ...],
    mode: Mode | None,
    max_tokens: int | None,
    *,
    threshold: float | None,
) -> Ask:
    """Return what the worker is asked; raises CallError for a prompt that leaves no room for a response."""
    most = max_tokens or max(config.max_think_tokens, config.max_no_think_tokens)
    if served.context_tokens is not None:
        room = served.context_tokens - len(prompt) - len(served.template.no_think_prefix_ids)
        if room < 1:
            raise CallError(
                f"the prompt has {len(prompt)} tokens, which leaves no room for an answer in the "
                f"{served.context_tokens} that the model holds; shorten it",
                code="context_length_exceeded",
            )
        most = min(most, room)
    seed = secrets.randbits(63) if call.seed is None else call.seed
    return Ask(
        prompt_ids=prompt,
        streams=tuple(stream_seed(seed, "choice", index) for index in range(call.n)),
        max_tokens=MaxTokens(min(most, config.max_think_tokens), min(most, config.max_no_think_tokens)),
        mode=mode,
        threshold=None if mode else threshold,
        temperature=config.temperature if call.temperature is None else call.temperature,
        top_p=config.top_p if call.top_p is None else call.top_p,
    )


def message_of(served: Served, prompt: Sequence[int], reply: Reply, *, as_pair: bool) -> dict[str, Any]:
    """Return a reply as a message: the thought in both of the fields that clients look for, or within the content."""
    if as_pair:
        return {"role": "assistant", "content": inline(served.tokenizer, served.template, prompt, reply)}
    thinking = reply.thinking.strip() if reply.thinking else None
    return {"role": "assistant", "content": reply.answer, "reasoning": thinking, "reasoning_content": thinking}


def read_text(tokenizer: Any, completion: Completion, forced: int, stops: Sequence[str]) -> tuple[str, str]:
    """Return what was generated as it was written, up to a stop text, and why it ended."""
    written = str(tokenizer.decode(without_end(completion)[forced:], skip_special_tokens=False))
    text = cut(written, stops)
    return text, str(completion.finish) if text == written else "stop"


def head_of(kind: str, call: Call) -> dict[str, Any]:
    """Return what stands at the top of every answer."""
    return {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": call.model}


def decision_of(ask: Ask, answer: Answer) -> dict[str, Any]:
    """Say how the mode came about; "auto": the model drew it, and each choice names its own."""
    return {
        "mode": answer.decision.mode or "auto",
        "no_think_probability": answer.decision.no_think_probability,
        "threshold": ask.threshold,
    }


def usage_of(answer: Answer, prompt: Sequence[int]) -> dict[str, Any]:
    """Count tokens; forced ones are read, not generated, and so count to the prompt."""
    read = len(prompt) + answer.forced
    generated = sum(len(completion.token_ids) - answer.forced for completion in answer.completions)
    return {"prompt_tokens": read, "completion_tokens": generated, "total_tokens": read + generated}


def chat_pieces(
    messages: Sequence[dict[str, Any]], modes: Sequence[Mode], finishes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield each message as deltas: the role, the thought, the answer, the end."""
    for index, (message, mode, finish) in enumerate(zip(messages, modes, finishes, strict=True)):
        thinking = {name: text for name, text in message.items() if name.startswith("reasoning") and text}
        deltas = [{"role": "assistant"}, thinking, {"content": message["content"]} if message["content"] else {}]
        for delta in filter(None, deltas):
            yield {"index": index, "delta": delta, "finish_reason": None}
        yield {"index": index, "delta": {}, "mode": mode, "finish_reason": finish}


def stream(head: dict[str, Any], pieces: Any, usage: dict[str, Any], call: Call) -> Response:
    """Return an answer as server-sent events. It is complete before the first of them is sent."""

    def events() -> Iterator[str]:
        for piece in pieces:
            yield f"data: {json.dumps(head | {'choices': [piece]}, ensure_ascii=False)}\n\n"
        if call.stream_options.include_usage:
            yield f"data: {json.dumps(head | {'choices': [], 'usage': usage}, ensure_ascii=False)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def refuse(_: Request, error: Exception) -> Response:
    """Answer bad input in OpenAI's error format."""
    if isinstance(error, HTTPException):
        return problem(error.status_code, f"{error.detail}; see docs/serving.md for the routes")
    if isinstance(error, CallError):
        return problem(error.status, str(error), error.param, error.code)
    return problem(400, str(error))


async def fail(_: Request, error: Exception) -> Response:
    """Answer a fault of ours; the server's log has the traceback."""
    return problem(500, f"the server failed ({type(error).__name__}); see its log", kind="server_error")


def problem(
    status: int, message: str, param: str | None = None, code: str | None = None, kind: str = "invalid_request_error"
) -> Response:
    """Return an error in OpenAI's format."""
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)
