"""Asks many questions of one endpoint, a few at a time, in its dialect and as streams.

Streams, because nothing would be sent during a long thought otherwise, and proxies hang up on silence.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module

import httpx2 as httpx
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from adaptthink.chat.base import Adapter, Draft, Endpoint, Question, Reply, ServerFault, reply_of
from adaptthink.config.chat import HOSTED_SWITCHES, Dialect, Switch
from adaptthink.engines.base import Finish
from adaptthink.engines.http_retry import ATTEMPTS, is_passing, pause, short
from adaptthink.errors import UserError
from adaptthink.modes import Mode

CONNECT_SECONDS = 10.0
SHORTEST_KEY = 8  # characters
LONGEST_REPLY_SECONDS = 7200.0  # also for a server that only keeps the connection alive

OnReply = Callable[[int, Question, Reply], None]  # called as each reply ends, with its place among the questions


def adapter_of(dialect: Dialect) -> Adapter:
    """Return what speaks a dialect: the `ADAPTER` of the module of its name in this package."""
    adapter: Adapter = import_module(f"adaptthink.chat.{dialect}").ADAPTER
    return adapter


def ask_all(endpoint: Endpoint, questions: Iterable[Question], on_reply: OnReply) -> None:
    """Ask every question and hand each reply to `on_reply` as it ends, in any order.

    Questions are taken from the iterable one by one, and no more of them are held than are in flight. Broken
    connections, cut streams, 408, 429 and faults of the server are tried again. Raises one UserError for a refusal,
    or for what did not pass; replies that had ended by then have been handed over.
    """
    asyncio.run(_ask_all(endpoint, questions, on_reply))


async def _ask_all(endpoint: Endpoint, questions: Iterable[Question], on_reply: OnReply) -> None:
    numbered = enumerate(questions)
    doubts = _Doubts(endpoint, on_reply)

    async def work(client: httpx.AsyncClient) -> None:
        for index, question in numbered:  # all workers take from the one iterator
            doubts.hand_over(index, question, await ask(client, endpoint, question))

    try:
        async with make_client(endpoint) as client, asyncio.TaskGroup() as group:
            for _ in range(endpoint.concurrency):
                group.create_task(work(client))
    except BaseExceptionGroup as failures:  # the first; the others were cancelled or failed alike
        raise failures.exceptions[0] from None
    doubts.check_none_left()


@dataclass(slots=True)
class _Doubts:
    """Holds back finished replies of thought alone, until it is known that no answers are hidden in them.

    A reasoning parser that waits for a close marker takes a whole answer for thought where the template has already
    closed the thought (vLLM's deepseek_r1 does), and a server that leaves close markers out of its text hides where a
    thought ends. Both befall every reply of a mode. One reply of the mode with an answer therefore rules them out: a
    reply of thought alone has then ended without an answer.
    """

    endpoint: Endpoint
    on_reply: OnReply
    answered: set[Mode | None] = field(default_factory=set)
    held: list[tuple[int, Question, Reply]] = field(default_factory=list)

    def hand_over(self, index: int, question: Question, reply: Reply) -> None:
        """Pass a reply on, or hold it. Raises UserError if too many are held."""
        if reply.answer is not None:
            self.answered.add(question.mode)
        self.held.append((index, question, reply))
        clear = [item for item in self.held if not self._is_doubtful(*item[1:])]
        self.held = [item for item in self.held if self._is_doubtful(*item[1:])]
        for item in clear:
            self.on_reply(*item)
        if len(self.held) > self.endpoint.concurrency:
            self.check_none_left()

    def check_none_left(self) -> None:
        """Raise UserError if replies are still held."""
        if not self.held:
            return
        found = f"{place_of(self.endpoint)} finished {len(self.held)} replies with a thought and none with an answer"
        if self.endpoint.inline_thinking:
            raise UserError(
                f"{found}: no thought was closed; the server may leave the marker out of its text, or the prompt may "
                "open no thought; start the server with a reasoning parser, or leave out inline_thinking"
            )
        raise UserError(
            f"{found}: its reasoning parser may take answers for thoughts; start the server with the parser of its "
            "model's family, or with none"
        )

    def _is_doubtful(self, question: Question, reply: Reply) -> bool:
        # A template that was told to think has closed no thought, and hosted APIs set thoughts apart by themselves.
        told = question.mode is Mode.THINK and not self.endpoint.inline_thinking
        local = self.endpoint.dialect is Dialect.OPENAI and self.endpoint.switch not in HOSTED_SWITCHES
        bare = bool(reply.thinking) and reply.answer is None and reply.finish is Finish.STOP
        return local and bare and not told and not reply.refused and question.mode not in self.answered


async def ask(client: httpx.AsyncClient, endpoint: Endpoint, question: Question) -> Reply:
    """Return the reply to one question, after as many attempts as it takes.

    Raises UserError when there is none after all attempts, for a refusal, and for a question that cannot be asked.
    """
    if question.mode and endpoint.switch is Switch.NONE:
        raise UserError(
            f"a question asks for the mode '{question.mode}', but no switch is set for {place_of(endpoint)}; "
            f"set the one that its models know ({', '.join(Switch)}), or leave the mode to the model"
        )
    body = adapter_of(endpoint.dialect).body(endpoint, question)
    try:
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS), wait=pause, retry=retry_if_exception(_is_worth_repeating), reraise=True
        ):
            with attempt:
                async with asyncio.timeout(LONGEST_REPLY_SECONDS):
                    draft = await _listen(client, endpoint, body)
                opened = endpoint.inline_thinking and question.mode is not Mode.NO_THINK
                reply = reply_of(draft, opened=opened)
    except httpx.HTTPStatusError as error:
        raise _refusal(endpoint, error.response) from None
    except ServerFault as error:
        advice = "try again later" if error.passing else "see docs/chat.md for its dialect and settings"
        raise UserError(f"{place_of(endpoint)}: {short(_hide_key(endpoint, str(error)))}; {advice}") from None
    except TimeoutError:
        raise UserError(
            f"a reply of {place_of(endpoint)} had not ended after {LONGEST_REPLY_SECONDS:.0f} s; lower its cap of "
            f"{question.max_tokens} tokens"
        ) from None
    except UnicodeEncodeError:
        raise UserError("a prompt holds half of a surrogate pair, which no server can be sent; mend the text") from None
    except httpx.HTTPError as error:
        raise _no_answer(endpoint, error) from None
    return reply


async def _listen(client: httpx.AsyncClient, endpoint: Endpoint, body: dict[str, object]) -> Draft:
    """Return the whole draft from one attempt; raises HTTPError or ServerFault for a failed one."""
    adapter, draft, heard = adapter_of(endpoint.dialect), Draft(), False
    async with client.sse(adapter.address(endpoint), method="POST", json=body) as events:
        response = events.response
        if not response.is_success:
            await response.aread()
            response.raise_for_status()
        if "text/event-stream" not in response.headers.get("Content-Type", ""):  # a server that knows no streams
            await response.aread()
            adapter.hear(draft, response.text)
            if not draft.complete:
                raise ServerFault(f"this is no answer: {short(response.text)}", passing=False)
            return draft
        async for event in events:
            if event.data:
                adapter.hear(draft, event.data)
            if draft.complete:
                return draft
            heard = True
    if heard and draft == Draft():
        raise ServerFault(f"its stream holds nothing of the dialect '{endpoint.dialect}'", passing=False)
    raise ServerFault("the stream was cut before its end", passing=True)


def make_client(endpoint: Endpoint) -> httpx.AsyncClient:
    """Return a client of one endpoint, with the key from the environment if there is one.

    Raises UserError for a key that no header can carry.
    """
    key = _key(endpoint)
    if key and not (key.isascii() and key.isprintable()):
        raise UserError(f"the key in {endpoint.key_name} has characters that no key has; copy it again")
    return httpx.AsyncClient(
        headers=adapter_of(endpoint.dialect).headers(key),
        timeout=httpx.Timeout(endpoint.silence_seconds, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=endpoint.concurrency),
    )


def place_of(endpoint: Endpoint) -> str:
    """Return the address for people: without a name, password or query, which may hold keys."""
    url = httpx.URL(adapter_of(endpoint.dialect).address(endpoint))
    return str(url.copy_with(username="", password="", query=None, fragment=None))


def _is_worth_repeating(error: BaseException) -> bool:
    """Whether to try again; a silent stream too, as it is no slow answer but a broken one."""
    passing_fault = isinstance(error, ServerFault) and error.passing
    return passing_fault or is_passing(error) or isinstance(error, httpx.ReadTimeout)


def _refusal(endpoint: Endpoint, response: httpx.Response) -> UserError:
    """Make the error of an answer with a status, in the server's own words."""
    try:
        said = json.loads(response.text)
        fault = said.get("error", said)
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
        429: f"ask fewer questions at once than {endpoint.concurrency}, or see to the account's limits",
    }.get(response.status_code, "see docs/chat.md" if response.is_client_error else "try again later")
    if response.has_redirect_location:
        advice = f"give the URL that it points to: {response.headers['Location']}"
    words = short(_hide_key(endpoint, str(message))) or "nothing more"
    return UserError(f"{place_of(endpoint)} answered {response.status_code}: {words}; {advice}")


def _no_answer(endpoint: Endpoint, error: httpx.HTTPError) -> UserError:
    if isinstance(error, httpx.ReadTimeout):
        return UserError(
            f"{place_of(endpoint)} sent nothing for {endpoint.silence_seconds:g} s, {ATTEMPTS} times over; ask fewer "
            f"questions at once than {endpoint.concurrency}, or allow a longer silence"
        )
    reason = _hide_key(endpoint, f"{type(error).__name__} {error}".strip())
    return UserError(f"no answer from {place_of(endpoint)} ({reason}); is the server running there?")


def _key(endpoint: Endpoint) -> str | None:
    return os.environ.get(endpoint.key_name, "").strip() or None


def _hide_key(endpoint: Endpoint, text: str) -> str:
    """Return the text without the key, should a server repeat it; stand-ins like EMPTY are words, not secrets."""
    key = _key(endpoint)
    return text.replace(key, endpoint.key_name) if key and len(key) >= SHORTEST_KEY else text
