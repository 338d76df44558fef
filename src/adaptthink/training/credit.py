"""Credit: what the loss multiplies each token of a response with. Methods assign it, every trainer reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

LARGEST_RATIO = 10.0  # of π_ref to π that the pull counts; a token that π all but dropped would outweigh all others


@dataclass(frozen=True, slots=True)
class Credit:
    """The weights of one response's tokens in the objective: above 0 a token is to become more likely.

    `decision` is that of the first token, `body` of each other. `pull` weights the pull of the others to the model
    before training (`spread_credit`). Where `tokens` is given, only so many of the first tokens have credit.
    """

    decision: float
    body: float
    pull: float = 0.0
    tokens: int | None = None


def assign_evenly(values: Iterable[float]) -> list[Credit]:
    """Return the credit of responses whose tokens all have the same value, such as an advantage."""
    return [Credit(value, value) for value in values]


def assign_token_mean(values: Sequence[float | None], sizes: Sequence[int]) -> list[Credit]:
    """Return the credit with which the loss is a mean over all tokens of the step, so that long responses weigh more.

    A response takes part with its first `size` tokens, each of which has its value; not at all where that is None.
    """
    scale = compute_token_scale(values, sizes)
    return [assign_scaled(value, scale, size) for value, size in zip(values, sizes, strict=True)]


def assign_sequence_mean(values: Sequence[float | None], sizes: Sequence[int]) -> list[Credit]:
    """Return the credit with which each response's loss is a mean over its own tokens; as `assign_token_mean` else."""
    return [assign_scaled(value, 1 / max(1, size), size) for value, size in zip(values, sizes, strict=True)]


def compute_token_scale(values: Sequence[object], sizes: Sequence[int]) -> float:
    """Return what makes a sum over the tokens that take part their mean: the update divides by samples, not tokens."""
    return len(values) / max(1, sum(size for value, size in zip(values, sizes, strict=True) if value is not None))


def assign_scaled(value: float | None, scale: float, size: int) -> Credit:
    """Return the credit of a response whose first `size` tokens all have a value, times `scale`."""
    return Credit(0.0, 0.0) if value is None else Credit(value * scale, value * scale, tokens=size)


def spread_credit(
    credit: Credit, behavior_logprobs: Sequence[float], initial_logprobs: Sequence[float] = ()
) -> np.ndarray:
    """Return the credit of each token of a response, shape (T,), as far as the last token that has any.

    With a pull w, a token behind the decision has w·(π_ref/π − 1) beside its own credit: in expectation over π, that
    times ∇log π is the gradient of −w·KL(π_ref ‖ π). It needs the response's `initial_logprobs`.
    """
    credit_T = np.full(len(behavior_logprobs), credit.body, np.float32)
    credit_T[:1] = credit.decision
    if credit.pull:
        log_ratio_T = np.subtract(initial_logprobs, behavior_logprobs)[1:]
        credit_T[1:] += credit.pull * np.expm1(np.minimum(log_ratio_T, np.log(LARGEST_RATIO)))
    return credit_T[: count_update_tokens(credit, len(credit_T))]


def count_update_tokens(credit: Credit, tokens: int) -> int:
    """Return how many tokens of a response the update has to run: none without credit, one where that ends there."""
    tokens = tokens if credit.tokens is None else min(tokens, credit.tokens)
    return tokens if credit.body or credit.pull else min(1, tokens) if credit.decision else 0
