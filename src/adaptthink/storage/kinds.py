"""What a path is: a run's folder, an evaluation's, a reference store … so that a message can name the mistake."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

from adaptthink.errors import UserError

READ_BYTES = 2**20  # of a file, to identify it
ROWS_OF_EVALUATIONS = {"problem_id", "grader"}  # keys of which each line of samples, verdicts and decisions has one
TEXTS_OF_TRACES = {"prompt", "thinking", "answer"}
QUESTIONS = {"prompt", "problem", "question"}


class PathKind(StrEnum):
    """What a path is, as messages name it."""

    RUN = "a training run's folder"
    EVALUATION = "an evaluation's folder"
    COLD_START = "a cold start's folder"
    REPRODUCTION = "the folder of a reproduction"
    BENCHMARK = "the folder of a benchmark"
    MODEL = "a model folder"
    ADAPTER = "the folder of a LoRA adapter"
    STORE = "a reference store"
    ROWS = "a file out of an evaluation's folder"
    SCORES = "a file of scores"
    TRACES = "a file of traces"
    DIAL = "a calibrated threshold (adaptthink.json)"
    RECIPE = "a recipe"
    GGUF = "a GGUF file"
    PROBLEMS = "a problem file"
    NOTHING = "nothing that exists"
    OTHER = "something else"


MADE_BY = {
    PathKind.RUN: "adaptthink train makes one",
    PathKind.COLD_START: "adaptthink sft makes one",
    PathKind.BENCHMARK: "adaptthink bench makes one",
    PathKind.EVALUATION: "adaptthink evaluate MODEL --output FOLDER makes one",
    PathKind.MODEL: "adaptthink train leaves one in its run folder, under model",
    PathKind.STORE: "adaptthink presample makes one",
    PathKind.SCORES: "adaptthink score makes one",
    PathKind.TRACES: "adaptthink traces makes one",
    PathKind.DIAL: "adaptthink calibrate MODEL makes one",
    PathKind.RECIPE: "recipes are TOML files",
    PathKind.PROBLEMS: "its format is described in docs/how-to/problems.md",
}
INSIDE = {  # where a folder holds what was meant
    (PathKind.RUN, PathKind.MODEL): "model",
    (PathKind.COLD_START, PathKind.MODEL): "model",
    (PathKind.RUN, PathKind.STORE): "reference.jsonl",
    (PathKind.EVALUATION, PathKind.DIAL): "dial.json",
    (PathKind.MODEL, PathKind.DIAL): "adaptthink.json",
}


def identify(path: Path) -> PathKind:
    """Return what a path is, by the files in a folder or the first line of a file; else OTHER."""
    if path.is_dir():
        return _identify_folder(path)
    return _identify_file(path) if path.is_file() else PathKind.NOTHING


def expect(path: Path, name: str, *wanted: PathKind) -> None:
    """Raise UserError if a path is known to be something else than what is wanted; `name` is that of the setting.

    A path that is missing or not recognised passes: its reader reports what is wrong.
    """
    kind = identify(path)
    if kind in (*wanted, PathKind.NOTHING, PathKind.OTHER):
        return
    inside = next((path / INSIDE[kind, one] for one in wanted if (kind, one) in INSIDE), None)
    advice = f"give '{inside}'" if inside and inside.exists() else MADE_BY[wanted[0]]
    if kind is PathKind.GGUF and PathKind.MODEL in wanted:
        advice = "adaptthink convert makes one of it"
    raise UserError(f"{name}: '{path}' is {kind}, and {' or '.join(wanted)} is needed; {advice}")


def find_run_model(name: str) -> tuple[str, str | None]:
    """Return the model in a run's folder and the run's name; any other name as it is, with None."""
    path = Path(name)
    if identify(path) is not PathKind.RUN:
        return name, None
    model = path / INSIDE[PathKind.RUN, PathKind.MODEL]
    if not model.is_dir():
        raise UserError(f"'{name}' is {PathKind.RUN} without a model: its training has not ended; continue it")
    return str(model), path.resolve().name


def _identify_folder(folder: Path) -> PathKind:
    def has(name: str) -> bool:
        return (folder / name).is_file()

    if has("evaluation.json"):
        return PathKind.EVALUATION
    if has("adapter_config.json"):
        return PathKind.ADAPTER
    settings = _read_object(folder / "config.json") if has("config.json") else {}
    if "model_type" in settings:
        return PathKind.MODEL
    if "design" in settings:
        return PathKind.REPRODUCTION
    if "benchmark" in settings:
        return PathKind.BENCHMARK
    if "traces_per_step" in settings:
        return PathKind.COLD_START
    return PathKind.RUN if "problems_per_step" in settings else PathKind.OTHER


def _identify_file(path: Path) -> PathKind:
    if path.suffix == ".toml":
        return PathKind.RECIPE
    if path.suffix == ".gguf":
        return PathKind.GGUF
    if path.suffix in (".csv", ".parquet"):
        return PathKind.PROBLEMS
    row = _read_object(path)
    if isinstance(row.get("settings"), dict):
        return PathKind.STORE
    if isinstance(row.get("scores"), dict):
        return PathKind.SCORES
    if row.keys() >= TEXTS_OF_TRACES:
        return PathKind.TRACES
    if ROWS_OF_EVALUATIONS & row.keys():
        return PathKind.ROWS
    if {"threshold", "fingerprint", "choices"} <= row.keys():
        return PathKind.DIAL
    return PathKind.PROBLEMS if QUESTIONS & row.keys() else PathKind.OTHER


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file, its first line or its array begins with; empty if there is none."""
    with path.open("rb") as file:
        begin = file.read(READ_BYTES)
    for text in (begin, begin.partition(b"\n")[0]):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        first = value[0] if isinstance(value, list) and value else value
        return first if isinstance(first, dict) else {}
    return {}
