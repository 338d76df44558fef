"""What the files of every folder have in common: JSON read with care, evaluations, transcripts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from adaptthink.errors import UserError
from adaptthink.evaluation.levels import rank_level
from adaptthink.evaluation.records import from_json
from adaptthink.evaluation.scores import Evaluation
from adaptthink.storage import jsonl

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
    tokens: float | None
    no_think_probability: float | None
    order: tuple[int, float]  # index of the problem within the evaluation, of the response among the problem's


# ---- transcripts ----------------------------------------------------------------------------------------------------


def read_transcripts(folder: Path, requested: str = "auto") -> Iterator[Transcript]:
    """Read the responses of an evaluation in one requested mode, with what else its folder knows of each."""
    problems = {row.get("id"): row for _, row in read_lines(folder / "problems.jsonl")}
    indices = {name: index for index, name in enumerate(problems)}
    decisions = {row.get("problem_id"): row for _, row in read_lines(folder / "decisions.jsonl")}
    verdicts = {sample_key(row): row.get("verdict") for _, row in read_lines(folder / "verdicts.jsonl")}
    for _, sample in read_lines(folder / "samples.jsonl"):
        if sample.get("requested") == requested:
            name = sample.get("problem_id")
            problem, decision = as_object(problems.get(name)), as_object(decisions.get(name))
            thinking, answer = sample.get("thinking"), sample.get("answer")
            yield Transcript(
                level=as_text(problem.get("level")),
                mode=as_text(sample.get("mode")),
                verdict=as_text(verdicts.get(sample_key(sample))),
                problem_id=as_text(name),
                prompt=write_prompt(problem),
                answer=as_text(problem.get("answer")),
                thinking=str(thinking or "").strip(),
                closed=answer is not None,
                solution=str(answer or "").strip(),
                tokens=as_number(sample.get("tokens")),
                no_think_probability=as_number(decision.get("no_think_probability")),
                order=(indices.get(name, len(indices)), as_number(sample.get("index")) or 0.0),
            )


def write_prompt(problem: Mapping[str, Any]) -> str:
    """Return a problem's prompt as text, after the messages that precede it, each with its role."""
    context, prompt = problem.get("context"), as_text(problem.get("prompt"))
    if not isinstance(context, list) or not context:
        return prompt
    before = (f"{as_object(message).get('role')}: {as_object(message).get('content')}" for message in context)
    return "\n\n".join([*before, f"user: {prompt}"])


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


def sample_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What names a sample within an evaluation."""
    return row.get("problem_id"), row.get("requested"), row.get("index")


# ---- files ----------------------------------------------------------------------------------------------------------


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object."""
    return parse(path.read_bytes(), f"{path}", "restore the file or make it again")


def read_object_if_any(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; an empty one if there is no file."""
    return read_object(path) if path.is_file() else {}


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and line number, object) of a file of JSON lines, nothing if there is no file; skip blank lines.

    A last line that was cut is left out, as everywhere (`storage.jsonl`).
    """
    for line in jsonl.read_lines(path):
        if line.content.strip():
            where = f"{path}, line {line.number}"
            yield where, parse(line.content, where, "delete the line or restore the file")


def parse(content: bytes, where: str, remedy: str) -> dict[str, Any]:
    """Return the JSON object in `content`; raises UserError with the position of the fault."""
    try:
        value = json.loads(content)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, found a {type(value).__name__}; {remedy}")
    return value


def read_record(kind: type[T], value: object) -> T | None:
    """The record that a part of a file holds; None where it is absent, damaged or of another version."""
    try:
        return from_json(kind, value)
    except ValueError:
        return None


def read_modes(modes: object) -> dict[str, Evaluation]:
    """Read `modes` of a `summary.json`: the evaluation of each row."""
    found = {mode: read_record(Evaluation, content) for mode, content in as_object(modes).items()}
    return {mode: evaluation for mode, evaluation in found.items() if evaluation is not None}


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
