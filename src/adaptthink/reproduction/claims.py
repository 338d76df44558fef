"""The paper's claims held against runs on the embedded reasoner: each with its numbers, interval and verdict.

Several trainings, one for each seed, count as one model that answers each problem once a seed: intervals are clustered
by problem and speak of problems like these. How far seeds differ is said beside them, and a claim counts as reproduced
only if every seed points the same way. Figures of the paper: arXiv 2505.13417.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from adaptthink.evaluation.run import Evaluation, summarise
from adaptthink.evaluation.statistics import (
    Interval,
    Values,
    difference_of_groups,
    relative_change,
    share_difference,
    share_interval,
)
from adaptthink.evaluation.store import Outcome
from adaptthink.modes import Mode

EASY, HARD = frozenset("123"), frozenset("45")
MARGIN = 0.05  # of accuracy: the paper's δ, the loss that a no_think answer may cost
MAIN = "main"
Outcomes = Sequence[Outcome]
BySeed = Mapping[int, Outcomes]
Number = Callable[[Outcome], float]


@dataclass(frozen=True, slots=True)
class Runs:
    """What was run. Trained models by name of the training and seed; `chain` are problems like those trained on."""

    original_chain: Outcomes
    original_story: Outcomes
    chain: Mapping[str, BySeed]
    story: BySeed  # of the main training
    implicit: Mapping[int, Values]  # of the main training: 1 for each no_think answer to a chain that thinks after all
    metrics: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True, slots=True)
class DeltaPoint:
    """One δ of the sweep: all seeds together, against the original model thinking; in points and per cent."""

    delta: float
    points: Interval
    percent: Interval
    no_think_share: Interval


@dataclass(frozen=True, slots=True)
class Look:
    """What a training's look at held-out problems found; None where it was not measured."""

    step: int
    mean_tokens: float | None
    accuracy: float | None
    no_think_share: float | None
    no_think_logprob: float


@dataclass(frozen=True, slots=True)
class Tables:
    """What the report shows beside the claims: scores of rows by level, and curves by training and seed."""

    chain: Mapping[str, Evaluation]
    story: Mapping[str, Evaluation]
    deltas: tuple[DeltaPoint, ...]
    curves: Mapping[str, Mapping[int, tuple[Look, ...]]]


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of the paper and what came of it. Numbers are in `unit`; `bound` is where the claim begins to hold."""

    name: str
    statement: str
    paper: str  # the paper's own figures
    measured: str  # what `estimate` is
    unit: str
    estimate: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    bound: float
    above: bool  # whether the claim says that the number lies above the bound

    @property
    def verdict(self) -> str:
        """Return "reproduced", "not reproduced" or "undecided".

        Reproduced: the interval lies on the claim's side of the bound, and so does every seed. Not reproduced: the
        interval lies on the other side.
        """
        sign = 1 if self.above else -1
        low, high = sorted((sign * (self.low - self.bound), sign * (self.high - self.bound)))
        if low > 0 and all(sign * (value - self.bound) > 0 for value in self.by_seed):
            return "reproduced"
        return "not reproduced" if high < 0 else "undecided"


def correct(one: Outcome) -> float:
    """1 for a correct answer."""
    return one.correct


def tokens(one: Outcome) -> float:
    """Tokens of the response."""
    return float(one.tokens)


def is_no_think(one: Outcome) -> float:
    """1 for a response that did not think."""
    return float(one.mode is Mode.NO_THINK)


def pick(outcomes: Outcomes, requested: str, levels: frozenset[str] = EASY | HARD) -> list[Outcome]:
    """The outcomes of one asked mode on some levels."""
    return [one for one in outcomes if one.requested == requested and one.level in levels]


def values(outcomes: Outcomes, number: Number) -> dict[str, list[float]]:
    """Numbers by problem."""
    found: dict[str, list[float]] = {}
    for one in sorted(outcomes, key=lambda one: one.problem_id):
        found.setdefault(one.problem_id, []).append(number(one))
    return found


def pooled(by_seed: BySeed, requested: str, levels: frozenset[str] = EASY | HARD) -> list[Outcome]:
    """The outcomes of all seeds together."""
    return [one for outcomes in by_seed.values() for one in pick(outcomes, requested, levels)]


def level_of(outcomes: Outcomes) -> dict[str, str]:
    """The level of each problem."""
    return {one.problem_id: one.level for one in outcomes}


def over_seeds(numbers: Sequence[float]) -> Interval:
    """Mean of one number a seed with Student's t interval: where only seeds vary. Infinite for a single seed."""
    mean = fmean(numbers)
    if len(numbers) < 2:
        return Interval(mean, -math.inf, math.inf, 0.95, len(numbers))
    half = stats.t.ppf(0.975, len(numbers) - 1) * stdev(numbers) / math.sqrt(len(numbers))
    return Interval(mean, mean - half, mean + half, 0.95, len(numbers))


