"""The native engine: samples from any Hugging Face causal LM with full attention, on CPU or GPU.

Why it is fast:

* a prompt is prefilled once, whatever number of responses share it;
* every row of the cache has its own length (tokens sit at their true positions, there is no left padding), so rows
  that finish are replaced by waiting requests at once; those with the largest max_tokens go first;
* what happens to rows in a step happens to all of them in one array operation;
* for the Llama family a fast path (`decoder.py`) replaces the model's modules;
* random numbers are counter-based: token t of request i is decided by (seed, i, t) alone.

Left out: models whose layers keep anything but full key/value tensors (sliding windows, linear attention). They are
refused when the engine is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from adaptthink.engines.base import Completion, Finish, OnFinish, Request, check_finite
from adaptthink.engines.cache import SlotCache
from adaptthink.engines.forward import Forward, make_forward, prefill_prompts
from adaptthink.engines.sampling import choose_tokens, make_uniforms
from adaptthink.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REFILL_SHARE = 0.8  # waiting requests are admitted when at most this share of the allowed rows is taken
FIRST_TOKENS = 256  # initial capacity of the buffer for each response; it doubles when it is full
SPARE_TOKENS = 64  # initial capacity of the cache behind a prompt
KEEP_SHARE = 0.85  # finished rows are dropped when at most this share of the rows is still active


class NativeEngine:
    """Generates with `model`; `eos_ids` end a response. The model may be trained between two calls.

    `dtype` is the precision of the forward pass (default: the model's own). Raises UserError for a model with layers
    that are not full attention.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: Sequence[int],
        *,
        max_concurrent_sequences: int = 1024,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.eos_ids = np.array(sorted(set(eos_ids)))
        self.max_concurrent_sequences = max_concurrent_sequences
        self.dtype = dtype or model.dtype
        layers = set(getattr(model.config.get_text_config(), "layer_types", None) or {"full_attention"})
        if layers != {"full_attention"}:
            raise UserError(
                f"the native engine needs full attention in every layer, but this model has {sorted(layers)}; "
                "serve it with an engine that supports it instead"
            )

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        *,
        temperature: float,
        top_p: float = 1.0,
        seed: int = 0,
        on_finish: OnFinish | None = None,
    ) -> list[Completion]:
        """Complete every request, in order (see `Engine.generate`)."""
        self.check_prompts([request.prompt_ids for request in requests])
        with self._forward() as forward:
            return _Generation(forward, self, requests, temperature, top_p, seed).run(on_finish)

    @torch.inference_mode()
    def next_token_logprobs(
        self, prompts: Sequence[Sequence[int]], token_ids: Sequence[int], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Return log-probabilities of the next token from one prefill per prompt (see `Engine`)."""
        if not prompts:
            return []
        self.check_prompts(prompts)
        with self._forward() as forward:
            _, logits_PV = prefill_prompts(forward, prompts, self.model.device)
        rows: list[list[float]] = (logits_PV / temperature).log_softmax(-1)[:, list(token_ids)].tolist()
        check_finite(chain.from_iterable(rows))
        return rows

    def check_prompts(self, prompts: Iterable[Sequence[int]]) -> None:
        """Raise UserError for a token without an embedding; a text may spell any token that the tokenizer knows."""
        embeddings: Any = self.model.get_input_embeddings()
        size = embeddings.weight.shape[0]
        largest = max(chain.from_iterable(set(map(tuple, prompts))), default=0)
        if largest >= size:
            raise UserError(
                f"a prompt has the token {largest}, and the model has {size} embeddings; resize the embeddings to the "
                "tokenizer, or leave the text of that token out"
            )

    @contextmanager
    def _forward(self) -> Iterator[Forward]:
        """Yield a forward pass over the weights as they are now, dropout off."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield make_forward(self.model, self.dtype)
        finally:
            self.model.train(was_training)

    def load_weights(self, model: PreTrainedModel) -> None:
        """Generate with `model` itself; nothing is copied."""
        self.model = model


@dataclass(slots=True)
class _Rows:
    """The responses that are being generated, one entry for each row of the cache."""

    index_B: np.ndarray  # of the request
    position_B: np.ndarray  # number of tokens that the response has so far
    active_B: np.ndarray  # False: finished, but not yet dropped

    def keep(self, rows: np.ndarray) -> None:
        """Drop all rows but these."""
        self.index_B, self.position_B = self.index_B[rows], self.position_B[rows]
        self.active_B = self.active_B[rows]

    def append(self, index_A: np.ndarray) -> None:
        """Add fresh rows for requests."""
        self.index_B = np.concatenate([self.index_B, index_A])
        self.position_B = np.concatenate([self.position_B, np.zeros_like(index_A)])
        self.active_B = np.concatenate([self.active_B, np.ones(len(index_A), bool)])


class _Generation:
    """One call of `generate`. Arrays that end in N run over the requests, in B over the rows of the cache."""

    def __init__(
        self,
        forward: Forward,
        engine: NativeEngine,
        requests: Sequence[Request],
        temperature: float,
        top_p: float,
        seed: int,
    ) -> None:
        self.forward, self.requests = forward, requests
        self.temperature, self.top_p, self.seed = temperature, top_p, seed
        self.device, self.eos_ids, self.max_concurrent_sequences = (
            engine.model.device,
            engine.eos_ids,
            engine.max_concurrent_sequences,
        )
        self.max_tokens_N = np.array([request.max_tokens for request in requests], np.int64)
        self.forced_N = np.array([len(request.prefix_ids) for request in requests], np.int64)
        self.stream_N = np.array([request.stream % 2**64 for request in requests], np.uint64)
        self.bans_N = np.array([bool(request.banned_first_ids) for request in requests], bool)
        self.tokens_NT = np.empty((len(requests), FIRST_TOKENS), np.int64)
        self.logprobs_NT = np.empty((len(requests), FIRST_TOKENS), np.float32)

    def run(self, on_finish: OnFinish | None) -> list[Completion]:
        """Generate until every request is complete; return completions in the order of the requests."""
        done: dict[int, Completion] = {}
        waiting = list(np.argsort(-self.max_tokens_N, kind="stable")[::-1])  # the next one is popped from the end
        rows = _Rows(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool))
        cache = SlotCache(self.forward.num_layers)
        logits_BV = torch.empty(0, 0, device=self.device)
        while waiting or len(rows.index_B):
            if waiting and len(rows.index_B) <= REFILL_SHARE * self.max_concurrent_sequences:
                count = min(len(waiting), self.max_concurrent_sequences - len(rows.index_B))
                admitted = np.array([waiting.pop() for _ in range(count)])
                new_logits_BV = self.prefill(admitted, cache)
                logits_BV = torch.cat([logits_BV, new_logits_BV]) if len(rows.index_B) else new_logits_BV
                rows.append(admitted)
            tokens_B, logprobs_B = self.choose(rows, logits_BV)
            for index, completion in self.record(rows, tokens_B, logprobs_B):
                done[index] = completion
                if on_finish:
                    on_finish(index, completion)
            # Dropping rows copies the cache, so finished rows stay until there are enough of them.
            if rows.active_B.sum() <= KEEP_SHARE * len(rows.active_B):
                kept = np.flatnonzero(rows.active_B)
                rows.keep(kept)
                kept_B = torch.from_numpy(kept).to(self.device)
                cache.keep(kept_B)
                tokens_B = tokens_B[kept_B]
            if len(rows.index_B):
                cache.begin(cache.lengths_B, 1)
                logits_BV = self.forward.step(tokens_B, cache)
                cache.lengths_B = cache.starts_B + 1
        return [done[index] for index in range(len(self.requests))]

    def prefill(self, admitted: np.ndarray, cache: SlotCache) -> Tensor:
        """Run each distinct prompt once, append one cache row per request, return their next-token logits (B, V)."""
        prompts = [self.requests[index].prompt_ids for index in admitted]
        order = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
        prompt_cache, logits_PV = prefill_prompts(self.forward, list(order), self.device)
        source_B = torch.tensor([order[prompt] for prompt in prompts], device=self.device)
        cache.append(prompt_cache, source_B, spare=SPARE_TOKENS)
        return logits_PV[source_B]

    def choose(self, rows: _Rows, logits_BV: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next token of each row and its log-probability, (B,) each; forced in a prefix, else sampled."""
        forced_B = self.forced_N[rows.index_B]
        banning = np.flatnonzero(self.bans_N[rows.index_B] & (rows.position_B == forced_B)).tolist()
        forcing = np.flatnonzero(rows.position_B < forced_B).tolist()
        uniform_B = torch.from_numpy(make_uniforms(self.seed, self.stream_N[rows.index_B], rows.position_B))
        return choose_tokens(
            logits_BV,
            uniform_B.to(self.device),
            np.full(len(forced_B), self.temperature),
            np.full(len(forced_B), self.top_p),
            banned={row: self.requests[rows.index_B[row]].banned_first_ids for row in banning},
            forced={row: self.requests[rows.index_B[row]].prefix_ids[rows.position_B[row]] for row in forcing},
        )

    def record(self, rows: _Rows, tokens_B: Tensor, logprobs_B: Tensor) -> list[tuple[int, Completion]]:
        """Store each active row's token; return the completions that this finished, with their requests' indices."""
        tokens, active = tokens_B.cpu().numpy(), rows.active_B
        index_A, position_A = rows.index_B[active], rows.position_B[active]
        if position_A.max(initial=0) >= self.tokens_NT.shape[1]:
            self.tokens_NT, self.logprobs_NT = (np.pad(old, ((0, 0), (0, old.shape[1]))) for old in self.written)
        self.tokens_NT[index_A, position_A] = tokens[active]
        logprobs_A = logprobs_B.cpu().numpy()[active]
        if np.isnan(logprobs_A).any():
            check_finite(logprobs_A.tolist())
        self.logprobs_NT[index_A, position_A] = logprobs_A
        stopped_B = (tokens[:, None] == self.eos_ids).any(1) & (rows.position_B >= self.forced_N[rows.index_B])
        rows.position_B = rows.position_B + 1
        finished_B = active & (stopped_B | (rows.position_B >= self.max_tokens_N[rows.index_B]))
        rows.active_B = active & ~finished_B
        return [
            (int(rows.index_B[row]), self.completion(rows.index_B[row], rows.position_B[row], stopped_B[row]))
            for row in np.flatnonzero(finished_B)
        ]

    @property
    def written(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and log-probabilities, (N, capacity) each."""
        return self.tokens_NT, self.logprobs_NT

    def completion(self, index: int, length: int, stopped: bool) -> Completion:
        """Return a finished response as a completion."""
        tokens, logprobs = (array[index, :length].tolist() for array in self.written)
        return Completion(tuple(tokens), tuple(logprobs), Finish.STOP if stopped else Finish.LENGTH)
