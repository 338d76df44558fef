"""What a running server can do, tried on one small prompt: which interface it has, and whether it returns log-probs.

Nothing is assumed from a server's name. A prompt is continued as it is only if the server counts as many tokens in it
as we do: one that writes a prompt into a chat template of its own counts more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx

from adaptthink.errors import UserError
from adaptthink.models.loading import Tokenization
from adaptthink.modes import Message, Mode, encode_prompt
from adaptthink.sampling.engine import PROBE_QUESTION
from adaptthink.sampling.reading import decode
from adaptthink.serving.speakers import (
    Ask,
    Chat,
    ChatCompletions,
    Completions,
    Ollama,
    Piece,
    Prompt,
    Speaker,
    UpstreamError,
)

INSPECTION_SECONDS = 60.0  # for one call; a server may have to load its model first
UNREADABLE = (KeyError, IndexError, TypeError, ValueError, AttributeError, UpstreamError)  # what other forms raise


class UnreachableError(Exception):
    """The server does not answer, or asks to come back later."""


class RefusedError(UserError):
    """The server does not have what is called, or refuses the call."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server can do."""

    speaker: Speaker
    modes: tuple[Mode, ...]  # that can be requested
    context_tokens: int | None  # of prompt and response together, as far as the server says it

    @property
    def raw(self) -> bool:
        """Whether it continues prompts as they are."""
        return not isinstance(self.speaker, ChatCompletions)

    def describe(self) -> str:
        """Return one line for people."""
        how = self.speaker.path + (", prompts as token ids" if self.speaker.takes_ids else ", prompts as text")
        if self.speaker.scores:
            return f"{how}, with log-probabilities: all modes and thresholds"
        if self.raw:
            return f"{how}, without log-probabilities: modes as requested, else as the model samples them; no threshold"
        offered = "modes as requested, else as the server chooses" if self.modes else "only as the server chooses"
        return f"{self.speaker.path} alone, no prompt is continued as it is: {offered}; no threshold"


async def inspect_server(client: httpx.AsyncClient, text: Tokenization, name: str) -> Capabilities:
    """Try what a server can do with the model of this name, or its only one.

    Raises UnreachableError where it does not answer, RefusedError or another UserError for one that refuses the key,
    lacks the model or cannot be used at all.
    """
    listed = await call(client, "GET", "/v1/models")
    model = choose_model(listed, name)
    speakers: list[Speaker] = [
        Completions(model["id"], text.eos_ids),
        Ollama(model["id"]),
        Completions(model["id"], text.eos_ids, takes_ids=False),
        Completions(model["id"], text.eos_ids, takes_ids=False, plain=True, scores=False),
    ]
    ids = encode_prompt(text.tokenizer, text.template, PROBE_QUESTION)
    for speaker in speakers:
        prompt: Prompt = ids if speaker.takes_ids else write_prompt(text.tokenizer, ids)
        answer = await try_call(client, speaker, make_ask(prompt, text))
        piece = read_answer(speaker, answer)
        if answer is not None and piece and piece.prompt_tokens in (None, len(ids)):
            speaker.scores = speaker.scores and speaker.read_score(answer, make_scored(text)) is not None
            return Capabilities(speaker, tuple(Mode), await find_context(client, model))
    chat = ChatCompletions(model["id"])
    counts = [await count_chat_prompt(client, chat, text, mode) for mode in (None, *Mode)]
    if counts[0] is None:
        raise UserError(
            f"the server at {client.base_url} completes neither prompts nor conversations of '{model['id']}'; see its "
            "log, and give the address of vLLM, SGLang, llama.cpp, Ollama or another server with OpenAI's interface"
        )
    # The two modes' prompts differ by what the chat template writes for them, if the server heeds the switch.
    switched = text.template.switch is not None and None not in counts and counts[1] != counts[2]
    return Capabilities(chat, tuple(Mode) if switched else (), await find_context(client, model))


