"""The boundary to whatever generates: three methods, and a scripted fake that makes tests fast.

An engine knows tokens only. What is forced and what is sampled is said in the `Request`; what the policy thought of
each token comes back in the `Completion`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Finish(StrEnum):
    """Why a response ended."""

    STOP = "stop"  # the end token was drawn
    LENGTH = "length"  # the cap was reached first


@dataclass(frozen=True, slots=True)
class Request:
    """One response to generate.

    `prefix_ids` are forced as the first response tokens and count toward `max_tokens`. `banned_first_ids` cannot be
    drawn as the first sampled token. `stream` names the random stream: the same engine seed and stream give the
    same draws, whatever else is in the batch.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    stream: int
    prefix_ids: tuple[int, ...] = ()
    banned_first_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """The response to one `Request`, prefix and end token included.

    `logprobs[t]` is the log-probability of `token_ids[t]`: for a sampled token under the distribution that it was
    drawn from (temperature, top_p and bans applied), for a forced token under the model at the same temperature.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish


OnFinish = Callable[[int, Completion], None]  # called as each response ends, with its place among the requests


class Engine(Protocol):
    """What every engine does."""

    def generate(
        self,
        requests: Sequence[Request],
        *,
        temperature: float,
        top_p: float = 1.0,
        seed: int = 0,
        on_finish: OnFinish | None = None,
    ) -> list[Completion]:
        """Complete every request, in order; `on_finish` gets each response as it ends."""
        ...

    def next_token_logprobs(
        self, prompts: Sequence[Sequence[int]], token_ids: Sequence[int], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Return, for each prompt, the log-probability of each of `token_ids` as the next token (one prefill)."""
        ...

    def load_weights(self, model: PreTrainedModel) -> None:
        """Generate with these weights from now on. Called after every change to the model."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """An engine that also takes requests as it has room for them, so that there may be any number of them."""

    def stream(
        self, requests: Iterable[Request], *, temperature: float, top_p: float, seed: int, on_finish: OnFinish
    ) -> None:
        """Complete requests without prefixes and bans; `on_finish` gets each with its place, and nothing is kept."""
        ...


class ScriptedEngine:
    """A fake that answers from a function: prompt ids and prefix ids in, response ids after the prefix out.

    A response that does not fit the cap is cut and finishes with `Finish.LENGTH`. Every token's log-probability is
    `logprob`. `requests` remembers what was asked, `num_loads` counts the times that weights were loaded.
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
        """Answer every request from the script."""
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
        """Answer from `next_token`."""
        return [[self.next_token(tuple(prompt), token) for token in token_ids] for prompt in prompts]

    def load_weights(self, model: PreTrainedModel) -> None:
        """Count the call."""
        self.num_loads += 1
