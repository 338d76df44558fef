"""The paper's claims held against runs on the embedded reasoner: each with its numbers, interval and verdict.

Intervals are clustered by problem and speak of problems like these. How far seeds differ is given beside them, and a
claim counts as reproduced only if every seed points the same way. Figures of the paper: arXiv 2505.13417.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from adaptthink.evaluation.scores import group_no_think, map_levels
from adaptthink.evaluation.statistics import Interval, Values, difference_of_groups, share_difference, share_interval
from adaptthink.reproduction.runs import EASY, HARD, MAIN, BySeed, Outcomes, Runs, pool_seeds, select_outcomes
from adaptthink.reproduction.verdicts import (
    Claim,
    average_seeds,
    compare_trainings,
    make_auto_claim,
    make_claim,
    measure_accuracy_change,
    measure_length_change,
    measure_no_think,
)

MARGIN = 0.05  # of accuracy: the paper's δ, the loss that a no_think answer may cost


def check_claims(runs: Runs) -> list[Claim]:
    """Hold every claim against the runs, in the order of the paper."""
    return [
        *check_pilot(runs.original_chain),
        *check_main(runs.chain[MAIN], runs.original_chain),
        *check_delta(runs.chain),
        *check_sampling(runs.chain[MAIN], runs.chain["grpo"]),
        *check_ratio(runs.metrics),
        *check_story(runs.story, runs.original_story),
        check_implicit_thinking(runs.implicit),
    ]


def check_pilot(original: Outcomes) -> list[Claim]:
    """The pilot study: the untrained model in both forced modes."""
    gaps = {}
    for name, levels in (("easy", EASY), ("hard", HARD)):
        think, no_think = (select_outcomes(original, requested, levels) for requested in ("think", "no_think"))
        gaps[name] = measure_accuracy_change(think, no_think)
    think, no_think = (select_outcomes(original, requested, EASY) for requested in ("think", "no_think"))
    change = measure_length_change(no_think, think)
    easy = gaps["easy"]
    loss = Interval(-easy.estimate, -easy.high, -easy.low, easy.confidence, easy.num_problems)
    paper = "7B, MATH500: level with Thinking on levels 1 to 3, slightly better on level 1"
    return [
        make_claim(
            "pilot: easy problems need no thinking",
            f"Without thinking, easy problems are answered about as well (within {100 * MARGIN:g} points)",
            paper,
            "accuracy, no_think − think, levels 1 to 3, before training",
            loss,
            (),
            above=True,
            bound=-MARGIN,
        ),
        make_claim(
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
        make_claim(
            "pilot: hard problems do",
            "What not thinking costs grows with the difficulty",
            "9.2/13.4/15.4 points lost on GSM8K/MATH500/AIME24 (1.5B), 2.8/9.6/29.3 (7B)",
            "accuracy lost without thinking, levels 4 and 5 less levels 1 to 3",
            difference_of_groups(gaps["hard"], easy),
            (),
            above=True,
        ),
    ]


def check_main(main: BySeed, original: Outcomes) -> list[Claim]:
    """The main result: AdaptThink at δ = 0.05 against the original model thinking."""
    reference = select_outcomes(original, "think")
    levels = map_levels(reference)

    def measure_fall(outcomes: Outcomes) -> Interval:
        easy, hard = (measure_no_think([one for one in outcomes if one.level in group]) for group in (EASY, HARD))
        return difference_of_groups(easy, hard)

    return [
        make_auto_claim(
            main,
            lambda outcomes: measure_length_change(outcomes, reference, levels),
            "main: shorter",
            "Responses become shorter",
            "ΔLength −53.0% (1.5B), −40.1% (7B)",
            "ΔLength: mean over levels",
            above=False,
            unit="%",
        ),
        make_auto_claim(
            main,
            lambda outcomes: measure_accuracy_change(outcomes, reference, levels),
            "main: more accurate",
            "Accuracy rises at the same time",
            "ΔAcc +2.4 points (1.5B), +2.3 (7B)",
            "ΔAcc: mean over levels",
            above=True,
        ),
        make_auto_claim(
            main,
            measure_fall,
            "main: thinks where it is hard",
            "The harder the problem, the rarer no_think",
            "no_think 86.9/76.8/40.4% on GSM8K/MATH500/AIME24 (1.5B), 99.6/76.6/6.3% (7B)",
            "share of no_think, levels 1 to 3 less levels 4 and 5",
            above=True,
        ),
    ]


def check_delta(chain: Mapping[str, BySeed]) -> list[Claim]:
    """The sweep: δ from 0 to 0.1."""
    lowest, highest = chain["delta_0"], chain["delta_0.1"]
    levels = map_levels(pool_seeds(highest, "auto"))

    def measure_share_change(new: Outcomes, old: Outcomes) -> Interval:
        return share_difference(group_no_think(new), group_no_think(old), levels).interval

    return [
        make_claim(
            "delta: more no_think",
            "A larger δ makes the model think less often",
            "no_think 70.4/50.0/0.2% at δ = 0, 91.7/90.4/83.5% at 0.1 (1.5B)",
            "share of no_think, δ = 0.1 less δ = 0",
            *compare_trainings(highest, lowest, measure_share_change),
            above=True,
        ),
        make_claim(
            "delta: shorter",
            "A larger δ makes responses shorter",
            "ΔLength −32.8% at δ = 0, −64.5% at 0.1",
            "length, δ = 0.1 against δ = 0",
            *compare_trainings(highest, lowest, partial(measure_length_change, levels=levels)),
            above=False,
            unit="%",
        ),
        make_claim(
            "delta: at a price",
            "A larger δ costs accuracy",
            "ΔAcc +5.5 at δ = 0, −0.5 at 0.1",
            "accuracy, δ = 0.1 less δ = 0",
            *compare_trainings(highest, lowest, partial(measure_accuracy_change, levels=levels)),
            above=False,
        ),
    ]


def check_sampling(main: BySeed, grpo: BySeed) -> list[Claim]:
    """Importance sampling against plain on-policy GRPO."""
    levels = map_levels(pool_seeds(main, "auto"))
    return [
        make_auto_claim(
            grpo,
            measure_no_think,
            "sampling: plain GRPO never tries",
            "Without importance sampling, the model does not learn not to think (below 1%)",
            "NoThinking stays near 0 under GRPO (a curve)",
            "share of no_think after GRPO",
            above=False,
            bound=0.01,
        ),
        make_claim(
            "sampling: and stays long",
            "With it, responses end up far shorter than GRPO's",
            "below 3,000 tokens against about 4,600 and rising (curves)",
            "length, AdaptThink against GRPO",
            *compare_trainings(main, grpo, partial(measure_length_change, levels=levels)),
            above=False,
            unit="%",
        ),
    ]


def check_ratio(metrics: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]) -> list[Claim]:
    """Which form of the ratio starts at all: Eq. 9 as it stands, PPO's of each token, the official code's."""

    def measure_rise(name: str, step: int) -> list[float]:
        rises = []
        for rows in metrics[name].values():
            probes = {row["step"]: row["probe_no_think_logprob"] for row in rows if "probe_no_think_logprob" in row}
            rises.append(probes[step] - probes[1])
        return rises

    claims = []
    for name, words in (("ratio_sequence", "Eq. 9 literally"), ("ratio_token", "PPO's ratio of each token")):
        step = max(row["step"] for rows in metrics[name].values() for row in rows)
        probed = [row["step"] for row in next(iter(metrics[MAIN].values())) if "probe_no_think_logprob" in row]
        step = max(at for at in probed if at <= step)
        ahead = [ours - theirs for ours, theirs in zip(measure_rise(MAIN, step), measure_rise(name, step), strict=True)]
        claims.append(
            make_claim(
                f"ratio: the mean starts, {words} does not",
                f"From a cold start the length-normalised ratio learns where {words} stands still",
                "not in the paper; its official code normalises by length",
                f"rise of mean log P(no_think) on held-out problems by step {step}, above the other's",
                average_seeds(ahead),
                ahead,
                above=True,
                bound=1.0,
                unit="nats",
            )
        )
    return claims


def check_story(story: BySeed, original: Outcomes) -> list[Claim]:
    """Problems of another kind (the paper: MMLU)."""
    reference = select_outcomes(original, "think")
    levels = map_levels(reference)
    return [
        make_auto_claim(
            story,
            lambda outcomes: measure_length_change(outcomes, reference, levels),
            "elsewhere: shorter",
            "On problems unlike those of the training, responses become shorter too",
            "MMLU 1,724 → 1,055 tokens (1.5B), 1,257 → 856 (7B)",
            "length on story problems, against the original thinking",
            above=False,
            unit="%",
        ),
        make_auto_claim(
            story,
            lambda outcomes: measure_accuracy_change(outcomes, reference, levels),
            "elsewhere: no less accurate",
            f"and accuracy is kept there (within {100 * MARGIN:g} points)",
            "MMLU 35.7 → 42.2% (1.5B), 63.4 → 63.6% (7B)",
            "accuracy on story problems, against the original thinking",
            above=True,
            bound=-MARGIN,
        ),
    ]


def check_implicit_thinking(implicit: Mapping[int, Values]) -> Claim:
    """Thinking within the answers of no_think."""
    together: dict[str, list[float]] = {}
    for one_seed in implicit.values():
        for problem, signs in one_seed.items():
            together.setdefault(problem, []).extend(signs)
    return make_claim(
        "implicit thinking: rare",
        "Few no_think answers think after all (below 10%)",
        "7.9% (1.5B), 4.2% (7B)",
        "share of no_think answers that think implicitly",
        share_interval(together) if together else Interval(0.0, 0.0, 1.0, 0.95, 0),  # no such answer: anything may be
        [share_interval(one_seed).estimate for one_seed in implicit.values() if one_seed],
        above=False,
        bound=0.10,
    )
