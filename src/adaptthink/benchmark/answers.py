"""Answers to the same problems, by problem: of a model as it chooses, forced, dialled, or mixed at random.

Whatever answers, a trained model or a rule, comes down to the same record, so that one set of functions measures all.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import fmean

import numpy as np

from adaptthink.evaluation.scores import group_no_think, group_rewards, group_tokens, map_levels, select_gradable
from adaptthink.evaluation.statistics import Values
from adaptthink.evaluation.store import REQUESTED_MODES, Outcome, read_decisions, read_outcomes

BUDGETS = tuple(np.arange(0.1, 1.001, 0.025).tolist())  # of the mean length of the original's thoughts
LENGTH_PRICE = 0.1  # λ of the utility: halving the original's length may cost 5 points, the paper's δ

NAMES = ("correct", "tokens", "no_think")


@dataclass(frozen=True, slots=True)
class Answers:
    """One number for each response, by problem: 1 if it is right, its tokens, 1 if it did not think."""

    correct: Values
    tokens: Values
    no_think: Values

    def map(self, change: Callable[[Values], Values]) -> Answers:
        """Return what a function makes of each of the three."""
        return Answers(change(self.correct), change(self.tokens), change(self.no_think))

    @property
    def accuracy(self) -> float:
        """Share of right answers; each problem weighs the same."""
        return average(self.correct)

    @property
    def mean_tokens(self) -> float:
        """Mean tokens of a response; each problem weighs the same."""
        return average(self.tokens)


@dataclass(frozen=True, slots=True)
class Model:
    """What a model answers in each requested mode, and how much it leans to no_think: its dial turns on that."""

    levels: Mapping[str, str]
    modes: Mapping[str, Answers]
    leaning: Mapping[str, float]  # P(no_think), or the score of a rule; empty where there is no dial
    outcomes: Sequence[Outcome] = ()  # as evaluated; none of a rule

    @property
    def has_dial(self) -> bool:
        """Whether both modes and a leaning are known for every problem."""
        return {"think", "no_think"} <= self.modes.keys() and self.levels.keys() <= self.leaning.keys()

    def keep(self, problems: Callable[[str], bool]) -> Model:
        """Return the model on the problems whose ids `problems` accepts."""

        def cut(values: Mapping[str, Sequence[float]]) -> Values:
            return {one: found for one, found in values.items() if problems(one)}

        return Model(
            {one: level for one, level in self.levels.items() if problems(one)},
            {requested: answers.map(cut) for requested, answers in self.modes.items()},
            {one: value for one, value in self.leaning.items() if problems(one)},
            [one for one in self.outcomes if problems(one.problem_id)],
        )


def is_for_tuning(problem_id: str) -> bool:
    """Return whether a problem is of the half that values are chosen on; the other half is what is reported."""
    return hashlib.sha256(f"half/{problem_id}".encode()).digest()[0] % 2 == 0


def is_for_reporting(problem_id: str) -> bool:
    """Return whether a problem is of the half that is reported."""
    return not is_for_tuning(problem_id)


def read_model(folder: Path) -> Model:
    """Read an evaluation folder."""
    outcomes = select_gradable(read_outcomes(folder))
    modes = {}
    for requested in REQUESTED_MODES:
        own = [one for one in outcomes if one.requested == requested]
        if own:
            modes[requested] = Answers(group_rewards(own), group_tokens(own), group_no_think(own))
    leaning = {problem: one.no_think_probability for problem, one in read_decisions(folder).items()}
    return Model(map_levels(outcomes), modes, leaning, outcomes)


def pool(several: Iterable[Answers]) -> Answers:
    """Return the answers of several models, such as one for each seed, as those of one that answers more often."""
    found = list(several)

    def join(values: Sequence[Values]) -> Values:
        return {problem: [*chain.from_iterable(one[problem] for one in values)] for problem in values[0]}

    return Answers(*(join([getattr(one, name) for one in found]) for name in NAMES))


def average_answers(several: Sequence[Answers]) -> Answers:
    """Return the mean of several answers to each problem as one."""
    return pool(several).map(lambda values: {problem: [fmean(numbers)] for problem, numbers in values.items()})


def average(values: Values) -> float:
    """Return the mean of the problems' means."""
    return fmean(fmean(numbers) for numbers in values.values())


