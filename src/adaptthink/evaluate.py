"""Evaluation: the same problems answered freely and in each forced mode, summarised by level.

Free is how a model is used. Forced think and forced no_think of the same checkpoint say what the choice was worth.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from adaptthink.config import EvaluateConfig
from adaptthink.grading import Verdict, reward
from adaptthink.modes import Mode
from adaptthink.rollout import Caps, Rollout, Sampler, Sampling, draw, stream_seed
from adaptthink.tasks import Problem

ROUNDS = 4  # times `max_rows` responses are asked for together, so that the engine seldom runs short of them
ASKED_MODES: dict[str, Mode | None] = {"free": None, "think": Mode.THINK, "no_think": Mode.NO_THINK}


@dataclass(frozen=True, slots=True)
class Scores:
    """What a set of responses came to; shares and accuracy in [0, 1], `n` responses."""

    accuracy: float
    mean_tokens: float
    no_think_share: float
    truncated_share: float
    n: int
    verdicts: dict[str, int]  # how many responses got each verdict


@dataclass(slots=True)
class Tally:
    """What has been counted of a group of responses so far."""

    num_tokens: int = 0
    num_no_think: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)

    def add(self, rollout: Rollout) -> None:
        """Count one more."""
        self.num_tokens += len(rollout.response_ids)
        self.num_no_think += rollout.mode is Mode.NO_THINK
        self.verdicts[rollout.verdict] += 1

    def scores(self) -> Scores:
        """Score what was counted, which is not nothing."""
        n = self.verdicts.total()
        return Scores(
            accuracy=sum(reward(verdict) * count for verdict, count in self.verdicts.items()) / n,
            mean_tokens=self.num_tokens / n,
            no_think_share=self.num_no_think / n,
            truncated_share=self.verdicts[Verdict.TRUNCATED] / n,
            n=n,
            verdicts={str(verdict): count for verdict, count in self.verdicts.items()},
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores by level (as text, "1" to "5"; "all" where problems have no level) and over everything."""

    levels: dict[str, Scores]
    overall: Scores
    ungradable: int = 0  # responses to problems whose gold cannot be read; they count nowhere else

    def to_json(self) -> dict[str, Any]:
        """As plain dictionaries."""
        return asdict(self)


def parts(problems: Sequence[Problem], config: EvaluateConfig) -> Iterator[Sequence[Problem]]:
    """Yield problems in parts, of which one's responses are in memory at the same time."""
    size = max(1, ROUNDS * config.max_rows // config.samples_per_problem)
    for start in range(0, len(problems), size):
        yield problems[start : start + size]


def answer(
    sampler: Sampler,
    problems: Sequence[Problem],
    mode: Mode | None,
    config: EvaluateConfig,
    *,
    on_finish: Callable[[int], None] | None = None,
) -> list[Rollout]:
    """Draw `samples_per_problem` responses to every problem in one asked mode (None: the model chooses).

    Think is forced by banning the no_think decision token, so that the model opens its thought in its own way.
    """
    caps = Caps(config.max_think_tokens, config.max_no_think_tokens)
    seed = stream_seed(config.seed, "evaluate", mode or "free")
    sampling = Sampling(caps, config.temperature, config.top_p, seed)
    groups = draw(sampler, problems, [mode] * config.samples_per_problem, sampling, on_finish=on_finish)
    return [rollout for group in groups for rollout in group]


def summarise(rollouts: Iterable[Rollout]) -> Evaluation:
    """Score responses by level and over all; raises ValueError for none that could be graded."""
    by_level: defaultdict[str, Tally] = defaultdict(Tally)
    overall, num_ungradable = Tally(), 0
    for rollout in rollouts:
        if rollout.verdict is Verdict.GOLD_UNPARSABLE:
            num_ungradable += 1
            continue
        level = rollout.problem.level
        overall.add(rollout)
        by_level["all" if level is None else str(level)].add(rollout)
    if not by_level:
        raise ValueError("no graded responses to summarise")
    levels = {level: by_level[level].scores() for level in sorted(by_level, key=level_order)}
    return Evaluation(levels, overall.scores(), num_ungradable)


def level_order(level: str) -> tuple[int, str]:
    """Sort key that puts level 2 before level 10, and names after numbers."""
    return (int(level), "") if level.lstrip("-").isdigit() else (2**31, level)


def delta_accuracy_points(new: Evaluation, old: Evaluation) -> float:
    """ΔAcc of the paper: mean over levels of the accuracy difference, in points."""
    return fmean(100 * (new.levels[level].accuracy - old.levels[level].accuracy) for level in old.levels)


def delta_length_percent(new: Evaluation, old: Evaluation) -> float:
    """ΔLength of the paper: mean over levels of the relative change of the mean response length, in percent."""
    return fmean(100 * (new.levels[level].mean_tokens / old.levels[level].mean_tokens - 1) for level in old.levels)


def no_think_probabilities(sampler: Sampler, problems: Sequence[Problem], temperature: float) -> dict[str, float]:
    """P(no_think) of each problem, by id, from one prefill each."""
    prompts = [sampler.prompt(problem) for problem in problems]
    ids = (sampler.template.no_think_id,)
    rows = sampler.engine.next_token_logprobs(prompts, ids, temperature=temperature)
    return {problem.id: math.exp(row[0]) for problem, row in zip(problems, rows, strict=True)}


def write_samples(path: Path, asked: str, rollouts: Iterable[Rollout], probabilities: Mapping[str, float]) -> None:
    """Append one line per response, under the name of the row that it belongs to."""
    with path.open("a", encoding="utf-8") as file:
        for rollout in rollouts:
            problem = rollout.problem
            row = {
                "mode": asked,
                "problem_id": problem.id,
                "level": problem.level,
                "prompt": problem.prompt,
                "answer": problem.answer,
                "chosen_mode": rollout.mode,
                "text": rollout.text,
                "tokens": len(rollout.response_ids),
                "verdict": rollout.verdict,
                "no_think_probability": probabilities.get(problem.id),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
