"""How running servers get a prompt to continue, and how their pieces are read: one class for each interface.

Each server has its own names for the same things. vLLM and SGLang send token ids, and take the token whose probability
is wanted; llama.cpp and Ollama send text, and name the most likely tokens. What a server takes is tried when it is met
(`capabilities.py`), so a class here knows the form of calls and answers alone.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from adaptthink.engines.base import Finish
from adaptthink.modes import Message, Mode
from adaptthink.serving.generation import Part

TOP = 20  # log-probabilities that are requested; servers return no more by default
FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH}


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation for a server that takes nothing else, with the mode as a switch of its chat template."""

    messages: tuple[Message, ...]
    mode: Mode | None
    switch: str | None


Prompt = tuple[int, ...] | str | Chat


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be generated behind a prompt. A temperature of 0: the most likely tokens."""

    prompt: Prompt
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    scored: tuple[int, str] | None = None  # a token, and its text, whose log-probability as the first one is wanted


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a stream, or a whole answer."""

    text: str = ""
    token_ids: tuple[int, ...] | None = None  # None: the server sends no ids
    part: Part | None = None  # None: the text has the markers in it
    finish: Finish | None = None
    tokens: int | None = None  # of the whole completion, where the piece says it
    prompt_tokens: int | None = None


class UpstreamError(Exception):
    """A server says within an answer that it failed."""


class Speaker(Protocol):
    """One interface of servers. `path` is where calls go; text of the model's stays where `takes_ids` is false."""

    path: str
    takes_ids: bool
    scores: bool  # whether log-probabilities come back

    def write(self, ask: Ask, *, stream: bool) -> dict[str, Any]:
        """Return the body of a call."""
        ...

    def read(self, answer: dict[str, Any]) -> Piece:
        """Read one piece of a stream, or a whole answer. Raises UpstreamError, and KeyError or so for other forms."""
        ...

    def read_score(self, answer: dict[str, Any], token: tuple[int, str]) -> float | None:
        """Return the log-probability of the scored token in an answer.

        Minus infinity if others are named and it is not; None if none are.
        """
        ...


@dataclass(slots=True)
class Completions:
    """OpenAI's /v1/completions, as vLLM, SGLang and llama.cpp have it. `plain`: no parameter beyond OpenAI's."""

    model: str
    eos_ids: tuple[int, ...]
    takes_ids: bool = True
    plain: bool = False
    scores: bool = True
    path: str = "/v1/completions"

    def write(self, ask: Ask, *, stream: bool) -> dict[str, Any]:
        """See `Speaker`."""
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": ask.prompt,
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "seed": ask.seed,
        }
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.plain:
            return body
        # Servers have defaults of their own, so everything that changes the distribution is sent.
        body |= {
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": self.eos_ids,
            "add_special_tokens": False,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "return_token_ids": True,
        }
        if ask.scored:
            body |= {"logprobs": TOP, "logprob_token_ids": [ask.scored[0]], "return_tokens_as_token_ids": True}
        return body

    def read(self, answer: dict[str, Any]) -> Piece:
        """See `Speaker`."""
        check_fault(answer)
        counts = read_usage(answer)
        if not answer["choices"]:
            return counts
        choice = answer["choices"][0]
        ids = choice.get("token_ids")
        return replace(
            counts,
            text=choice["text"],
            token_ids=None if ids is None else tuple(ids),
            finish=read_finish(choice.get("finish_reason")),
        )

    def read_score(self, answer: dict[str, Any], token: tuple[int, str]) -> float | None:
        """See `Speaker`."""
        logprobs = answer["choices"][0].get("logprobs") or {}
        if logprobs.get("content"):  # llama.cpp writes them as chat answers have them
            return find_logprob(logprobs["content"][0]["top_logprobs"], token)
        if not logprobs.get("top_logprobs"):
            return None
        named: Mapping[str, float] = logprobs["top_logprobs"][0]
        return max(named.get(f"token_id:{token[0]}", LEAST), named.get(token[1], LEAST))


