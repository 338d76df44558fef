"""An evaluation's folder, read for its report; and what keeps several from being compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adaptthink.dial.stored import Dial, read_dial
from adaptthink.errors import UserError
from adaptthink.evaluation.compare import describe_settings, name_folders
from adaptthink.evaluation.mode_choice import ModeChoice
from adaptthink.evaluation.scores import Evaluation
from adaptthink.evaluation.statistics import Calibration
from adaptthink.evaluation.store import REQUESTED_MODES, read_problems, read_setting
from adaptthink.evaluation.summaries import EvaluationSummary
from adaptthink.report.folder import REMEDY, Transcript, choose_transcripts, read_record_if_any, read_transcripts
from adaptthink.storage.records import read_record_file


@dataclass(frozen=True, slots=True)
class EvaluationFolder:
    """Everything that the report shows of one folder."""

    name: str
    written: datetime
    setting: Mapping[str, Any]  # how it was sampled
    config: Mapping[str, Any]
    evaluations: Mapping[str, Evaluation]  # by requested mode
    problem_ids: frozenset[str]
    dial: Dial | None
    calibration: Calibration | None  # of P(no_think)
    delta: float | None  # the accuracy that no_think may cost, to count as paying
    advice: tuple[str, ...]  # where one verdict dominates
    transcripts: tuple[Transcript, ...]  # of auto, or of the first mode that was requested

    @property
    def ungradable(self) -> int:
        """Responses to problems whose reference answer cannot be parsed."""
        return sum(evaluation.ungradable for evaluation in self.evaluations.values())

    @property
    def unknown(self) -> int:
        """Responses that could not be graded."""
        return sum(evaluation.unknown for evaluation in self.evaluations.values())


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
    return tuple(read_evaluation(folder, name) for folder, name in zip(folders, name_distinct(folders), strict=True))


def name_distinct(folders: Sequence[Path]) -> list[str]:
    """Name folders as comparisons do; raises UserError for one that is given twice."""
    names = name_folders(folders)
    for folder, name in zip(folders, names, strict=True):
        if names.count(name) > 1:
            raise UserError(f"'{folder.resolve().name}' is given twice; give each folder once")
    return names


def read_evaluation(folder: Path, name: str) -> EvaluationFolder:
    """Read one evaluation folder; raises UserError for a missing summary and for a malformed file."""
    path = folder / "summary.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file: the evaluation was not finished; run its adaptthink evaluate again")
    summary = read_record_file(EvaluationSummary, path, remedy=REMEDY)
    choice = read_record_if_any(ModeChoice, folder / "quality.json")
    dial = folder / "dial.json"
    shown = next((mode for mode in REQUESTED_MODES if mode in summary.modes), "auto")
    return EvaluationFolder(
        name=name,
        written=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        setting=asdict(read_setting(folder)),
        config=summary.config,
        evaluations=summary.modes,
        problem_ids=frozenset(read_problems(folder)),
        dial=read_dial(dial) if dial.exists() else None,
        calibration=choice.calibration if choice else None,
        delta=choice.delta if choice else None,
        advice=summary.advice,
        transcripts=choose_transcripts(read_transcripts(folder, shown)),
    )


def describe_differences(folders: Sequence[EvaluationFolder]) -> list[str]:
    """Return how the folders' settings differ, which makes their numbers incomparable."""
    first, found = folders[0], []
    for other in folders[1:]:
        if other.problem_ids != first.problem_ids:
            shared = len(other.problem_ids & first.problem_ids)
            found.append(
                f"{other.name} answered other problems than {first.name}: "
                f"{len(other.problem_ids):,} and {len(first.problem_ids):,}, of which {shared:,} are the same"
            )
        found += describe_settings(first.setting, other.setting, first.name, other.name)
    return found
