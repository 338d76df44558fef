"""The reference: K unconstrained samples per problem from the model before training, graded once and kept.

The store is a file of JSON lines (`storage.jsonl`). Its first line holds the settings that made it; every other line
holds one problem, by id, in whatever order. A line is written only when all K samples of its problem are done, so a
store that was interrupted is simply shorter, and what is missing is sampled with the same random streams as it would
have been without the interruption. Rows are looked up in the file when they are needed; in memory are a few numbers of
each. One process at a time writes a store, and any number read one.

A row whose verdicts are not final (`Reference.is_final`), or belong to another reference answer, is removed by the next
pre-sampling and made again.

A row may also hold the tokens of its responses, and forced no_think responses (`KEPT`), which `training/replay.py`
makes rollouts of. R̄_ref is of the unconstrained samples alone.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import Field

from adaptthink.config.schema import PresampleConfig, ReferenceConfig
from adaptthink.errors import UserError
from adaptthink.grading import Verdict, check_failed_grades, compute_mean_reward
from adaptthink.modes import Mode
from adaptthink.problems import Problem, hash_answer
from adaptthink.problems.table import Selection, parse_id, parse_ids
from adaptthink.sampling.requests import MaxTokens, make_seed
from adaptthink.sampling.sampler import OnFinished, Rollout, Sampler, Sampling, sample_each
from adaptthink.storage.jsonl import Appender, encode, keep_lines, parse_object, read_lines, read_record, read_records
from adaptthink.storage.locks import locked
from adaptthink.storage.records import Count, from_json
from adaptthink.storage.runs import read_recorded
from adaptthink.storage.settings import refuse_changes

RECENT = 4096  # references that are held in memory after they were read
CHECKED = 1024  # responses over which failed grades are counted while a store is made
KEPT = ("keep_responses", "no_think_samples")  # settings of what a store holds beside the verdicts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reference:
    """What the reference model did on one problem; the tuples run over its K samples."""

    id: str
    verdicts: tuple[Verdict, ...]
    tokens: tuple[int, ...]
    rewards: tuple[float | None, ...] | None = None  # of a reward function of the user's own; None where unknown
    answer_hash: str = ""  # of the reference answer that the verdicts belong to
    seconds: float = math.inf  # the limit of grading, where a verdict is TIMEOUT

    @property
    def reward(self) -> float | None:
        """R̄_ref(x), the mean of the rewards that are known; None where none is."""
        if self.rewards is None:
            return compute_mean_reward(self.verdicts)
        known = [reward for reward in self.rewards if reward is not None]
        return fmean(known) if known else None

    @property
    def num_unknown(self) -> int:
        """How many samples could not be graded, for reasons that another try may not meet again."""
        return self.verdicts.count(Verdict.UNKNOWN)

    def is_final(self, seconds: float) -> bool:
        """Whether grading again, with a limit of `seconds`, would give the same verdicts."""
        return not self.num_unknown and seconds <= self.seconds


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The tokens of a response in a store, and its grade; `reward` as in `Reference.rewards`."""

    token_ids: tuple[int, ...]
    verdict: Verdict
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class StoredGrades:
    """How several responses were graded, and their tokens where these are kept."""

    verdicts: tuple[Verdict, ...]
    rewards: tuple[float | None, ...] | None = None
    responses: tuple[Annotated[tuple[Count, ...], Field(min_length=1)], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow(StoredGrades):
    """A line of a store: a problem's unconstrained samples, `first_ids` of each the first token."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    tokens: tuple[Count, ...]
    answer_hash: Annotated[str, Field(pattern="^([0-9a-f]{16})?$")] = ""
    seconds: Annotated[float, Field(allow_inf_nan=True)] = math.inf
    first_ids: tuple[Count, ...] = ()
    no_think: StoredGrades | None = None


def make_store_settings(config: ReferenceConfig, fingerprint: str, store: Path | None = None) -> dict[str, Any]:
    """Return everything that the content of a store depends on, as its first line holds it.

    Whether it keeps responses is decided by who pre-samples; a training takes it from the `store`, if there is one.
    """
    own = {name: value for name in ("reward", "prompt_date") if (value := getattr(config, name))}
    return (
        own
        | choose_kept(config, store)
        | {
            "model_fingerprint": fingerprint,
            "samples": config.reference_samples,
            "temperature": config.reference_temperature,
            "top_p": config.reference_top_p,
            "max_tokens": max(config.max_think_tokens, config.max_no_think_tokens),
            "seed": config.seed,
            "boxed_only": config.boxed_only,
        }
    )


def choose_kept(config: ReferenceConfig, store: Path | None) -> dict[str, Any]:
    """Return what a store keeps beside the verdicts: as configured, or as the existing one does."""
    if isinstance(config, PresampleConfig):
        keep = config.keep_responses or config.no_think_samples > 0
        found = {"keep_responses": keep, "no_think_samples": config.no_think_samples}
    else:
        found = read_recorded_settings(store) if store else {}
    kept = {name: found[name] for name in KEPT if found.get(name)}
    return kept | ({"max_no_think_tokens": config.max_no_think_tokens} if "no_think_samples" in kept else {})


def count_samples(config: ReferenceConfig, store: Path) -> int:
    """Return how many responses the store of a config has of each problem, forced ones included."""
    return config.reference_samples + int(choose_kept(config, store).get("no_think_samples", 0))


def presample(
    sampler: Sampler,
    problems: Sequence[Problem],
    config: ReferenceConfig,
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
    settings, seconds = make_store_settings(config, fingerprint, path), get_grading_seconds(config)
    rows = read_store(path, settings, seconds)
    if find_unfinished(rows, problems).any():
        with locked(path, f"reference store '{path}'"):
            rows = read_store(path, settings, seconds)  # again: another process may have written until now
            rows = remove_unfinished(path, problems, settings, rows, seconds)
            complete_store(sampler, problems, config, path, settings, rows, on_finish)
    elif on_finish:
        on_finish(len(problems) * count_samples(config, path), 0)
    return References(path, rows, parse_ids(problems))


def get_grading_seconds(config: ReferenceConfig) -> float:
    """Return the limit of grading one response, whoever grades."""
    return config.reward_seconds if config.reward else config.grading_seconds


def find_missing(rows: Rows, problems: Sequence[Problem]) -> np.ndarray:
    """Return whether a store lacks verdicts on each problem, as its reference answer is, shape (N,)."""
    row_N = find_rows(rows, parse_ids(problems))
    if not len(rows.ids):
        return row_N < 0
    hash_N = np.fromiter((parse_hash(hash_answer(problem)) for problem in problems), np.uint64, len(problems))
    return (row_N < 0) | (np.array(rows.answer_hashes)[row_N] != hash_N)


def find_unfinished(rows: Rows, problems: Sequence[Problem]) -> np.ndarray:
    """Return whether a store lacks final verdicts on each problem, shape (N,)."""
    missing_N = find_missing(rows, problems)
    return (
        missing_N if missing_N.all() else missing_N | (np.array(rows.final)[find_rows(rows, parse_ids(problems))] == 0)
    )


def parse_hash(answer_hash: str) -> int:
    """Return the hash of an answer as a 64-bit number, 0 for none."""
    return int(answer_hash or "0", 16)


def remove_unfinished(
    path: Path, problems: Sequence[Problem], settings: Mapping[str, Any], rows: Rows, seconds: float
) -> Rows:
    """Remove the rows of `problems` that are out of date (`find_unfinished`); return those that stay."""
    unfinished = Selection(problems, np.flatnonzero(find_unfinished(rows, problems)))
    removed = {problem.id for problem in unfinished} & {f"{id_:016x}" for id_ in rows.ids}
    if not removed:
        return rows
    keep_lines(path, lambda line: line.number == 1 or parse_object(line.content)["id"] not in removed)
    return read_store(path, settings, seconds)


def check_grades(references: Iterable[Reference], max_failed_grades: float) -> Counter[Verdict]:
    """Count the verdicts of references; raises UserError if too many failed, or all that a problem has are unknown."""
    counts: Counter[Verdict] = Counter()
    for one in references:
        counts.update(one.verdicts)
        if one.num_unknown and one.reward is None:
            raise UserError(
                f"no response of the reference to problem {one.id} could be graded; pre-sample again, which grades it "
                "again: left out, it would change what is trained on"
            )
    check_failed_grades(counts.elements(), max_failed_grades)
    return counts


def find_rows(rows: Rows, ids_N: np.ndarray) -> np.ndarray:
    """Return the index of the first row of each problem, shape (N,); -1 where there is none."""
    if not len(rows.ids):
        return np.full(len(ids_N), -1)
    ids = np.array(rows.ids)
    order = np.argsort(ids, kind="stable")
    row_N = order[np.minimum(np.searchsorted(ids, ids_N, sorter=order), len(ids) - 1)]
    return np.where(ids[row_N] == ids_N, row_N, -1)


def complete_store(
    sampler: Sampler,
    problems: Sequence[Problem],
    config: ReferenceConfig,
    path: Path,
    settings: Mapping[str, Any],
    rows: Rows,
    on_finish: OnFinished | None,
) -> None:
    """Sample what the store at `path` lacks, and add it there and to `rows`.

    Raises UserError if grading failed on more than `max_failed_grades` of the last `CHECKED` responses.
    """
    missing = Selection(problems, np.flatnonzero(find_unfinished(rows, problems)))
    recent: deque[Verdict] = deque(maxlen=CHECKED)
    seconds = get_grading_seconds(config)
    samples, forced = config.reference_samples, settings.get("no_think_samples", 0)
    if on_finish and len(missing) < len(problems):
        on_finish((len(problems) - len(missing)) * (samples + forced), 0)
    max_tokens = MaxTokens(config.max_think_tokens, config.max_no_think_tokens)
    seed = make_seed(config.seed, "reference")
    sampling = Sampling(max_tokens, config.reference_temperature, config.reference_top_p, seed)
    at_once = max(1, config.max_concurrent_sequences // (samples + forced))
    if not rows.ids:  # a first line may be there, with other settings
        path.unlink(missing_ok=True)
    with Appender(path, header=make_header(settings)) as store:

        def keep(problem: Problem, group: list[Rollout]) -> None:
            verdicts, unconstrained = [rollout.verdict for rollout in group], group[:samples]
            tokens = [len(rollout.response_ids) for rollout in unconstrained]
            first_ids = [rollout.response_ids[0] for rollout in unconstrained]
            row = {"id": problem.id} | describe_grades(unconstrained) | {"tokens": tokens, "first_ids": first_ids}
            if settings.get("keep_responses"):
                row["responses"] = [rollout.response_ids for rollout in unconstrained]
            if no_think := group[samples:]:
                responses = [rollout.response_ids for rollout in no_think]
                row["no_think"] = describe_grades(no_think) | {"responses": responses}
            if answer_hash := hash_answer(problem):
                row["answer_hash"] = answer_hash
            if Verdict.TIMEOUT in verdicts:
                row["seconds"] = seconds
            rows.add(make_reference(row), store.write(row), seconds)
            recent.extend(verdicts)
            if len(recent) == CHECKED:
                check_failed_grades(recent, config.max_failed_grades)

        modes = [None] * samples + [Mode.NO_THINK] * forced
        sample_each(sampler, missing, modes, sampling, keep, at_once=at_once, on_finish=on_finish)


def describe_grades(group: Sequence[Rollout]) -> dict[str, Any]:
    """Return verdicts as a row holds them, and rewards where they are of a function of the user's own."""
    verdicts = [rollout.verdict for rollout in group]
    if all(rollout.grade.own_reward is None for rollout in group):
        return {"verdicts": verdicts}
    rewards = [rollout.grade.reward if rollout.verdict.has_reward else None for rollout in group]
    return {"verdicts": verdicts, "rewards": rewards}


def make_header(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first line of a store."""
    return {"settings": dict(settings)}


@dataclass(frozen=True, slots=True)
class Rows:
    """Index of a store's rows: ids and hashes as numbers, and the byte at which each row starts."""

    ids: array[int] = field(default_factory=lambda: array("Q"))
    answer_hashes: array[int] = field(default_factory=lambda: array("Q"))
    final: array[int] = field(default_factory=lambda: array("B"))
    starts: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, row: Reference, start: int, seconds: float) -> None:
        """Add one row, read for grading with a limit of `seconds`; raises ValueError for an invalid id."""
        self.ids.append(parse_id(row.id))
        self.answer_hashes.append(parse_hash(row.answer_hash))
        self.final.append(row.is_final(seconds))
        self.starts.append(start)


class References(Mapping[str, Reference]):
    """The references of problems by id, in the problems' order, read from a store when they are needed."""

    def __init__(self, path: Path, rows: Rows, ids_N: np.ndarray) -> None:
        self.path, self.file, self.ids_N = path, path.open("rb"), ids_N
        self.start_N = np.array(rows.starts)[find_rows(rows, ids_N)]
        self.order_N = np.argsort(ids_N)
        self.recent = lru_cache(RECENT)(self.read_row)  # a step needs each of its problems once a sample

    def __len__(self) -> int:
        return len(self.ids_N)

    def __iter__(self) -> Iterator[str]:
        return (f"{id_:016x}" for id_ in self.ids_N)

    def __getitem__(self, id_: str) -> Reference:
        return self.recent(id_)

    def read_row(self, id_: str) -> Reference:
        """Read one from the store; raises as `parse_row` does."""
        return self.parse_row(id_, make_reference)

    def read_responses(self, id_: str) -> tuple[list[StoredResponse], list[StoredResponse]]:
        """Read the unconstrained and the forced no_think responses to a problem, which the store must keep.

        Raises as `parse_row` does.
        """
        return self.parse_row(id_, make_stored_responses)

    def parse_row(self, id_: str, parse: Callable[[Mapping[str, Any]], T]) -> T:
        """Read one row from the store; raises KeyError, and UserError if the store is not what it was."""
        key = np.uint64(parse_id(id_))
        index = np.searchsorted(self.ids_N, key, sorter=self.order_N)
        if index == len(self) or self.ids_N[self.order_N[index]] != key:
            raise KeyError(id_)
        self.file.seek(self.start_N[self.order_N[index]])
        try:
            row = parse_object(self.file.readline())
            if row["id"] != id_:
                raise ValueError(f"it is the row of {row['id']}")
            return parse(row)
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"reference store '{self.path}' was changed while it was in use; leave it alone and start again"
            ) from None


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


