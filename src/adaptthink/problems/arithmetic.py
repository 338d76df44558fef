"""Procedural arithmetic in five difficulty levels: small enough to run the whole method on a laptop.

A problem is a chain of single-digit additions and subtractions that starts from a number below 100; every
intermediate value stays within 0..99. The level sets the number of operations. A small
model can answer a short chain at once; for a long one it has to write down the running values. There are two wordings:

* `chain`: ``47+8-3=?``. Training and the main evaluation.
* `story`: ``Tom has 47 gets 8 gives 3 how many?``. Out of distribution: policies are not trained on it.

The split of a problem follows from a hash of its text alone. So the splits are disjoint by construction, in whatever
order problems are generated.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from adaptthink.config.schema import Kind
from adaptthink.problems import Problem, make_problem

OPERATIONS_BY_LEVEL = {1: 1, 2: 2, 3: 3, 4: 6, 5: 9}
LEVELS = tuple(OPERATIONS_BY_LEVEL)


class Split(StrEnum):
    """Disjoint uses of problems; `supervised` is for supervised starts and for nothing else."""

    SUPERVISED = "supervised"
    TRAIN = "train"
    HELD_OUT = "held_out"
    EVALUATION = "evaluation"


_SPLIT_UPPER_PERCENT = ((Split.SUPERVISED, 50), (Split.TRAIN, 70), (Split.HELD_OUT, 75), (Split.EVALUATION, 100))


def find_split(text: str) -> Split:
    """Return the split that a text belongs to, by its hash."""
    percent = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    return next(split for split, upper in _SPLIT_UPPER_PERCENT if percent < upper)


@dataclass(frozen=True, slots=True)
class Chain:
    """`first` and then signed digits: Chain(47, (8, -3)) is 47+8-3."""

    first: int
    steps: tuple[int, ...]

    @property
    def values(self) -> tuple[int, ...]:
        """Every running value, the first number included; the last one is the answer."""
        values = [self.first]
        for step in self.steps:
            values.append(values[-1] + step)
        return tuple(values)

    @property
    def expression(self) -> str:
        """The chain as a sum: ``47+8-3``."""
        return str(self.first) + "".join(f"{step:+d}" for step in self.steps)

    @property
    def equations(self) -> tuple[str, ...]:
        """Each operation with its result: 47+8=55, 55-3=52."""
        steps = zip(self.values, self.steps, self.values[1:], strict=False)
        return tuple(f"{before}{step:+d}={after}" for before, step, after in steps)

    @property
    def split(self) -> Split:
        """The split that this chain belongs to, in either wording."""
        return find_split(self.expression)


def generate_chain(rng: random.Random, operations: int) -> Chain:
    """Return a random chain whose running values all stay within 0..99."""
    first = value = rng.randint(1, 99)
    steps: list[int] = []
    while len(steps) < operations:
        step = rng.choice((-1, 1)) * rng.randint(1, 9)
        if 0 <= value + step <= 99:
            steps.append(step)
            value += step
    return Chain(first, tuple(steps))


def format_question(chain: Chain, kind: Kind) -> str:
    """Return the question for a chain, in the wording of `kind`."""
    if kind is Kind.CHAIN:
        return f"{chain.expression}=?"
    story = "".join(f" gets {step}" if step > 0 else f" gives {-step}" for step in chain.steps)
    return f"Tom has {chain.first}{story} how many?"


def generate_chains(seed: int, split: Split, operations: int) -> Iterator[Chain]:
    """Yield an endless seeded stream of chains with so many operations from one split (repeats are possible)."""
    rng = random.Random(f"{seed}/{split}/{operations}")
    while True:
        chain = generate_chain(rng, operations)
        if chain.split is split:
            yield chain


def generate_distinct_chains(per_level: int, *, seed: int, split: Split) -> Iterator[tuple[int, Chain]]:
    """Yield `per_level` distinct chains of each level, level by level, each with its level.

    Raises ValueError when a level of this split does not hold that many different ones.
    """
    for level, operations in OPERATIONS_BY_LEVEL.items():
        distinct: dict[Chain, None] = {}
        for attempts, chain in enumerate(generate_chains(seed, split, operations)):
            if len(distinct) == per_level:
                break
            if attempts > 20 * (per_level + 100):
                raise ValueError(
                    f"level {level} of split '{split}' holds only about {len(distinct)} different problems, "
                    f"but {per_level} were requested; request fewer"
                )
            distinct[chain] = None
        yield from ((level, chain) for chain in distinct)


def generate_problems(per_level: int, *, seed: int, split: Split, kind: Kind = Kind.CHAIN) -> list[Problem]:
    """Return `per_level` distinct problems of each level, level by level; raises as `generate_distinct_chains`."""
    chains = generate_distinct_chains(per_level, seed=seed, split=split)
    return [as_problem(chain, level, split, kind) for level, chain in chains]


def as_problem(chain: Chain, level: int, split: Split, kind: Kind = Kind.CHAIN) -> Problem:
    """Return a chain as jobs take it."""
    prompt, answer = format_question(chain, kind), str(chain.values[-1])
    return make_problem(prompt, answer, level=level, source=f"arithmetic/{kind}/{split}")