def claims(runs: Runs) -> list[Claim]:
    """Hold every claim against the runs, in the order of the paper."""
    return [
        *pilot_claims(runs.original_chain),
        *main_claims(runs.chain[MAIN], runs.original_chain),
        *delta_claims(runs.chain),
        *sampling_claims(runs.chain[MAIN], runs.chain["grpo"]),
        *ratio_claims(runs.metrics),
        *story_claims(runs.story, runs.original_story),
        implicit_claim(runs.implicit),
    ]


def tables(runs: Runs) -> Tables:
    """Sum the runs up for pictures."""
    reference = pick(runs.original_chain, "think")
    original = {"original_think": "think", "original_no_think": "no_think"}
    main = {MAIN: "auto", f"{MAIN}_think": "think", f"{MAIN}_no_think": "no_think"}

    def rows(untrained: Outcomes, trained: BySeed) -> dict[str, Evaluation]:
        found = {name: summarise(pick(untrained, requested)) for name, requested in original.items()}
        asked_of = {name: pooled(trained, requested) for name, requested in main.items()}
        return found | {name: summarise(outcomes) for name, outcomes in asked_of.items() if outcomes}

    chain = rows(runs.original_chain, runs.chain[MAIN])
    others = {name: summarise(pooled(by_seed, "auto")) for name, by_seed in runs.chain.items() if name != MAIN}
    deltas = {0.05: MAIN} | {
        float(name.removeprefix("delta_")): name for name in runs.chain if name.startswith("delta_")
    }
    return Tables(
        chain | others,
        rows(runs.original_story, runs.story),
        tuple(delta_point(delta, pooled(runs.chain[deltas[delta]], "auto"), reference) for delta in sorted(deltas)),
        {name: {seed: looks(rows) for seed, rows in by_seed.items()} for name, by_seed in runs.metrics.items()},
    )


def delta_point(delta: float, outcomes: Outcomes, reference: Outcomes) -> DeltaPoint:
    """What one δ came to."""
    levels = level_of(reference)
    return DeltaPoint(
        delta,
        share_difference(values(outcomes, correct), values(reference, correct), levels).interval,
        relative_change(values(outcomes, tokens), values(reference, tokens), levels).interval,
        share_interval(values(outcomes, is_no_think)),
    )


def looks(rows: Sequence[Mapping[str, Any]]) -> tuple[Look, ...]:
    """The looks at held-out problems in a training's metrics."""
    return tuple(
        Look(
            row["step"],
            row.get("probe_mean_tokens"),
            row.get("probe_accuracy"),
            row.get("probe_sampled_no_think_share"),
            row["probe_no_think_logprob"],
        )
        for row in rows
        if "probe_no_think_logprob" in row
    )


def make(
    name: str,
    statement: str,
    paper: str,
    measured: str,
    interval: Interval,
    by_seed: Sequence[float],
    *,
    above: bool,
    bound: float = 0.0,
    unit: str = "points",
) -> Claim:
    """Put a claim together; shares and accuracies become points, relative changes per cent."""
    scale = 1.0 if unit == "nats" else 100.0
    low, high = sorted((scale * interval.low, scale * interval.high))
    numbers = tuple(scale * value for value in by_seed)
    return Claim(
        name, statement, paper, measured, unit, scale * interval.estimate, low, high, numbers, scale * bound, above
    )


def pilot_claims(original: Outcomes) -> list[Claim]:
    """The pilot study: the untrained model in both forced modes."""
    gaps = {}
    for name, levels in (("easy", EASY), ("hard", HARD)):
        think, no_think = (pick(original, requested, levels) for requested in ("think", "no_think"))
        gaps[name] = share_difference(values(think, correct), values(no_think, correct)).interval
    think, no_think = (pick(original, requested, EASY) for requested in ("think", "no_think"))
    change = relative_change(values(no_think, tokens), values(think, tokens)).interval
    easy = gaps["easy"]
    loss = Interval(-easy.estimate, -easy.high, -easy.low, easy.confidence, easy.num_problems)
    paper = "7B, MATH500: level with Thinking on levels 1 to 3, slightly better on level 1"
    return [
        make(
            "pilot: easy problems need no thought",
            f"Without thinking, easy problems are answered about as well (within {100 * MARGIN:g} points)",
            paper,
            "accuracy, no_think − think, levels 1 to 3, before training",
            loss,
            (),
            above=True,
            bound=-MARGIN,
        ),
        make(
            "pilot: and far fewer tokens",
            "Such answers are far shorter (by more than half)",
            "far shorter; over its three sets −79.9% (1.5B), −73.6% (7B)",
            "length, no_think against think, levels 1 to 3, before training",
            change,
            (),
            above=False,
            bound=-0.5,
            unit="%",
        ),
        make(
            "pilot: hard problems do",
            "What not thinking costs grows with the difficulty",
            "9.2/13.4/15.4 points lost on GSM8K/MATH500/AIME24 (1.5B), 2.8/9.6/29.3 (7B)",
            "accuracy lost without thought, levels 4 and 5 less levels 1 to 3",
            difference_of_groups(gaps["hard"], easy),
            (),
            above=True,
        ),
    ]


