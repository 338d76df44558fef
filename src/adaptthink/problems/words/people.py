"""Families of problems in words: ages and rates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from adaptthink.problems.words.story import Person, Story, Term, UnfitError, choose_people, choose_plan, join

# ---- ages -----------------------------------------------------------------------------------------------------------

MULTIPLES = {2: "twice", 3: "3 times", 4: "4 times"}


def tell_ages(story: Story, steps: int, distractors: int) -> None:
    """One age is given, others follow from it; then perhaps ages are added, or years pass."""

    def cost(relations: int, added: int, later: int) -> int:
        fits = relations >= added and (relations or later) and not (added and later)
        return relations + added + later if fits else 0

    relations, added, later = choose_plan(story, steps, (range(5), range(3), range(2)), cost)
    people = [person.name for person in choose_people(story.rng, relations + 2)]
    stranger = people.pop()
    ages = [story.number(4, 45)]
    story.tell(f"{people[0]} is {ages[0]} years old.")
    for older, name in pairwise(people):
        ages.append(relate_ages(story, older, name, ages[-1]))
    if added:
        names, total = people[-added - 1 :], ages[-added - 1]
        for number, age in enumerate(ages[-added:]):
            name = people[len(people) - added + number]
            wording = (
                f"with {name} it is {{}} years." if number else f"{names[0]} and {name} are {{}} years old together."
            )
            total = story.work(wording, total, "+", age)
        story.ask(f"how old are {join(names)} together?", f"what is the sum of the ages of {join(names)}?")
    elif later:
        years, name = story.number(2, 15), people[-1]
        if story.number(0, 1):
            story.work(f"in {years} years {name} will be {{}} years old.", ages[-1], "+", years)
            story.ask(f"how old will {name} be in {years} years?")
        else:
            story.work(f"{years} years ago {name} was {{}} years old.", ages[-1], "-", years)
            story.ask(f"how old was {name} {years} years ago?")
    else:
        story.ask(f"how old is {people[-1]}?", f"what is the age of {people[-1]}?")
    story.distract(
        distractors,
        f"{people[0]} has {story.number(2, 12)} cousins.",
        f"{people[-1]} lives at number {story.number(3, 60)}.",
        f"a neighbor named {stranger} is {story.number(20, 70)} years old.",
        f"{people[0]} and {people[-1]} met {story.number(2, 3)} years ago.",
    )


def relate_ages(story: Story, known: str, name: str, age: int) -> int:
    """Tell how old somebody is in comparison with somebody else; return the age."""
    years, times = story.number(2, 20), story.number(2, 4)
    kind = story.choose(("older", "older", "younger", "younger", "times", "half"))
    if kind == "older":
        story.tell(f"{name} is {years} years older than {known}.", f"{known} is {years} years younger than {name}.")
        return story.work(f"{name} is {{}} years old.", age, "+", years)
    if kind == "younger":
        story.tell(f"{name} is {years} years younger than {known}.", f"{known} is {years} years older than {name}.")
        return story.work(f"{name} is {{}} years old.", age, "-", years)
    if kind == "half":
        story.tell(f"{name} is half as old as {known}.", f"{known} is twice as old as {name}.")
        return story.work(f"{name} is {{}} years old.", age, "/", 2)
    if age * times > 90:
        raise UnfitError
    story.tell(f"{name} is {MULTIPLES[times]} as old as {known}.")
    return story.work(f"{name} is {{}} years old.", age, "*", times)


# ---- rates ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """What somebody does: the rate in things per hour or day, and whether the things are kept."""

    verb: str
    does: str
    things: str
    unit: str
    rates: tuple[int, int]
    kept: bool = False


WORK = (
    Work("bake", "bakes", "loaves", "hour", (4, 12), kept=True),
    Work("fill", "fills", "baskets", "hour", (2, 9), kept=True),
    Work("make", "makes", "paper flowers", "hour", (4, 15), kept=True),
    Work("build", "builds", "birdhouses", "day", (2, 6), kept=True),
    Work("earn", "earns", "dollars", "hour", (5, 15), kept=True),
    Work("fold", "folds", "shirts", "hour", (8, 20)),
    Work("wash", "washes", "cars", "hour", (2, 5)),
    Work("plant", "plants", "trees", "day", (3, 15)),
    Work("paint", "paints", "chairs", "day", (2, 9)),
    Work("check", "checks", "bikes", "day", (3, 12)),
)
PERIODS = {  # two stretches of time
    "hour": (("on Monday", "on Tuesday"), ("in the morning", "in the afternoon"), ("on Friday", "on Saturday")),
    "day": (("in May", "in June"), ("in the first week", "in the second week")),
}


def tell_rates(story: Story, steps: int, distractors: int) -> None:
    """One or two people work at a steady rate, for one stretch of time or two; then something is done with it all."""

    def cost(workers: int, long: int, had: int, used: int, spread: int) -> int:
        return 2 * workers - 1 + long + had + used + spread if long <= workers and had + used < 2 else 0

    parts = ((1, 2), range(3), range(2), range(2), range(2))
    workers, long, had, used, spread = choose_plan(story, steps, parts, cost)
    work = story.choose(one for one in WORK if one.kept or not had + used + spread)
    things = work.things
    people = choose_people(story.rng, workers)
    terms = [tell_work(story, one, work, long=number < long) for number, one in enumerate(people)]
    total = story.add_terms(terms, things)
    alone = workers == 1
    names, they = join([person.name for person in people]), people[0].they if alone else "the two"
    do, have = ("does", "has") if alone else ("do", "have")
    if had:
        count = story.number(3, 30)
        story.tell(f"{they} already had {count} {things} at the start.", f"at the start {they} had {count} {things}.")
        total = story.work(f"with what {they} had it is {{}} {things}.", total, "+", count)
    if used:
        count = story.number(3, 30)
        money = work.verb == "earn"
        verbs = (("spends", "spend"),) if money else (("sells", "sell"), ("gives away", "give away"))
        story.tell(*(f"then {they} {verb[workers - 1]} {count} {things}." for verb in verbs))
        total = story.work(f"then {they} {have} {{}} {things} left.", total, "-", count)
    if spread:
        total = spread_things(story, work, total, they, alone=alone, rest=bool(used))
    elif had or used:
        story.ask(f"how many {things} {do} {names} have now?")
    else:
        together = " together" if workers > 1 else " in all" if long else ""
        story.ask(f"how many {things} {do} {names} {work.verb}{together}?")
    first = people[0]
    story.distract(
        distractors,
        f"{first.name} is {story.number(18, 60)} years old.",
        f"{first.name} lives {story.number(2, 15)} miles away.",
        f"{first.name} has {story.number(2, 9)} cousins.",
        f"it is {story.number(15, 30)} degrees outside.",
    )


def tell_work(story: Story, person: Person, work: Work, *, long: bool) -> Term:
    """Tell how fast somebody works, and for one stretch of time, or two if `long`; return what comes of it."""
    name, rate, unit = person.name, story.number(*work.rates), work.unit
    time, more = story.number(2, 9), story.number(2, 6)
    first, second = story.choose(PERIODS[unit])
    works = f"works {time} {unit}s {first} and {more} {unit}s {second}" if long else f"works for {time} {unit}s"
    does = f"{work.does} {rate} {work.things}"
    story.tell(
        f"{name} {does} {'an' if unit == 'hour' else 'a'} {unit} and {works}.",
        f"{name} {does} every {unit}, and {person.they} {works}.",
        f"every {unit}, {name} {does}, and {person.they} {works}.",
    )
    if long:
        time = story.work(f"{name} works {{}} {unit}s.", time, "+", more)
    return Term(time, rate, f"{name} {work.does} {{}} {work.things}.")


def spread_things(story: Story, work: Work, total: int, they: str, *, alone: bool, rest: bool) -> int:
    """Tell how all that was made is divided, and ask for a part; return its size."""
    count, s = story.number(2, 9), "s" if alone else ""
    if work.verb == "earn":
        story.tell(f"{they} buy{s} tickets for ${count} each with {'the rest of' if rest else 'all'} the money.")
        story.ask(f"how many tickets {'does' if alone else 'do'} {they} buy?")
        return story.work(f"{they} buy{s} {{}} tickets.", total, "/", count)
    what = f"{'the rest of' if rest else 'all'} the {work.things}"
    story.tell(f"{they} sell{s} {what} to {count} shops, the same number to each.")
    story.ask(f"how many {work.things} does each shop get?")
    return story.work(f"each shop gets {{}} {work.things}.", total, "/", count)
