"""What a problem in words is made of: people, sentences, and steps whose equations give the answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TypeVar

T = TypeVar("T")

GIRLS = (
    "Aisha", "Amy", "Anna", "Ella", "Emma", "Grace", "Ivy", "Jane", "Kate", "Leah", "Lily", "Lucy", "Maria", "Maya",
    "Mia", "Nina", "Nora", "Priya", "Rosa", "Ruby", "Sara", "Zoe",
)  # fmt: skip
BOYS = (
    "Adam", "Ali", "Ben", "Carl", "Dan", "David", "Eric", "Hugo", "Ivan", "Jack", "James", "Leo", "Luis", "Max", "Noah",
    "Omar", "Paul", "Raj", "Ryan", "Sam", "Tom", "Victor",
)  # fmt: skip


class UnfitError(Exception):
    """The numbers chosen so far lead to one that a story cannot have; others have to be chosen."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in a story, with pronouns: she, her cat, her; he, his cat, him."""

    name: str
    they: str
    their: str
    them: str


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a sum: `count` times `each`, or without `each` the count itself.

    `wording` is the step of the product; `added` begins the step that adds the term to those before it.
    """

    count: int
    each: int | None = None
    wording: str = ""
    added: str = "Together that is"


@dataclass(slots=True)
class Story:
    """A problem while it is made: its facts, its question, and the steps to the answer.

    No number of the steps is above `limit`.
    """

    rng: random.Random
    limit: int
    facts: list[str] = field(default_factory=list)
    question: str = ""
    steps: list[str] = field(default_factory=list)
    equations: list[str] = field(default_factory=list)
    answer: int = 0

    def choose(self, options: Iterable[T]) -> T:
        """Return one of the options."""
        return self.rng.choice(tuple(options))

    def number(self, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both included."""
        return self.rng.randint(low, high)

    def tell(self, *wordings: str) -> None:
        """Add a fact in one of its wordings."""
        self.facts.append(capitalise(self.choose(wordings)))

    def ask(self, *wordings: str) -> None:
        """Set the question, in one of its wordings."""
        self.question = capitalise(self.choose(wordings))

    def distract(self, count: int, *wordings: str) -> None:
        """Add `count` facts that the answer does not need, each behind the first fact or later."""
        for wording in self.rng.sample(wordings, count):
            self.facts.insert(self.number(1, len(self.facts)), capitalise(wording))

    def work(self, wording: str, left: int, sign: str, right: int) -> int:
        """Add a step, its equation in place of {}; return its result, which is the answer if no step follows.

        Raises UnfitError for a result that is below 2, not whole or above the limit, and for a step without work.
        """
        if right == 0 or (sign in "*/" and 1 in (left, right)) or (sign == "/" and left % right):
            raise UnfitError
        value = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[sign]
        if not 2 <= value <= self.limit:
            raise UnfitError
        equation = f"{left}{sign}{right}={value}"
        self.equations.append(equation)
        self.steps.append(capitalise(wording.format(equation)))
        self.answer = value
        return value

    def add_terms(self, terms: Sequence[Term], unit: str) -> int:
        """Work out each term and add it to those before; return the sum."""
        total = 0
        for term in terms:
            value = term.count if term.each is None else self.work(term.wording, term.count, "*", term.each)
            total = self.work(f"{term.added} {{}} {unit}.", total, "+", value) if total else value
        return total


def choose_people(rng: random.Random, count: int) -> list[Person]:
    """Return so many different people."""
    girls = [Person(name, "she", "her", "her") for name in GIRLS]
    people = girls + [Person(name, "he", "his", "him") for name in BOYS]
    return rng.sample(people, count)


def capitalise(text: str) -> str:
    """Return a sentence with its first letter in upper case, and the others as they are."""
    return text[0].upper() + text[1:]


def join(parts: Sequence[str]) -> str:
    """Return parts of a sentence as a list: a, b and c."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def say_count(count: int, singular: str, plural: str | None = None) -> str:
    """Return a number of things: 1 day, 3 days."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def choose_plan(story: Story, steps: int, parts: Sequence[Sequence[int]], cost: Callable[..., int]) -> tuple[int, ...]:
    """Return a random choice of one number from each of `parts` whose `cost`, in steps, is `steps`.

    Raises UnfitError where there is none.
    """
    plans = [plan for plan in product(*parts) if cost(*plan) == steps]
    if not plans:
        raise UnfitError
    return story.choose(plans)
