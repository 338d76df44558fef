"""The boundary to whatever generates: three methods, and a scripted fake that makes tests fast.

An engine knows tokens only. The `Request` states what is forced and what is sampled; the `Completion` has the
log-probability of each token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from adaptthink.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NonFiniteError(UserError):
    """The model's logits are not finite, so no token can be sampled from them."""


def check_finite(logprobs: Iterable[float]) -> None:
    """Raise NonFiniteError if a log-probability is NaN, as all are where one logit is NaN or +infinity."""
    if any(map(math.isnan, logprobs)):
        raise NonFiniteError(
            "the model's logits are not finite (NaN), so no token can be sampled; check the model with adaptthink "
            "doctor, lower the learning rate if it was being trained, or give --dtype float32"
        )


class Finish(StrEnum):
    """Why a completion ended.

    >>> import adaptthink as at
    >>> [finish.value for finish in at.Finish]
    ['stop', 'length']
    """

    STOP = "stop"  # an end token was sampled
    LENGTH = "length"  # max_tokens was reached first


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to generate.

    `prefix_ids` are forced as the first tokens and count toward `max_tokens`. `banned_first_ids` are never sampled as
    the first token behind the prefix. `stream` identifies the random stream: the same engine seed and stream give the
    same samples, whatever else is in the batch.

    >>> import adaptthink as at
    >>> at.Request(prompt_ids=(5, 6, 7), max_tokens=16, stream=0).prefix_ids
    ()
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    stream: int
    prefix_ids: tuple[int, ...] = ()
    banned_first_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """The tokens generated for one `Request`, prefix and end token included.

    `logprobs[t]` is the log-probability of `token_ids[t]`, in nats: for a sampled token under the distribution that it
    was sampled from (temperature, top_p and bans applied), for a forced token under the model at the same temperature.

    >>> import adaptthink as at
    >>> at.Completion(token_ids=(11, 2), logprobs=(-0.7, -0.1), finish=at.Finish.STOP).finish
    <Finish.STOP: 'stop'>
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish


OnFinish = Callable[[int, Completion], None]  # called as each one ends, with its request's index


class Engine(Protocol):
    """What every engine can do: two methods. One that training uses also takes weights (`TrainingEngine`).

    >>> import adaptthink as at
    >>> from adaptthink.engines.native import NativeEngine
    >>> policy = at.load("tiny")
    >>> engine = NativeEngine(policy.model, policy.eos_ids)
    >>> request = at.Request(tuple(policy.tokenizer.encode("47+8=?")), max_tokens=4, stream=0)
    >>> len(engine.generate([request], temperature=1.0)[0].token_ids) <= 4
    True
    """

    def generate(
        self,
        requests: Sequence[Request],
        *,
        temperature: float,
        top_p: float = 1.0,
        seed: int = 0,
        on_finish: OnFinish | None = None,
    ) -> list[Completion]:
        """Return one completion per request, in their order; `on_finish` is called with each as it ends."""
        ...

    def next_token_logprobs(
        self, prompts: Sequence[Sequence[int]], token_ids: Sequence[int], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Return for each prompt the log-probability of each of `token_ids` as the next token, (P, N); one prefill."""
        ...


@runtime_checkable
class TrainingEngine(Engine, Protocol):
    """An engine that follows a model in training."""

    def load_weights(self, model: PreTrainedModel) -> None:
        """Generate with these weights from now on. Called after every change to the model."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """An engine that can also take requests from an iterator, of any length, as slots become free."""

    def stream(
        self, requests: Iterable[Request], *, temperature: float, top_p: float, seed: int, on_finish: OnFinish
    ) -> None:
        """Complete requests without prefixes and bans; `on_finish` gets each one's index, and none is kept."""
        ...


class ScriptedEngine:
    """A fake that answers from a function: prompt ids and prefix ids in, response ids after the prefix out.

    A response that is longer than max_tokens is cut and finishes with `Finish.LENGTH`. Every token's log-probability is
    `logprob`. `requests` records all requests, `num_loads` counts how often weights were loaded.
    """

    def __init__(
        self,
        script: Callable[[tuple[int, ...], tuple[int, ...]], Sequence[int]],
        *,
        logprob: float = -0.5,
        next_token: Callable[[tuple[int, ...], int], float] = lambda prompt, token: math.log(0.5),
    ) -> None:
        self.script = script
        self.logprob = logprob
        self.next_token = next_token
        self.requests: list[Request] = []
        self.num_loads = 0

    def generate(
        self,
        requests: Sequence[Request],
        *,
        temperature: float,
        top_p: float = 1.0,
        seed: int = 0,
        on_finish: OnFinish | None = None,
    ) -> list[Completion]:
        """Complete every request from the script."""
        completions = []
        for index, request in enumerate(requests):
            self.requests.append(request)
            ids = (*request.prefix_ids, *self.script(request.prompt_ids, request.prefix_ids))
            finish = Finish.STOP if len(ids) <= request.max_tokens else Finish.LENGTH
            ids = ids[: request.max_tokens]
            completions.append(Completion(ids, (self.logprob,) * len(ids), finish))
            if on_finish:
                on_finish(index, completions[-1])
        return completions

    def next_token_logprobs(
        self, prompts: Sequence[Sequence[int]], token_ids: Sequence[int], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Return the values of `next_token`."""
        return [[self.next_token(tuple(prompt), token) for token in token_ids] for prompt in prompts]

    def load_weights(self, model: PreTrainedModel) -> None:
        """Count the call."""
        self.num_loads += 1
