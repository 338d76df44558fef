"""The numbers that the report shows beside the claims, and the whole result as `reproduction.json` stores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptthink.evaluation.scores import (
    Change,
    Evaluation,
    compare_scores,
    group_no_think,
    map_levels,
    summarise,
)
from adaptthink.evaluation.statistics import Interval, share_interval
from adaptthink.reproduction.runs import MAIN, BySeed, Design, Outcomes, Runs, pool_seeds, select_outcomes
from adaptthink.reproduction.verdicts import Claim


@dataclass(frozen=True, slots=True)
class DeltaPoint:
    """One δ of the sweep: all seeds together, against the original model thinking."""

    delta: float
    change: Change
    no_think_share: Interval


@dataclass(frozen=True, slots=True)
class ProbePoint:
    """What a training measured on held-out problems after one step; None where it was not measured."""

    step: int
    mean_tokens: float | None
    accuracy: float | None
    no_think_share: float | None
    no_think_logprob: float


@dataclass(frozen=True, slots=True)
class Tables:
    """Scores of rows by level, the sweep of δ, and curves by training and seed."""

    chain: Mapping[str, Evaluation]
    story: Mapping[str, Evaluation]
    deltas: tuple[DeltaPoint, ...]
    curves: Mapping[str, Mapping[int, tuple[ProbePoint, ...]]]


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The whole result."""

    design: Design
    claims: tuple[Claim, ...]
    tables: Tables


def make_tables(runs: Runs) -> Tables:
    """Summarise the runs for tables and pictures."""
    reference = select_outcomes(runs.original_chain, "think")
    others = {name: summarise(pool_seeds(by_seed, "auto")) for name, by_seed in runs.chain.items() if name != MAIN}
    deltas = {0.05: MAIN} | {
        float(name.removeprefix("delta_")): name for name in runs.chain if name.startswith("delta_")
    }
    return Tables(
        make_rows(runs.original_chain, runs.chain[MAIN]) | others,
        make_rows(runs.original_story, runs.story),
        tuple(
            make_delta_point(delta, pool_seeds(runs.chain[deltas[delta]], "auto"), reference)
            for delta in sorted(deltas)
        ),
        {name: {seed: read_probes(rows) for seed, rows in by_seed.items()} for name, by_seed in runs.metrics.items()},
    )


def make_rows(original: Outcomes, trained: BySeed) -> dict[str, Evaluation]:
    """The original model in both forced modes, and the trained ones in every mode that they were evaluated in."""
    modes = {MAIN: "auto", f"{MAIN}_think": "think", f"{MAIN}_no_think": "no_think"}
    rows = {f"original_{mode}": select_outcomes(original, mode) for mode in ("think", "no_think")}
    rows |= {name: pool_seeds(trained, requested) for name, requested in modes.items()}
    return {name: summarise(outcomes) for name, outcomes in rows.items() if outcomes}


def make_delta_point(delta: float, outcomes: Outcomes, reference: Outcomes) -> DeltaPoint:
    """What one δ came to."""
    change = compare_scores(outcomes, reference, map_levels(reference))
    return DeltaPoint(delta, change, share_interval(group_no_think(outcomes)))


def read_probes(rows: Sequence[Mapping[str, Any]]) -> tuple[ProbePoint, ...]:
    """Return a training's metrics on the held-out problems."""
    return tuple(
        ProbePoint(
            row["step"],
            row.get("probe_mean_tokens"),
            row.get("probe_accuracy"),
            row.get("probe_sampled_no_think_share"),
            row["probe_no_think_logprob"],
        )
        for row in rows
        if "probe_no_think_logprob" in row
    )
