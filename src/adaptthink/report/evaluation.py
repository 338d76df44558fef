"""An evaluation's folder, read for its report; and what keeps several from being compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adaptthink.errors import UserError
from adaptthink.report.folder import (
    Interval,
    Score,
    Transcript,
    as_list,
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

MODES = ("auto", "think", "no_think")
MODEL_SETTINGS = ("model", "fingerprint", "seed")  # in which models that are compared may differ


@dataclass(frozen=True, slots=True)
class DialPoint:
    """What one threshold on P(no_think) comes to; accuracy and share in [0, 1]."""

    threshold: float
    accuracy: float
    accuracy_interval: Interval | None
    mean_tokens: float
    tokens_interval: Interval | None
    no_think_share: float | None
    chosen: bool  # the threshold in use


@dataclass(frozen=True, slots=True)
class Reliability:
    """One bin of P(no_think): the share of its problems where answering at once really costs at most delta."""

    probability: float  # mean of the bin
    pays: float
    pays_interval: Interval | None
    num_problems: float | None


@dataclass(frozen=True, slots=True)
class EvaluationFolder:
    """Everything that the report shows of one folder; `dial` and `reliability` are empty where there is none."""

    name: str
    written: datetime
    setting: Mapping[str, Any]  # how it was sampled
    config: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Score]]  # asked mode -> level -> score
    overall: Mapping[str, Score]
    ungradable: int  # responses to problems whose gold cannot be read
    problem_ids: frozenset[str]
    dial: tuple[DialPoint, ...]
    reliability: tuple[Reliability, ...]
    calibration_error: float | None
    delta: float | None  # at most so much accuracy may no_think cost, to count as paying
    transcripts: tuple[Transcript, ...]  # of auto, or of the first mode that was asked


def is_evaluation(folder: Path) -> bool:
    """Whether a folder is an evaluation's."""
    return (folder / "evaluation.json").is_file()


def read_evaluations(folders: Sequence[Path]) -> tuple[EvaluationFolder, ...]:
    """Read evaluation folders; raises UserError for what is none and for one that is given twice."""
    for folder in folders:
        if not is_evaluation(folder):
            raise UserError(
                f"'{folder}' holds no evaluation.json; several folders in one report must be evaluations "
                "(of a training run: RUN/evaluations/original RUN/evaluations/adaptthink)"
            )
    return tuple(read_evaluation(folder, name) for folder, name in zip(folders, short_names(folders), strict=True))


def short_names(folders: Sequence[Path]) -> list[str]:
    """Call each folder by as many of its last parts as tell it from the others."""
    paths = [folder.resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"'{path.name}' is given twice; give each folder once")
    return [
        next(
            str(Path(*path.parts[-length:]))
            for length in range(1, len(path.parts) + 1)
            if sum(other.parts[-length:] == path.parts[-length:] for other in paths) == 1
        )
        for path in paths
    ]


def read_evaluation(folder: Path, name: str) -> EvaluationFolder:
    """Read one evaluation folder; raises UserError for a missing summary and for a malformed file."""
    path = folder / "summary.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file: the evaluation was not finished; run its adaptthink evaluate again")
    summary = read_object(path)
    quality = read_object_if_any(folder / "quality.json")
    calibration = as_object(quality.get("calibration"))
    modes = as_object(summary.get("modes"))
    scores = read_levels(modes)
    return EvaluationFolder(
        name=name,
        written=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        setting=read_object(folder / "evaluation.json"),
        config=as_object(summary.get("config")),
        scores=scores,
        overall=read_overall(modes),
        ungradable=sum(int(number(as_object(row).get("ungradable")) or 0) for row in modes.values()),
        problem_ids=frozenset(str(row.get("id")) for _, row in read_lines(folder / "problems.jsonl")),
        dial=read_dial(read_object_if_any(folder / "dial.json")),
        reliability=tuple(filter(None, map(read_bin, as_list(calibration.get("bins"))))),
        calibration_error=number(calibration.get("error")),
        delta=number(quality.get("delta")),
        transcripts=choose_transcripts(
            read_transcripts(folder, next((mode for mode in MODES if mode in scores), MODES[0]))
        ),
    )


def read_dial(dial: Mapping[str, Any]) -> tuple[DialPoint, ...]:
    """Read the curve of a `dial.json`, in its order: from always think to always no_think."""
    chosen = number(as_object(dial.get("threshold")).get("no_think_probability"))
    points = []
    for row in map(as_object, as_list(dial.get("curve"))):
        threshold, accuracy, tokens = (number(row.get(name)) for name in ("threshold", "accuracy", "mean_tokens"))
        if threshold is not None and accuracy is not None and tokens is not None:
            points.append(
                DialPoint(
                    threshold,
                    accuracy,
                    interval(row.get("accuracy_interval")),
                    tokens,
                    interval(row.get("tokens_interval")),
                    number(row.get("no_think_share")),
                    threshold == chosen,
                )
            )
    return tuple(points)


def thin(points: Sequence[DialPoint], count: int) -> tuple[DialPoint, ...]:
    """About `count` points, both ends and what was chosen among them."""
    step = max(1, len(points) // count)
    last = len(points) - 1
    return tuple(point for index, point in enumerate(points) if index % step == 0 or index == last or point.chosen)


def read_bin(record: Any) -> Reliability | None:
    """Read one bin of the calibration in a `quality.json`; None if it has no numbers."""
    row = as_object(record)
    pays = as_object(row.get("pays"))
    probability, share = number(row.get("probability")), number(pays.get("estimate"))
    if probability is None or share is None:
        return None
    return Reliability(
        probability, share, interval([pays.get("low"), pays.get("high")]), number(row.get("num_problems"))
    )


def differences(folders: Sequence[EvaluationFolder]) -> list[str]:
    """Say in which ways the folders were not evaluated alike, so that their numbers are not comparable."""
    first, found = folders[0], []
    for other in folders[1:]:
        if other.problem_ids != first.problem_ids:
            shared = len(other.problem_ids & first.problem_ids)
            found.append(
                f"{other.name} answered other problems than {first.name}: "
                f"{len(other.problem_ids):,} and {len(first.problem_ids):,}, of which {shared:,} are the same"
            )
        for key in sorted((set(first.setting) | set(other.setting)) - set(MODEL_SETTINGS)):
            if first.setting.get(key) != other.setting.get(key):
                found.append(
                    f"{key} was {first.setting.get(key)} in {first.name}, {other.setting.get(key)} in {other.name}"
                )
    return found
