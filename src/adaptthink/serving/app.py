"""The routes, the limits and the life of a request: body, job, events, answer.

Nothing that takes long runs on the event loop: bodies are parsed and encoded by a few threads, tokens are generated and
read by the worker's.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from adaptthink.config.schema import ServeConfig
from adaptthink.engines.base import NonFiniteError
from adaptthink.errors import UserError
from adaptthink.modes import Mode
from adaptthink.serving.backend import Backend, Events, Generation
from adaptthink.serving.calls import read_call
from adaptthink.serving.feedback import FeedbackCall, SharedDial, keep_stored
from adaptthink.serving.generation import CallError, Decided, Delta, Dialect, Ended, Event, Exchange
from adaptthink.serving.limits import RateLimit
from adaptthink.serving.logs import RequestLine, RequestLog
from adaptthink.serving.metrics import Metrics
from adaptthink.serving.openapi import make_document
from adaptthink.serving.prepare import Served
from adaptthink.serving.routes import Lookup, make_dialects, make_lookups, write_error
from adaptthink.serving.static import is_public, make_page_routes

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 2**20
CLIENT_SECONDS = 30.0  # for a body to come, and for a client to take what is sent
RETRY_SECONDS = 1  # of the Retry-After header, where it is not known better
QUIET_SECONDS = 15.0  # after which a stream without news gets a comment, that nothing on the way closes it
PREPARING = 2  # threads that parse and encode
LEFT = 499  # the status in the metrics for a client that left


class ClientLeftError(Exception):
    """The client closed the connection, or takes nothing."""


@dataclass(slots=True)
class State:
    """What the routes and the server share."""

    metrics: Metrics = field(default_factory=Metrics)
    waiting: int = 0  # requests that have been accepted and wait for their prompt to be read
    running: int = 0
    draining: bool = False  # newcomers are refused
    rate: RateLimit | None = None

    @property
    def open(self) -> int:
        """Requests that have been accepted and are not answered yet."""
        return self.waiting + self.running


def make_app(served: Served, backend: Backend, config: ServeConfig) -> Starlette:
    """Return the application; it starts the backend and stops it at its end. Its `state.load` is a `State`."""
    rate = RateLimit(config.requests_per_minute) if config.requests_per_minute else None
    state, online = State(rate=rate), served.online
    dialects = make_dialects(served, config.reasoning_format)
    pool = ThreadPoolExecutor(PREPARING, "adaptthink-prepare")

    async def health(_: Request) -> Response:
        fault = "draining" if state.draining else backend.fault
        return JSONResponse({"status": fault or "ok"}, 503 if fault else 200)

    async def metrics(_: Request) -> Response:
        report = await asyncio.to_thread(online.report) if online else None
        text = state.metrics.write(waiting=state.waiting, running=state.running, online=report)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(_: Request) -> Response:
        return JSONResponse(document)

    async def dial(_: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(require_online(served).describe))

    async def feedback(request: Request) -> Response:
        body = await read_body(request)
        await asyncio.to_thread(lambda: require_online(served).give_feedback(read_call(FeedbackCall, body)))
        return JSONResponse({"object": "feedback"})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        backend.start()
        storing = asyncio.create_task(keep_stored(online)) if online else None
        yield
        if storing:
            storing.cancel()
        pool.shutdown(wait=False, cancel_futures=True)
        await backend.stop()

    api = [
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
        Route("/v1/dial", dial),
        Route("/v1/feedback", feedback, methods=["POST"]),
        *(
            Route(dialect.path, Endpoint(dialect, served, backend, config, state, pool), methods=["POST"])
            for dialect in dialects
        ),
        *(
            Route(lookup.path, answer_lookup(lookup, pool), methods=[lookup.method])
            for lookup in make_lookups(lambda: backend.offer(served), int(time.time()))
        ),
    ]
    calls = {dialect.path: dialect.call for dialect in dialects}
    document = make_document(api, calls | {"/v1/feedback": FeedbackCall}, keys=bool(config.api_key))
    app = Starlette(
        routes=[*api, *make_page_routes(served.tokenizer)],
        middleware=[Middleware(RequestLog), Middleware(KeyCheck, keys=config.api_key)],
        exception_handlers={
            HTTPException: refuse,
            CallError: refuse_call,
            ClientDisconnect: let_go,
            Exception: fail,
        },
        lifespan=lifespan,
    )
    app.state.load = state
    return app


def answer_lookup(lookup: Lookup, pool: ThreadPoolExecutor) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers a route that generates nothing."""

    async def answer(request: Request) -> Response:
        try:
            body = await read_body(request)
            found = asyncio.get_running_loop().run_in_executor(pool, lookup.answer, body, request.path_params)
            return JSONResponse(await found)
        except UserError as error:
            return make_error(make_call_error(error), request.url.path)

    return answer


