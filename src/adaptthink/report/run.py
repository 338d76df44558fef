"""A training run's folder, read for its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adaptthink.dial.curve import Point, compute_curve, measure, thin_curve
from adaptthink.dial.stored import read_dial
from adaptthink.errors import UserError
from adaptthink.evaluation.scores import Change, Evaluation
from adaptthink.evaluation.store import read_decisions, read_outcomes
from adaptthink.report.evaluation import is_evaluation
from adaptthink.report.folder import (
    REMEDY,
    Transcript,
    as_number,
    as_object,
    choose_transcripts,
    list_levels,
    read_object_if_any,
    read_transcripts,
)
from adaptthink.storage.records import read_record_file
from adaptthink.storage.runs import read_metrics

TRAINED = Path("evaluations", "adaptthink")  # within a run: the evaluation of the trained model


@dataclass(frozen=True, slots=True)
class Summary:
    """The content of a run's `summary.json`; what a run does not have is left out or None."""

    seed: int | None = None
    delta: float | None = None
    method: str | None = None
    model: str | None = None
    modes: dict[str, Evaluation | None] = field(default_factory=dict)  # by row of the report
    changes: dict[str, Change | None] = field(default_factory=dict)  # of rows against the original model thinking
    delta_accuracy_points: float | None = None  # of the headline
    delta_length_percent: float | None = None
    seconds: dict[str, float | None] = field(default_factory=dict)  # by phase
    peak_memory_mb: float | None = None


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
    summary: Summary
    evaluations: Mapping[str, Evaluation]
    levels: tuple[str, ...]
    changes: Mapping[str, Change]  # of rows against the original model thinking
    seconds: Mapping[str, float]
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
    summary = read_record_file(Summary, path, remedy=REMEDY)
    evaluations = {row: one for row, one in summary.modes.items() if one}
    steps = tuple(sorted(read_metrics(run / "metrics.jsonl"), key=lambda row: row["step"]))
    return RunFolder(
        written=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        summary=summary,
        evaluations=evaluations,
        levels=list_levels(evaluations.values()),
        changes={row: change for row, change in summary.changes.items() if change},
        seconds={phase: value for phase, value in summary.seconds.items() if value is not None},
        config=read_object_if_any(run / "config.json"),
        steps=steps,
        alarms=list_alarms(steps),
        transcripts=choose_transcripts(read_transcripts(run / TRAINED)),
        dial=read_dial_curve(run / TRAINED) if "adaptthink" in evaluations else (),
        threshold=read_threshold(run / TRAINED),
    )


def read_dial_curve(folder: Path) -> tuple[Point, ...]:
    """Return the dial's curve of an evaluation folder, empty where it was not sampled in both forced modes."""
    if not is_evaluation(folder):
        return ()
    outcomes, decisions = read_outcomes(folder), read_decisions(folder)
    try:
        measured = measure(outcomes, decisions)
    except UserError:
        return ()
    threshold = read_threshold(folder)
    return thin_curve(compute_curve(measured), () if threshold is None else (threshold,))


def read_threshold(folder: Path) -> float | None:
    """Return the certified threshold of an evaluation folder's dial; None where there is none."""
    path = folder / "dial.json"
    return read_dial(path).threshold.no_think_probability if path.exists() else None


def list_alarms(steps: Iterable[Mapping[str, Any]]) -> tuple[ShownAlarm, ...]:
    """Return the alarms of all steps, by kind, in the order in which they began."""
    found: dict[str, ShownAlarm] = {}
    for row in steps:
        number = int(as_number(row.get("step")) or 0)
        for kind, message in as_object(row.get("alarms")).items():
            before = found.get(kind, ShownAlarm(kind, 0, number, number, ""))
            found[kind] = replace(before, steps=before.steps + 1, last=number, message=str(message))
    return tuple(found.values())
