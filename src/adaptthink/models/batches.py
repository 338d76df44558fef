"""Micro-batches of an update: which responses run together, so that as few tokens as possible are computed.

A batch is padded to its longest row. Where the model can share prompts, a batch runs each different prompt once. The
responses are sorted (by length, or by prompt), and the order is divided such that the fewest tokens are computed,
padding included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TokenIds = tuple[int, ...]

SHARED_COST = 0.9  # prompts are shared where that reduces the tokens of a batch to this share or less
BATCH_COST = 256  # cost of one more batch, in tokens


class Batch(NamedTuple):
    """Indices of responses to run together, and whether each different prompt of theirs is run once."""

    indices: list[int]
    shared: bool


def make_micro_batches(
    prompts: Sequence[TokenIds], responses: Sequence[TokenIds], limit: int, *, sharing: bool
) -> list[Batch]:
    """Return batches of at most `limit` tokens; a response that is longer alone gets a batch of its own.

    `sharing`: the model can share prompts.
    """
    indices = range(len(prompts))
    orders = [sorted(indices, key=lambda index: len(prompts[index]) + len(responses[index]))]
    if sharing:
        orders.append(sorted(indices, key=lambda index: len(responses[index])))
        orders.append(sorted(indices, key=lambda index: (len(prompts[index]), prompts[index], len(responses[index]))))
    plans = [divide(order, prompts, responses, limit, sharing=sharing) for order in orders]
    return min(plans)[1]


def divide(
    order: Sequence[int], prompts: Sequence[TokenIds], responses: Sequence[TokenIds], limit: int, *, sharing: bool
) -> tuple[float, list[Batch]]:
    """Return the cheapest division of an order into batches, its cost first (dynamic programming over the last cut)."""
    prompt_N = np.array([len(prompts[index]) for index in order], dtype=np.int64)
    response_N = np.array([len(responses[index]) - 1 for index in order], dtype=np.int64)  # the last token is not run
    newest_N = np.zeros(len(order), np.int64)  # 1 where no later row up to the current one has the same prompt
    seen: dict[TokenIds, int] = {}
    cost, start = np.zeros(len(order) + 1), np.zeros(len(order) + 1, np.int64)
    is_shared = np.zeros(len(order) + 1, bool)
    for end, index in enumerate(order):  # of all batches that end here, from the shortest to the longest
        if prompts[index] in seen:
            newest_N[seen[prompts[index]]] = 0
        seen[prompts[index]], newest_N[end] = end, 1
        backwards = slice(end, None, -1)
        separate, shared = count_batch_tokens(
            np.arange(1, end + 2), newest_N[backwards].cumsum(), prompt_N[backwards], response_N[backwards]
        )
        pays = sharing & (shared <= SHARED_COST * separate)
        tokens = np.where(pays, shared, separate)
        fits = (tokens <= limit) | (np.arange(end + 1) == 0)
        total = np.where(fits, cost[backwards] + tokens + BATCH_COST, np.inf)
        best = total.argmin()
        start[end + 1], cost[end + 1], is_shared[end + 1] = end - best, total[best], pays[best]
    batches, end = [], len(order)
    while end:
        batches.append(Batch(list(order[start[end] : end]), bool(is_shared[end])))
        end = int(start[end])
    return float(cost[-1]), batches[::-1]


def count_batch_tokens(
    rows_N: np.ndarray, prompts_N: np.ndarray, prompt_N: np.ndarray, response_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens that batches of the first 1, 2, … rows run, each response with its prompt, and prompts shared.

    `prompts_N` counts the different prompts among these rows; the other two are lengths.
    """
    longest_N = np.maximum.accumulate(prompt_N + response_N)
    prompt_N, response_N = np.maximum.accumulate(prompt_N), np.maximum.accumulate(response_N)
    return rows_N * longest_N, prompts_N * prompt_N + rows_N * response_N
