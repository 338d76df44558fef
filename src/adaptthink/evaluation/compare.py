"""Comparison of evaluations on the same problems, asked alike: the paper's table, and what of it can be told apart.

A row is one evaluation folder asked in one way. Every row is compared with the first, the base, problem by problem.
What makes two rows incomparable (other problems, decoding, grader) is refused; a comparison that is forced keeps the
problems that all rows have and says what differs.

P-values are adjusted (Holm) within four families: accuracy and length, each over the rows' means over sets, and over
all rows and sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adaptthink.errors import UserError
from adaptthink.evaluation.statistics import (
    Difference,
    Interval,
    Levels,
    holm,
    mean_interval,
    pass_interval,
    relative_change,
    share_difference,
    share_interval,
)
from adaptthink.evaluation.store import (
    REQUESTED_MODES,
    Outcome,
    Setting,
    by_problem,
    flatten,
    gradable,
    grader_of,
    level_name,
    level_order,
    read_outcomes,
    read_problems,
    read_setting,
)
from adaptthink.modes import Mode
from adaptthink.problems import Problem
from adaptthink.storage.settings import find_changes

MAY_DIFFER = {"model", "fingerprint", "seed"}  # of a setting


@dataclass(frozen=True, slots=True)
class Row:
    """What one model answered, asked in one way."""

    name: str
    requested: str
    setting: Setting
    grader: Mapping[str, Any]  # what its verdicts depend on, by name
    problems: Mapping[str, Problem]  # those with a response that could be graded, by id
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class Scores:
    """A row on one set; shares in [0, 1], tokens of a whole response."""

    accuracy: Interval  # avg@k
    tokens: Interval | None  # None for a single problem
    no_think: Interval
    pass_at: dict[int, Interval]  # k -> pass@k, for 1, 2, 4, … up to the samples that every problem has


@dataclass(frozen=True, slots=True)
class Change:
    """A row against the base; `tokens` is the relative change of the mean length, None for a single problem."""

    accuracy: Difference
    tokens: Difference | None


@dataclass(frozen=True, slots=True)
class Compared:
    """A row of the comparison; the base has no changes."""

    name: str
    model: str
    requested: str
    samples: tuple[int, int]  # of a problem: the least and the most
    sets: dict[str, Scores]
    changes: dict[str, Change]  # by set
    mean_change: Change | None  # over the sets: ΔAcc and ΔLength


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole comparison; the first row is the base."""

    rows: tuple[Compared, ...]
    sets: dict[str, int]  # number of problems
    differences: tuple[str, ...]  # what a forced comparison overlooks; empty otherwise


# ---- reading --------------------------------------------------------------------------------------------------------


def read_rows(names: Sequence[str]) -> list[Row]:
    """Read rows given as FOLDER, which is its auto row, or FOLDER:ASKED; raises UserError for what is not there."""
    sources = [split_name(name) for name in names]
    titles = titles_of(sources)
    if len(set(titles)) < len(titles):
        raise UserError(f"a row is given twice ({', '.join(titles)}); give each once, such as FOLDER:think and FOLDER")
    outcomes = {folder: gradable(read_outcomes(folder)) for folder, _ in sources}
    return [
        make_row(title, folder, requested, outcomes[folder])
        for title, (folder, requested) in zip(titles, sources, strict=True)
    ]


def split_name(name: str) -> tuple[Path, str]:
    """Tell a folder from the asked mode behind it."""
    folder, colon, requested = name.rpartition(":")
    if not colon or Path(name).exists():
        return Path(name), "auto"
    if requested not in REQUESTED_MODES and Path(folder).exists():
        raise UserError(f"'{name}': a folder holds {', '.join(REQUESTED_MODES)}, not '{requested}'")
    return (Path(folder), requested) if requested in REQUESTED_MODES else (Path(name), "auto")


