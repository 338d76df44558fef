"""What `adaptthink reproduce` runs, and how its outcomes are selected and pooled.

Several trainings, one for each seed, count as one model that answers each problem once a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptthink.evaluation.statistics import Values
from adaptthink.evaluation.store import Outcome

MAIN = "main"  # the training with the paper's settings
EASY, HARD = frozenset("123"), frozenset("45")  # levels
Outcomes = Sequence[Outcome]
BySeed = Mapping[int, Outcomes]


@dataclass(frozen=True, slots=True)
class Design:
    """How much is run."""

    seeds: tuple[int, ...]
    trainings: tuple[str, ...]  # recipes over the base, without its name; MAIN is the base alone
    steps: int | None = None  # of every training; None: those of its recipe
    problems: int | None = None  # of each level: to train on
    evaluated: int | None = None  # of each level: to evaluate on


@dataclass(frozen=True, slots=True)
class Runs:
    """What was run. Trained models by name of the training and seed; `chain` are problems like those trained on."""

    original_chain: Outcomes
    original_story: Outcomes
    chain: Mapping[str, BySeed]
    story: BySeed  # of the main training
    implicit: Mapping[int, Values]  # of the main training: 1 for each no_think answer to a chain that thinks after all
    metrics: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]


def select_outcomes(outcomes: Outcomes, requested: str, levels: frozenset[str] = EASY | HARD) -> list[Outcome]:
    """The outcomes of one requested mode on some levels."""
    return [one for one in outcomes if one.requested == requested and one.level in levels]


def pool_seeds(by_seed: BySeed, requested: str) -> list[Outcome]:
    """The outcomes of all seeds together."""
    return [one for outcomes in by_seed.values() for one in select_outcomes(outcomes, requested)]
