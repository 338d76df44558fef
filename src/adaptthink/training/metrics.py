"""What a training step says of its responses, under the same names for every trainer, and when it must stop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from adaptthink.errors import UserError
from adaptthink.grading import Verdict, compute_failed_share, compute_reward
from adaptthink.modes import Mode
from adaptthink.problems import Problem

GRADED_STEPS = 10  # over which the share of failed grades is taken
OF_THE_ADVANTAGE = ("update_tokens", "zero_advantage_share")  # metrics that mean nothing without it


@dataclass(frozen=True, slots=True)
class Response:
    """One graded response of a step. `advantage` is A(x, y); it weighs `weight` in the loss."""

    mode: Mode
    verdict: Verdict
    tokens: int
    advantage: float
    weight: float = 1.0


def response_metrics(responses: Sequence[Response]) -> dict[str, Any]:
    """Describe a step's responses by mode, each weighing as it does in the loss."""
    metrics: dict[str, Any] = {
        "responses": len(responses),
        "response_tokens": sum(one.tokens for one in responses),
        "update_tokens": sum(one.tokens for one in responses if one.advantage != 0),
        "zero_advantage_share": weighted_mean((one.advantage == 0, one.weight) for one in responses),
    }
    for verdict in Verdict:
        metrics[f"verdict_share_{verdict}"] = weighted_mean((one.verdict is verdict, one.weight) for one in responses)
    for mode in Mode:
        own = [one for one in responses if one.mode is mode]
        gradable = [one for one in own if one.verdict is not Verdict.REFERENCE_UNPARSABLE]
        metrics[f"reward_{mode}"] = weighted_mean((compute_reward(one.verdict), one.weight) for one in gradable)
        metrics[f"mean_tokens_{mode}"] = weighted_mean((one.tokens, one.weight) for one in own)
        metrics[f"truncated_share_{mode}"] = weighted_mean(
            (one.verdict is Verdict.TRUNCATED, one.weight) for one in own
        )
    return metrics


def mode_choice_metrics(problems: Sequence[Problem], logprobs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Describe the decision token on held-out problems, each given as its log-probabilities of (no_think, think)."""
    by_level: dict[str, list[float]] = {}
    for problem, (no_think, _) in zip(problems, logprobs, strict=True):
        by_level.setdefault(str(problem.level), []).append(math.exp(no_think))
    return {
        "probe_no_think_logprob": fmean(no_think for no_think, _ in logprobs),
        "probe_mode_mass": fmean(math.exp(no_think) + math.exp(think) for no_think, think in logprobs),
        "probe_no_think_share": fmean(math.exp(no_think) for no_think, _ in logprobs),
        "probe_no_think_by_level": {level: fmean(values) for level, values in by_level.items()},
    }


def weighted_mean(weighted: Iterable[tuple[float, float]]) -> float | None:
    """Return the mean of (value, weight) pairs, or None of nothing."""
    pairs = list(weighted)
    return sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs) if pairs else None


def check_grading(recent: Iterable[Sequence[Verdict]], limit: float, step: int) -> None:
    """Raise UserError if timeouts and errors make up more than `limit` of the verdicts of the last steps."""
    share = compute_failed_share(verdict for verdicts in recent for verdict in verdicts)
    if share > limit:
        raise UserError(
            f"step {step}: grading timed out or failed on {share:.1%} of the last responses, more than "
            f"max_failed_grades = {limit:g}; their rewards would be 0 for no fault of theirs. Look at the answers "
            "that 'adaptthink evaluate' keeps, or raise grading_seconds"
        )
