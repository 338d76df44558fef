"""Metrics of a training step, the same for every trainer, and the checks that end a training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from adaptthink.config.schema import TrainConfig
from adaptthink.errors import DivergedError
from adaptthink.grading import Verdict, check_failed_grades
from adaptthink.modes import Mode
from adaptthink.problems import Problem
from adaptthink.training.batch import RolloutSummary
from adaptthink.training.credit import Credit, count_update_tokens

Metrics = dict[str, Any]

GRADED_STEPS = 10  # over which the share of failed grades is taken


def describe_credit(rollouts: Sequence[RolloutSummary], credits: Sequence[Credit]) -> Metrics:
    """Describe what a step's update learns from, weighted as in the loss."""
    tokens = [count_update_tokens(credit, one.tokens) for credit, one in zip(credits, rollouts, strict=True)]
    return {
        "update_tokens": sum(tokens),
        "zero_advantage_share": compute_weighted_mean(
            (number == 0, one.weight) for number, one in zip(tokens, rollouts, strict=True)
        ),
    }


def describe_rollouts(rollouts: Sequence[RolloutSummary]) -> Metrics:
    """Describe a step's rollouts by mode, weighted as in the loss; the mean of nothing is None."""
    metrics: Metrics = {
        "responses": len(rollouts),
        "response_tokens": sum(one.tokens for one in rollouts),
    }
    for verdict in Verdict:
        metrics[f"verdict_share_{verdict}"] = compute_weighted_mean(
            (one.verdict is verdict, one.weight) for one in rollouts
        )
    for mode in Mode:
        own = [one for one in rollouts if one.mode is mode]
        rewards = [(one.reward, one.weight) for one in own]
        metrics[f"reward_{mode}"] = compute_weighted_mean(
            (value, weight) for value, weight in rewards if value is not None
        )
        metrics[f"mean_tokens_{mode}"] = compute_weighted_mean((one.tokens, one.weight) for one in own)
        metrics[f"truncated_share_{mode}"] = compute_weighted_mean(
            (one.verdict is Verdict.TRUNCATED, one.weight) for one in own
        )
    return metrics


def describe_mode_choice(problems: Sequence[Problem], logprobs: Sequence[Sequence[float]]) -> Metrics:
    """Describe the decision token on held-out problems, each given as its log-probabilities of (no_think, *thinks)."""
    by_level: dict[str, list[float]] = {}
    for problem, (no_think, *_) in zip(problems, logprobs, strict=True):
        by_level.setdefault(str(problem.level), []).append(math.exp(no_think))
    return {
        "probe_no_think_logprob": fmean(no_think for no_think, *_ in logprobs),
        "probe_mode_mass": fmean(sum(map(math.exp, row)) for row in logprobs),
        "probe_no_think_share": fmean(math.exp(no_think) for no_think, *_ in logprobs),
        "probe_no_think_by_level": {level: fmean(values) for level, values in by_level.items()},
    }


def compute_weighted_mean(weighted: Iterable[tuple[float, float]]) -> float | None:
    """Return the weighted mean of (value, weight) pairs, None if there are none."""
    pairs = list(weighted)
    return sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs) if pairs else None


def is_probe_due(config: TrainConfig, step: int) -> bool:
    """Return whether held-out problems are probed after a step: the first, the last, and every `probe_every`-th."""
    return step in (1, config.steps) or step % config.probe_every == 0


def check_grading(recent: Iterable[Sequence[Verdict]], limit: float, step: int) -> None:
    """Raise UserError if grading failed on more than `limit` of the responses of the last steps."""
    check_failed_grades((verdict for verdicts in recent for verdict in verdicts), limit, where=f"step {step}: ")


class NonFiniteStepError(DivergedError):
    """A step whose loss or gradient is not finite; the weights are as before it."""


def check_finite(loss: float, grad_norm: float, step: int) -> None:
    """Raise NonFiniteStepError if the loss or the norm of the gradient is not finite."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise NonFiniteStepError(
            f"step {step}: loss {loss} and gradient norm {grad_norm} are not finite; the last checkpoint is intact; "
            "begin anew with a smaller learning_rate"
        )
