"""A training run's folder, read for its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adaptthink.dial.curve import Point, compute_curve, measure, thin_curve
from adaptthink.dial.stored import read_dial
from adaptthink.errors import UserError
from adaptthink.evaluation.scores import Change, Evaluation
from adaptthink.evaluation.store import read_decisions, read_outcomes
from adaptthink.evaluation.summaries import RunSummary
from adaptthink.report.evaluation import is_evaluation
from adaptthink.report.folder import (
    REMEDY,
    Transcript,
    as_number,
    as_object,
    choose_transcripts,
    list_levels,
    read_object_if_any,
    read_record_if_any,
    read_transcripts,
)
from adaptthink.storage.records import from_json
from adaptthink.storage.runs import read_metrics

TRAINED = Path("evaluations", "adaptthink")  # within a run: the evaluation of the trained model


@dataclass(frozen=True, slots=True)
class ShownAlarm:
    """One kind of alarm of a training: in how many steps it was there, the first and the last, and the message."""

    kind: str
    steps: int
    first: int
    last: int
    message: str  # of the last step


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Everything that the report shows. `evaluations` holds only the rows that were evaluated."""

    written: datetime
    summary: RunSummary
    finished: bool  # whether there is a summary: the model was trained and evaluated, and what follows is there
    num_steps: int | None  # of the training, as planned
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

    @property
    def progress(self) -> str:
        """How far the training has come, as a sentence."""
        done = int(self.steps[-1]["step"]) if self.steps else 0
        if self.num_steps is not None and done >= self.num_steps:
            return "The training has ended."
        return f"The training is at step {done}{'' if self.num_steps is None else f' of {self.num_steps}'}."


def read_run(run: Path) -> RunFolder:
    """Read a run folder: a finished one, that of a training alone, or of one that goes on.

    A summary or a configuration is needed. Raises UserError for a folder with neither, and for a malformed file.
    """
    summary, config = read_summary(run), read_object_if_any(run / "config.json")
    if summary is None and not config:
        raise UserError(
            f"'{run}' holds neither summary.json nor config.json, so there is no training to report; "
            "`adaptthink run` and `adaptthink train` make a run folder, `adaptthink evaluate` an evaluation folder"
        )
    finished = summary is not None
    summary = summary or name_training(config, run)
    files = (run / name for name in ("summary.json", "metrics.jsonl", "config.json"))
    newest = next(path for path in files if path.exists())
    evaluations = {row: one for row, one in summary.modes.items() if one}
    steps = tuple(sorted(read_metrics(run / "metrics.jsonl"), key=lambda row: row["step"]))
    return RunFolder(
        written=datetime.fromtimestamp(newest.stat().st_mtime, UTC),
        summary=summary,
        finished=finished,
        num_steps=int(planned) if (planned := as_number(config.get("steps"))) else None,
        evaluations=evaluations,
        levels=list_levels(evaluations.values()),
        changes={row: change for row, change in summary.changes.items() if change},
        seconds={phase: value for phase, value in summary.seconds.items() if value is not None},
        config=config,
        steps=steps,
        alarms=list_alarms(steps),
        transcripts=choose_transcripts(read_transcripts(run / TRAINED)),
        dial=read_dial_curve(run / TRAINED) if "adaptthink" in evaluations else (),
        threshold=read_threshold(run / TRAINED),
    )


def read_summary(run: Path) -> RunSummary | None:
    """Return the summary of a run; None if there is none yet."""
    return read_record_if_any(RunSummary, run / "summary.json")


def name_training(config: Mapping[str, Any], run: Path) -> RunSummary:
    """Return what is known of a training without results; raises UserError for a configuration of another form."""
    try:
        return from_json(RunSummary, {key: config.get(key) for key in ("seed", "delta", "method", "model")})
    except ValueError as error:
        raise UserError(f"{run / 'config.json'}: damaged ({error}); {REMEDY}") from None


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
