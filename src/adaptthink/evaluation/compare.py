"""Comparison of evaluations on the same problems: the paper's table, and which differences are distinguishable.

A row is one requested mode of one evaluation folder. Every row is compared with the first, the base, problem by
problem. What makes two rows incomparable (other problems, decoding, grader) is refused; a comparison that is forced
keeps the problems that all rows have and reports what differs.

P-values are adjusted (Holm) within four families: accuracy and length, each over the rows' means over sets, and over
all rows and sets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from adaptthink.config.schema import MAX_FAILED_GRADES
from adaptthink.errors import UserError
from adaptthink.evaluation.levels import name_level, name_set, rank_level
from adaptthink.evaluation.scores import (
    Change,
    Scores,
    Speed,
    compare_scores,
    find_lost,
    group_rewards,
    measure_speed,
    score,
)
from adaptthink.evaluation.statistics import Interval, holm, pass_interval
from adaptthink.evaluation.store import (
    REQUESTED_MODES,
    Outcome,
    Setting,
    flatten,
    read_grader,
    read_outcomes,
    read_problems,
    read_setting,
    read_throughput,
)
from adaptthink.grading import Verdict
from adaptthink.problems import Problem
from adaptthink.storage.settings import find_changes

MAY_DIFFER = {"model", "fingerprint", "seed"}  # of a setting


@dataclass(frozen=True, slots=True)
class Row:
    """The responses of one model in one requested mode."""

    name: str
    requested: str
    setting: Setting
    grader: Mapping[str, Any]  # what its verdicts depend on, by name
    problems: Mapping[str, Problem]  # those with a response that could be graded, by id
    outcomes: Sequence[Outcome]
    unknown: int = 0  # responses that could not be graded; they are not among the outcomes
    tokens_per_second: float | None = None  # of the engine; None where it was not measured


@dataclass(frozen=True, slots=True)
class Compared:
    """A row of the comparison; the base has no changes."""

    name: str
    model: str
    requested: str
    samples: tuple[int, int]  # of a problem: the fewest and the most
    sets: dict[str, Scores]
    pass_at: dict[str, dict[int, Interval]]  # set -> k -> pass@k, for 1, 2, 4, … up to the samples of every problem
    changes: dict[str, Change]  # by set
    mean_change: Change | None  # over the sets: ΔAcc and ΔLength
    speed: Speed = field(default_factory=Speed)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole comparison; the first row is the base."""

    rows: tuple[Compared, ...]
    sets: dict[str, int]  # number of problems
    differences: tuple[str, ...]  # what a forced comparison overlooks; empty otherwise
    unknown: dict[str, int] = field(default_factory=dict)  # responses that could not be graded, of rows with some


# ---- reading --------------------------------------------------------------------------------------------------------


def read_rows(names: Sequence[str]) -> list[Row]:
    """Read rows given as FOLDER, which is its auto row, or FOLDER:MODE; raises UserError for what is not there."""
    sources = [split_name(name) for name in names]
    titles = name_rows(sources)
    if len(set(titles)) < len(titles):
        raise UserError(f"a row is given twice ({', '.join(titles)}); give each once, such as FOLDER:think and FOLDER")
    found = {folder: read_outcomes(folder) for folder, _ in sources}
    lost = {id_ for folder, requested in sources for id_ in find_lost(select_mode(found[folder], requested))}
    left = {folder: [one for one in outcomes if one.problem_id not in lost] for folder, outcomes in found.items()}
    return [
        make_row(title, folder, requested, left[folder], count_unknown(select_mode(found[folder], requested)))
        for title, (folder, requested) in zip(titles, sources, strict=True)
    ]


def select_mode(outcomes: Iterable[Outcome], requested: str) -> list[Outcome]:
    """Return the outcomes of one requested mode."""
    return [one for one in outcomes if one.requested == requested]


def count_unknown(outcomes: Iterable[Outcome]) -> int:
    """Return how many responses could not be graded."""
    return sum(one.verdict is Verdict.UNKNOWN for one in outcomes)


def split_name(name: str) -> tuple[Path, str]:
    """Split the requested mode from the folder before it."""
    folder, colon, requested = name.rpartition(":")
    if not colon or Path(name).exists():
        return Path(name), "auto"
    if requested not in REQUESTED_MODES and Path(folder).exists():
        raise UserError(f"'{name}': a folder holds {', '.join(REQUESTED_MODES)}, not '{requested}'")
    return (Path(folder), requested) if requested in REQUESTED_MODES else (Path(name), "auto")


def name_rows(sources: Sequence[tuple[Path, str]]) -> list[str]:
    """Name rows by their folders, with as many of the folders above as distinguish them."""
    names = name_folders([folder for folder, _ in sources])
    return [
        name + ("" if requested == "auto" else f":{requested}")
        for name, (_, requested) in zip(names, sources, strict=True)
    ]


def name_folders(folders: Sequence[Path]) -> list[str]:
    """Name each folder by as many of its last parts as distinguish it from the others."""
    paths = [folder.resolve() for folder in folders]
    distinct = set(paths)
    return [
        next(
            str(Path(*path.parts[-length:]))
            for length in range(1, len(path.parts) + 1)
            if sum(other.parts[-length:] == path.parts[-length:] for other in distinct) == 1
        )
        for path in paths
    ]