def require_store(path: Path) -> Path:
    """Return the path of an existing store; raises UserError if there is no such file."""
    if not path.is_file():
        raise UserError(
            f"no reference store at '{path}'; make one with: adaptthink presample RECIPE --output {path}, or leave "
            "the reference out, and the training samples its own"
        )
    return path


def find_training_date(run: Path, store: Path | None, *, resume: bool) -> str | None:
    """Return the recorded day in the prompts of a training: of the run that is resumed, else of its reference store."""
    recorded: str | None = read_recorded(run, "prompt_date", resume=resume)
    return recorded or read_store_date(store or run / "reference.jsonl")


def read_store_date(path: Path) -> str | None:
    """Return the day in the prompts of a store that is to be made or completed; None if there is no whole store yet."""
    return read_recorded_settings(path).get("prompt_date")


def read_recorded_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a store that is to be made or completed; none if there is no whole store yet."""
    try:
        return read_settings(path)
    except UserError:  # whoever opens the store reports what is wrong with it
        return {}


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise UserError naming each of `settings` that a store was made with another value of."""
    made_with = read_settings(path)
    refuse_changes(name_store(path), {name: made_with.get(name) for name in settings}, settings)


def read_store(path: Path, settings: Mapping[str, Any], seconds: float = 0.0) -> Rows:
    """Check the rows of a store made with `settings` and return their offsets; none if there is no store.

    `seconds` is the limit of grading one response: a time-out at a lower one is not final.

    Raises UserError for a store made with other settings, naming the difference, for a damaged row, and for a file that
    is no store.
    """
    if path.is_dir():
        raise UserError(f"'{path}' is a folder; a reference store is a JSONL file")
    rows = Rows()
    if not path.is_file() or holds_nothing(path):
        return rows

    defaults = make_store_settings(ReferenceConfig(), "") | {"keep_responses": False, "no_think_samples": 0}
    del defaults["model_fingerprint"]
    refuse_changes(name_store(path), read_settings(path), settings, defaults=defaults)

    def check(row: dict[str, Any]) -> Reference:
        reference = make_reference(row)
        if not len(reference.verdicts) == len(reference.tokens) == settings["samples"]:
            raise ValueError("samples are missing")
        kept = settings.get("keep_responses") and [len(part) for part in make_stored_responses(row)]
        if kept and kept != [settings["samples"], settings.get("no_think_samples", 0)]:
            raise ValueError("responses are missing")
        return reference

    for line in islice(read_lines(path), 1, None):
        rows.add(read_record(line, check), line.start, seconds)
    return rows


