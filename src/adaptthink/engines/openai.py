"""A running server with an OpenAI-style /v1/completions that speaks token ids: vLLM's.

Needed of the server: prompts as token ids, `return_token_ids`, `logprob_token_ids`, a seed for each request, and
log-probabilities of the distribution that is sampled from. `check_server` measures the last one, and that the server
has our model.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2 as httpx
from pydantic import BaseModel, ValidationError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from adaptthink.engines.base import Completion, Engine, OnFinish, Request
from adaptthink.engines.http_retry import ATTEMPTS, check_url, choose_wait, is_transient, parse_retry_after, shorten
from adaptthink.engines.rounds import (
    Continuation,
    ContinuationRequest,
    OnContinuation,
    complete,
    make_scoring_requests,
    read_scores,
    score,
)
from adaptthink.engines.vllm_worker import EXTENSION, METHOD
from adaptthink.engines.weights import write_weights_folder
from adaptthink.errors import UserError, hide_secret, redact

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEY_VARIABLE = "VLLM_API_KEY"  # the variable that vLLM's own server reads
TIMEOUT = httpx.Timeout(3600, connect=10)  # seconds, of all other calls; loading weights may take a while
GENERATION_TIMEOUT = httpx.Timeout(4 * 3600, connect=10)  # a completion arrives in one piece, after its queue
KEEP_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [  # a machine that is gone is noticed in four minutes
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 30, "TCP_KEEPCNT": 6}.items()
    if hasattr(socket, name)  # elsewhere the system's own default holds, some two hours
]
HALF = 0.5  # the temperature that is compared with 1
MODEL_TOLERANCE = 0.5  # nats between a server's log-probabilities and ours; half precision stays far below
M = TypeVar("M", bound=BaseModel)
START_SERVER = "vllm serve MODEL --logprobs-mode processed_logprobs"
REFUSALS = (400, 413, 422)  # the call itself is at fault: another server would refuse it too


class UnansweredError(UserError):
    """No answer, or a request to wait: the call may succeed later, or on another server."""

    def __init__(self, message: str, wait_seconds: float | None = None, *, busy: bool = False) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds  # from the server's Retry-After
        self.busy = busy  # the server has too many calls, and did not try this one


class RefusedError(UserError):
    """A call that no server will answer, however often it is repeated."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What identifies the model that a server must have: log-probabilities (in nats) of tokens after a prompt."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def make_probe(native: Engine, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> Probe:
    """Return a probe with the log-probabilities of the model that `native` runs."""
    [ours] = native.next_token_logprobs([prompt_ids], token_ids)
    return Probe(tuple(prompt_ids), tuple(token_ids), tuple(ours))


class _Model(BaseModel):
    id: str
    max_model_len: int


class _Models(BaseModel):
    data: list[_Model]


class _Logprobs(BaseModel):
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]


class _Choice(BaseModel):
    token_ids: list[int]
    logprobs: _Logprobs
    finish_reason: str


class _Completions(BaseModel):
    choices: list[_Choice]


class _Reset(BaseModel):
    success: bool


def connect(endpoint: str, eos_ids: Sequence[int], *, name: str, max_concurrent_sequences: int) -> OpenAIEngine:
    """Return an engine for the server at `endpoint`, such as http://localhost:8000.

    The server's only model is taken, or of several the one called `name`. Raises UserError if there is none.
    """
    return asyncio.run(
        find_server(
            parse_base_url(endpoint),
            eos_ids,
            name=name,
            max_concurrent_sequences=max_concurrent_sequences,
            attempts=ATTEMPTS,
        )
    )


def parse_base_url(endpoint: str) -> str:
    """Return the address without the API's version; raises UserError if it is no URL of http or https."""
    url = endpoint.rstrip("/").removesuffix("/v1")
    check_url(url)
    return url


async def find_server(
    url: str, eos_ids: Sequence[int], *, name: str, max_concurrent_sequences: int, attempts: int
) -> OpenAIEngine:
    """Return an engine for the server at `url`, after reading its list of models (see `connect`)."""
    answer = await call_one(url, "GET", "/v1/models", attempts=attempts)
    models = parse_answer(_Models, answer, url, "its models with their lengths").data
    chosen = [model for model in models if model.id == name] or models
    if len(chosen) != 1:
        raise UserError(
            f"the server at {url} has no model '{name}' but {', '.join(model.id for model in models) or 'none'}; "
            f"start it with --served-model-name {name}"
        )
    return OpenAIEngine(
        url,
        eos_ids,
        model=chosen[0].id,
        capacity_tokens=chosen[0].max_model_len,
        max_concurrent_sequences=max_concurrent_sequences,
    )