def titles_of(sources: Sequence[tuple[Path, str]]) -> list[str]:
    """Name rows by their folders, with as many of the folders above as tell them apart."""
    parts = [folder.resolve().parts for folder, _ in sources]
    depth = 1
    while len({own[-depth:] for own in parts}) < len(set(parts)):
        depth += 1
    return [
        "/".join(own[-depth:]) + ("" if requested == "auto" else f":{requested}")
        for own, (_, requested) in zip(parts, sources, strict=True)
    ]


def make_row(title: str, folder: Path, requested: str, outcomes: Iterable[Outcome]) -> Row:
    """Take one asked mode out of a folder."""
    everything = list(outcomes)
    own = [one for one in everything if one.requested == requested]
    if not own:
        there = sorted({one.requested for one in everything})
        found = f"it has {', '.join(f'{folder}:{one}' for one in there)}" if there else "none of its golds can be read"
        raise UserError(f"'{folder}' holds no graded {requested} responses: {found}")
    problems = read_problems(folder)
    answered = {one.problem_id: problems[one.problem_id] for one in own}
    grader = grader_of(folder / "verdicts.jsonl")
    assert grader is not None  # its outcomes have verdicts
    return Row(title, requested, read_setting(folder), flatten(grader), answered, own)


# ---- what stands against a comparison -------------------------------------------------------------------------------


def differences(base: Row, row: Row) -> list[str]:
    """Say in what two rows differ beside their models and seeds; empty if they may be compared."""
    settings = find_changes(asdict(base.setting), asdict(row.setting), ignoring=MAY_DIFFER)
    found = [
        f"{name} is {before} in {base.name} and {now} in {row.name}"
        for name, before, now in settings
        if not free(name, base, row)
    ]
    found += [
        f"the grader's {name} is {before} in {base.name} and {now} in {row.name} (evaluate again: nothing is sampled)"
        for name, before, now in find_changes(base.grader, row.grader)
    ]
    for one, other in ((base, row), (row, base)):
        alone = [problem for problem in one.problems if problem not in other.problems]
        if alone:
            first = " ".join(one.problems[alone[0]].prompt.split())[:60]
            found.append(f"{len(alone)} problems are in {one.name} only (the first: {first!r})")
    return found


def free(name: str, base: Row, row: Row) -> bool:
    """Whether a setting plays no part: how the mode is told, where nobody tells it."""
    return name == "switch" and base.requested == row.requested == "auto"


def check_alike(rows: Sequence[Row]) -> None:
    """Raise UserError naming what differs between the base and any other row."""
    for row in rows[1:]:
        found = differences(rows[0], row)
        if found:
            raise UserError(
                f"{row.name} cannot be compared with {rows[0].name}: {'; '.join(found)}. Evaluate both alike, or give "
                "--force to compare them on the problems that all have"
            )


# ---- comparing ------------------------------------------------------------------------------------------------------


def compare(rows: Sequence[Row]) -> Comparison:
    """Compare every row with the first, on the problems that all have, by set and over the sets.

    Sets are the problems' sources, or their levels where there is one source. Raises UserError for fewer than two
    rows and where no problem is common to all.
    """
    if len(rows) < 2:
        raise UserError("one row has nothing to be compared with; give another folder, or FOLDER:think FOLDER")
    base = rows[0]
    common = {id_: problem for id_, problem in base.problems.items() if all(id_ in row.problems for row in rows)}
    if not common:
        raise UserError(f"no problem is common to {', '.join(row.name for row in rows)}; evaluate them on the same set")
    set_of = sets_of(common)
    sets = {name: [problem for problem in common if set_of[problem] == name] for name in dict.fromkeys(set_of.values())}
    kept = [replace(row, outcomes=[one for one in row.outcomes if one.problem_id in common]) for row in rows]
    compared = [compared_row(kept[0], row, sets, set_of) for row in kept]
    found = tuple(dict.fromkeys(one for row in rows[1:] for one in differences(base, row)))
    return Comparison(tuple(adjusted(compared)), {name: len(problems) for name, problems in sets.items()}, found)


def sets_of(problems: Mapping[str, Problem]) -> dict[str, str]:
    """The set of each problem: its source's name, or its level if all come from one source; sets in their order."""
    names = {id_: source_name(problem) for id_, problem in problems.items()}
    if len(set(names.values())) == 1:
        names = {id_: level_name(problem) for id_, problem in problems.items()}
        return dict(sorted(names.items(), key=lambda item: level_order(item[1])))
    return names


