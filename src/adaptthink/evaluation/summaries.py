"""What `summary.json` holds, in the folder of an evaluation and in that of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from adaptthink.evaluation.scores import Change, Evaluation


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """The scores of an evaluation, as they were printed."""

    modes: dict[str, Evaluation]  # by requested mode
    model: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    advice: tuple[str, ...] = ()  # where one verdict dominates


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The result of a training run whose model was evaluated; what a run does not have is left out or None."""

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
