"""What the files of every folder have in common: evaluations, transcripts, numbers of the steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from adaptthink.evaluation.levels import rank_level
from adaptthink.evaluation.scores import Evaluation
from adaptthink.evaluation.store import read_decisions, read_problems, read_samples, read_verdicts
from adaptthink.problems import format_prompt
from adaptthink.storage.jsonl import read_object
from adaptthink.storage.records import read_record_file

REMEDY = "restore the file or make it again"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Transcript:
    """One evaluated response, split at the end of its thinking. `closed` is False where the thinking never ended."""

    level: str
    mode: str
    verdict: str
    problem_id: str
    prompt: str
    answer: str
    thinking: str
    closed: bool
    solution: str
    tokens: int
    no_think_probability: float | None
    order: tuple[int, int]  # index of the problem within the evaluation, of the response among the problem's


# ---- transcripts ----------------------------------------------------------------------------------------------------


def read_transcripts(folder: Path, requested: str = "auto") -> Iterator[Transcript]:
    """Read the responses of an evaluation in one requested mode, with what else its folder knows of each.

    A response whose problem, verdict or decision is not there has a dash in its place.
    """
    problems, decisions = read_problems(folder), read_decisions(folder)
    verdicts = read_verdicts(folder / "verdicts.jsonl")
    indices = {name: index for index, name in enumerate(problems)}
    for sample in read_samples(folder):
        if sample.requested == requested:
            name = sample.problem_id
            problem, decision, verdict = problems.get(name), decisions.get(name), verdicts.get(sample.key)
            yield Transcript(
                level=as_text(problem and problem.level),
                mode=sample.mode,
                verdict=as_text(verdict and verdict.verdict),
                problem_id=name,
                prompt=format_prompt(problem) if problem else as_text(None),
                answer=as_text(problem and problem.answer),
                thinking=(sample.thinking or "").strip(),
                closed=sample.answer is not None,
                solution=(sample.answer or "").strip(),
                tokens=sample.tokens,
                no_think_probability=decision.no_think_probability if decision else None,
                order=(indices.get(name, len(indices)), sample.index),
            )


def choose_transcripts(transcripts: Iterable[Transcript]) -> tuple[Transcript, ...]:
    """Keep, of each level and mode, the first correct and the first not correct response: nobody picked them.

    First by order: samples lie in the order in which they ended, where the first would be the shortest.
    """
    kept: dict[tuple[str, bool, str], Transcript] = {}
    for item in transcripts:
        key = (item.level, item.verdict != "correct", item.mode)
        if key not in kept or item.order < kept[key].order:
            kept[key] = item
    return tuple(kept[key] for key in sorted(kept, key=lambda key: (rank_level(key[0]), *key)))


# ---- files ----------------------------------------------------------------------------------------------------------


def read_object_if_any(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; an empty one if there is no file."""
    return read_object(path, remedy=REMEDY) if path.exists() else {}


def read_record_if_any(kind: type[T], path: Path) -> T | None:
    """Read a file that holds one record; None if there is no file."""
    return read_record_file(kind, path, remedy=REMEDY) if path.exists() else None


def list_levels(evaluations: Iterable[Evaluation]) -> tuple[str, ...]:
    """The levels that any of the evaluations has, in order."""
    return tuple(sorted({level for evaluation in evaluations for level in evaluation.levels}, key=rank_level))


def as_object(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_number(value: Any) -> float | None:
    """Return `value` as a float if it is a finite number, else None; booleans are not numbers here."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def as_text(value: Any) -> str:
    """A value as text; a dash where there is none."""
    return "–" if value is None else str(value)