class OpenAIEngine:
    """Generates with `model` on the server at `url`, `max_concurrent_sequences` at a time; `eos_ids` end a completion.

    Each continuation is a call of its own, with its own seed. Calls are repeated after broken connections, 429 and 5xx.
    """

    def __init__(
        self, url: str, eos_ids: Sequence[int], *, model: str, capacity_tokens: int, max_concurrent_sequences: int
    ) -> None:
        self.url = url
        self.eos_ids = tuple(sorted(set(eos_ids)))
        self.model = model
        self.capacity_tokens = capacity_tokens
        self.max_concurrent_sequences = max_concurrent_sequences

    def generate(
        self,
        requests: Sequence[Request],
        *,
        temperature: float,
        top_p: float = 1.0,
        seed: int = 0,
        on_finish: OnFinish | None = None,
    ) -> list[Completion]:
        """Complete every request, in order (see `Engine.generate` and `rounds.complete`)."""
        return complete(
            self._continue_all,
            requests,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            capacity_tokens=self.capacity_tokens,
            on_finish=on_finish,
        )

    def next_token_logprobs(
        self, prompts: Sequence[Sequence[int]], token_ids: Sequence[int], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Return log-probabilities of the next token from one prefill per prompt (see `Engine`)."""
        return score(self._continue_all, prompts, token_ids, temperature)

    def load_weights(self, model: PreTrainedModel) -> None:
        """Replace the server's weights by the model's, by way of a folder that both must see.

        Raises UserError if the server does not take weights.
        """
        with write_weights_folder(model) as folder:
            asyncio.run(self._send_weights(str(folder)))

    async def _send_weights(self, folder: str) -> None:
        try:
            await call_one(self.url, "POST", "/collective_rpc", {"method": METHOD, "args": [folder]}, attempts=1)
            answer = await call_one(self.url, "POST", "/reset_prefix_cache")
        except UserError as error:
            raise UserError(
                f"the server takes no weights, so it can evaluate but not train: {error}; start it on this machine "
                f"with VLLM_SERVER_DEV_MODE=1 and --worker-extension-cls {EXTENSION}, or train with --engine vllm"
            ) from None
        if not parse_answer(_Reset, answer, self.url, "the state of its prefix cache").success:
            raise UserError(
                f"the server at {self.url} kept its prefix cache of the old weights; make sure that nobody else uses it"
            )

    def _continue_all(
        self, requests: Sequence[ContinuationRequest], on_continuation: OnContinuation
    ) -> list[Continuation]:
        return asyncio.run(self._continue_together(requests, on_continuation))

    async def _continue_together(
        self, requests: Sequence[ContinuationRequest], on_continuation: OnContinuation
    ) -> list[Continuation]:
        slots = asyncio.Semaphore(self.max_concurrent_sequences)

        async def continue_one(client: httpx.AsyncClient, index: int, request: ContinuationRequest) -> Continuation:
            async with slots:
                continuation = await self.send(client, request)
            if on_continuation:
                on_continuation(index, continuation)
            return continuation

        async with make_client(self.url, self.max_concurrent_sequences) as client:
            return await asyncio.gather(*(continue_one(client, *numbered) for numbered in enumerate(requests)))

    async def send(
        self, client: httpx.AsyncClient, request: ContinuationRequest, *, attempts: int = ATTEMPTS
    ) -> Continuation:
        """Send one request and return its result.

        Raises UnansweredError, RefusedError, or UserError for an answer that lacks something.
        """
        answer = await call(
            client, "POST", "/v1/completions", self._body(request), attempts=attempts, timeout=GENERATION_TIMEOUT
        )
        return self._read(request, answer)

    async def check(self, probe: Probe) -> None:
        """Measure that the server has the model of `probe` and returns log-probabilities of what it samples from.

        A ratio of two probabilities is squared when the temperature is halved. Where it stays as it is, the server
        reports the model's probabilities instead of the sampled distribution's. Raises UserError if a check fails.
        """
        at_one, at_half = [await self._score(probe, temperature) for temperature in (1.0, HALF)]
        gap = max(abs(a - b) for a, b in zip(probe.logprobs, at_one, strict=True))
        if gap > MODEL_TOLERANCE:
            raise UserError(
                f"the server at {self.url} has another model than --model: log-probabilities of the same tokens differ "
                f"by {gap:.2f}; give its model, or start it with yours"
            )
        spread_at_one, spread_at_half = (max(row) - min(row) for row in (at_one, at_half))
        if spread_at_half < spread_at_one * (1 + 1 / HALF) / 2:
            raise UserError(
                f"the server at {self.url} returns log-probabilities without the sampling temperature; "
                f"start it with: {START_SERVER}"
            )

    async def _score(self, probe: Probe, temperature: float) -> list[float]:
        requests = make_scoring_requests({probe.prompt_ids: probe.token_ids}, temperature)
        scores = read_scores(requests, await self._continue_together(requests, None))
        return [scores[probe.prompt_ids, token] for token in probe.token_ids]

    def _body(self, request: ContinuationRequest) -> dict[str, Any]:
        """Return the call's JSON. Every sampling setting is in it, as servers have defaults of their own."""
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": request.context_ids,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": request.seed,
            "stop_token_ids": self.eos_ids,
            "ignore_eos": True,  # ours are the only end tokens
            "logprobs": len(request.scored_ids),
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "add_special_tokens": False,
        }
        if request.banned_ids:
            body["logit_bias"] = {str(token): -100 for token in request.banned_ids}  # the lowest allowed; e⁻¹⁰⁰
        if request.scored_ids:
            body["logprob_token_ids"] = request.scored_ids
        return body

    def _read(self, request: ContinuationRequest, answer: bytes) -> Continuation:
        """Read the answer to one request; raises UserError if anything that it requested is missing."""
        wanted = "token ids with log-probabilities"
        choices = parse_answer(_Completions, answer, self.url, wanted).choices
        if len(choices) != 1 or len(choices[0].token_ids) != len(choices[0].logprobs.token_logprobs):
            raise make_missing_error(self.url, wanted, "their numbers differ")
        choice = choices[0]
        scored = choice.logprobs.top_logprobs[0] if request.scored_ids and choice.logprobs.top_logprobs else {}
        missing = [token for token in request.scored_ids if f"token_id:{token}" not in scored]
        if missing:
            raise make_missing_error(
                self.url, "log-probabilities of the tokens in logprob_token_ids", f"no {missing[0]}"
            )
        return Continuation(
            tuple(choice.token_ids),
            tuple(choice.logprobs.token_logprobs),
            stopped=choice.finish_reason == "stop",
            scored=tuple(scored[f"token_id:{token}"] for token in request.scored_ids),
        )


