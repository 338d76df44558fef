"""Families of problems in words: units and the calendar."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from adaptthink.problems.words.story import Person, Story, Term, UnfitError, choose_people, choose_plan, join

# ---- units ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measure:
    """Amounts in a large unit, or in that and a small one, and the sentences about them.

    In the sentences, {n} and {m} are numbers, {they} is the person, {kind} one of `kinds`, {rest} what is divided.
    """

    factor: int
    counts: tuple[int, int]  # of the large unit
    small: str
    beginning: str  # what precedes the amounts
    amount: str
    amounts: str  # in both units
    kinds: tuple[str, ...]
    large_step: str  # of a product, whose equation is {{}}
    question: str  # after the sum
    used: str  # tells that an amount goes away
    left: str  # the question then
    spread: str = ""  # tells of a division; empty: there is none
    each: str = ""  # the question then
    each_step: str = ""


def make_length(material: str, *kinds: str) -> Measure:
    """Return the measure of a material that is sold by length."""
    return Measure(
        factor=12,
        counts=(2, 15),
        small="inches",
        beginning="{name} has",
        amount=f"{{n}} feet of {{kind}} {material}",
        amounts=f"{{n}} feet and {{m}} inches of {{kind}} {material}",
        kinds=kinds,
        large_step="{n} feet are {{}} inches.",
        question=f"how many inches of {material} does {{they}} have?",
        used=f"{{they}} uses {{n}} inches of the {material}.",
        left=f"how many inches of {material} are left?",
        spread=f"{{they}} cuts {{rest}} the {material} into pieces of {{n}} inches.",
        each="how many pieces does {they} get?",
        each_step="{they} gets {{}} pieces.",
    )


RIBBON = make_length("ribbon", "red", "blue", "green", "yellow")
ROPE = make_length("rope", "thick", "thin", "white", "brown")
WIRE = make_length("wire", "copper", "silver", "steel", "iron")
HOURS = Measure(
    factor=60,
    counts=(2, 4),
    small="minutes",
    beginning="{name} wants to practice",
    amount="{n} hours on the {kind}",
    amounts="{n} hours and {m} minutes on the {kind}",
    kinds=("piano", "guitar", "flute", "drums"),
    large_step="{n} hours are {{}} minutes.",
    question="how many minutes does {they} want to practice?",
    used="{they} has already practiced for {n} minutes.",
    left="how many minutes of practice are left?",
    spread="{they} spreads {rest} the practice evenly over {n} days.",
    each="how many minutes does {they} practice each day?",
    each_step="{they} practices {{}} minutes each day.",
)
WEEKS = Measure(
    factor=7,
    counts=(2, 12),
    small="days",
    beginning="{name} travels for",
    amount="{n} weeks in {kind}",
    amounts="{n} weeks and {m} days in {kind}",
    kinds=("Spain", "Kenya", "Peru", "Japan"),
    large_step="{n} weeks are {{}} days.",
    question="how many days does {they} travel?",
    used="it rains on {n} of these days.",
    left="on how many of the days does it not rain?",
)
DOZENS = Measure(
    factor=12,
    counts=(2, 12),
    small="eggs",
    beginning="{name} buys",
    amount="{n} dozen {kind} eggs",
    amounts="{n} dozen {kind} eggs and {m} single {kind} eggs",
    kinds=("brown", "white", "duck", "goose"),
    large_step="{n} dozen are {{}} eggs.",
    question="how many eggs does {they} buy?",
    used="{they} uses {n} of the eggs for a cake.",
    left="how many eggs are left?",
    spread="{they} puts {rest} the eggs into {n} baskets, the same number in each.",
    each="how many eggs are in each basket?",
    each_step="each basket has {{}} eggs.",
)
COINS = {"quarter": 25, "dime": 10, "nickel": 5}


def tell_units(story: Story, steps: int, distractors: int) -> None:
    """Amounts in large units become an amount in a small one, of which some is used, and the rest is divided."""
    [person] = choose_people(story.rng, 1)
    if story.number(1, 5) == 1:
        tell_coins(story, person, steps)
    else:
        tell_measure(story, person, steps)
    story.distract(
        distractors,
        f"{person.they} is {story.number(9, 60)} years old.",
        f"it is {story.number(15, 30)} degrees outside.",
        f"{person.they} lives at number {story.number(11, 99)}.",
        f"{person.name} has {story.number(2, 9)} cousins.",
    )


def tell_measure(story: Story, person: Person, steps: int) -> None:
    """Tell a story of one of the measures."""

    def cost(amounts: int, mixed: int, used: int, spread: int) -> int:
        return 2 * amounts - 1 + mixed + used + spread if mixed <= amounts else 0

    amounts, mixed, used, spread = choose_plan(story, steps, ((1, 2), range(3), range(2), range(2)), cost)
    measure = story.choose(one for one in (RIBBON, ROPE, WIRE, HOURS, WEEKS, DOZENS) if one.spread or not spread)
    terms, parts = [], []
    for number, kind in enumerate(story.rng.sample(measure.kinds, amounts)):
        n, m = story.number(*measure.counts), story.number(2, measure.factor - 2)
        parts.append((measure.amounts if number < mixed else measure.amount).format(n=n, m=m, kind=kind))
        terms.append(Term(n, measure.factor, measure.large_step.format(n=n)))
        if number < mixed:
            terms.append(Term(m, None, added=f"with the {m} {measure.small} it is"))
    words = {"name": person.name, "they": person.they}
    story.tell(f"{measure.beginning.format(**words)} {join(parts)}.")
    total = story.add_terms(terms, measure.small)
    if used:
        n = story.number(2, 40)
        story.tell(measure.used.format(n=n, **words))
        total = story.work(f"then {{}} {measure.small} are left.", total, "-", n)
    if spread:
        n = story.number(2, 9)
        story.tell(measure.spread.format(n=n, rest="the rest of" if used else "all", **words))
        story.work(measure.each_step.format(**words), total, "/", n)
    story.ask((measure.each if spread else measure.left if used else measure.question).format(**words))


def tell_coins(story: Story, person: Person, steps: int) -> None:
    """Tell a story of coins that are counted, and of cents that are spent."""

    def cost(kinds: int, spent: int) -> int:
        return 2 * kinds - 1 + spent

    kinds, spent = choose_plan(story, steps, (range(1, 4), range(2)), cost)
    counts = {coin: story.number(2, 12) for coin in story.rng.sample(list(COINS), kinds)}
    story.tell(f"{person.name} has {join([f'{count} {coin}s' for coin, count in counts.items()])}.")
    terms = [Term(count, COINS[coin], f"the {coin}s are {{}} cents.") for coin, count in counts.items()]
    total = story.add_terms(terms, "cents")
    if spent:
        cents = story.number(5, 60)
        story.tell(f"{person.they} spends {cents} cents.", f"{person.they} pays {cents} cents for a sticker.")
        story.work(f"{person.they} has {{}} cents left.", total, "-", cents)
        story.ask(f"how many cents does {person.they} have left?")
    else:
        story.ask(f"how many cents does {person.they} have?", f"how many cents does {person.name} have in all?")


# ---- calendar -------------------------------------------------------------------------------------------------------

MONTHS = ("January", "March", "April", "May", "June", "September", "October", "November")
EVENTS = ("test", "concert", "game", "party", "school trip", "play", "fair", "picnic", "race", "talent show")
LAST_DAY = 30  # that every month here has
LESSONS = ("swimming", "piano", "dance", "chess", "tennis", "drawing")


def tell_calendar(story: Story, steps: int, distractors: int) -> None:
    """Events follow each other in a month, or lessons come every week."""
    story.choose((tell_dates, tell_lessons))(story, steps, distractors)


def tell_dates(story: Story, steps: int, distractors: int) -> None:
    """Each event is some time before or after another; the question is the last one's day, or how far two are apart."""

    def cost(*relations: int) -> int:
        used = [one for one in relations if one]
        return sum(used) if list(relations) == used + [0] * (4 - len(used)) else 0

    relations = [one for one in choose_plan(story, steps, [range(4)] * 4, cost) if one]
    events, month = story.rng.sample(EVENTS, len(relations) + 1), story.choose(MONTHS)
    day = story.number(1, 14)
    story.tell(f"the {events[0]} is on {month} {day}.")
    for (before, event), size in zip(pairwise(events), relations, strict=True):
        day = relate_dates(story, before, event, size, day)
    if day > LAST_DAY:
        raise UnfitError
    story.ask(f"on what day of {month} is the {events[-1]}?")
    story.distract(
        distractors,
        f"the class has {story.number(15, 30)} students.",
        f"the {events[-1]} lasts {story.number(2, 5)} hours.",
        f"tickets for the {events[-1]} cost ${story.number(3, 15)}.",
        f"last year the {events[0]} had {story.number(31, 90)} guests.",
    )


