"""What a run folder says, as small typed records. A value that is missing or not a finite number reads as None."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adaptthink.errors import UserError

CLOSE = "</think>"


@dataclass(frozen=True, slots=True)
class Score:
    """One mode on one level, or on all of them. Accuracy and shares lie in [0, 1]; `n` counts responses."""

    accuracy: float | None = None
    mean_tokens: float | None = None
    no_think_share: float | None = None
    truncated_share: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """One evaluated response, split at the end of its thought. `closed` is False where the thought never ended."""

    problem_id: str
    level: str
    mode: str
    verdict: str
    prompt: str
    answer: str
    thought: str
    closed: bool
    solution: str
    tokens: float | None
    no_think_probability: float | None


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Everything that the report shows. `scores` and `overall` hold only the modes that were evaluated."""

    written: datetime
    title: Mapping[str, Any]  # model, objective, delta, seed
    scores: Mapping[str, Mapping[str, Score]]  # mode -> level -> score
    overall: Mapping[str, Score]
    stated_points: float | None
    stated_percent: float | None
    seconds: Mapping[str, float]
    peak_memory_mb: float | None
    config: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    transcripts: tuple[Transcript, ...]

    @property
    def levels(self) -> list[str]:
        """Every level that any mode was evaluated on, in natural order."""
        return sorted({level for levels in self.scores.values() for level in levels}, key=level_order)


def read_folder(run: Path) -> RunFolder:
    """Read a run folder; only `summary.json` is required. Raises UserError for a missing or malformed file."""
    path = run / "summary.json"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, so there is no result to report; "
            "`adaptthink demo` makes a whole run folder, `adaptthink evaluate` makes this file for an existing run"
        )
    summary = read_object(path)
    modes = {mode: as_object(content) for mode, content in as_object(summary.get("modes")).items()}
    timings = as_object(summary.get("seconds"))
    return RunFolder(
        written=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        title={key: summary.get(key) for key in ("model", "objective", "delta", "seed")},
        scores={
            mode: {str(level): read_score(score) for level, score in as_object(content.get("levels")).items()}
            for mode, content in modes.items()
        },
        overall={mode: read_score(content.get("overall")) for mode, content in modes.items()},
        stated_points=number(summary.get("delta_accuracy_points")),
        stated_percent=number(summary.get("delta_length_percent")),
        seconds={phase: value for phase in timings if (value := number(timings[phase])) is not None},
        peak_memory_mb=number(summary.get("peak_memory_mb")),
        config=read_object(run / "config.json") if (run / "config.json").is_file() else {},
        steps=read_steps(run / "metrics.jsonl"),
        transcripts=choose_transcripts(record for _, record in read_lines(run / "samples.jsonl")),
    )


def read_steps(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Read the training metrics in order of their steps; of a step that a resumed run repeated, the last."""
    steps: dict[float, Mapping[str, Any]] = {}
    for line, record in read_lines(path):
        step = number(record.get("step"))
        if step is None:
            raise UserError(f"{path}, line {line}: no number under 'step'; delete the line or restore the file")
        steps[step] = record
    return tuple(steps[step] for step in sorted(steps))


def choose_transcripts(records: Iterable[Mapping[str, Any]]) -> tuple[Transcript, ...]:
    """Keep, of each level and mode, the first correct and the first not correct free response: nobody picked them."""
    kept: dict[tuple[str, str, bool], Mapping[str, Any]] = {}
    for record in records:
        if record.get("mode") == "adaptthink":
            key = (str(record.get("level")), str(record.get("chosen_mode")), record.get("verdict") != "correct")
            kept.setdefault(key, record)
    order = sorted(kept, key=lambda key: (level_order(key[0]), key[2], key[1]))
    return tuple(read_transcript(kept[key]) for key in order)


def read_transcript(record: Mapping[str, Any]) -> Transcript:
    """Split the response of one line of `samples.jsonl` into thought and solution."""
    thought, close, solution = str(record.get("text") or "").partition(CLOSE)
    words = {key: "–" if record.get(key) is None else str(record[key]) for key in ("problem_id", "level", "verdict")}
    return Transcript(
        **words,
        mode=str(record.get("chosen_mode") or "–"),
        prompt=str(record.get("prompt") or "–"),
        answer="–" if record.get("answer") is None else str(record["answer"]),
        thought=thought.strip(),
        closed=bool(close),
        solution=solution.strip(),
        tokens=number(record.get("tokens")),
        no_think_probability=number(record.get("no_think_probability")),
    )


def read_score(record: Any) -> Score:
    """Read one object of `summary.json` that holds accuracy, tokens and shares."""
    values = {key: number(as_object(record).get(key)) for key in Score.__slots__}
    n = values.pop("n")
    return Score(**values, n=int(n) if n else None)


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); restore the file or make it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found a {type(content).__name__}; make the file again")
    return content


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSONL file, none if there is no file; blank lines do not count as faults."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for number_of_line, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(
                    f"{path}, line {number_of_line}: not valid JSON ({error}); delete the line or restore the file"
                ) from None
            if not isinstance(record, dict):
                raise UserError(f"{path}, line {number_of_line}: expected a JSON object; delete the line")
            yield number_of_line, record


def as_object(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    """Return `value` as a float if it is a finite number, else None; booleans are not numbers here."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def level_order(level: str) -> tuple[int, float, str]:
    """Sort 2 before 10, and numbers before names."""
    return (0, float(level), "") if level.isdecimal() else (1, 0.0, level)
