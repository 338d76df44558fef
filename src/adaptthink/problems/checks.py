"""Check a set of problems: repeats, reference answers that cannot be parsed, and leaks into another set.

Two problems leak into each other if their prompts are the same after folding case and white space (*exact*), or if
their words overlap (*near*): of the runs of `WORDS` words in one prompt and in the other, at least `NEAR_SHARE` of
the shorter list is in the longer one too. Runs that more than `COMMON` problems of the indexed set share are
boilerplate and do not count. A prompt with fewer than `MIN_RUNS` runs has near duplicates only where all words agree.
docs/how-to/problems.md has the figures behind these numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from adaptthink.grading import find_parsable
from adaptthink.problems import Problem
from adaptthink.storage.rows import BadRow

WORDS = 8
NEAR_SHARE = 0.5
COMMON = 10
MIN_RUNS = 5
BATCH = 1000
SHOWN = 5  # bad rows and unparsable reference answers that are listed
EXAMPLES = 2  # of each leak, nearest first

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Match:
    """The nearest problem of an indexed set: its number there, and the share of common runs (1 for exact)."""

    number: int
    share: float
    exact: bool


@dataclass(frozen=True, slots=True)
class Example:
    """Two prompts that leak into each other."""

    prompt: str
    other: str
    share: float


@dataclass(frozen=True, slots=True)
class Leak:
    """How many problems of the checked set are also in another set, and how many of the other set are affected."""

    against: str
    num_against: int
    num_exact: int
    num_near: int
    num_given_away: int
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found in a set. `num_kept` counts what a job would use: distinct problems with a parsable answer.

    `num_repeats` are rows whose prompt came before; `num_contradictions` of them give another answer than the first.
    """

    name: str
    num_rows: int
    num_kept: int
    num_repeats: int
    num_contradictions: int
    num_unparsable: int
    num_bad: int
    unparsable: tuple[str, ...]
    bad_rows: tuple[str, ...]
    levels: dict[str, int]
    kinds: dict[str, int]
    leaks: tuple[Leak, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """A set to search in: problems by folded prompt, by all words, and by each run of words."""

    name: str
    prompts: list[str]
    by_fold: dict[int, int]
    by_words: dict[int, int]
    first_with: dict[int, int]  # run -> the first problem that has it
    others_with: dict[int, list[int]]  # run -> the problems after the first
    num_runs: list[int]  # of each problem, boilerplate left out


def hash_folded(prompt: str) -> int:
    """Return a hash of a prompt that ignores case and white space."""
    return hash(" ".join(prompt.casefold().split()))


def hash_runs(words: list[str]) -> set[int]:
    """Return the hashes of all runs of `WORDS` words."""
    return {hash(tuple(words[start : start + WORDS])) for start in range(len(words) - WORDS + 1)}


def split_words(prompt: str) -> list[str]:
    """Return the words and numbers of a prompt in lower case, without punctuation."""
    return _WORD.findall(prompt.casefold())


def build_index(name: str, prompts: Iterable[str]) -> Index:
    """Return an index, held in memory, of the prompts of a set; repeats are indexed once."""
    index = Index(name, [], {}, {}, {}, {}, [])
    runs_of = []
    for prompt in prompts:
        number, words = len(index.prompts), split_words(prompt)
        if index.by_fold.setdefault(hash_folded(prompt), number) != number:
            continue
        index.prompts.append(prompt)
        index.by_words.setdefault(hash(tuple(words)), number)
        runs_of.append(hash_runs(words))
        for run in runs_of[-1]:
            if index.first_with.setdefault(run, number) != number:
                index.others_with.setdefault(run, []).append(number)
    common = {run for run, others in index.others_with.items() if len(others) >= COMMON}
    for run in common:
        del index.first_with[run], index.others_with[run]
    index.num_runs.extend(sum(run not in common for run in found) for found in runs_of)
    return index


def find_nearest(index: Index, prompt: str) -> Match | None:
    """Return the best match for `prompt` in the index, None if none is exact or near."""
    number = index.by_fold.get(hash_folded(prompt))
    if number is not None:
        return Match(number, 1.0, exact=True)
    words = split_words(prompt)
    number = index.by_words.get(hash(tuple(words)))
    if number is not None:
        return Match(number, 1.0, exact=False)
    mine = hash_runs(words)
    shared = Counter(index.first_with[run] for run in mine if run in index.first_with)
    for run in mine & index.others_with.keys():
        shared.update(index.others_with[run])
    matches = [
        Match(number, count / fewer, exact=False)
        for number, count in shared.items()
        if (fewer := min(len(mine), index.num_runs[number])) >= MIN_RUNS
    ]
    best = max(matches, key=lambda match: match.share, default=None)
    return best if best and best.share >= NEAR_SHARE else None


def check_problems(name: str, problems: Iterable[Problem | BadRow], indexes: Iterable[Index] = ()) -> Check:
    """Check a set of any size in one pass; memory holds a few numbers per problem, and the indexes.

    Prompts are compared as they are, so pass them without instruction. Each prompt is looked up once.
    """
    tally = _Tally([_Leaks(index) for index in indexes])
    iterator = iter(problems)
    while batch := list(islice(iterator, BATCH)):
        good = [problem for problem in batch if isinstance(problem, Problem)]
        bad = [row for row in batch if isinstance(row, BadRow)]
        tally.num_rows += len(batch)
        tally.num_bad += len(bad)
        tally.bad_rows += [str(row) for row in bad[: SHOWN - len(tally.bad_rows)]]
        parsable = find_parsable([(problem.answer, problem.kind) for problem in good])
        for problem, ok in zip(good, parsable, strict=True):
            _count(tally, problem, parsable=ok)
    return Check(
        name=name,
        num_rows=tally.num_rows,
        num_kept=tally.levels.total(),
        num_repeats=tally.num_repeats,
        num_contradictions=tally.num_contradictions,
        num_unparsable=tally.num_unparsable,
        num_bad=tally.num_bad,
        unparsable=tuple(tally.unparsable),
        bad_rows=tuple(tally.bad_rows),
        levels={"none" if level is None else str(level): tally.levels[level] for level in _in_order(tally.levels)},
        kinds=dict(sorted(tally.kinds.items())),
        leaks=tuple(_leak(leaks) for leaks in tally.leaks),
    )


@dataclass(slots=True)
class _Leaks:
    """What has been found in one index so far."""

    index: Index
    num_exact: int = 0
    num_near: int = 0
    given_away: set[int] = field(default_factory=set)
    exact: list[Example] = field(default_factory=list)
    near: list[Example] = field(default_factory=list)


@dataclass(slots=True)
class _Tally:
    """What has been counted of a set so far."""

    leaks: list[_Leaks]
    num_rows: int = 0
    num_bad: int = 0
    num_repeats: int = 0
    num_contradictions: int = 0
    num_unparsable: int = 0
    bad_rows: list[str] = field(default_factory=list)
    unparsable: list[str] = field(default_factory=list)
    levels: Counter[int | str | None] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    ids: set[int] = field(default_factory=set)
    answers: dict[int, int] = field(default_factory=dict)  # by folded prompt, as hashes


def _count(tally: _Tally, problem: Problem, *, parsable: bool) -> None:
    prompt = hash((hash_folded(problem.prompt), problem.context))
    answer = hash(problem.answer.strip())
    if prompt in tally.answers:
        tally.num_repeats += 1
        tally.num_contradictions += tally.answers[prompt] != answer
    else:
        tally.answers[prompt] = answer
        for leaks in tally.leaks:
            _look_up(leaks, problem.prompt)
    id_ = int(problem.id, 16)
    if id_ in tally.ids:
        return
    tally.ids.add(id_)
    if parsable:
        tally.levels[problem.level] += 1
        tally.kinds[str(problem.kind)] += 1
    else:
        tally.num_unparsable += 1
        if len(tally.unparsable) < SHOWN:
            tally.unparsable.append(f"{problem.answer!r} of {problem.prompt[:60]!r}")


def _look_up(leaks: _Leaks, prompt: str) -> None:
    match = find_nearest(leaks.index, prompt)
    if match is None:
        return
    leaks.num_exact += match.exact
    leaks.num_near += not match.exact
    leaks.given_away.add(match.number)
    examples = leaks.exact if match.exact else leaks.near
    examples.append(Example(prompt, leaks.index.prompts[match.number], match.share))
    examples.sort(key=lambda example: -example.share)
    del examples[EXAMPLES:]


def _leak(leaks: _Leaks) -> Leak:
    return Leak(
        against=leaks.index.name,
        num_against=len(leaks.index.prompts),
        num_exact=leaks.num_exact,
        num_near=leaks.num_near,
        num_given_away=len(leaks.given_away),
        examples=(*leaks.exact, *leaks.near),
    )


def _in_order(levels: Iterable[int | str | None]) -> list[int | str | None]:
    """Return numbers by size, then names, then None."""
    return sorted(levels, key=lambda level: (level is None, isinstance(level, str), level if level is not None else 0))
