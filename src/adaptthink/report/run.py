"""A training run's folder, read for its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adaptthink.dial.curve import Point, compute_curve, measure, thin_curve
from adaptthink.dial.stored import Dial
from adaptthink.errors import UserError
from adaptthink.evaluation.scores import Change, Evaluation
from adaptthink.evaluation.store import read_decisions, read_outcomes
from adaptthink.report.folder import (
    Transcript,
    as_number,
    as_object,
    choose_transcripts,
    list_levels,
    read_lines,
    read_modes,
    read_object,
    read_object_if_any,
    read_record,
    read_transcripts,
)

TRAINED = Path("evaluations", "adaptthink")  # within a run: the evaluation of the trained model


@dataclass(frozen=True, slots=True)
class ShownAlarm:
    """One kind of alarm of a training: in how many steps it was there, the first and the last, and what was said."""

    kind: str
    steps: int
    first: int
    last: int
    message: str  # of the last step


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Everything that the report shows. `evaluations` holds only the rows that were evaluated."""

    written: datetime
    title: Mapping[str, Any]  # model, method, delta, seed
    evaluations: Mapping[str, Evaluation]
    levels: tuple[str, ...]
    changes: Mapping[str, Change]  # of rows against the original model thinking
    stated_points: float | None  # ΔAcc and ΔLength of the trained model, where there are no changes
    stated_percent: float | None
    seconds: Mapping[str, float]
    peak_memory_mb: float | None
    config: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    alarms: tuple[ShownAlarm, ...]
    transcripts: tuple[Transcript, ...]
    dial: tuple[Point, ...]  # the trained model's curve, where it was forced into both modes; else empty
    threshold: float | None  # the certified one, where there is one


def read_run(run: Path) -> RunFolder:
    """Read a run folder; only `summary.json` is required. Raises UserError for a missing or malformed file."""
    path = run / "summary.json"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, so there is no result to report; "
            "`adaptthink demo` makes a whole run folder, `adaptthink evaluate` an evaluation folder"
        )
    summary = read_object(path)
    evaluations = read_modes(summary.get("modes"))
    changes = {mode: read_record(Change, value) for mode, value in as_object(summary.get("changes")).items()}
    steps = read_steps(run / "metrics.jsonl")
    seconds = {phase: as_number(value) for phase, value in as_object(summary.get("seconds")).items()}
    return RunFolder(
        written=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        title={key: summary.get(key) for key in ("model", "method", "delta", "seed")},
        evaluations=evaluations,
        levels=list_levels(evaluations.values()),
        changes={mode: change for mode, change in changes.items() if change is not None},
        stated_points=as_number(summary.get("delta_accuracy_points")),
        stated_percent=as_number(summary.get("delta_length_percent")),
        seconds={phase: value for phase, value in seconds.items() if value is not None},
        peak_memory_mb=as_number(summary.get("peak_memory_mb")),
        config=read_object_if_any(run / "config.json"),
        steps=steps,
        alarms=list_alarms(steps),
        transcripts=choose_transcripts(read_transcripts(run / TRAINED)),
        dial=read_dial_curve(run / TRAINED),
        threshold=read_threshold(run / TRAINED),
    )


def read_dial_curve(folder: Path) -> tuple[Point, ...]:
    """Return the dial's curve of an evaluation folder, empty where it does not hold what that takes."""
    try:
        measured = measure(read_outcomes(folder), read_decisions(folder))
    except UserError:
        return ()
    threshold = read_threshold(folder)
    return thin_curve(compute_curve(measured), () if threshold is None else (threshold,))


def read_threshold(folder: Path) -> float | None:
    """Return the certified threshold of an evaluation folder's dial; None where there is none."""
    dial = read_record(Dial, read_object_if_any(folder / "dial.json"))
    return dial.threshold.no_think_probability if dial else None


def read_steps(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Read the training metrics in order of their steps; of a step that is there twice, the first line."""
    steps: dict[float, Mapping[str, Any]] = {}
    for where, record in read_lines(path):
        step = as_number(record.get("step"))
        if step is None:
            raise UserError(f"{where}: no number under 'step'; delete the line or restore the file")
        steps.setdefault(step, record)
    return tuple(steps[step] for step in sorted(steps))


def list_alarms(steps: Iterable[Mapping[str, Any]]) -> tuple[ShownAlarm, ...]:
    """Return the alarms of all steps, by kind, in the order in which they began."""
    found: dict[str, ShownAlarm] = {}
    for row in steps:
        number = int(as_number(row.get("step")) or 0)
        for kind, message in as_object(row.get("alarms")).items():
            before = found.get(kind, ShownAlarm(kind, 0, number, number, ""))
            found[kind] = replace(before, steps=before.steps + 1, last=number, message=str(message))
    return tuple(found.values())
