"""Sends many questions to one endpoint, a few at a time, in its dialect and as streams.

Without streams nothing would be sent during long thinking, and proxies close silent connections.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib import import_module

import httpx2 as httpx
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from adaptthink.chat.base import (
    Adapter,
    ChatResponse,
    Draft,
    Endpoint,
    Question,
    ServerFault,
    make_response,
)
from adaptthink.chat.pace import Pace
from adaptthink.config.chat import HOSTED_SWITCHES, Dialect, Switch
from adaptthink.engines.base import Finish
from adaptthink.engines.http_retry import (
    ATTEMPTS,
    QUOTA,
    choose_wait,
    is_busy,
    is_transient,
    parse_retry_after,
    shorten,
)
from adaptthink.errors import UserError, hide_secret, redact
from adaptthink.modes import Mode

CONNECT_SECONDS = 10.0
RESPONSE_TIMEOUT_SECONDS = 7200.0  # of a whole response, also if the server keeps the connection alive

OnResponse = Callable[[int, Question, ChatResponse], None]  # called as each one ends, with its question's index


def load_adapter(dialect: Dialect) -> Adapter:
    """Return the adapter of a dialect: the `ADAPTER` of the module of its name in this package."""
    adapter: Adapter = import_module(f"adaptthink.chat.{dialect}").ADAPTER
    return adapter


def ask_all(
    endpoint: Endpoint,
    questions: Iterable[Question],
    on_response: OnResponse,
    on_message: Callable[[str], None] = lambda message: None,
) -> None:
    """Send every question and call `on_response` with each response as it ends, in any order.

    Questions are taken from the iterable one by one, only as many as are in flight. Broken connections, cut streams,
    408 and 5xx are repeated. After 429 (too many calls) all questions wait as long as the endpoint requests and go on
    more slowly, for ten minutes without an answer at most; `on_message` gets a line about it. Raises one UserError for
    a refusal, or for an error that lasted through all attempts; responses that had ended by then have been handed over.
    """
    asyncio.run(_ask_all(endpoint, questions, on_response, Pace(format_address(endpoint), on_message)))


async def _ask_all(endpoint: Endpoint, questions: Iterable[Question], on_response: OnResponse, pace: Pace) -> None:
    numbered = enumerate(questions)
    unconfirmed = _Unconfirmed(endpoint, on_response)

    async def work(client: httpx.AsyncClient) -> None:
        for index, question in numbered:  # all workers take from the one iterator
            unconfirmed.hand_over(index, question, await ask(client, endpoint, question, pace))

    try:
        async with make_client(endpoint) as client, asyncio.TaskGroup() as group:
            for _ in range(endpoint.concurrency):
                group.create_task(work(client))
    except BaseExceptionGroup as failures:  # the others were cancelled, or failed for the same reason
        raise failures.exceptions[0] from None
    unconfirmed.check_none_left()


@dataclass(slots=True)
class _Unconfirmed:
    """Holds back finished responses that are all thinking, until it is clear that they hide no answers.

    A reasoning parser that waits for a close marker takes a whole answer for thinking if the template has already
    closed the thinking (vLLM's deepseek_r1 does), and a server that drops close markers from its text hides where the
    thinking ends. Both affect every response of a mode. So one response of the mode with an answer rules them out: one
    without has then really ended without an answer.
    """

    endpoint: Endpoint
    on_response: OnResponse
    answered: set[Mode | None] = field(default_factory=set)
    held: list[tuple[int, Question, ChatResponse]] = field(default_factory=list)

    def hand_over(self, index: int, question: Question, response: ChatResponse) -> None:
        """Pass a response on, or hold it back. Raises UserError if too many are held."""
        if response.answer is not None:
            self.answered.add(question.mode)
        self.held.append((index, question, response))
        clear = [item for item in self.held if not self._is_suspect(*item[1:])]
        self.held = [item for item in self.held if self._is_suspect(*item[1:])]
        for item in clear:
            self.on_response(*item)
        if len(self.held) > self.endpoint.concurrency:
            self.check_none_left()

    def check_none_left(self) -> None:
        """Raise UserError if responses are still held."""
        if not self.held:
            return
        found = (
            f"{format_address(self.endpoint)} finished {len(self.held)} responses with thinking and none with an answer"
        )
        if self.endpoint.inline_thinking:
            raise UserError(
                f"{found}: no thinking was closed; the server may drop the marker from its text, or the prompt may "
                "not open any thinking; start the server with a reasoning parser, or leave out inline_thinking"
            )
        raise UserError(
            f"{found}: its reasoning parser may take answers for thinking; start the server with the parser of its "
            "model's family, or with none"
        )

    def _is_suspect(self, question: Question, response: ChatResponse) -> bool:
        # A template in mode think has closed no thinking, and hosted APIs separate thinking themselves.
        opened = question.mode is Mode.THINK and not self.endpoint.inline_thinking
        local = self.endpoint.dialect is Dialect.OPENAI and self.endpoint.switch not in HOSTED_SWITCHES
        bare = bool(response.thinking) and response.answer is None and response.finish is Finish.STOP
        return local and bare and not opened and not response.refused and question.mode not in self.answered


async def ask(client: httpx.AsyncClient, endpoint: Endpoint, question: Question, pace: Pace) -> ChatResponse:
    """Return the response to one question, after up to `ATTEMPTS` attempts, or more where the endpoint has no time.

    Raises UserError if all attempts failed, for a refusal, and for a question that cannot be sent.
    """
    if question.mode and endpoint.switch is Switch.NONE:
        raise UserError(
            f"a question requests the mode '{question.mode}', but no switch is set for {format_address(endpoint)}; "
            f"set the one that its models support ({', '.join(Switch)}), or leave the mode to the model"
        )
    body = load_adapter(endpoint.dialect).body(endpoint, question)
    try:
        while True:
            sent = await pace.wait_turn()
            try:
                response = await _ask_repeatedly(client, endpoint, question, body)
            except (httpx.HTTPStatusError, ServerFault) as error:
                if not (_is_busy(error) and pace.slow_down(sent, parse_retry_after(error))):
                    raise
            else:
                pace.speed_up()
                return response
    except httpx.HTTPStatusError as error:
        raise _refusal(endpoint, error.response) from None
    except ServerFault as error:
        advice = "try again later" if error.transient else "see docs/how-to/chat.md for its dialect and settings"
        raise UserError(f"{format_address(endpoint)}: {shorten(redact(str(error)))}; {advice}") from None
    except TimeoutError:
        raise UserError(
            f"a response of {format_address(endpoint)} had not ended after {RESPONSE_TIMEOUT_SECONDS:.0f} s; lower its "
            f"max_tokens, {question.max_tokens} now"
        ) from None
    except UnicodeEncodeError:
        raise UserError("a prompt has half of a surrogate pair, which cannot be sent; repair the text") from None
    except httpx.HTTPError as error:
        raise _no_answer(endpoint, error) from None


async def _ask_repeatedly(
    client: httpx.AsyncClient, endpoint: Endpoint, question: Question, body: dict[str, object]
) -> ChatResponse:
    """Return the response to one question; raises what the last attempt raised."""
    async for attempt in AsyncRetrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=choose_wait,
        retry=retry_if_exception(_is_worth_repeating),
        reraise=True,
    ):
        with attempt:
            sent = time.perf_counter()
            async with asyncio.timeout(RESPONSE_TIMEOUT_SECONDS):
                draft = await _read_stream(client, endpoint, body)
            seconds = time.perf_counter() - sent
            return replace(make_response(draft, question.mode, opened=endpoint.inline_thinking), seconds=seconds)
    raise AssertionError("the last attempt returns or raises")


async def _read_stream(client: httpx.AsyncClient, endpoint: Endpoint, body: dict[str, object]) -> Draft:
    """Return the whole draft of one attempt; raises HTTPError or ServerFault if it failed."""
    adapter, draft, received = load_adapter(endpoint.dialect), Draft(), False
    async with client.sse(adapter.address(endpoint), method="POST", json=body) as events:
        response = events.response
        if not response.is_success:
            await response.aread()
            response.raise_for_status()
        if "text/event-stream" not in response.headers.get("Content-Type", ""):  # a server that cannot stream
            await response.aread()
            _check_page(response)
            adapter.read_event(draft, response.text)
            if not draft.complete:
                raise ServerFault(f"this is no answer: {shorten(response.text)}", transient=False)
            return draft
        async for event in events:
            if event.data:
                adapter.read_event(draft, event.data)
            if draft.complete:
                return draft
            received = True
    if received and draft == Draft():
        raise ServerFault(f"its stream has no event of the dialect '{endpoint.dialect}'", transient=False)
    raise ServerFault("the stream was cut before its end", transient=True)


def _check_page(response: httpx.Response) -> None:
    """Raise a transient ServerFault for what is no JSON: a page that a proxy sends while its server is away, say."""
    try:
        json.loads(response.text)
    except (ValueError, RecursionError):
        kind = response.headers.get("Content-Type", "no type").partition(";")[0]
        raise ServerFault(
            f"a page ({kind}) came with status {response.status_code} in place of an answer: {shorten(response.text)}",
            transient=True,
        ) from None


def make_client(endpoint: Endpoint) -> httpx.AsyncClient:
    """Return a client of one endpoint, with the key from the environment if there is one.

    Raises UserError for a key that no header can carry.
    """
    key = _key(endpoint)
    if key and not (key.isascii() and key.isprintable()):
        raise UserError(f"the key in {endpoint.key_name} has characters that a header cannot carry; copy it again")
    hide_secret(key)
    return httpx.AsyncClient(
        headers=load_adapter(endpoint.dialect).headers(key),
        timeout=httpx.Timeout(endpoint.silence_seconds, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=endpoint.concurrency),
    )


def format_address(endpoint: Endpoint) -> str:
    """Return the address for messages: without user name, password and query, which may hold keys."""
    url = httpx.URL(load_adapter(endpoint.dialect).address(endpoint))
    return str(url.copy_with(username="", password="", query=None, fragment=None))


def _is_worth_repeating(error: BaseException) -> bool:
    """Return whether to try again at once; also after a silent stream, which is broken rather than slow."""
    passing_fault = isinstance(error, ServerFault) and error.transient
    passing = passing_fault or is_transient(error) or isinstance(error, httpx.ReadTimeout)
    used_up = isinstance(error, httpx.HTTPStatusError) and QUOTA in error.response.text
    return passing and not used_up and not _is_busy(error)


def _is_busy(error: BaseException) -> bool:
    """Return whether the endpoint has too many calls."""
    return error.busy if isinstance(error, ServerFault) else is_busy(error)


def _refusal(endpoint: Endpoint, response: httpx.Response) -> UserError:
    """Return the error for an answer with an error status, with the server's own message."""
    try:
        answer = json.loads(response.text)
        fault = answer.get("error", answer)
        message = fault if isinstance(fault, str) else fault.get("message") or response.text
    except (ValueError, AttributeError):
        message = response.text
    key = f"the key in {endpoint.key_name}" if _key(endpoint) else f"there is no key: set {endpoint.key_name}"
    advice = {
        400: "change the setting that it names",
        401: f"check {key}" if _key(endpoint) else key,
        402: "the account has no credit",
        403: f"check {key}" if _key(endpoint) else key,
        404: f"check the URL and the model's name '{endpoint.model}'",
        413: "the prompt is too long for it",
        422: "change the setting that it names",
        429: f"send fewer questions at once than {endpoint.concurrency}, raise the account's limits, or repeat the "
        "command later",
    }.get(response.status_code, "see docs/how-to/chat.md" if response.is_client_error else "try again later")
    if response.has_redirect_location:
        advice = f"give the URL that it points to: {response.headers['Location']}"
    shown = shorten(redact(str(message))) or "no message"
    return UserError(f"{format_address(endpoint)} answered {response.status_code}: {shown}; {advice}")


def _no_answer(endpoint: Endpoint, error: httpx.HTTPError) -> UserError:
    if isinstance(error, httpx.ReadTimeout):
        return UserError(
            f"{format_address(endpoint)} sent nothing for {endpoint.silence_seconds:g} s, {ATTEMPTS} times over; send "
            f"fewer questions at once than {endpoint.concurrency}, or allow a longer silence"
        )
    reason = f"{type(error).__name__} {error}".strip()
    return UserError(f"no answer from {format_address(endpoint)} ({reason}); is the server running there?")


def _key(endpoint: Endpoint) -> str | None:
    return os.environ.get(endpoint.key_name, "").strip() or None