def main_claims(main: BySeed, original: Outcomes) -> list[Claim]:
    """The main result: AdaptThink at δ = 0.05 against the original model thinking."""
    reference = pick(original, "think")
    levels = level_of(reference)

    def points(outcomes: Outcomes) -> Interval:
        return share_difference(values(outcomes, correct), values(reference, correct), levels).interval

    def change(outcomes: Outcomes) -> Interval:
        return relative_change(values(outcomes, tokens), values(reference, tokens), levels).interval

    def falling(outcomes: Outcomes) -> Interval:
        easy, hard = (
            share_interval(values([one for one in outcomes if one.level in levels], is_no_think))
            for levels in (EASY, HARD)
        )
        return difference_of_groups(easy, hard)

    return [
        across(
            main,
            change,
            "main: shorter",
            "Responses become shorter",
            "ΔLength −53.0% (1.5B), −40.1% (7B)",
            "ΔLength: mean over levels",
            above=False,
            unit="%",
        ),
        across(
            main,
            points,
            "main: more accurate",
            "Accuracy rises at the same time",
            "ΔAcc +2.4 points (1.5B), +2.3 (7B)",
            "ΔAcc: mean over levels",
            above=True,
        ),
        across(
            main,
            falling,
            "main: thinks where it is hard",
            "The harder the problem, the rarer no_think",
            "no_think 86.9/76.8/40.4% on GSM8K/MATH500/AIME24 (1.5B), 99.6/76.6/6.3% (7B)",
            "share of no_think, levels 1 to 3 less levels 4 and 5",
            above=True,
        ),
    ]


def across(
    by_seed: BySeed,
    measure: Callable[[Outcomes], Interval],
    name: str,
    statement: str,
    paper: str,
    measured: str,
    *,
    above: bool,
    bound: float = 0.0,
    unit: str = "points",
) -> Claim:
    """A claim on what the trained models do when left to choose: of all seeds together, and of each."""
    return make(
        name,
        statement,
        paper,
        measured,
        measure(pooled(by_seed, "auto")),
        [measure(pick(outcomes, "auto")).estimate for outcomes in by_seed.values()],
        above=above,
        bound=bound,
        unit=unit,
    )


def delta_claims(chain: Mapping[str, BySeed]) -> list[Claim]:
    """The sweep: δ from 0 to 0.1."""
    least, most = chain["delta_0"], chain["delta_0.1"]
    together = [pooled(by_seed, "auto") for by_seed in (most, least)]
    pairs = [[pick(by_seed[seed], "auto") for by_seed in (most, least)] for seed in most]
    levels = level_of(together[0])

    def compared(measure: Callable[[Values, Values], float], number: Number) -> list[float]:
        return [measure(values(new, number), values(old, number)) for new, old in pairs]

    def shares(new: Values, old: Values) -> Interval:
        return share_difference(new, old, levels).interval

    def lengths(new: Values, old: Values) -> Interval:
        return relative_change(new, old, levels).interval

    def both(measure: Callable[[Values, Values], Interval], number: Number) -> tuple[Interval, list[float]]:
        new, old = (values(outcomes, number) for outcomes in together)
        return measure(new, old), compared(lambda new, old: measure(new, old).estimate, number)

    return [
        make(
            "delta: more no_think",
            "A larger δ makes the model think less often",
            "no_think 70.4/50.0/0.2% at δ = 0, 91.7/90.4/83.5% at 0.1 (1.5B)",
            "share of no_think, δ = 0.1 less δ = 0",
            *both(shares, is_no_think),
            above=True,
        ),
        make(
            "delta: shorter",
            "A larger δ makes responses shorter",
            "ΔLength −32.8% at δ = 0, −64.5% at 0.1",
            "length, δ = 0.1 against δ = 0",
            *both(lengths, tokens),
            above=False,
            unit="%",
        ),
        make(
            "delta: at a price",
            "A larger δ costs accuracy",
            "ΔAcc +5.5 at δ = 0, −0.5 at 0.1",
            "accuracy, δ = 0.1 less δ = 0",
            *both(shares, correct),
            above=False,
        ),
    ]


