"""A server behind this one: the gateway probes its first token, decides the mode, and passes its stream on.

Everything runs on the event loop, but for encoding. A request is one call for the decision, where one is needed, and
one for each choice, all from a pool of connections that are kept. Its cancellation closes the connection, at which
servers stop to generate.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx2 as httpx

from adaptthink.config.schema import ServeConfig
from adaptthink.dial.efforts import list_levels
from adaptthink.dial.second_look import is_doubtful
from adaptthink.engines.base import Finish, Request
from adaptthink.engines.http_retry import parse_retry_after, shorten
from adaptthink.engines.jobs import limit_thought
from adaptthink.engines.openai import KEEP_ALIVE, parse_base_url
from adaptthink.engines.rounds import derive_seed
from adaptthink.errors import UserError, hide_secret, redact
from adaptthink.models.loading import Tokenization
from adaptthink.modes import Mode
from adaptthink.sampling.reading import decode
from adaptthink.sampling.requests import make_seed
from adaptthink.sampling.responses import LEAST_TEMPERATURE, Decision, make_requests
from adaptthink.serving.backend import Events
from adaptthink.serving.capabilities import (
    UNREADABLE,
    Capabilities,
    UnreachableError,
    call,
    inspect_server,
    make_scored,
    write_prompt,
)
from adaptthink.serving.generation import CallError, Delta, Ended, GenerationRequest
from adaptthink.serving.pieces import PieceReader
from adaptthink.serving.prepare import Plan, Served, make_plan
from adaptthink.serving.speakers import Ask, Chat, Prompt, UpstreamError, read_stream

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
CHECK_SECONDS = 5.0  # between two checks of a server that answers
RETURN_SECONDS = 1.0  # between two of one that does not
DRAIN_SECONDS = 5.0  # for the end of a stream behind its last piece, after which the connection can be used again
BEHIND = "the server behind this one"
BROKEN = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)  # of a kept connection that was closed
MAX_SEED = 2**31  # llama.cpp's are 32 bits
Post = Callable[[Iterable[Delta | Ended]], None]


class Upstream:
    """A gateway's side of a running server (`Backend`)."""

    def __init__(
        self,
        url: str,
        text: Tokenization,
        name: str,
        *,
        key: str | None = None,
        on_message: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.url, self.shown = parse_base_url(url), redact(url)
        self.text, self.name, self.key, self.on_message = text, name, key, on_message
        hide_secret(key)
        self.can: Capabilities | None = None  # None until it has been seen
        self.down = True
        self.client = self._make_client()
        self.watcher: asyncio.Task[None] | None = None
        self.due = asyncio.Event()  # a check, at once

    def _make_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url,
            transport=httpx.AsyncHTTPTransport(
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=256), socket_options=KEEP_ALIVE
            ),
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {}),
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # an answer takes as long as it takes
        )

    @property
    def fault(self) -> str | None:
        """See `Backend`."""
        return "upstream down" if self.down else None

    def meet(self) -> None:
        """Try what the server can do, before the gateway starts; a message says it, or that there is no answer yet.

        Raises UserError for a server that refuses the key, lacks the model or cannot be used at all.
        """
        asyncio.run(self._meet_alone())

    async def _meet_alone(self) -> None:
        async with self._make_client() as client:
            try:
                self._take(await inspect_server(client, self.text, self.name))
            except UnreachableError as error:
                self.on_message(f"no answer from {self.shown} yet ({error}); the gateway goes on trying")

    def _take(self, can: Capabilities) -> None:
        self.down = False
        if can != self.can:
            self.can = can
            self.on_message(f"upstream {self.shown}: {can.describe()}")

    def start(self) -> None:
        """See `Backend`."""
        self.watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """See `Backend`."""
        if self.watcher:
            self.watcher.cancel()
        await self.client.aclose()

    async def _watch(self) -> None:
        """Check the server now and then, and again and again while it is down."""
        while True:
            try:
                async with asyncio.timeout(RETURN_SECONDS if self.down else CHECK_SECONDS):
                    await self.due.wait()
            except TimeoutError:
                pass
            self.due.clear()
            try:
                if self.down:
                    self._take(await inspect_server(self.client, self.text, self.name))
                else:
                    await call(self.client, "GET", "/v1/models")
            except (UnreachableError, UserError) as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        if not self.down:
            logger.error("the upstream does not answer: %s %s", type(error).__name__, error)
        self.down = True

    def offer(self, served: Served) -> Served:
        """See `Backend`."""
        if self.can is None:
            return served
        limits = [tokens for tokens in (served.context_tokens, self.can.context_tokens) if tokens]
        offered = replace(served, context_tokens=min(limits, default=None), modes=self.can.modes)
        return offered if self.can.speaker.scores else replace(offered, threshold=None, levels=list_levels())

    def prepare(
        self, served: Served, config: ServeConfig, request: GenerationRequest, events: Events, owner: Hashable
    ) -> Relay:
        """See `Backend`."""
        if self.can is None or self.down:
            raise make_down_error()
        # An effort that is certified but cannot be had here is reported otherwise than one that is not certified.
        offered = replace(self.offer(served), levels=served.levels)
        plan = make_plan(offered, config, request)
        self._check(self.can, request, plan)
        return Relay(self, self.can, offered, config, request, plan, events)

    def _check(self, can: Capabilities, request: GenerationRequest, plan: Plan) -> None:
        """Raise CallError for what the server cannot do."""
        if plan.wanted.needs_probability and not can.speaker.scores:
            lacking = "thresholds and efforts, as it returns no log-probabilities"
        elif plan.wanted.mode and plan.wanted.mode not in can.modes:
            lacking = f"mode {plan.wanted.mode}"
        elif isinstance(request.prompt, str) and not can.raw:
            lacking = "texts to continue; send messages to /v1/chat/completions"
        elif (plan.closing or request.second_look) and not can.raw:
            lacking = "thinking budgets and second looks, as it continues no prompts"
        else:
            return
        raise CallError(f"{BEHIND} does not support {lacking}", code="unsupported_by_upstream")

    @asynccontextmanager
    async def send(self, path: str, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        """Call the server; yields its answer, whose body is not read yet. Raises CallError for one that refuses."""
        request = self.client.build_request("POST", path, json=body)
        try:
            try:
                response = await self.client.send(request, stream=True)
            except BROKEN:  # the server may have closed a connection that was kept, as it was used again
                response = await self.client.send(request, stream=True)
        except httpx.HTTPError as error:
            self._lose(error)
            self.due.set()
            raise make_down_error() from error
        try:
            if response.is_error:
                raise make_refusal(response, await response.aread())
            yield response
        except httpx.HTTPError as error:
            self.due.set()
            logger.error("the upstream broke off: %s %s", type(error).__name__, error)
            raise CallError(f"{BEHIND} broke off its answer; send the call again", status=502) from error
        except UNREADABLE as error:
            logger.error("the upstream failed, or its answer cannot be read", exc_info=error)
            raise CallError(f"{BEHIND} failed; the log says how", status=502) from error
        finally:
            await response.aclose()


class Relay:
    """One request on its way through (`Generation`)."""

    def __init__(
        self,
        upstream: Upstream,
        can: Capabilities,
        served: Served,
        config: ServeConfig,
        request: GenerationRequest,
        plan: Plan,
        events: Events,
    ) -> None:
        self.upstream, self.can, self.served, self.config = upstream, can, served, config
        self.request, self.plan, self.events = request, plan, events
        self.left = request.n  # choices that have not ended
        self.task: asyncio.Task[None] | None = None
        self.text = "" if can.speaker.takes_ids else write_prompt(served.tokenizer, plan.wanted.prompt_ids)

    def begin(self) -> None:
        """See `Generation`."""
        self.task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        """See `Generation`."""
        if self.task and self.left:  # what has ended reads the rest of its stream, so that the connection can be kept
            self.task.cancel()

    async def _run(self) -> None:
        try:
            decided = self.plan.decide(await self._score())
            self.events.put_nowait(decided)
            made = make_requests(self.served.template, self.plan.wanted, Decision(decided.mode), seed=self.config.seed)
            async with asyncio.TaskGroup() as group:
                for index, one in enumerate(made):
                    group.create_task(self._answer(index, one, decided.mode))
        except* Exception as errors:  # noqa: BLE001  (whatever it is, the client has to get it)
            self.events.put_nowait(find_first(errors))

    async def _score(self) -> float | None:
        """Return P(no_think), by one token of the server's, where it decides.

        A token that is not among those that the server names is less probable than all of these: the model thinks.
        """
        if not self.plan.wanted.needs_probability:
            return None
        scored = make_scored(self.upstream.text)
        prompt = self.plan.wanted.prompt_ids if self.can.speaker.takes_ids else self.text
        ask = Ask(prompt, 1, temperature=1.0, top_p=1.0, seed=0, scored=scored)
        speaker = self.can.speaker
        async with self.upstream.send(speaker.path, speaker.write(ask, stream=False)) as response:
            answer = json.loads(await response.aread())
            speaker.read(answer)  # for an error in it
            score = speaker.read_score(answer, scored)
            if score is None:
                raise UpstreamError("no log-probabilities")
        return math.exp(score)

    async def _answer(self, index: int, one: Request, mode: Mode | None) -> None:
        """Generate one choice; behind a doubtful direct answer a thought, where a second look is requested."""
        if not self.request.second_look or mode is Mode.THINK:
            return await self._generate(index, one, mode, self._post)
        held: list[Delta | Ended] = []
        await self._generate(index, one, mode, held.extend)
        ended = held[-1]
        assert isinstance(ended, Ended)
        direct = ended.response
        if direct.mode is Mode.THINK or not is_doubtful(direct.answer, finished=direct.finished):
            return self._post(held)
        stream = make_seed(self.plan.wanted.streams[index], "second look")
        thought = replace(self.plan.wanted, streams=(stream,), mode=Mode.THINK)
        [again] = make_requests(self.served.template, thought, Decision(Mode.THINK), seed=self.config.seed)

        def post(events: Iterable[Delta | Ended]) -> None:
            looked = (replace(one, direct_tokens=direct.tokens) if isinstance(one, Ended) else one for one in events)
            self._post(looked)

        return await self._generate(index, again, Mode.THINK, post)

    async def _generate(self, index: int, one: Request, mode: Mode | None, post: Post) -> None:
        """Generate one response behind the forced tokens of its mode; in two calls where a budget ends its thought."""
        plain, closing = isinstance(self.request.prompt, str), self.plan.closing
        forced = one.prefix_ids[: one.max_tokens] if self.can.raw else ()
        reader = PieceReader(
            index,
            self.served.tokenizer,
            self.served.template,
            self._stops(),
            self.upstream.text.eos_ids,
            plain=plain,
            hidden=len(forced) if plain and mode is Mode.NO_THINK else 0,
        )
        post(reader.force(forced))
        limited = limit_thought(one, closing)
        if len(forced) >= limited.max_tokens == one.max_tokens:
            return post(reader.end(Finish.LENGTH))
        prompt = self._write_prompt(reader) if self.can.raw else self._make_chat(mode)
        if len(forced) < limited.max_tokens:
            await self._call(reader, prompt, limited.max_tokens - len(forced), one.stream, post, one.max_tokens)
        if reader.ended:
            return None
        if not reader.closed:
            assert closing
            post(reader.force(closing.ids))
        prompt = self._write_prompt(reader)
        return await self._call(reader, prompt, one.max_tokens - reader.tokens, one.stream + 1, post)

    async def _call(
        self,
        reader: PieceReader,
        prompt: Prompt,
        max_tokens: int,
        stream: int,
        post: Post,
        may_follow: int | None = None,
    ) -> None:
        """Read one call's stream into a choice; another may follow it, up to so many tokens of the choice in all."""
        reader.begin_call()
        wanted, speaker = self.plan.wanted, self.can.speaker
        greedy = wanted.temperature < LEAST_TEMPERATURE
        temperature, top_p = (0.0, 1.0) if greedy else (wanted.temperature, wanted.top_p)
        seed = derive_seed(self.config.seed, stream, round_number=2) % MAX_SEED
        body = speaker.write(Ask(prompt, max_tokens, temperature, top_p, seed), stream=True)

        def end() -> None:
            if may_follow is None or not reader.wants_more(self.plan.closing, may_follow):
                post(reader.close())

        async with self.upstream.send(speaker.path, body) as response:
            drained = False
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    async for answer in read_stream(response.aiter_raw()):
                        if limit.when() is not None:  # the rest is read so that the connection can be kept
                            continue
                        post(reader.take(speaker.read(answer)))
                        if reader.stopped:  # nothing more is needed: closing the connection ends it
                            return
                        if reader.finish and reader.sends_ids:  # else the number of tokens comes behind the end
                            end()
                            limit.reschedule(asyncio.get_running_loop().time() + DRAIN_SECONDS)
                    drained = limit.when() is None
            if drained:
                end()

    def _stops(self) -> tuple[str, ...]:
        """Return the texts that end the answer; where text comes, end tokens that the server writes are among them."""
        if self.can.speaker.takes_ids:
            return self.request.stops
        return (*self.request.stops, *(decode(self.served.tokenizer, [one]) for one in self.upstream.text.eos_ids))

    def _write_prompt(self, reader: PieceReader) -> Prompt:
        """Return the prompt with what there is of a choice."""
        if not self.can.speaker.takes_ids:
            return self.text + reader.text_so_far
        ids = tuple(reader.ids_so_far)
        if not reader.sends_ids and reader.tokens > len(ids):  # the server takes ids, and sends text
            ids = tuple(self.served.tokenizer.encode(reader.text_so_far, add_special_tokens=False))
        return self.plan.wanted.prompt_ids + ids

    def _make_chat(self, mode: Mode | None) -> Prompt:
        assert not isinstance(self.request.prompt, str)
        return Chat(self.request.prompt, mode, self.served.template.switch)

    def _post(self, events: Iterable[Delta | Ended]) -> None:
        for event in events:
            self.left -= isinstance(event, Ended)
            self.events.put_nowait(event)


def find_first(error: Exception) -> Exception:
    """Return an exception, of a group the first in it."""
    return find_first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def make_down_error() -> CallError:
    """Return the error for a server that does not answer."""
    return CallError(f"{BEHIND} does not answer; call it again later", code="upstream_down", status=503)


def make_refusal(response: httpx.Response, body: bytes) -> CallError:
    """Return the error for an answer with a status that is one."""
    status = response.status_code
    wait = parse_retry_after(httpx.HTTPStatusError("", request=response.request, response=response))
    if status == 429:
        message = f"{BEHIND} has too many requests; call again later"
        return CallError(message, code="rate_limit_exceeded", status=429, retry_seconds=wait)
    if status == 503:
        return CallError(f"{BEHIND} is busy; call it again later", status=503, retry_seconds=wait)
    message = redact(read_message(body))
    if status in (400, 413, 422) and message:
        return CallError(f"{BEHIND} refuses the call: {shorten(message)}", code="refused_by_upstream")
    logger.error("the upstream answered %d: %s", status, shorten(message or redact(body.decode(errors="replace"))))
    return CallError(f"{BEHIND} failed ({status}); the log says how", status=502)


def read_message(body: bytes) -> str:
    """Return the message of an error in one of the usual forms, "" for another."""
    try:
        found = json.loads(body)
        error = found.get("error", found)
        return str(error if isinstance(error, str) else error.get("message", ""))
    except UNREADABLE:
        return ""
