"""What the files of every folder have in common: JSON read with care, scores, transcripts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptthink.errors import UserError
from adaptthink.storage import jsonl

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Score:
    """One mode on one level, or on all of them; shares in [0, 1], intervals at 95%. `n` counts responses."""

    accuracy: float | None = None
    accuracy_interval: Interval | None = None
    mean_tokens: float | None = None
    tokens_interval: Interval | None = None
    no_think_share: float | None = None
    no_think_interval: Interval | None = None
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
    thinking: str
    closed: bool
    solution: str
    tokens: float | None
    no_think_probability: float | None
    place: tuple[int, float]  # of the problem within the evaluation, of the response among the problem's


# ---- scores ---------------------------------------------------------------------------------------------------------


def read_levels(modes: Any) -> dict[str, dict[str, Score]]:
    """Read `modes` of a `summary.json` into mode -> level -> score."""
    return {
        mode: {level: read_score(score) for level, score in as_object(as_object(content).get("levels")).items()}
        for mode, content in as_object(modes).items()
    }


def read_overall(modes: Any) -> dict[str, Score]:
    """Read `modes` of a `summary.json` into mode -> score over all levels."""
    return {mode: read_score(as_object(content).get("overall")) for mode, content in as_object(modes).items()}


def read_score(record: Any) -> Score:
    """Read one object of a `summary.json` that holds accuracy, tokens and shares."""
    found = as_object(record)
    return Score(
        accuracy=number(found.get("accuracy")),
        accuracy_interval=interval(found.get("accuracy_interval")),
        mean_tokens=number(found.get("mean_tokens")),
        tokens_interval=interval(found.get("tokens_interval")),
        no_think_share=number(found.get("no_think_share")),
        no_think_interval=interval(found.get("no_think_interval")),
        truncated_share=number(found.get("truncated_share")),
        n=number(found.get("n")),
    )


def all_levels(scores: Iterable[Mapping[str, Score]]) -> tuple[str, ...]:
    """The levels that any of the rows has, in order."""
    return tuple(sorted({level for by_level in scores for level in by_level}, key=level_order))


def level_order(level: str) -> tuple[bool, int, str]:
    """Sort 2 before 10, and numbers before names."""
    return (False, int(level), "") if level.isdecimal() else (True, 0, level)


# ---- transcripts ----------------------------------------------------------------------------------------------------


def read_transcripts(folder: Path, requested: str = "auto") -> Iterator[Transcript]:
    """Read the responses of an evaluation in one asked mode, with what else its folder knows of each."""
    problems = {row.get("id"): row for _, row in read_lines(folder / "problems.jsonl")}
    places = {name: place for place, name in enumerate(problems)}
    decisions = {row.get("problem_id"): row for _, row in read_lines(folder / "decisions.jsonl")}
    verdicts = {sample_key(row): row.get("verdict") for _, row in read_lines(folder / "verdicts.jsonl")}
    for _, sample in read_lines(folder / "samples.jsonl"):
        if sample.get("requested") == requested:
            name = sample.get("problem_id")
            problem, decision = as_object(problems.get(name)), as_object(decisions.get(name))
            thinking, answer = sample.get("thinking"), sample.get("answer")
            yield Transcript(
                level=shown(problem.get("level")),
                mode=shown(sample.get("mode")),
                verdict=shown(verdicts.get(sample_key(sample))),
                problem_id=shown(name),
                prompt=shown(problem.get("prompt")),
                answer=shown(problem.get("answer")),
                thinking=str(thinking or "").strip(),
                closed=answer is not None,
                solution=str(answer or "").strip(),
                tokens=number(sample.get("tokens")),
                no_think_probability=number(decision.get("no_think_probability")),
                place=(places.get(name, len(places)), number(sample.get("index")) or 0.0),
            )


def choose_transcripts(transcripts: Iterable[Transcript]) -> tuple[Transcript, ...]:
    """Keep, of each level and mode, the first correct and the first not correct response: nobody picked them.

    First by place: samples lie in the order in which they ended, where the first would be the shortest.
    """
    kept: dict[tuple[str, bool, str], Transcript] = {}
    for item in transcripts:
        key = (item.level, item.verdict != "correct", item.mode)
        if key not in kept or item.place < kept[key].place:
            kept[key] = item
    return tuple(kept[key] for key in sorted(kept, key=lambda key: (level_order(key[0]), *key)))


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


def as_list(value: Any) -> list[Any]:
    """Return `value` if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """Return `value` as a float if it is a finite number, else None; booleans are not numbers here."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def interval(value: Any) -> Interval | None:
    """Return `value` as the two ends of an interval if it is a pair of numbers, else None."""
    ends = [number(end) for end in as_list(value)]
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return None
    return ends[0], ends[1]


def shown(value: Any) -> str:
    """A value as text; a dash where there is none."""
    return "–" if value is None else str(value)