def holds_nothing(path: Path) -> bool:
    """Return whether a file is a store without a whole row: its first line, or a part of that, with any settings."""
    with path.open("rb") as file:
        first, second = file.readline(), file.readline()
    begin = encode(make_header({}))[: -len(b"}}\n")]
    return not second.endswith(b"\n") and (first.startswith(begin) or begin.startswith(first))


def make_reference(row: Mapping[str, Any]) -> Reference:
    """Turn a row into a reference; raises ValueError for a row of another form."""
    stored = from_json(StoredRow, row, exact=True)
    check_sizes(stored)
    return Reference(stored.id, stored.verdicts, stored.tokens, stored.rewards, stored.answer_hash, stored.seconds)


def make_stored_responses(row: Mapping[str, Any]) -> tuple[list[StoredResponse], list[StoredResponse]]:
    """Turn a row into its unconstrained and its forced no_think responses; raises as `make_reference` does."""

    def make(part: StoredGrades) -> list[StoredResponse]:
        rewards = part.rewards or [None] * len(part.verdicts)
        return [StoredResponse(*one) for one in zip(part.responses, part.verdicts, rewards, strict=True)]

    stored = from_json(StoredRow, row, exact=True)
    return make(stored), make(stored.no_think) if stored.no_think else []


def check_sizes(row: StoredRow) -> None:
    """Raise ValueError for a row whose parts are not of the same samples."""
    for name in ("rewards", "first_ids", "responses"):
        found = getattr(row, name)
        if found and len(found) != len(row.verdicts):
            raise ValueError(f"{len(row.verdicts)} verdicts and {len(found)} {name}")
    if row.responses and row.tokens != tuple(map(len, row.responses)):
        raise ValueError("tokens are not the lengths of the responses")


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