# ---- choosing a mode ------------------------------------------------------------------------------------------------


def choose(model: Model, direct: Callable[[str], bool]) -> Answers:
    """Return the no_think answers of the problems that `direct` accepts, and the thoughts of the others."""
    parts = model.modes["no_think"], model.modes["think"]

    def take(no_think: Values, think: Values) -> Values:
        return {problem: (no_think if direct(problem) else think)[problem] for problem in think}

    return Answers(*(take(*(getattr(part, name) for part in parts)) for name in NAMES))


def dial(model: Model, budget: float) -> Answers | None:
    """Return the answers at the highest threshold whose mean tokens are within a budget; None if no_think needs more.

    The threshold is chosen on the problems that it is used on, for every model alike.
    """
    means = {mode: {p: fmean(v) for p, v in model.modes[mode].tokens.items()} for mode in ("think", "no_think")}
    tokens = sum(means["think"].values())
    limit = budget * len(model.levels) + 1e-9
    if tokens <= limit:
        return choose(model, lambda problem: False)
    by_leaning: dict[float, list[str]] = {}
    for problem in model.levels:
        by_leaning.setdefault(model.leaning[problem], []).append(problem)
    for threshold in sorted(by_leaning, reverse=True):
        tokens += sum(means["no_think"][one] - means["think"][one] for one in by_leaning[threshold])
        if tokens <= limit:
            return choose(model, lambda problem, at=threshold: model.leaning[problem] >= at)  # type: ignore[misc]
    return None


def dial_seeds(models: Mapping[int, Model], budget: float) -> Answers | None:
    """Return the answers of every seed's dial at a budget; None if one cannot keep to it."""
    found = [dial(one, budget) for one in models.values()]
    kept = [one for one in found if one is not None]
    return pool(kept) if kept and len(kept) == len(found) else None


def mix(model: Model, share: float) -> Answers:
    """Return what is expected of a mode chosen at random, no_think with probability `share`, whatever the problem."""
    think, no_think = model.modes["think"], model.modes["no_think"]

    def blend(one: Values, other: Values) -> Values:
        return {problem: [share * fmean(other[problem]) + (1 - share) * fmean(one[problem])] for problem in one}

    return Answers(
        *(blend(getattr(think, name), getattr(no_think, name)) for name in ("correct", "tokens", "no_think"))
    )


def mix_to_budget(model: Model, budget: float) -> Answers:
    """Return the random mix of a model's modes that needs so many tokens, or comes nearest to it."""
    think, no_think = model.modes["think"].mean_tokens, model.modes["no_think"].mean_tokens
    share = (think - budget) / (think - no_think) if think != no_think else 0.0
    return mix(model, min(1.0, max(0.0, share)))


def with_rule(original: Model, answers: Answers, leaning: Mapping[str, float] | None = None) -> Model:
    """Return the original with a rule that chooses for it: `answers` are what it comes to."""
    return replace(original, modes={**original.modes, "auto": answers}, leaning=leaning or {}, outcomes=())


# ---- measures -------------------------------------------------------------------------------------------------------


def compute_utility(answers: Answers, scale: float) -> Values:
    """Return correct − λ·tokens/scale of each response; `scale` is the mean length of the original's thoughts."""
    return {
        problem: [
            right - LENGTH_PRICE * tokens / scale for right, tokens in zip(values, answers.tokens[problem], strict=True)
        ]
        for problem, values in answers.correct.items()
    }


def measure_band(matrix_SP: np.ndarray) -> tuple[float, float, float]:
    """Mean over seeds and problems, and the ends of its 95% interval where both vary.

    Their variances are added, each of its own means: what varies within both is counted twice, so it errs on the wide
    side.
    """
    mean = float(matrix_SP.mean())
    variance = 0.0
    for axis in (0, 1):
        means = matrix_SP.mean(axis)
        variance += float(means.var(ddof=1)) / len(means) if len(means) > 1 else 0.0
    half = 1.96 * math.sqrt(variance)
    return mean, mean - half, mean + half