def relate_dates(story: Story, before: str, event: str, size: int, day: int) -> int:
    """Tell when an event is, by days, weeks or both (a `size` of 1, 2 or 3 steps); return its day of the month."""
    weeks, days = story.number(2, 3), story.number(2, 12 if size == 1 else 6)
    gap = {1: f"{days} days", 2: f"{weeks} weeks", 3: f"{weeks} weeks and {days} days"}[size]
    later = bool(story.number(0, 2))
    side = "after" if later else "before"
    story.tell(f"the {event} is {gap} {side} the {before}.", f"{gap} {side} the {before} is the {event}.")
    if size > 1:
        distance = story.work(f"{weeks} weeks are {{}} days.", weeks, "*", 7)
        days = (
            story.work(f"the {event} is {{}} days {side} the {before}.", distance, "+", days) if size == 3 else distance
        )
    day = story.work(f"the {event} is on day {{}}.", day, "+" if later else "-", days)
    if day > LAST_DAY:
        raise UnfitError
    return day


def tell_lessons(story: Story, steps: int, distractors: int) -> None:
    """One kind of lesson or two, so many a week for some weeks; some are missed, the others cost money."""

    def cost(kinds: int, missed: int, price: int, discount: int) -> int:
        return 2 * kinds - 1 + missed + price + discount if price >= discount else 0

    kinds, missed, price, discount = choose_plan(story, steps, ((1, 2), range(2), range(2), range(2)), cost)
    [person] = choose_people(story.rng, 1)
    name, they = person.name, person.they
    terms: list[Term] = []
    for kind in story.rng.sample(LESSONS, kinds):
        count, weeks = story.number(2, 4), story.number(2, 8)
        who = they if terms else name
        story.tell(
            f"{who} has {count} {kind} lessons a week for {weeks} weeks.",
            f"for {weeks} weeks, {who} has {count} {kind} lessons every week.",
        )
        terms.append(Term(weeks, count, f"{they} has {{}} {kind} lessons."))
    total = story.add_terms(terms, "lessons")
    if missed:
        count = story.number(2, 6)
        story.tell(f"{count} of the lessons are canceled.", f"but {count} of the lessons are canceled.")
        total = story.work("then {} lessons are left.", total, "-", count)
    if price:
        dollars = story.number(3, 9)
        story.tell(f"each lesson{' that takes place' if missed else ''} costs ${dollars}.")
        total = story.work("the lessons cost {} dollars.", total, "*", dollars)
    if discount:
        dollars = story.number(5, 20)
        story.tell(f"{they} gets ${dollars} off the total price.")
        story.work(f"{they} pays {{}} dollars.", total, "-", dollars)
    if price:
        story.ask(f"how many dollars does {they} pay for the lessons?", f"how much does {they} pay in all?")
    else:
        story.ask(f"how many lessons {'take place' if missed else f'does {they} have in all'}?")
    story.distract(
        distractors,
        f"{they} is {story.number(7, 16)} years old.",
        f"each lesson takes {story.number(2, 6) * 10} minutes.",
        f"{person.their} teacher has {story.number(5, 20)} other students.",
        f"the walk to the lessons takes {story.number(5, 25)} minutes.",
    )