@dataclass(slots=True)
class Ollama:
    """Ollama's /api/generate, raw."""

    model: str
    takes_ids: bool = False
    scores: bool = True
    path: str = "/api/generate"

    def write(self, ask: Ask, *, stream: bool) -> dict[str, Any]:
        """See `Speaker`."""
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": ask.prompt,
            "raw": True,
            "stream": stream,
            "truncate": False,  # a prompt that is too long is an error, and not cut
            "shift": False,
            "options": {
                "num_predict": ask.max_tokens,
                "temperature": ask.temperature,
                "top_p": ask.top_p,
                "seed": ask.seed,
                "top_k": 0,
                "min_p": 0.0,
                "repeat_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
            },
        }
        return body | {"logprobs": True, "top_logprobs": TOP} if ask.scored else body

    def read(self, answer: dict[str, Any]) -> Piece:
        """See `Speaker`."""
        check_fault(answer)
        finish = read_finish(answer.get("done_reason", "stop")) if answer["done"] else None
        return Piece(
            answer["response"],
            finish=finish,
            tokens=answer.get("eval_count"),
            prompt_tokens=answer.get("prompt_eval_count"),
        )

    def read_score(self, answer: dict[str, Any], token: tuple[int, str]) -> float | None:
        """See `Speaker`."""
        logprobs = answer.get("logprobs")
        return find_logprob(logprobs[0]["top_logprobs"], token) if logprobs else None


@dataclass(slots=True)
class ChatCompletions:
    """OpenAI's /v1/chat/completions, for servers that continue no prompts."""

    model: str
    takes_ids: bool = False
    scores: bool = False
    path: str = "/v1/chat/completions"

    def write(self, ask: Ask, *, stream: bool) -> dict[str, Any]:
        """See `Speaker`."""
        assert isinstance(ask.prompt, Chat)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in ask.prompt.messages],
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "seed": ask.seed,
        }
        if ask.prompt.mode and ask.prompt.switch:
            body["chat_template_kwargs"] = {ask.prompt.switch: ask.prompt.mode is Mode.THINK}
        return body | {"stream": True, "stream_options": {"include_usage": True}} if stream else body

    def read(self, answer: dict[str, Any]) -> Piece:
        """See `Speaker`."""
        check_fault(answer)
        counts = read_usage(answer)
        if not answer["choices"]:
            return counts
        choice = answer["choices"][0]
        message = choice.get("delta") or choice.get("message") or {}
        thinking = message.get("reasoning_content") or message.get("reasoning")
        return replace(
            counts,
            text=thinking or message.get("content") or "",
            part=Part.THINKING if thinking else Part.ANSWER,
            finish=read_finish(choice.get("finish_reason")),
        )

    def read_score(self, answer: dict[str, Any], token: tuple[int, str]) -> float | None:
        """See `Speaker`."""
        return None


LEAST = float("-inf")


def find_logprob(named: Sequence[Mapping[str, Any]], token: tuple[int, str]) -> float:
    """Return the log-probability of a token among those that a server names, by id where it gives ids."""
    found = (one["logprob"] for one in named if (one["id"] == token[0] if "id" in one else one["token"] == token[1]))
    return max(found, default=LEAST)


def read_finish(reason: str | None) -> Finish | None:
    """Return why a completion ended; raises UpstreamError where the server gave it up."""
    if not reason:
        return None
    if reason not in FINISHES:
        raise UpstreamError(f"it ended with {reason!r}")
    return FINISHES[reason]


def read_usage(answer: dict[str, Any]) -> Piece:
    """Return the counts of an answer, which come in a piece of their own in streams."""
    usage = answer.get("usage") or {}
    return Piece(tokens=usage.get("completion_tokens"), prompt_tokens=usage.get("prompt_tokens"))


def check_fault(answer: dict[str, Any]) -> None:
    """Raise UpstreamError for an answer that is an error."""
    if answer.get("error"):
        raise UpstreamError(str(answer["error"]))


async def read_stream(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Yield the objects of a stream: of server-sent events, or one in each line."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if found := read_line(line):
                yield found
    if found := read_line(rest):
        yield found


def read_line(line: bytes) -> dict[str, Any] | None:
    """Return the object in a line, None for comments, names of events and the end's own mark."""
    if line.startswith(b"error:"):  # llama.cpp's older servers
        raise UpstreamError(line.decode(errors="replace"))
    data = line.removeprefix(b"data:").strip()
    found: dict[str, Any] | None = json.loads(data) if data.startswith(b"{") else None
    return found
