"""The reference: K unconstrained samples per problem from the model before training, graded once and kept.

The store is a file of JSON lines (`storage.jsonl`). Its first line holds the settings that made it; every other line
holds one problem, by id, in whatever order. A line is written only when all K samples of its problem are done, so a
store that was interrupted is simply shorter, and what is missing is sampled with the same random streams as it would
have been without the interruption. Rows are looked up in the file when they are needed; in memory are a few numbers of
each. One process at a time writes a store, and any number read one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from adaptthink.config.schema import PresampleConfig
from adaptthink.errors import UserError
from adaptthink.grading import Verdict, compute_mean_reward
from adaptthink.problems import Problem
from adaptthink.problems.table import Selection, parse_id, parse_ids
from adaptthink.sampling.requests import MaxTokens, make_seed
from adaptthink.sampling.sampler import OnFinished, Rollout, Sampler, Sampling, sample_unconstrained
from adaptthink.storage.jsonl import Appender, encode, parse_object, read_lines, read_record, read_records
from adaptthink.storage.locks import locked
from adaptthink.storage.runs import read_recorded
from adaptthink.storage.settings import refuse_changes

RECENT = 4096  # references that are held in memory after they were read


@dataclass(frozen=True, slots=True)
class Reference:
    """What the reference model did on one problem; the tuples run over its K samples."""

    id: str
    verdicts: tuple[Verdict, ...]
    tokens: tuple[int, ...]
    rewards: tuple[float, ...] | None = None  # of a reward function of the user's own

    @property
    def reward(self) -> float | None:
        """R̄_ref(x), the mean reward; None for a problem that cannot be graded."""
        return compute_mean_reward(self.verdicts) if self.rewards is None else fmean(self.rewards)


def make_store_settings(config: PresampleConfig, fingerprint: str) -> dict[str, Any]:
    """Return everything that the content of a store depends on, as its first line holds it."""
    own = {name: value for name in ("reward", "prompt_date") if (value := getattr(config, name))}
    return own | {
        "model_fingerprint": fingerprint,
        "samples": config.reference_samples,
        "temperature": config.reference_temperature,
        "top_p": config.reference_top_p,
        "max_tokens": max(config.max_think_tokens, config.max_no_think_tokens),
        "seed": config.seed,
        "boxed_only": config.boxed_only,
    }


def presample(
    sampler: Sampler,
    problems: Sequence[Problem],
    config: PresampleConfig,
    *,
    fingerprint: str,
    path: Path,
    on_finish: OnFinished | None = None,
) -> References:
    """Return the reference of every problem, sampling those that `path` does not hold yet.

    `on_finish` is called with numbers of finished responses and of the tokens that were sampled for them; those found
    in the store count at once. Raises UserError if the store was made with other settings, or if problems are missing
    and another process writes it.
    """
    settings, ids_N = make_store_settings(config, fingerprint), parse_ids(problems)
    rows = read_store(path, settings)
    if find_missing(rows, ids_N).any():
        with locked(path, f"reference store '{path}'"):
            rows = read_store(path, settings)  # again: another process may have written until now
            complete_store(sampler, problems, config, path, settings, rows, ids_N, on_finish)
    elif on_finish:
        on_finish(len(problems) * config.reference_samples, 0)
    return References(path, rows, ids_N)


def find_missing(rows: Rows, ids_N: np.ndarray) -> np.ndarray:
    """Return whether a store lacks each problem, shape (N,)."""
    return ~np.isin(ids_N, np.array(rows.ids))


def complete_store(
    sampler: Sampler,
    problems: Sequence[Problem],
    config: PresampleConfig,
    path: Path,
    settings: Mapping[str, Any],
    rows: Rows,
    ids_N: np.ndarray,
    on_finish: OnFinished | None,
) -> None:
    """Sample what the store at `path` lacks, and add it there and to `rows`."""
    missing = Selection(problems, np.flatnonzero(find_missing(rows, ids_N)))
    if on_finish and len(missing) < len(problems):
        on_finish((len(problems) - len(missing)) * config.reference_samples, 0)
    max_tokens = MaxTokens(config.max_think_tokens, config.max_no_think_tokens)
    seed = make_seed(config.seed, "reference")
    sampling = Sampling(max_tokens, config.reference_temperature, config.reference_top_p, seed)
    at_once = max(1, config.max_concurrent_sequences // config.reference_samples)
    with Appender(path, header=make_header(settings)) as store:

        def keep(problem: Problem, group: list[Rollout]) -> None:
            verdicts = tuple(rollout.verdict for rollout in group)
            tokens = tuple(len(rollout.response_ids) for rollout in group)
            row: dict[str, Any] = {"id": problem.id, "verdicts": verdicts, "tokens": tokens}
            if any(rollout.grade.own_reward is not None for rollout in group):
                row["rewards"] = [rollout.grade.reward for rollout in group]
            rows.add(problem.id, store.write(row))

        sample_unconstrained(
            sampler, missing, config.reference_samples, sampling, keep, at_once=at_once, on_finish=on_finish
        )


def make_header(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first line of a store."""
    return {"settings": dict(settings)}