def make_row(title: str, folder: Path, requested: str, outcomes: Iterable[Outcome], unknown: int) -> Row:
    """Return one requested mode of a folder as a row; raises UserError if it has no graded responses."""
    everything = [one for one in outcomes if one.verdict.has_reward]
    own = select_mode(everything, requested)
    if not own:
        there = sorted({one.requested for one in everything})
        found = f"it has {', '.join(f'{folder}:{one}' for one in there)}"
        if not there:
            found = (
                f"{unknown} could not be graded; run its adaptthink evaluate again"
                if unknown
                else "none of its reference answers can be parsed"
            )
        raise UserError(f"'{folder}' holds no graded {requested} responses: {found}")
    problems = read_problems(folder)
    answered = {one.problem_id: problems[one.problem_id] for one in own}
    grader = read_grader(folder / "verdicts.jsonl")
    assert grader is not None  # its outcomes have verdicts
    throughput = read_throughput(folder).get(requested)
    return Row(title, requested, read_setting(folder), flatten(grader), answered, own, unknown, throughput)


# ---- what rules out a comparison ------------------------------------------------------------------------------------


def describe_differences(base: Row, row: Row) -> list[str]:
    """Return how two rows differ beside their models and seeds; empty if they may be compared."""
    before, now = asdict(base.setting), asdict(row.setting)
    if base.requested == row.requested == "auto":  # how a mode would be requested plays no part
        before["switch"] = now["switch"] = None
    found = describe_settings(before, now, base.name, row.name)
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


def describe_settings(one: Mapping[str, Any], other: Mapping[str, Any], name: str, other_name: str) -> list[str]:
    """Return how two settings of evaluations differ, beside what may differ between compared models."""
    return [
        f"{key} is {one.get(key)} in {name} and {other.get(key)} in {other_name}"
        for key in dict.fromkeys((*one, *other))
        if key not in MAY_DIFFER and one.get(key) != other.get(key)
    ]


def check_alike(rows: Sequence[Row]) -> None:
    """Raise UserError naming what differs between the base and any other row, or a row that is not graded enough."""
    for row in rows:
        total = row.unknown + len(row.outcomes)
        if row.unknown > MAX_FAILED_GRADES * total:
            raise UserError(
                f"{row.name}: {row.unknown} of {total} responses could not be graded; run its adaptthink evaluate "
                "again, which samples nothing, or give --force to compare the others"
            )
    for row in rows[1:]:
        found = describe_differences(rows[0], row)
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
    set_of = assign_sets(common)
    kept = [replace(row, outcomes=[one for one in row.outcomes if one.problem_id in common]) for row in rows]
    compared = [compare_row(kept[0], row, set_of) for row in kept]
    unknown = {row.name: row.unknown for row in rows if row.unknown}
    found = tuple(dict.fromkeys(one for row in rows[1:] for one in describe_differences(base, row)))
    return Comparison(tuple(adjust_p_values(compared)), dict(Counter(set_of.values())), found, unknown)


def assign_sets(problems: Mapping[str, Problem]) -> dict[str, str]:
    """Return the set of each problem, sorted: its source's name, or its level if all come from one source."""
    names = {id_: name_set(problem) for id_, problem in problems.items()}
    if len(set(names.values())) == 1:
        names = {id_: name_level(problem) for id_, problem in problems.items()}
        return dict(sorted(names.items(), key=lambda item: rank_level(item[1])))
    return dict(sorted(names.items(), key=lambda item: item[1]))


def compare_row(base: Row, row: Row, set_of: Mapping[str, str]) -> Compared:
    """Score a row on each set; against the base, unless it is the base."""
    counts = Counter(one.problem_id for one in row.outcomes).values()
    sets = {name: select_set(row, set_of, name) for name in dict.fromkeys(set_of.values())}
    return Compared(
        name=row.name,
        model=row.setting.model,
        requested=row.requested,
        samples=(min(counts), max(counts)),
        sets={name: score(outcomes) for name, outcomes in sets.items()},
        pass_at={name: compute_pass_at(outcomes, min(counts)) for name, outcomes in sets.items()},
        changes={}
        if row is base
        else {name: compare_scores(outcomes, select_set(base, set_of, name)) for name, outcomes in sets.items()},
        mean_change=None if row is base else compare_scores(row.outcomes, base.outcomes, set_of),
        speed=measure_speed(row.outcomes, row.tokens_per_second),
    )


def select_set(row: Row, set_of: Mapping[str, str], name: str) -> list[Outcome]:
    """Return a row's outcomes on one set."""
    return [one for one in row.outcomes if set_of[one.problem_id] == name]


def compute_pass_at(outcomes: Sequence[Outcome], samples: int) -> dict[int, Interval]:
    """Return pass@k for k = 1, 2, 4, … up to `samples`, which every problem has; empty for a single one."""
    ks = [2**power for power in range(samples.bit_length())] if samples > 1 else []
    return {k: pass_interval(group_rewards(outcomes), k) for k in ks}


def adjust_p_values(rows: Sequence[Compared]) -> list[Compared]:
    """The same rows, with p-values adjusted within each of the four families of verdicts."""
    sets = adjust_changes({(row.name, name): one for row in rows for name, one in row.changes.items()})
    means = adjust_changes({(row.name, ""): row.mean_change for row in rows if row.mean_change})
    return [
        replace(
            row,
            changes={name: sets[row.name, name] for name in row.changes},
            mean_change=means.get((row.name, "")),
        )
        for row in rows
    ]


def adjust_changes(changes: Mapping[tuple[str, str], Change]) -> dict[tuple[str, str], Change]:
    """Adjust the p-values of accuracy, and those of length, for their number."""
    accuracy = holm({name: one.accuracy for name, one in changes.items()})
    tokens = holm({name: one.tokens for name, one in changes.items() if one.tokens})
    return {name: Change(accuracy[name], tokens.get(name)) for name in changes}