def sampling_claims(main: BySeed, grpo: BySeed) -> list[Claim]:
    """Importance sampling against plain on-policy GRPO."""
    pairs = [(pick(main[seed], "auto"), pick(grpo[seed], "auto")) for seed in main]
    new, old = pooled(main, "auto"), pooled(grpo, "auto")
    levels = level_of(new)

    def change(new: Outcomes, old: Outcomes) -> Interval:
        return relative_change(values(new, tokens), values(old, tokens), levels).interval

    return [
        across(
            grpo,
            lambda outcomes: share_interval(values(outcomes, is_no_think)),
            "sampling: plain GRPO never tries",
            "Without importance sampling, the model does not learn not to think (below 1%)",
            "NoThinking stays near 0 under GRPO (a curve)",
            "share of no_think after GRPO",
            above=False,
            bound=0.01,
        ),
        make(
            "sampling: and stays long",
            "With it, responses end up far shorter than GRPO's",
            "below 3,000 tokens against about 4,600 and rising (curves)",
            "length, AdaptThink against GRPO",
            change(new, old),
            [change(a, b).estimate for a, b in pairs],
            above=False,
            unit="%",
        ),
    ]


def ratio_claims(metrics: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]) -> list[Claim]:
    """Which form of the ratio starts at all: Eq. 9 as it stands, PPO's of each token, the official code's."""

    def rise(name: str, step: int) -> list[float]:
        rises = []
        for rows in metrics[name].values():
            looks = {row["step"]: row["probe_no_think_logprob"] for row in rows if "probe_no_think_logprob" in row}
            rises.append(looks[step] - looks[1])
        return rises

    claims = []
    for name, words in (("ratio_sequence", "Eq. 9 literally"), ("ratio_token", "PPO's ratio of each token")):
        step = max(row["step"] for rows in metrics[name].values() for row in rows)
        looked_at = [row["step"] for row in next(iter(metrics[MAIN].values())) if "probe_no_think_logprob" in row]
        step = max(at for at in looked_at if at <= step)
        ahead = [ours - theirs for ours, theirs in zip(rise(MAIN, step), rise(name, step), strict=True)]
        claims.append(
            make(
                f"ratio: the mean starts, {words} does not",
                f"From a cold start the length-normalised ratio learns where {words} stands still",
                "not in the paper; its official code normalises by length",
                f"rise of mean log P(no_think) on held-out problems by step {step}, above the other's",
                over_seeds(ahead),
                ahead,
                above=True,
                bound=1.0,
                unit="nats",
            )
        )
    return claims


def story_claims(story: BySeed, original: Outcomes) -> list[Claim]:
    """Problems of another kind (the paper: MMLU)."""
    reference = pick(original, "think")
    levels = level_of(reference)
    return [
        across(
            story,
            lambda outcomes: relative_change(values(outcomes, tokens), values(reference, tokens), levels).interval,
            "elsewhere: shorter",
            "On problems unlike those of the training, responses become shorter too",
            "MMLU 1,724 → 1,055 tokens (1.5B), 1,257 → 856 (7B)",
            "length on story problems, against the original thinking",
            above=False,
            unit="%",
        ),
        across(
            story,
            lambda outcomes: share_difference(values(outcomes, correct), values(reference, correct), levels).interval,
            "elsewhere: no less accurate",
            f"and accuracy is kept there (within {100 * MARGIN:g} points)",
            "MMLU 35.7 → 42.2% (1.5B), 63.4 → 63.6% (7B)",
            "accuracy on story problems, against the original thinking",
            above=True,
            bound=-MARGIN,
        ),
    ]


def implicit_claim(implicit: Mapping[int, Values]) -> Claim:
    """Thinking within the answers of no_think."""
    together: dict[str, list[float]] = {}
    for one_seed in implicit.values():
        for problem, signs in one_seed.items():
            together.setdefault(problem, []).extend(signs)
    return make(
        "implicit thinking: rare",
        "Few no_think answers think after all (below 10%)",
        "7.9% (1.5B), 4.2% (7B)",
        "share of no_think answers that think implicitly",
        share_interval(together) if together else Interval(0.0, 0.0, 1.0, 0.95, 0),  # no such answer: anything may be
        [share_interval(one_seed).estimate for one_seed in implicit.values() if one_seed],
        above=False,
        bound=0.10,
    )
