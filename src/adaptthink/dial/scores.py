"""Scores in a file of JSON lines: the first line has the settings, each other one the score of the prompt of its row.

Prompts are scored in the same batches however often the work is interrupted, because what shares a batch with a prompt
moves the last digits of its probabilities. So a file that was completed is, byte for byte, what it would have been.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from adaptthink.dial.decide import Score, ScoreBatch, split_batches
from adaptthink.errors import UserError
from adaptthink.problems import Problem
from adaptthink.storage.jsonl import Appender, encode, parse_object, read_lines, read_records
from adaptthink.storage.locks import locked
from adaptthink.storage.records import from_json
from adaptthink.storage.settings import refuse_changes

HEADER = "scores"
BEGIN = encode({HEADER: {}})[: -len(b"}}\n")]  # of every such file
REMEDY = "remove it and all lines after it, and they are made again"


def complete_scores(
    path: Path, settings: Mapping[str, Any], prompts: Iterable[Problem], score_batch: ScoreBatch
) -> Iterator[Score]:
    """Yield the score of every prompt, in order; what the file at `path` lacks is computed and appended to it.

    Raises UserError for a file with other settings or with scores of other prompts, and for what is no file of scores.
    """
    with locked(path, f"file of scores '{path}'"):
        claim_file(path, settings)
        with Appender(path, header={HEADER: dict(settings)}) as file:
            stored = read_records(islice(read_lines(path), 1, None), make_score, remedy=REMEDY)
            for first, batch in split_batches(prompts):
                known = list(islice(stored, len(batch)))
                for number, (score, problem) in enumerate(zip(known, batch, strict=False), start=first):
                    if (score.row, score.id) != (number, problem.id):
                        raise UserError(
                            f"{path}, line {number + 1}: holds the score of another prompt than row {number} now is; "
                            "give another --output"
                        )
                yield from known
                if len(known) < len(batch):
                    for score in score_batch(first, batch)[len(known) :]:
                        file.write(asdict(score))
                        yield score
            if next(stored, None):
                raise UserError(f"'{path}' holds scores of more prompts than were given; give another --output")


def claim_file(path: Path, settings: Mapping[str, Any]) -> None:
    """Empty a file without a score; raises UserError for one that has other settings or is something else."""
    if not path.exists():
        return
    if not path.is_file():
        raise UserError(f"'{path}' is no file; give another --output")
    with path.open("rb") as file:
        first, second = file.readline(), file.readline()
    if not (first.startswith(BEGIN) or BEGIN.startswith(first)):
        raise UserError(f"'{path}' is in use and holds no scores; give another --output")
    if second.endswith(b"\n"):
        refuse_changes(f"'{path}'", read_settings(path), settings, ignoring={"model"})  # the model may have been moved
    else:
        path.unlink()


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a file of scores; none if there is no such file. Raises UserError if they are damaged."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        first = file.readline()
    if not (first.startswith(BEGIN) and first.endswith(b"\n")):
        return {}
    try:
        return dict(parse_object(first)[HEADER])
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}, line 1: damaged ({error}); give another --output") from None


def make_score(row: dict[str, Any]) -> Score:
    """Turn a row into a score."""
    return from_json(Score, row | {"mode": row["mode"]}, exact=True)
