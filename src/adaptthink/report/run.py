"""A training run's folder, read for its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adaptthink.errors import UserError
from adaptthink.report.folder import (
    Interval,
    Score,
    Transcript,
    all_levels,
    as_object,
    choose_transcripts,
    interval,
    number,
    read_levels,
    read_lines,
    read_object,
    read_object_if_any,
    read_overall,
    read_transcripts,
)

TRAINED = Path("evaluations", "adaptthink")  # within a run: the evaluation of the trained model


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Everything that the report shows. `scores` and `overall` hold only the modes that were evaluated."""

    written: datetime
    title: Mapping[str, Any]  # model, objective, delta, seed
    scores: Mapping[str, Mapping[str, Score]]  # mode -> level -> score
    overall: Mapping[str, Score]
    levels: tuple[str, ...]
    intervals: Mapping[str, tuple[Interval | None, Interval | None]]  # mode -> of its ΔAcc, of its ΔLength
    stated_points: float | None  # ΔAcc and ΔLength as summary.json states them
    stated_percent: float | None
    seconds: Mapping[str, float]
    peak_memory_mb: float | None
    config: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    transcripts: tuple[Transcript, ...]


def read_run(run: Path) -> RunFolder:
    """Read a run folder; only `summary.json` is required. Raises UserError for a missing or malformed file."""
    path = run / "summary.json"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, so there is no result to report; "
            "`adaptthink demo` makes a whole run folder, `adaptthink evaluate` an evaluation folder"
        )
    summary = read_object(path)
    scores = read_levels(summary.get("modes"))
    seconds = {phase: number(value) for phase, value in as_object(summary.get("seconds")).items()}
    return RunFolder(
        written=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        title={key: summary.get(key) for key in ("model", "objective", "delta", "seed")},
        scores=scores,
        overall=read_overall(summary.get("modes")),
        levels=all_levels(scores.values()),
        intervals={mode: read_intervals(change) for mode, change in as_object(summary.get("changes")).items()},
        stated_points=number(summary.get("delta_accuracy_points")),
        stated_percent=number(summary.get("delta_length_percent")),
        seconds={phase: value for phase, value in seconds.items() if value is not None},
        peak_memory_mb=number(summary.get("peak_memory_mb")),
        config=read_object_if_any(run / "config.json"),
        steps=read_steps(run / "metrics.jsonl"),
        transcripts=choose_transcripts(read_transcripts(run / TRAINED)),
    )


def read_steps(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Read the training metrics in order of their steps; of a step that is there twice, the first line."""
    steps: dict[float, Mapping[str, Any]] = {}
    for where, record in read_lines(path):
        step = number(record.get("step"))
        if step is None:
            raise UserError(f"{where}: no number under 'step'; delete the line or restore the file")
        steps.setdefault(step, record)
    return tuple(steps[step] for step in sorted(steps))


def read_intervals(change: Any) -> tuple[Interval | None, Interval | None]:
    """Read the intervals of a change of `summary.json`, ΔAcc's and ΔLength's; None for what it does not have."""
    found = as_object(change)
    return interval(found.get("points_interval")), interval(found.get("percent_interval"))