def choose_model(listed: Any, name: str) -> dict[str, Any]:
    """Return the only model in a server's list, or of several the one with this name; raises UserError for none."""
    try:
        models = {str(one["id"]): dict(one) for one in listed["data"]}
    except UNREADABLE:
        advice = "give the address of a server with OpenAI's interface"
        raise UserError(f"the upstream's list of models cannot be read; {advice}") from None
    if len(models) != 1 and name not in models:
        raise UserError(
            f"the upstream has no model '{name}' but {', '.join(models) or 'none'}; give --name with one of them"
        )
    return models.get(name) or next(iter(models.values()))


def make_ask(prompt: Prompt, text: Tokenization) -> Ask:
    """Return a call for one token and its log-probability."""
    return Ask(prompt, 1, temperature=1.0, top_p=1.0, seed=0, scored=make_scored(text))


def make_scored(text: Tokenization) -> tuple[int, str]:
    """Return the no_think decision token with its text."""
    token = text.template.no_think_id
    return token, decode(text.tokenizer, [token])


def write_prompt(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return a prompt's text for a server that takes no ids: without the BOS that its tokenizer adds itself."""
    added = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id] == list(ids[:1])
    return decode(tokenizer, ids[1:] if added else ids)


async def call(client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return a JSON answer; raises UnreachableError for none, RefusedError, and UserError for a key that is refused."""
    try:
        answer = await client.request(method, path, json=body, timeout=INSPECTION_SECONDS)
    except httpx.HTTPError as error:
        raise UnreachableError(f"{type(error).__name__} {error}".strip()) from None
    if answer.status_code in (429, 502, 503, 504):
        raise UnreachableError(f"it answered {answer.status_code}")
    if answer.status_code in (401, 403):
        raise UserError(
            f"the server at {client.base_url} refuses the key ({answer.status_code}); give its own as "
            "ADAPTTHINK_UPSTREAM_KEY or --upstream-key"
        )
    if answer.is_error:
        raise RefusedError(f"the server at {client.base_url} answered {answer.status_code} to {method} {path}")
    try:
        return answer.json()
    except ValueError:
        raise RefusedError(f"the server at {client.base_url} did not answer {method} {path} in JSON") from None


async def try_call(client: httpx.AsyncClient, speaker: Speaker, ask: Ask) -> Any:
    """Return the answer of an interface, None where the server does not have it or refuses."""
    try:
        return await call(client, "POST", speaker.path, speaker.write(ask, stream=False))
    except RefusedError:
        return None


def read_answer(speaker: Speaker, answer: Any) -> Piece | None:
    """Return what an answer says, None for another form."""
    try:
        return None if answer is None else speaker.read(answer)
    except UNREADABLE:
        return None


async def count_chat_prompt(
    client: httpx.AsyncClient, chat: ChatCompletions, text: Tokenization, mode: Mode | None
) -> int | None:
    """Return how many tokens the server makes of a conversation in a mode; 0 if it does not say, None if it refuses."""
    prompt = Chat((Message("user", PROBE_QUESTION),), mode, text.template.switch)
    piece = read_answer(chat, await try_call(client, chat, make_ask(prompt, text)))
    return None if piece is None else piece.prompt_tokens or 0


async def find_context(client: httpx.AsyncClient, model: dict[str, Any]) -> int | None:
    """Return the tokens that prompt and response may have together, where the server says it."""
    places = (
        (None, lambda _: model["max_model_len"]),  # vLLM, SGLang
        ("/props", lambda found: found["default_generation_settings"]["n_ctx"]),  # llama.cpp
        ("/api/ps", lambda found: {one["model"]: one for one in found["models"]}[model["id"]]["context_length"]),
    )
    for path, read in places:
        try:
            tokens = read(await call(client, "GET", path) if path else None)
        except (*UNREADABLE, RefusedError):
            continue
        if isinstance(tokens, int) and tokens > 0:
            return tokens
    return None
