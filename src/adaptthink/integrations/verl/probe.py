"""The probe of the decision token on held-out problems, by one forward pass of the weights that are trained.

The native trainer's probe, with verl's engine: it shows a cold start move before any no_think response is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from adaptthink.integrations.verl.scoring import Row
from adaptthink.problems import Problem
from adaptthink.sampling.sampler import Sampler
from adaptthink.training.metrics import describe_mode_choice


def probe_mode_choice(
    score: Callable[[Sequence[Row]], list[list[float]]], sampler: Sampler, problems: Sequence[Problem]
) -> dict[str, Any]:
    """Return the probe's metrics; `score` returns the policy's log-probability of each token of every response."""
    template = sampler.template
    tokens = (template.no_think_id, *template.think_ids)
    rows = [(sampler.encode_prompt(problem), (token,)) for problem in problems for token in tokens]
    logprobs = iter([value for (value,) in score(rows)])
    return describe_mode_choice(problems, [[next(logprobs) for _ in tokens] for _ in problems])
