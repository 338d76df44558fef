"""Forward passes over a `SlotCache`: the fast path where it covers the model, else the model's own modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from adaptthink.engines.cache import SlotCache
from adaptthink.engines.decoder import Decoder, supports

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFILL_TOKENS = 16384  # prompt tokens, padding included, in one forward pass


class Forward(Protocol):
    """What the engine needs of a model."""

    num_layers: int

    def prefill(self, ids_PT: Tensor, lengths_P: Tensor, cache: SlotCache) -> Tensor:
        """Run right-padded prompts from position 0; return the logits (P, V) behind each one's last token."""
        ...

    def extend(self, ids_BT: Tensor, cache: SlotCache) -> Tensor:
        """Run T further tokens of every row, from the row's own position on; return the logits (B, V) behind them."""
        ...

    def step(self, tokens_B: Tensor, cache: SlotCache) -> Tensor:
        """Feed one token to every row, at the row's own position; return the next-token logits (B, V)."""
        ...


class FastPathForward:
    """The fast path of `decoder.py`, over a copy of the weights as they are now."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self.decoder = Decoder(model, dtype)
        self.num_layers = len(self.decoder.layers)

    def prefill(self, ids_PT: Tensor, lengths_P: Tensor, cache: SlotCache) -> Tensor:
        """See `Forward`. Right padding needs no mask: causal attention never attends to it."""
        positions_PT = torch.arange(ids_PT.shape[1], device=ids_PT.device).expand_as(ids_PT)
        hidden_PTD = self.decoder(ids_PT, positions_PT, None, cache)
        return self.decoder.logits(hidden_PTD[torch.arange(len(ids_PT), device=ids_PT.device), lengths_P - 1])

    def extend(self, ids_BT: Tensor, cache: SlotCache) -> Tensor:
        """See `Forward`."""
        hidden_BTD = self.decoder(ids_BT, cache.positions_BT, find_visible(cache), cache)
        return self.decoder.logits(hidden_BTD[:, -1])

    def step(self, tokens_B: Tensor, cache: SlotCache) -> Tensor:
        """See `Forward`."""
        positions_W = torch.arange(cache.width, device=tokens_B.device)
        mask_BW = torch.zeros(len(tokens_B), cache.width, dtype=self.decoder.dtype, device=tokens_B.device)
        mask_BW.masked_fill_(positions_W > cache.starts_B[:, None], -torch.inf)
        mask_C1W = mask_BW.repeat_interleave(self.decoder.num_groups, dim=0)[:, None]
        hidden_B1D = self.decoder(tokens_B[:, None], cache.starts_B[:, None], mask_C1W, cache)
        return self.decoder.logits(hidden_B1D[:, 0])


class ModuleForward:
    """The model's own modules: any causal language model with full attention. Arithmetic in `dtype` is autocast."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self.model = model
        self.num_layers = model.config.get_text_config().num_hidden_layers
        self.autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)

    def prefill(self, ids_PT: Tensor, lengths_P: Tensor, cache: SlotCache) -> Tensor:
        """See `Forward`."""
        last, column_P = (lengths_P - 1).unique(return_inverse=True)
        with self.autocast:
            logits_PLV = self.model(input_ids=ids_PT, past_key_values=cache, use_cache=True, logits_to_keep=last).logits
        return logits_PLV[torch.arange(len(ids_PT), device=ids_PT.device), column_P].float()

    def extend(self, ids_BT: Tensor, cache: SlotCache) -> Tensor:
        """See `Forward`."""
        return self._run(ids_BT, cache)

    def step(self, tokens_B: Tensor, cache: SlotCache) -> Tensor:
        """See `Forward`."""
        return self._run(tokens_B[:, None], cache)

    def _run(self, ids_BT: Tensor, cache: SlotCache) -> Tensor:
        with self.autocast:
            logits_B1V = self.model(
                input_ids=ids_BT,
                position_ids=cache.positions_BT,
                attention_mask=find_visible(cache),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits_B1V[:, -1].float()


def find_visible(cache: SlotCache) -> Tensor:
    """Return which tokens of the cache each of the next tokens attends to, (B, 1, T, W)."""
    positions_BT = cache.positions_BT
    return (torch.arange(cache.width, device=positions_BT.device) <= positions_BT[..., None])[:, None]


def make_forward(model: PreTrainedModel, dtype: torch.dtype) -> Forward:
    """Return a forward pass in `dtype`: the fast path where it covers the model, else the model's modules."""
    return FastPathForward(model, dtype) if supports(model) else ModuleForward(model, dtype)


def prefill_prompts(
    forward: Forward, prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[SlotCache, Tensor]:
    """Prefill prompts in batches; return their cache (one row each) and next-token logits (P, V)."""
    cache, logits = SlotCache(forward.num_layers), []
    for batch in make_token_batches([len(prompt) for prompt in prompts], PREFILL_TOKENS):
        part = SlotCache(forward.num_layers)
        lengths_P = torch.tensor([len(prompts[index]) for index in batch], device=device)
        width = int(lengths_P.max())
        ids_PT = torch.zeros(len(batch), width, dtype=torch.long, device=device)
        for row, index in enumerate(batch):
            ids_PT[row, : len(prompts[index])] = torch.tensor(prompts[index], device=device)
        part.begin(torch.zeros_like(lengths_P), width)
        logits.append(forward.prefill(ids_PT, lengths_P, part))
        part.lengths_B = lengths_P
        cache.append(part, torch.arange(len(batch), device=device))
    return cache, torch.cat(logits)


def make_token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Divide indices, in order, into batches whose padded size (rows × longest) stays within `budget` tokens.

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
