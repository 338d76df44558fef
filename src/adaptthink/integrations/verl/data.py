"""Problems → verl's data set: a Parquet file that is written, and read again, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from adaptthink.grading import AnswerKind
from adaptthink.modes import Message
from adaptthink.problems import Problem
from adaptthink.training.reference import Reference

TRAIN, HELD_OUT = "train", "held_out"  # splits
ROWS_AT_ONCE = 4096
SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
        "extra_info": pa.struct(
            {
                "index": pa.int64(),
                "split": pa.string(),
                "id": pa.string(),
                "level": pa.string(),
                "source": pa.string(),
                "kind": pa.string(),
                "reference_reward": pa.float64(),
            }
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Extra:
    """What a row holds beyond verl's own columns. `reference_reward` is R̄_ref; none for held-out problems."""

    index: int
    split: str
    id: str
    level: str | None
    source: str
    kind: str
    reference_reward: float | None


def write_problems(
    path: Path, problems: Iterable[Problem], *, split: str, reference: Mapping[str, Reference] | None = None
) -> int:
    """Write problems in order, all or none; return how many.

    `reference` holds R̄_ref by problem id; raises KeyError for a problem that it lacks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    count = 0
    with parquet.ParquetWriter(temporary, SCHEMA) as writer:
        remaining = enumerate(problems)
        while part := list(islice(remaining, ROWS_AT_ONCE)):
            rows = [
                make_row(index, problem, split, None if reference is None else reference[problem.id].reward)
                for index, problem in part
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            count += len(rows)
    temporary.replace(path)
    return count


def make_row(index: int, problem: Problem, split: str, reference_reward: float | None) -> dict[str, Any]:
    """Return one row in verl's columns."""
    level = None if problem.level is None else str(problem.level)
    extra = Extra(index, split, problem.id, level, problem.source, problem.kind.value, reference_reward)
    return {
        "data_source": split,
        "prompt": [asdict(message) for message in problem.messages],
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": asdict(extra),
    }


def read_row(columns: Mapping[str, Any]) -> tuple[Problem, Extra]:
    """Return what `make_row` was given; a level is text now, as it is in tables and metrics."""
    extra = Extra(**{name: columns["extra_info"][name] for name in Extra.__slots__})
    *context, question = (Message(**message) for message in columns["prompt"])
    problem = Problem(
        extra.id,
        question.content,
        columns["reward_model"]["ground_truth"],
        extra.level,
        extra.source,
        AnswerKind(extra.kind),
        tuple(context),
    )
    return problem, extra
