"""Sampling tokens: counter-based random numbers, inversion of the distribution, top_p, forced and banned tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 256  # tokens of the vocabulary whose probabilities are summed before single ones are searched
NUCLEUS_GUESS = 64  # most likely tokens that are tried before all of them are sorted


def choose_tokens(
    logits_BV: Tensor,
    uniform_B: Tensor,
    temperature_B: np.ndarray,
    top_p_B: np.ndarray,
    *,
    banned: Mapping[int, Sequence[int]],
    forced: Mapping[int, int],
) -> tuple[Tensor, Tensor]:
    """Return the next token of each row and its log-probability, (B,) each.

    `banned` are the tokens that a row must not sample, and `forced` the token that a row has to take, by row. A forced
    token's log-probability has no top_p. In a row with a logit that is not finite it is NaN.
    """
    device = logits_BV.device
    plain_BV = (logits_BV / _to_column(temperature_B, device)).log_softmax(-1)
    sampled_BV = plain_BV
    if banned:
        sampled_BV = plain_BV.clone()
        for row, ids in banned.items():
            sampled_BV[row, list(ids)] = -torch.inf
        sampled_BV = sampled_BV.log_softmax(-1)
    narrow = np.flatnonzero(top_p_B < 1)
    if len(narrow) == len(top_p_B):
        sampled_BV = apply_top_p(sampled_BV, _to_column(top_p_B, device))
    elif len(narrow):
        rows = torch.from_numpy(narrow).to(device)
        narrowed = apply_top_p(sampled_BV[rows], _to_column(top_p_B[narrow], device))
        sampled_BV = sampled_BV.index_copy(0, rows, narrowed)
    tokens_B = sample_tokens(sampled_BV, uniform_B)
    logprobs_B = sampled_BV.gather(-1, tokens_B[:, None]).squeeze(-1)
    if forced:
        rows = torch.tensor(list(forced), device=device)
        tokens_F = torch.tensor(list(forced.values()), device=device)
        tokens_B[rows] = tokens_F
        logprobs_B[rows] = plain_BV[rows, tokens_F]
    # One logit that is not finite makes the whole row NaN, but top_p would hide it.
    return tokens_B, torch.where(plain_BV[:, 0].isnan(), torch.nan, logprobs_B)


def _to_column(values_B: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values_B.astype(np.float32)[:, None]).to(device)


def sample_tokens(logprob_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Return one token per row, (B,), by inverting the cumulative distribution at `uniform_B` in [0, 1).

    A large vocabulary is searched in two steps, so that only one block per row is summed token by token. A row with NaN
    gets some token, with NaN as its log-probability.
    """
    batch, size = logprob_BV.shape
    uniform_B1 = uniform_B.double()[:, None]
    if size <= 4 * BLOCK:
        cumulative_BV = logprob_BV.exp().double().cumsum(-1)
        return _invert(cumulative_BV, uniform_B1 * cumulative_BV[:, -1:]).squeeze(-1)
    probability_BV = logprob_BV.new_empty(batch, size + -size % BLOCK)
    torch.exp(logprob_BV, out=probability_BV[:, :size])
    probability_BV[:, size:] = 0
    blocks_BNK = probability_BV.unflatten(-1, (-1, BLOCK))
    sums_BN = blocks_BNK.sum(-1).double().cumsum(-1)
    target_B1 = uniform_B1 * sums_BN[:, -1:]
    block_B1 = _invert(sums_BN, target_B1)
    before_B1 = torch.where(block_B1 > 0, sums_BN.gather(1, (block_B1 - 1).clamp(min=0)), 0.0)
    inside_BK = blocks_BNK.gather(1, block_B1[..., None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(-1)
    return (block_B1 * BLOCK + _invert(inside_BK, target_B1 - before_B1)).squeeze(-1).clamp(max=size - 1)


def _invert(cumulative_BK: Tensor, target_B1: Tensor) -> Tensor:
    """Return the index where the cumulative sum first passes the target, (B, 1).

    Rounding must not carry the target past the last entry that has any probability. NaN is past every entry.
    """
    index_B1 = torch.searchsorted(cumulative_BK, torch.minimum(target_B1, _below(cumulative_BK[:, -1:])), right=True)
    return index_B1.clamp(max=cumulative_BK.shape[-1] - 1)


def _below(value: Tensor) -> Tensor:
    return torch.nextafter(value, torch.zeros_like(value))


def apply_top_p(logprob_BV: Tensor, top_p: float | Tensor) -> Tensor:
    """Return log-probabilities (B, V) of the smallest set of most likely tokens that reaches `top_p`; others are −inf.

    The set is renormalised (nucleus sampling, Holtzman et al. 2020); the most likely token is always in it. `top_p` is
    one number, or one for each row, (B, 1).

    All tokens are sorted only for the rows whose nucleus is larger than `NUCLEUS_GUESS`.
    """
    size = logprob_BV.shape[-1]
    top_p_B1 = torch.as_tensor(top_p, dtype=logprob_BV.dtype, device=logprob_BV.device).expand(len(logprob_BV), 1)
    sorted_BK, order_BK = logprob_BV.topk(min(NUCLEUS_GUESS, size), dim=-1)
    kept_BV = _kept(logprob_BV, sorted_BK, order_BK, top_p_B1)
    wide_W = (sorted_BK.exp().sum(-1, keepdim=True) < top_p_B1).squeeze(-1).nonzero().squeeze(-1)
    if len(wide_W) and size > NUCLEUS_GUESS:
        rows_WV = logprob_BV[wide_W]
        kept_BV[wide_W] = _kept(rows_WV, *rows_WV.sort(-1, descending=True), top_p_B1[wide_W])
    return kept_BV


def _kept(logprob_BV: Tensor, sorted_BK: Tensor, order_BK: Tensor, top_p_B1: Tensor) -> Tensor:
    before_BK = sorted_BK.exp().cumsum(-1) - sorted_BK.exp()
    outside_BK = before_BK >= top_p_B1
    outside_BK[:, 0] = False  # a top_p below the smallest float32 is 0
    kept_BK = sorted_BK.masked_fill(outside_BK, -torch.inf).log_softmax(-1)
    return torch.full_like(logprob_BV, -torch.inf).scatter_(-1, order_BK, kept_BK)


def make_uniforms(seed: int, streams: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return numbers in [0, 1), (N,), that depend on (seed, stream, position) alone: SplitMix64 applied in turn."""
    with np.errstate(over="ignore"):
        state = _splitmix64(np.full(len(streams), seed % 2**64, np.uint64))
        state = _splitmix64(state ^ streams.astype(np.uint64))
        state = _splitmix64(state ^ positions.astype(np.uint64))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _splitmix64(state: np.ndarray) -> np.ndarray:
    """One step of SplitMix64 (Steele, Lea, Flood 2014), whose output is well mixed even for counters."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
