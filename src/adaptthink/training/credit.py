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
    before training (`spread_credit`).
    """

    decision: float
    body: float
    pull: float = 0.0


def assign_evenly(values: Iterable[float]) -> list[Credit]:
    """Return the credit of responses whose tokens all have the same value, such as an advantage."""
    return [Credit(value, value) for value in values]


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
    return tokens if credit.body or credit.pull else min(1, tokens) if credit.decision else 0
