"""Procedural problems in words with five difficulty levels, each with its solution in steps.

The level sets the number of steps; the top ones also have numbers that the answer does not need. A solution states the
result of each step; a thought works it out first (`thoughts`), of which the higher levels have more.

The situations are families. Policies are trained on some of them (`FAMILIES`); others (`SHIFTED`) are for evaluation
alone, and no training sees them. The split of a problem follows from a hash of the equations of its solution: whatever
the names and the words, no computation of an evaluation occurs as a whole in a training.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from adaptthink.problems import Problem, make_problem
from adaptthink.problems.arithmetic import Split, find_split
from adaptthink.problems.words.goods import tell_sharing, tell_shopping
from adaptthink.problems.words.measures import tell_calendar, tell_units
from adaptthink.problems.words.people import tell_ages, tell_rates
from adaptthink.problems.words.shifted import tell_bus, tell_farm, tell_garden, tell_scores
from adaptthink.problems.words.story import Story, UnfitError
from adaptthink.problems.words.thoughts import write_thought

Tell = Callable[[Story, int, int], None]  # tells a story with so many steps, and facts that the answer does not need

FAMILIES: Mapping[str, Tell] = {
    "shopping": tell_shopping,
    "ages": tell_ages,
    "rates": tell_rates,
    "sharing": tell_sharing,
    "units": tell_units,
    "calendar": tell_calendar,
}
MAX_MISSES = 2000  # problems in a row that are known or of another split, after which a level has no more
SHIFTED: Mapping[str, Tell] = {"bus": tell_bus, "garden": tell_garden, "scores": tell_scores, "farm": tell_farm}


@dataclass(frozen=True, slots=True)
class Level:
    """How difficult problems are; `distractors` are facts that the answer does not need, `limit` the largest number."""

    steps: tuple[int, ...]
    distractors: tuple[int, ...] = (0,)
    limit: int = 300


LEVELS = {
    1: Level((1,), limit=100),
    2: Level((2,), limit=100),
    3: Level((3,), limit=200),
    4: Level((4,), (1,)),
    5: Level((5, 6), (1, 2)),
}


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A problem with the sentences of its solution, each with an equation; the last one's result is the answer."""

    family: str
    level: int
    question: str
    steps: tuple[str, ...]
    equations: tuple[str, ...]
    answer: int

    @property
    def split(self) -> Split:
        """The split that this problem belongs to."""
        return find_split(";".join(self.equations))

    @property
    def solution(self) -> str:
        """The steps as one text."""
        return " ".join(self.steps)

    @property
    def thought(self) -> str:
        """The steps with the arithmetic of each in small pieces, and a check."""
        return write_thought(self.steps, self.equations)


def generate_word_problem(rng: random.Random, family: str, level: int) -> WordProblem:
    """Return a random problem of a family and a level."""
    tell, settings = {**FAMILIES, **SHIFTED}[family], LEVELS[level]
    while True:
        story = Story(rng, settings.limit)
        try:
            tell(story, rng.choice(settings.steps), rng.choice(settings.distractors))
        except UnfitError:
            continue
        question = " ".join([*story.facts, story.question])
        return WordProblem(family, level, question, tuple(story.steps), tuple(story.equations), story.answer)


def generate_word_problems(per_level: int, *, seed: int, split: Split, shifted: bool = False) -> Iterator[WordProblem]:
    """Yield `per_level` problems with different questions of each level, level by level, its families in turn.

    Raises ValueError when a level of this split does not hold that many different problems.
    """
    families = SHIFTED if shifted else FAMILIES
    for level in LEVELS:
        streams = [iterate_different(family, level, seed=seed, split=split) for family in families]
        for number in range(per_level):
            found = next(streams[number % len(streams)], None)
            if found is None:
                raise ValueError(
                    f"level {level} of split '{split}' holds only about {number} different problems, but {per_level} "
                    "were requested; request fewer"
                )
            yield found


def iterate_different(family: str, level: int, *, seed: int, split: Split) -> Iterator[WordProblem]:
    """Yield problems of one family, level and split with different questions, until there are hardly any more."""
    rng = random.Random(f"{seed}/{split}/{level}/{family}")
    seen: set[str] = set()
    misses = 0
    while misses < MAX_MISSES:
        problem = generate_word_problem(rng, family, level)
        if problem.split is not split or problem.question in seen:
            misses += 1
            continue
        seen.add(problem.question)
        misses = 0
        yield problem


def generate_problems(per_level: int, *, seed: int, split: Split, shifted: bool = False) -> list[Problem]:
    """Return `per_level` different problems of each level, level by level; raises as `generate_word_problems`."""
    return [
        as_problem(one, split) for one in generate_word_problems(per_level, seed=seed, split=split, shifted=shifted)
    ]


def as_problem(one: WordProblem, split: Split) -> Problem:
    """Return a problem in words as jobs take it, without its solution."""
    return make_problem(one.question, str(one.answer), level=one.level, source=f"words/{one.family}/{split}")
