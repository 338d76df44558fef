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

TRAINED = Path("evaluations", "adaptthink")  # within a run: the evaluation of the trained model


@dataclass(frozen=True, slots=True)
class Score:
    """One mode on one level, or on all of them. Accuracy and shares lie in [0, 1]; `n` counts responses."""

    accuracy: float | None = None
    mean_tokens: float | None = None
    no_think_share: float | None = None
    truncated_share: float | None = None
    n: float | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """One evaluated response, split at the end of its thought. `closed` is False where the thought never ended."""

    level: str
    mode: str
    verdict: str
    problem_id: str
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
    levels: tuple[str, ...]
    stated_points: float | None  # ΔAcc and ΔLength as summary.json states them
    stated_percent: float | None
    seconds: Mapping[str, float]
    peak_memory_mb: float | None
    config: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    transcripts: tuple[Transcript, ...]


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
    levels = {mode: as_object(content.get("levels")) for mode, content in modes.items()}
    seconds = {phase: number(value) for phase, value in as_object(summary.get("seconds")).items()}
    return RunFolder(
        written=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        title={key: summary.get(key) for key in ("model", "objective", "delta", "seed")},
        scores={mode: {level: read_score(score) for level, score in by.items()} for mode, by in levels.items()},
        overall={mode: read_score(content.get("overall")) for mode, content in modes.items()},
        levels=tuple(sorted({level for by in levels.values() for level in by}, key=level_order)),
        stated_points=number(summary.get("delta_accuracy_points")),
        stated_percent=number(summary.get("delta_length_percent")),
        seconds={phase: value for phase, value in seconds.items() if value is not None},
        peak_memory_mb=number(summary.get("peak_memory_mb")),
        config=read_object(run / "config.json") if (run / "config.json").is_file() else {},
        steps=read_steps(run / "metrics.jsonl"),
        transcripts=choose_transcripts(read_transcripts(run / TRAINED)),
    )


def read_steps(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Read the training metrics in order of their steps; of a step that a resumed run repeated, the last."""
    steps: dict[float, Mapping[str, Any]] = {}
    for where, record in read_lines(path):
        step = number(record.get("step"))
        if step is None:
            raise UserError(f"{where}: no number under 'step'; delete the line or restore the file")
        steps[step] = record
    return tuple(steps[step] for step in sorted(steps))


def read_transcripts(folder: Path) -> Iterator[Transcript]:
    """Read the responses of an evaluation to which no mode was asked, with what else its folder knows of each."""
    problems = {row.get("id"): row for _, row in read_lines(folder / "problems.jsonl")}
    decisions = {row.get("problem_id"): row for _, row in read_lines(folder / "decisions.jsonl")}
    verdicts = {sample_key(row): row.get("verdict") for _, row in read_lines(folder / "verdicts.jsonl")}
    for _, sample in read_lines(folder / "samples.jsonl"):
        if sample.get("asked") == "auto":
            name = sample.get("problem_id")
            problem, decision = as_object(problems.get(name)), as_object(decisions.get(name))
            thought, answer = sample.get("thought"), sample.get("answer")
            yield Transcript(
                level=shown(problem.get("level")),
                mode=shown(sample.get("mode")),
                verdict=shown(verdicts.get(sample_key(sample))),
                problem_id=shown(name),
                prompt=shown(problem.get("prompt")),
                answer=shown(problem.get("answer")),
                thought=str(thought or "").strip(),
                closed=answer is not None,
                solution=str(answer or "").strip(),
                tokens=number(sample.get("tokens")),
                no_think_probability=number(decision.get("no_think_probability")),
            )


def choose_transcripts(transcripts: Iterable[Transcript]) -> tuple[Transcript, ...]:
    """Keep, of each level and mode, the first correct and the first not correct response: nobody picked them."""
    kept: dict[tuple[str, bool, str], Transcript] = {}
    for item in transcripts:
        kept.setdefault((item.level, item.verdict != "correct", item.mode), item)
    return tuple(kept[key] for key in sorted(kept, key=lambda key: (level_order(key[0]), *key)))


def sample_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What names a sample within an evaluation."""
    return row.get("problem_id"), row.get("asked"), row.get("index")


def shown(value: Any) -> str:
    """A value as text; a dash where there is none."""
    return "–" if value is None else str(value)


def read_score(record: Any) -> Score:
    """Read one object of `summary.json` that holds accuracy, tokens and shares."""
    return Score(**{key: number(as_object(record).get(key)) for key in Score.__slots__})


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object."""
    return parse(path.read_bytes(), f"{path}", "restore the file or make it again")


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and line number, object) of a JSONL file, nothing if there is no file; skip blank lines."""
    if path.is_file():
        with path.open("rb") as lines:
            for count, line in enumerate(lines, start=1):
                if line.strip():
                    where = f"{path}, line {count}"
                    yield where, parse(line, where, "delete the line or restore the file")


def parse(content: bytes, where: str, remedy: str) -> dict[str, Any]:
    """Return the JSON object in `content`; raises UserError that says where the fault is."""
    try:
        value = json.loads(content)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, found a {type(value).__name__}; {remedy}")
    return value


def as_object(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    """Return `value` as a float if it is a finite number, else None; booleans are not numbers here."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def level_order(level: str) -> tuple[bool, int, str]:
    """Sort 2 before 10, and numbers before names."""
    return (False, int(level), "") if level.isdecimal() else (True, 0, level)