class KeyCheck:
    """Refuses requests without one of the keys, if there are any, on every route but the public ones."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        app: ASGIApp = self.app
        if scope["type"] == "http" and self.keys and not is_public(scope["path"]):
            headers = Request(scope).headers
            whole = headers.get("authorization", "")
            scheme, _, token = whole.partition(" ")
            given = token if scheme.lower() == "bearer" else whole, headers.get("x-api-key", "")
            # Every key is compared, in a time that does not tell how much of one was right.
            found = [sum(hmac.compare_digest(one.encode(), key.encode()) for one in given) > 0 for key in self.keys]
            if any(found):
                scope["owner"] = found.index(True)
                scope["line"].key = found.index(True) + 1
            else:
                scope["line"].error = "invalid_api_key"
                message = "no valid API key; send one as 'Authorization: Bearer KEY'"
                app = make_error(CallError(message, code="invalid_api_key", status=401), scope["path"])
        await app(scope, receive, send)


class Endpoint:
    """One dialect's route."""

    def __init__(
        self,
        dialect: Dialect,
        served: Served,
        backend: Backend,
        config: ServeConfig,
        state: State,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.dialect, self.served, self.backend, self.config = dialect, served, backend, config
        self.state, self.pool = state, pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or say why not."""
        line: RequestLine = scope["line"]
        try:
            await self.answer(Request(scope, receive), line, send)
            line.status = 200
        except CallError as error:
            line.status, line.error = error.status, error.code
            with suppress(ClientLeftError):
                await self.respond(make_error(error, self.dialect.path), scope, send)
        except (ClientLeftError, ClientDisconnect):
            line.status = LEFT
        self.state.metrics.answers[line.status] += 1

    async def answer(self, request: Request, line: RequestLine, send: Send) -> None:
        """Answer one request. Raises CallError as long as nothing has been sent."""
        began = time.monotonic()
        body = await read_body(request)
        owner: Hashable = request.scope.get("owner", request.client and request.client.host)
        self.check_load(owner)
        self.state.waiting += 1
        events: Events = asyncio.Queue()
        answering = Answering(self.state, events, began, line)
        watcher = asyncio.create_task(watch_client(request.receive, events))
        try:
            exchange, answering.generation = await self.prepare(body, events, owner)
            line.id = exchange.request.id
            answering.generation.begin()
            decided = await answering.take()
            assert isinstance(decided, Decided)
            if exchange.request.stream:
                await self.send_stream(exchange, decided, answering, send)
            else:
                ended: dict[int, Ended] = {}
                while len(ended) < exchange.request.n:
                    event = await answering.take()
                    if isinstance(event, Ended):
                        ended[event.index] = event
                whole = exchange.write(decided, [ended[index] for index in sorted(ended)])
                await self.respond(JSONResponse(whole), request.scope, send)
        finally:
            watcher.cancel()
            answering.close()

    def check_load(self, owner: Hashable) -> None:
        """Raise CallError where no request is accepted, or none of this client."""
        if self.state.draining:
            raise CallError("the server is shutting down; call it again later", status=503)
        if self.state.open >= self.config.max_requests:
            raise CallError(
                f"{self.state.open} requests are being answered or wait, and no more are accepted; call again later",
                code="rate_limit_exceeded",
                status=429,
            )
        seconds = math.ceil(self.state.rate.take(owner)) if self.state.rate else 0
        if seconds:
            raise CallError(
                f"more than {self.config.requests_per_minute} requests in a minute; call again in {seconds} s",
                code="rate_limit_exceeded",
                status=429,
                retry_seconds=seconds,
            )

    async def prepare(self, body: bytes, events: Events, owner: Hashable) -> tuple[Exchange, Generation]:
        """Parse and encode on another thread; raises CallError for a body that is refused."""

        def work() -> tuple[Exchange, Generation]:
            exchange = self.dialect.read(body)
            return exchange, self.backend.prepare(self.served, self.config, exchange.request, events, owner)

        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, work)
        except Exception as error:
            raise make_call_error(error) from error

    async def send_stream(self, exchange: Exchange, decided: Decided, answering: Answering, send: Send) -> None:
        """Send events as they come, all that have come together as one piece."""
        headers = [
            (b"content-type", f"{exchange.media_type}; charset=utf-8".encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # that proxies pass it on at once
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send_piece(send, exchange.stream(decided))
        left = exchange.request.n
        try:
            while left:
                try:
                    async with asyncio.timeout(QUIET_SECONDS):
                        come = [await answering.take()]
                except TimeoutError:
                    await send_piece(send, [exchange.keep_alive])
                    continue
                come += answering.take_ready()
                left -= sum(isinstance(event, Ended) for event in come)
                await send_piece(send, (text for event in come for text in exchange.stream(event)))
            await send_piece(send, exchange.end_stream())
        except CallError as error:
            answering.line.error = error.code or "server_error"
            await send_piece(send, exchange.fail_stream(error))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def respond(self, response: Response, scope: Scope, send: Send) -> None:
        """Send a whole answer to a client that takes it within the time."""

        async def nothing() -> dict[str, str]:
            return {"type": "http.disconnect"}

        async with client_time():
            await response(scope, nothing, send)


class Answering:
    """One request's events, counted as they are taken; what is not finished is cancelled at the end."""

    def __init__(self, state: State, events: Events, began: float, line: RequestLine) -> None:
        self.state, self.events, self.began, self.line = state, events, began, line
        self.generation: Generation | None = None
        self.decided: Decided | None = None
        self.first = True

    async def take(self) -> Event:
        """Return the next event. Raises ClientLeftError, and CallError where generation failed."""
        return self._count(await self.events.get())

    def take_ready(self) -> list[Event]:
        """Return the events that have come already; an error among them is the last, and is left for `take`."""
        ready: list[Event] = []
        while not self.events.empty():
            event = self.events.get_nowait()
            if isinstance(event, Exception):
                self.events.put_nowait(event)
                break
            ready.append(self._count(event))
        return ready

    def _count(self, event: Event | Exception) -> Event:
        metrics, line = self.state.metrics, self.line
        if isinstance(event, Exception):
            raise event if isinstance(event, ClientLeftError) else make_call_error(event) from event
        if isinstance(event, Decided):
            self.decided = event
            self.state.waiting -= 1
            self.state.running += 1
            metrics.tokens["prompt"] += event.prompt_tokens
            line.mode, line.reason, line.prompt_tokens = event.mode or "auto", event.reason, event.prompt_tokens
        elif isinstance(event, Delta):
            if self.first:
                line.first_token_seconds = round(time.monotonic() - self.began, 6)
                metrics.observe_first_token(line.first_token_seconds)
                self.first = False
        else:
            response, decided = event.response, self.decided
            assert decided
            metrics.decisions[response.mode, "second_look" if event.direct_tokens else decided.reason] += 1
            thinking = response.thinking_tokens
            answer = response.tokens - thinking + event.direct_tokens
            metrics.tokens.update(thinking=thinking, answer=answer)
            line.thinking_tokens, line.answer_tokens = line.thinking_tokens + thinking, line.answer_tokens + answer
            if decided.think_tokens is not None and response.mode is Mode.NO_THINK:
                metrics.tokens_saved += max(0, round(decided.think_tokens) - response.tokens)
        return event

    def close(self) -> None:
        """Give up what is not finished."""
        if self.generation:
            self.generation.cancel()
        if self.decided:
            self.state.running -= 1
        else:
            self.state.waiting -= 1


def require_online(served: Served) -> SharedDial:
    """Return the online dial; raises CallError if there is none."""
    if served.online is None:
        raise CallError("there is no online dial; start the server with --online-state FILE", status=404)
    return served.online


async def read_body(request: Request) -> bytes:
    """Return a body; raises CallError for one that is too large or too slow."""
    declared = request.headers.get("content-length", "0")
    size = int(declared) if declared.isdecimal() else 0
    chunks: list[bytes] = []
    try:
        async with asyncio.timeout(CLIENT_SECONDS):
            if size <= MAX_BODY_BYTES:
                size = 0
                async for chunk in request.stream():
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > MAX_BODY_BYTES:
                        break
    except TimeoutError:
        raise CallError(f"the body did not come within {CLIENT_SECONDS:g} s", status=408) from None
    if size > MAX_BODY_BYTES:
        raise CallError(f"the body is larger than {MAX_BODY_BYTES} bytes; shorten it", status=413)
    return b"".join(chunks)


async def watch_client(receive: Receive, events: Events) -> None:
    """Wait until the client leaves, and say so among the events."""
    while (await receive())["type"] != "http.disconnect":
        pass
    events.put_nowait(ClientLeftError())


@asynccontextmanager
async def client_time() -> AsyncIterator[None]:
    """Raise ClientLeftError where a client does not take what is sent."""
    try:
        async with asyncio.timeout(CLIENT_SECONDS):
            yield
    except TimeoutError:
        raise ClientLeftError from None


async def send_piece(send: Send, texts: Iterable[str]) -> None:
    """Send texts as one piece of a stream."""
    body = "".join(texts).encode()
    if body:
        async with client_time():
            await send({"type": "http.response.body", "body": body, "more_body": True})


def make_call_error(error: Exception) -> CallError:
    """Return any error as one that a client gets; what is not the client's doing goes into the log."""
    if isinstance(error, CallError):
        return error
    if isinstance(error, NonFiniteError):  # a fault of the model, which no other call would get around
        logger.error("%s", error)
        return CallError(str(error), status=500)
    if isinstance(error, UserError):
        return CallError(str(error))
    logger.error("a request failed", exc_info=error)
    return CallError(f"the server failed ({type(error).__name__}); see its log", status=500)


def make_error(error: CallError, path: str) -> Response:
    """Return an error in the format of the path's dialect."""
    wait = RETRY_SECONDS if error.retry_seconds is None else math.ceil(error.retry_seconds)
    headers = {"Retry-After": str(wait)} if error.status in (429, 503) else {}
    if error.status in (408, 413):  # the rest of the body is not read
        headers["Connection"] = "close"
    return JSONResponse(write_error(error, path), error.status, headers)


async def refuse(request: Request, error: Exception) -> Response:
    """Return what starlette refuses."""
    assert isinstance(error, HTTPException)
    message = f"{error.detail}; see docs/how-to/serving.md for the routes"
    return make_error(CallError(message, status=error.status_code), request.url.path)


async def refuse_call(request: Request, error: Exception) -> Response:
    """Return what a route without a dialect refuses."""
    assert isinstance(error, CallError)
    return make_error(error, request.url.path)


async def let_go(_: Request, _error: Exception) -> Response:
    """Return what nobody gets: the client left before its body had come."""
    return Response(status_code=LEFT)


async def fail(request: Request, error: Exception) -> Response:
    """Return an internal error; the server's log has the traceback."""
    message = f"the server failed ({type(error).__name__}); see its log"
    return make_error(CallError(message, status=500), request.url.path)