@dataclass(frozen=True, slots=True)
class Rows:
    """Index of a store's rows: ids as numbers, and the byte at which each row starts."""

    ids: array[int] = field(default_factory=lambda: array("Q"))
    starts: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, id_: str, start: int) -> None:
        """Add one row; raises ValueError for an invalid id."""
        self.ids.append(parse_id(id_))
        self.starts.append(start)


class References(Mapping[str, Reference]):
    """The references of problems by id, in the problems' order, read from a store when they are needed."""

    def __init__(self, path: Path, rows: Rows, ids_N: np.ndarray) -> None:
        self.path, self.file, self.ids_N = path, path.open("rb"), ids_N
        order = np.argsort(np.array(rows.ids), kind="stable")
        row_N = order[np.searchsorted(np.array(rows.ids), ids_N, sorter=order)]  # the first of an id
        self.start_N = np.array(rows.starts)[row_N]
        self.order_N = np.argsort(ids_N)
        self.recent = lru_cache(RECENT)(self.read_row)  # a step needs each of its problems once a sample

    def __len__(self) -> int:
        return len(self.ids_N)

    def __iter__(self) -> Iterator[str]:
        return (f"{id_:016x}" for id_ in self.ids_N)

    def __getitem__(self, id_: str) -> Reference:
        return self.recent(id_)

    def read_row(self, id_: str) -> Reference:
        """Read one from the store; raises KeyError, and UserError if the store is not what it was."""
        key = np.uint64(parse_id(id_))
        index = np.searchsorted(self.ids_N, key, sorter=self.order_N)
        if index == len(self) or self.ids_N[self.order_N[index]] != key:
            raise KeyError(id_)
        self.file.seek(self.start_N[self.order_N[index]])
        try:
            reference = make_reference(parse_object(self.file.readline()))
            if reference.id != id_:
                raise ValueError(f"it is the row of {reference.id}")
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"reference store '{self.path}' was changed while it was in use; leave it alone and start again"
            ) from None
        return reference


def open_references(path: Path) -> References:
    """Open an existing store for reading, whatever its settings; raises UserError for a path that is no store."""
    rows = read_store(path, read_settings(path))
    return References(path, rows, np.unique(np.array(rows.ids)))


def read_references(path: Path) -> Iterator[Reference]:
    """Read all of a store in its own order; raises UserError for a path that is no store and for a damaged row."""
    read_settings(path)
    lines = islice(read_lines(path), 1, None)
    return read_records(lines, make_reference, key=lambda reference: reference.id)


def read_fingerprint(path: Path) -> str | None:
    """Return the fingerprint of the model whose samples a store holds; raises UserError if it is no store."""
    return read_settings(path).get("model_fingerprint")


def find_training_date(run: Path, store: Path | None, *, resume: bool) -> str | None:
    """Return the recorded day in the prompts of a training: of the run that is resumed, else of its reference store."""
    recorded: str | None = read_recorded(run, "prompt_date", resume=resume)
    return recorded or read_store_date(store or run / "reference.jsonl")


def read_store_date(path: Path) -> str | None:
    """Return the day in the prompts of a store that is to be made or completed; None if there is no whole store yet."""
    try:
        return read_settings(path).get("prompt_date")
    except UserError:  # whoever opens the store says what is wrong with it
        return None


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise UserError naming each of `settings` that a store was made with another value of."""
    made_with = read_settings(path)
    refuse_changes(name_store(path), {name: made_with.get(name) for name in settings}, settings)


def read_store(path: Path, settings: Mapping[str, Any]) -> Rows:
    """Check the rows of a store made with `settings` and return their offsets; none if there is no store.

    Raises UserError for a store made with other settings, naming the difference, for a damaged row, and for a file that
    is no store.
    """
    if path.is_dir():
        raise UserError(f"'{path}' is a folder; a reference store is a JSONL file")
    rows = Rows()
    if not path.is_file() or is_beginning(path, encode(make_header(settings))):  # none, or one cut in its first line
        return rows

    refuse_changes(name_store(path), read_settings(path), settings)

    def check(row: dict[str, Any]) -> str:
        reference = make_reference(row)
        if not len(reference.verdicts) == len(reference.tokens) == settings["samples"]:
            raise ValueError("samples are missing")
        np.uint64(parse_id(reference.id))  # OverflowError for more than 16 digits
        return reference.id

    for line in islice(read_lines(path), 1, None):
        rows.add(read_record(line, check), line.start)
    return rows


def is_beginning(path: Path, content: bytes) -> bool:
    """Return whether a file is a prefix of `content`, or equals it."""
    with path.open("rb") as file:
        return content.startswith(file.read(len(content) + 1))


def make_reference(row: Mapping[str, Any]) -> Reference:
    """Turn a row into a reference; raises ValueError, KeyError or TypeError for a row of another form."""
    rewards = tuple(row["rewards"]) if "rewards" in row else None
    return Reference(row["id"], tuple(Verdict(v) for v in row["verdicts"]), tuple(row["tokens"]), rewards)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a store's first line; raises UserError for a path that is no store."""
    if not path.is_file():
        raise UserError(f"no reference store at '{path}'; make one with: adaptthink presample RECIPE --output {path}")
    try:
        with path.open("rb") as file:
            return dict(parse_object(file.readline())["settings"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"'{path}' is not a reference store: its first line holds no settings") from None


def name_store(path: Path) -> str:
    """Return the name of a store in messages."""
    return f"reference store '{path}'"
