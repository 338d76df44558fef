"""The native engine: samples from any Hugging Face causal LM with full attention, on CPU or GPU.

How it is quick without being clever:

* a prompt is prefilled once, whatever number of responses share it;
* every row of the cache has its own length (tokens sit at their true positions, there is no left padding), so rows
  that finish leave and waiting requests take their place at once;
* draws come from a counter-based stream: token t of request i is decided by (seed, i, t) alone.

Left out: models whose layers keep anything but full key/value tensors (sliding windows, linear attention). They are
refused when the engine is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from adaptthink.engines.base import Completion, Finish, Request
from adaptthink.errors import UserError

PREFILL_TOKENS = 16384  # prompt tokens, padding included, in one forward pass
REFILL_SHARE = 0.8  # waiting requests are admitted when at most this share of the allowed rows is taken
KEEP_SHARE = 0.85  # finished rows are dropped when at most this share of the rows is still active


@dataclass(slots=True)
class _Row:
    """A response in the making."""

    index: int
    request: Request
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False


class NativeEngine:
    """Generates with `model`; `eos_ids` end a response. The model may be trained between two calls."""

    def __init__(self, model: PreTrainedModel, eos_ids: Sequence[int], *, max_rows: int = 1024) -> None:
        self.model = model
        self.eos_ids = torch.tensor(sorted(set(eos_ids)), device=model.device)
        self.max_rows = max_rows
        text_config = model.config.get_text_config()
        layers = set(getattr(text_config, "layer_types", None) or {"full_attention"})
        if layers != {"full_attention"}:
            raise UserError(
                f"the native engine needs full attention in every layer, but this model has {sorted(layers)}; "
                "serve it with an engine that supports it instead"
            )
        self.num_layers = text_config.num_hidden_layers

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        *,
        temperature: float,
        top_p: float = 1.0,
        seed: int = 0,
        on_finish: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Complete every request, in order (see `Engine.generate`)."""
        was_training = self.model.training
        self.model.eval()
        try:
            return self._generate(requests, temperature, top_p, seed, on_finish)
        finally:
            self.model.train(was_training)

    def _generate(
        self,
        requests: Sequence[Request],
        temperature: float,
        top_p: float,
        seed: int,
        on_finish: Callable[[int], None] | None,
    ) -> list[Completion]:
        done: dict[int, Completion] = {}
        waiting = [_Row(index, request) for index, request in enumerate(requests)]
        waiting.reverse()  # the next one is popped from the end
        rows: list[_Row] = []
        cache = SlotCache(self.num_layers)
        logits_BV = torch.empty(0, 0, device=self.model.device)
        while rows or waiting:
            if waiting and len(rows) <= REFILL_SHARE * self.max_rows:
                admitted = [waiting.pop() for _ in range(min(len(waiting), self.max_rows - len(rows)))]
                new_logits_BV = self._prefill(admitted, cache)
                logits_BV = torch.cat([logits_BV, new_logits_BV]) if rows else new_logits_BV
                rows += admitted
            tokens_B, logprobs_B = self._choose(rows, logits_BV, temperature, top_p, seed)
            newly_done = self._record(rows, tokens_B, logprobs_B)
            done |= newly_done
            if newly_done and on_finish:
                on_finish(len(newly_done))
            active = [position for position, row in enumerate(rows) if not row.finished]
            # Finished rows are carried along until there are enough of them to be worth a copy of the cache.
            if len(active) <= KEEP_SHARE * len(rows):
                rows = [rows[position] for position in active]
                kept_B = torch.tensor(active, dtype=torch.long, device=tokens_B.device)
                cache.keep(kept_B)
                tokens_B = tokens_B[kept_B]
            if rows:
                logits_BV = self._step(tokens_B, cache)
        return [done[index] for index in range(len(requests))]

    def _record(self, rows: list[_Row], tokens_B: Tensor, logprobs_B: Tensor) -> dict[int, Completion]:
        """Append each row's token and return the completions that this finished, by request index."""
        finished = {}
        ended_B = torch.isin(tokens_B, self.eos_ids).tolist()
        for row, token, logprob, ended in zip(rows, tokens_B.tolist(), logprobs_B.tolist(), ended_B, strict=True):
            if row.finished:
                continue
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            forced = len(row.token_ids) <= len(row.request.prefix_ids)
            stopped = ended and not forced
            row.finished = stopped or len(row.token_ids) >= row.request.max_tokens
            if row.finished:
                finish = Finish.STOP if stopped else Finish.LENGTH
                finished[row.index] = Completion(tuple(row.token_ids), tuple(row.logprobs), finish)
        return finished

    def _prefill(self, rows: list[_Row], cache: SlotCache) -> Tensor:
        """Run each distinct prompt once, append one cache row per request, return their next-token logits (B, V)."""
        distinct = list(dict.fromkeys(row.request.prompt_ids for row in rows))
        order = {prompt: index for index, prompt in enumerate(distinct)}
        prompt_cache, logits_PV = self._run_prompts(distinct)
        source_B = torch.tensor([order[row.request.prompt_ids] for row in rows], device=logits_PV.device)
        cache.append(prompt_cache, source_B)
        return logits_PV[source_B]

    def _run_prompts(self, prompts: Sequence[Sequence[int]]) -> tuple[SlotCache, Tensor]:
        """Prefill right-padded prompts; return their cache (one row each) and next-token logits (P, V)."""
        cache = SlotCache(self.num_layers)
        logits = []
        for batch in token_batches([len(prompt) for prompt in prompts], PREFILL_TOKENS):
            part = SlotCache(self.num_layers)
            device = self.model.device
            lengths_P = torch.tensor([len(prompts[index]) for index in batch], device=device)
            width = int(lengths_P.max())
            ids_PT = torch.zeros(len(batch), width, dtype=torch.long, device=device)
            for row, index in enumerate(batch):
                ids_PT[row, : len(prompts[index])] = torch.tensor(prompts[index], device=device)
            # Right padding needs no mask: a causal row never looks at what stands behind it.
            last, column_P = (lengths_P - 1).unique(return_inverse=True)
            part.begin(torch.zeros_like(lengths_P), width)
            logits_PLV = self.model(input_ids=ids_PT, past_key_values=part, use_cache=True, logits_to_keep=last).logits
            part.lengths_B = lengths_P
            cache.append(part, torch.arange(len(batch), device=device))
            logits.append(logits_PLV[torch.arange(len(batch), device=device), column_P])
        return cache, torch.cat(logits)

    def _step(self, tokens_B: Tensor, cache: SlotCache) -> Tensor:
        """Feed one token to every row; return the next-token logits (B, V)."""
        positions_B = cache.lengths_B
        cache.begin(positions_B, 1)
        mask_B11L = (torch.arange(cache.width, device=tokens_B.device) <= positions_B[:, None])[:, None, None]
        logits_B1V = self.model(
            input_ids=tokens_B[:, None],
            position_ids=positions_B[:, None],
            attention_mask=mask_B11L,
            past_key_values=cache,
            use_cache=True,
        ).logits
        cache.lengths_B = positions_B + 1
        return logits_B1V[:, -1]

    def _choose(
        self, rows: list[_Row], logits_BV: Tensor, temperature: float, top_p: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return the next token of each row and its log-probability: forced where a prefix says so, else drawn."""
        plain_BV = (logits_BV.float() / temperature).log_softmax(-1)
        drawn_BV = plain_BV
        positions = [len(row.token_ids) for row in rows]
        bans = [
            (index, token)
            for index, (row, position) in enumerate(zip(rows, positions, strict=True))
            if position == len(row.request.prefix_ids)
            for token in row.request.banned_first_ids
        ]
        if bans:
            banned_rows, banned_tokens = zip(*bans, strict=True)
            drawn_BV = plain_BV.clone()
            drawn_BV[list(banned_rows), list(banned_tokens)] = -torch.inf
            drawn_BV = drawn_BV.log_softmax(-1)
        if top_p < 1:
            drawn_BV = nucleus(drawn_BV, top_p)
        uniform_B = torch.from_numpy(uniforms(seed, [row.request.stream for row in rows], positions))
        tokens_B = draw(drawn_BV, uniform_B.to(drawn_BV.device))
        logprobs_B = drawn_BV.gather(-1, tokens_B[:, None]).squeeze(-1)
        forced = [
            (index, row.request.prefix_ids[position])
            for index, (row, position) in enumerate(zip(rows, positions, strict=True))
            if position < len(row.request.prefix_ids)
        ]
        if forced:
            forced_rows, forced_tokens = (
                torch.tensor(column, device=tokens_B.device) for column in zip(*forced, strict=True)
            )
            tokens_B[forced_rows] = forced_tokens
            logprobs_B[forced_rows] = plain_BV[forced_rows, forced_tokens]
        return tokens_B, logprobs_B

    @torch.inference_mode()
    def next_token_logprobs(
        self, prompts: Sequence[Sequence[int]], token_ids: Sequence[int], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Return log-probabilities of the next token from one prefill per prompt (see `Engine`)."""
        if not prompts:
            return []
        was_training = self.model.training
        self.model.eval()
        _, logits_PV = self._run_prompts(prompts)
        self.model.train(was_training)
        return (logits_PV.float() / temperature).log_softmax(-1)[:, list(token_ids)].tolist()

    def load_weights(self, model: PreTrainedModel) -> None:
        """Generate with `model` itself; nothing is copied."""
        self.model = model


class SlotCache(Cache):
    """A key/value cache whose rows have lengths of their own; rows are appended and dropped between steps.

    `begin(positions_B, count)` announces where the next `count` tokens of each row go. Buffers grow by doubling.
    """

    def __init__(self, num_layers: int) -> None:
        self.slots = [_SlotLayer(self) for _ in range(num_layers)]
        super().__init__(layers=[*self.slots])
        self.lengths_B = torch.empty(0, dtype=torch.long)
        self.starts_B = self.lengths_B
        self.width = 0

    def begin(self, starts_B: Tensor, count: int) -> None:
        """Announce that `count` tokens per row are about to be written at `starts_B`."""
        self.starts_B = starts_B
        self.width = int(starts_B.max()) + count

    def append(self, other: SlotCache, source_B: Tensor) -> None:
        """Add one row for each index in `source_B`, copied from that row of `other`."""
        device = source_B.device
        self.lengths_B = torch.cat([self.lengths_B.to(device), other.lengths_B[source_B]])
        for mine, theirs in zip(self.slots, other.slots, strict=True):
            mine.append(theirs, source_B)

    def keep(self, rows_B: Tensor) -> None:
        """Drop all rows but these."""
        self.lengths_B = self.lengths_B[rows_B]
        for slot in self.slots:
            slot.keep(rows_B)


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values, shape (B, heads, capacity, head_dim)."""

    is_sliding = False

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make empty buffers of the states' shape."""
        self.keys = key_states.new_zeros(*key_states.shape[:2], 0, key_states.shape[3])
        self.values = value_states.new_zeros(*value_states.shape[:2], 0, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new states at each row's own position and return everything written so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        width, count = self.cache.width, key_states.shape[2]
        if width > self.keys.shape[2]:
            extra = max(width, 2 * self.keys.shape[2]) - self.keys.shape[2]
            self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, extra))
            self.values = torch.nn.functional.pad(self.values, (0, 0, 0, extra))
        rows_B1 = torch.arange(len(key_states), device=key_states.device)[:, None]
        places_BT = self.cache.starts_B[:, None] + torch.arange(count, device=key_states.device)
        self.keys[rows_B1, :, places_BT] = key_states.transpose(1, 2)
        self.values[rows_B1, :, places_BT] = value_states.transpose(1, 2)
        return self.keys[:, :, :width], self.values[:, :, :width]

    def append(self, other: _SlotLayer, source_B: Tensor) -> None:
        """Add rows copied from another layer, padded to a common capacity."""
        assert other.keys is not None
        assert other.values is not None
        keys, values = other.keys[source_B], other.values[source_B]
        if self.is_initialized:
            assert self.keys is not None
            assert self.values is not None
            capacity = max(self.keys.shape[2], keys.shape[2])
            keys = torch.cat([_widen(self.keys, capacity), _widen(keys, capacity)])
            values = torch.cat([_widen(self.values, capacity), _widen(values, capacity)])
        self.keys, self.values, self.is_initialized = keys, values, True

    def keep(self, rows_B: Tensor) -> None:
        """Drop all rows but these."""
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values = self.keys[rows_B], self.values[rows_B]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys and values visible to a query, and their offset."""
        return self.cache.width, 0

    def get_seq_length(self) -> int:
        """Tokens before the ones about to be written; only meaningful during a prefill, where it is 0."""
        return self.cache.width if self.cache.width == 0 else int(self.cache.starts_B.min())

    def get_max_length(self) -> int:
        """-1: grows as needed."""
        return -1


def _widen(states: Tensor, capacity: int) -> Tensor:
    return torch.nn.functional.pad(states, (0, 0, 0, capacity - states.shape[2]))


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut indices, in order, into batches whose padded size (rows × longest) stays within `budget` tokens.

    A single sequence longer than the budget gets a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0
    for index, length in enumerate(lengths):
        longest = max(longest, length)
        if batches and longest * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = length
    return batches


def nucleus(logprob_BV: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches `top_p`, renormalised; others −inf."""
    sorted_BV, order_BV = logprob_BV.sort(-1, descending=True)
    before_BV = sorted_BV.exp().cumsum(-1) - sorted_BV.exp()
    sorted_BV = sorted_BV.masked_fill(before_BV >= top_p, -torch.inf)
    return torch.empty_like(sorted_BV).scatter_(-1, order_BV, sorted_BV).log_softmax(-1)


def draw(logprob_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution at `uniform_B` in [0, 1)."""
    cumulative_BV = logprob_BV.double().exp().cumsum(-1)
    target_B1 = (uniform_B.double() * cumulative_BV[:, -1])[:, None]
    return torch.searchsorted(cumulative_BV, target_B1, right=True).squeeze(-1).clamp(max=logprob_BV.shape[-1] - 1)


def uniforms(seed: int, streams: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    """Return numbers in [0, 1) that depend on (seed, stream, position) alone: SplitMix64 applied in turn."""
    with np.errstate(over="ignore"):
        state = _splitmix64(np.full(len(streams), seed % 2**64, np.uint64))
        state = _splitmix64(state ^ np.array([stream % 2**64 for stream in streams], np.uint64))
        state = _splitmix64(state ^ np.array(positions, np.uint64))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _splitmix64(state: np.ndarray) -> np.ndarray:
    """One step of SplitMix64 (Steele, Lea, Flood 2014), whose output is well mixed even for counters."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