def check_server(engine: OpenAIEngine, native: Engine, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> None:
    """Check that a server has the model of `native` (see `OpenAIEngine.check`), by the first token after a prompt."""
    asyncio.run(engine.check(make_probe(native, prompt_ids, token_ids)))


def make_client(url: str, max_connections: int = 1) -> httpx.AsyncClient:
    """Return a client of one server, with the key from the environment if there is one; proxies play no part."""
    key = os.environ.get(KEY_VARIABLE)
    hide_secret(key)
    limits = httpx.Limits(max_connections=max_connections)
    return httpx.AsyncClient(
        base_url=url,
        transport=httpx.AsyncHTTPTransport(limits=limits, socket_options=KEEP_ALIVE),
        headers={"Authorization": f"Bearer {key}"} if key else {},
    )


async def call_one(
    url: str, method: str, path: str, body: dict[str, Any] | None = None, *, attempts: int = ATTEMPTS
) -> bytes:
    """Make one call with a client of its own (see `call`)."""
    async with make_client(url) as client:
        return await call(client, method, path, body, attempts=attempts)


async def call(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    attempts: int = ATTEMPTS,
    timeout: httpx.Timeout | None = None,
) -> bytes:
    """Return the body of a server's answer; raises UnansweredError when there is none after all attempts.

    The default time-out is `TIMEOUT`. Raises RefusedError for a call that is at fault itself, UserError for one that is
    not allowed or not known.
    """
    where = f"{client.base_url.join(path)}"
    try:
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(attempts), wait=choose_wait, retry=retry_if_exception(is_transient), reraise=True
        ):
            with attempt:
                response = await client.request(method, path, json=body, timeout=timeout or TIMEOUT)
                response.raise_for_status()
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        advice = {401: f"set {KEY_VARIABLE}", 404: "it must be a server of vLLM"}.get(status, "see the server's log")
        message = f"{where} answered {status}: {shorten(redact(error.response.text))}; {advice}"
        if is_transient(error):
            raise UnansweredError(message, parse_retry_after(error), busy=status == 429) from None
        raise (RefusedError if status in REFUSALS else UserError)(message) from None
    except httpx.HTTPError as error:
        reason = f"{type(error).__name__} {error}".strip()
        raise UnansweredError(f"no answer from {where} ({reason}); is the server running there?") from None
    return response.content


def parse_answer(schema: type[M], answer: bytes, url: str, wanted: str) -> M:
    """Return a JSON answer as a record; raises UserError that names what is missing from it."""
    try:
        return schema.model_validate_json(answer)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise make_missing_error(url, wanted, f"{where} {fault['msg']}".strip()) from None


def make_missing_error(url: str, wanted: str, fault: str) -> UserError:
    """Return the error for an answer that lacks something."""
    return UserError(
        f"the server at {url} does not return {wanted} ({shorten(redact(fault))}); use vLLM's: {START_SERVER}"
    )