def source_name(problem: Problem) -> str:
    """A source without split and subject: mmlu of mmlu/test/anatomy; of reasoning_gym the family is kept."""
    name, *rest = problem.source.split("/")
    return "/".join([name, *rest[:1]]) if name == "reasoning_gym" else name


def compared_row(base: Row, row: Row, sets: Mapping[str, Sequence[str]], set_of: Levels) -> Compared:
    """Score a row on each set; against the base, unless it is the base."""
    counts = [len(values) for values in by_problem(row.outcomes, lambda one: 1).values()]
    own = {name: of_problems(row, problems) for name, problems in sets.items()}
    changes = {}
    if row is not base:
        changes = {name: change(own[name], of_problems(base, problems)) for name, problems in sets.items()}
    return Compared(
        name=row.name,
        model=row.setting.model,
        requested=row.requested,
        samples=(min(counts), max(counts)),
        sets={name: score(outcomes, min(counts)) for name, outcomes in own.items()},
        changes=changes,
        mean_change=None if row is base else change(row.outcomes, base.outcomes, set_of),
    )


def of_problems(row: Row, problems: Sequence[str]) -> list[Outcome]:
    """A row's outcomes on some problems."""
    wanted = set(problems)
    return [one for one in row.outcomes if one.problem_id in wanted]


def score(outcomes: Sequence[Outcome], samples: int) -> Scores:
    """Score a row on one set, of which every problem has `samples` or more."""
    right, tokens = by_problem(outcomes, lambda one: one.correct), by_problem(outcomes, lambda one: one.tokens)
    return Scores(
        accuracy=share_interval(right),
        tokens=mean_interval(tokens) if len(tokens) > 1 else None,
        no_think=share_interval(by_problem(outcomes, lambda one: one.mode is Mode.NO_THINK)),
        pass_at={k: pass_interval(right, k) for k in powers_of_two(samples)} if samples > 1 else {},
    )


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, … up to `most`."""
    return [2**power for power in range(most.bit_length())]


def change(new: Sequence[Outcome], old: Sequence[Outcome], set_of: Levels | None = None) -> Change:
    """Difference of two rows on the same problems; with sets, its mean over them."""
    right, before = (by_problem(outcomes, lambda one: one.correct) for outcomes in (new, old))
    return Change(share_difference(right, before, set_of), length_change(new, old, set_of))


def length_change(new: Sequence[Outcome], old: Sequence[Outcome], set_of: Levels | None = None) -> Difference | None:
    """Relative change of the mean length on the same problems; None for a set of one problem, which has no interval."""
    longer, shorter = (by_problem(outcomes, lambda one: one.tokens) for outcomes in (new, old))
    sizes: dict[object, int] = {}
    for problem in longer:
        name = None if set_of is None else set_of[problem]
        sizes[name] = sizes.get(name, 0) + 1
    return relative_change(longer, shorter, set_of) if min(sizes.values()) > 1 else None


def adjusted(rows: Sequence[Compared]) -> list[Compared]:
    """The same rows, with p-values adjusted within each of the four families of verdicts."""
    sets = {f"{row.name}\n{name}": one for row in rows for name, one in row.changes.items()}
    means = {row.name: row.mean_change for row in rows if row.mean_change}
    sets, means = adjust(sets), adjust(means)
    return [
        replace(
            row,
            changes={name: sets[f"{row.name}\n{name}"] for name in row.changes},
            mean_change=means.get(row.name),
        )
        for row in rows
    ]


def adjust(changes: Mapping[str, Change]) -> dict[str, Change]:
    """Adjust the p-values of accuracy, and those of length, for their number."""
    accuracy = holm({name: one.accuracy for name, one in changes.items()})
    tokens = holm({name: one.tokens for name, one in changes.items() if one.tokens})
    return {name: Change(accuracy[name], tokens.get(name)) for name in changes}
