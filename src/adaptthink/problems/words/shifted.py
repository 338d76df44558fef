"""Families of problems in words that no training sees: the same arithmetic in other situations and other words."""

from __future__ import annotations

from adaptthink.problems.words.story import Story, Term, choose_people, choose_plan, join

# ---- bus ------------------------------------------------------------------------------------------------------------

VEHICLES = {"bus": "stop", "train": "station", "tram": "stop", "ferry": "port"}
ORDER = ("first", "second", "third", "fourth", "fifth", "sixth")


def tell_bus(story: Story, steps: int, distractors: int) -> None:
    """People get on and off; in the end each pays, or all sit in equal rows."""

    def cost(changes: int, both: int, end: int) -> int:
        return changes + both + bool(end) if both <= changes and changes + both else 0

    changes, both, end = choose_plan(story, steps, (range(1, 5), range(5), range(3)), cost)
    vehicle, stop = story.choose(VEHICLES.items())
    riders = story.number(4, 40)
    story.tell(
        f"a {vehicle} leaves with {riders} people on board.", f"a {vehicle} starts its trip with {riders} people."
    )
    for number in range(changes):
        where = f"at the {ORDER[number]} {stop}" if changes > 1 else f"at the next {stop}"
        on, off = story.number(2, 15), story.number(2, 15)
        gets_on = bool(story.number(0, 1))
        if number < both:
            story.tell(f"{where}, {off} people get off and {on} people get on.")
            riders = story.work("{} people stay on board.", riders, "-", off)
            gets_on = True
        elif gets_on:
            story.tell(f"{where}, {on} people get on.", f"{on} people get on {where}.")
        else:
            story.tell(f"{where}, {off} people get off.", f"{off} people get off {where}.")
        sign, change = ("+", on) if gets_on else ("-", off)
        riders = story.work(f"after {where.removeprefix('at ')} there are {{}} people.", riders, sign, change)
    if end == 1:
        price = story.number(2, 6)
        story.tell(f"everyone who is now on board pays ${price}.")
        story.work("they pay {} dollars.", riders, "*", price)
        story.ask("how many dollars do they pay in all?")
    elif end == 2:
        rows = story.number(2, 9)
        story.tell(f"those who are now on board sit in {rows} rows, the same number in each.")
        story.work("each row has {} people.", riders, "/", rows)
        story.ask("how many people sit in each row?")
    else:
        story.ask(f"how many people are on the {vehicle} now?", f"how many people does the {vehicle} carry now?")
    story.distract(
        distractors,
        f"the {vehicle} is {story.number(5, 25)} years old.",
        f"the driver has worked for {story.number(2, 30)} years.",
        f"the trip is {story.number(20, 90)} miles long.",
        f"the {vehicle} has {story.number(4, 20)} windows on each side.",
    )


# ---- garden ---------------------------------------------------------------------------------------------------------

FLOWERS = ("tulips", "roses", "lilies", "sunflowers", "daisies")


def tell_garden(story: Story, steps: int, distractors: int) -> None:
    """Flowers stand in rows, or a fence goes around a garden."""
    story.choose((tell_flowers, tell_fence))(story, steps)
    story.distract(
        distractors,
        f"the garden is {story.number(3, 40)} years old.",
        f"there are {story.number(2, 9)} birds in a tree.",
        f"the house next to it has {story.number(2, 9)} rooms.",
        f"it rained for {story.number(2, 9)} hours yesterday.",
    )


def tell_flowers(story: Story, steps: int) -> None:
    """Rows of flowers, of which some wilt; the others are put into vases."""

    def cost(kinds: int, wilted: int, vases: int) -> int:
        return 2 * kinds - 1 + wilted + vases

    kinds, wilted, vases = choose_plan(story, steps, (range(1, 4), range(2), range(2)), cost)
    terms, rows = [], []
    for flower in story.rng.sample(FLOWERS, kinds):
        count, each = story.number(2, 9), story.number(3, 12)
        rows.append(f"{count} rows of {each} {flower}")
        terms.append(Term(count, each, f"there are {{}} {flower}."))
    story.tell(f"in a garden there are {join(rows)}.", f"a garden has {join(rows)}.")
    total = story.add_terms(terms, "flowers")
    if wilted:
        count = story.number(2, 15)
        story.tell(f"then {count} of the flowers wilt.")
        total = story.work("then {} flowers are left.", total, "-", count)
    if vases:
        count = story.number(2, 9)
        story.tell(f"{'the others' if wilted else 'all of them'} are put into {count} vases, the same number in each.")
        story.work("each vase gets {} flowers.", total, "/", count)
        story.ask("how many flowers are in each vase?")
    else:
        story.ask("how many flowers are left?" if wilted else "how many flowers are there?")


def tell_fence(story: Story, steps: int) -> None:
    """A fence around a rectangle, but for the gate; each meter has a price, and part of the money is there."""

    def cost(gate: int, price: int, money: int) -> int:
        return 2 + gate + price + money if price >= money else 0

    gate, price, money = choose_plan(story, steps, (range(2), range(2), range(2)), cost)
    width = story.number(2, 9)
    length = width + story.number(2, 9)
    story.tell(f"a garden is {length} meters long and {width} meters wide.")
    half = story.work("one long and one short side are {} meters.", length, "+", width)
    total = story.work("all four sides are {} meters.", 2, "*", half)
    story.tell("a fence goes all around it." if not gate else "a fence goes around it, but not across the gate.")
    if gate:
        count = story.number(2, 4)
        story.tell(f"the gate is {count} meters wide.")
        total = story.work("without the gate it is {} meters.", total, "-", count)
    if price:
        dollars = story.number(2, 6)
        story.tell(f"each meter of the fence costs ${dollars}.")
        total = story.work("the fence costs {} dollars.", total, "*", dollars)
    if money:
        dollars = story.number(10, 60)
        story.tell(f"the owner has already saved ${dollars} for it.")
        story.work("{} dollars are missing.", total, "-", dollars)
        story.ask("how many more dollars does the owner need?")
    else:
        story.ask("how many dollars does the fence cost?" if price else "how many meters long is the fence?")


# ---- scores ---------------------------------------------------------------------------------------------------------

HITS = (("red", "ring"), ("blue", "ring"), ("green", "ring"), ("black", "ring"))


def tell_scores(story: Story, steps: int, distractors: int) -> None:
    """Throws are worth points; some are lost again, and another player has more or fewer, or several times as many."""

    def cost(kinds: int, lost: int, times: int, other: int) -> int:
        return 2 * kinds - 1 + lost + times + other

    kinds, lost, times, other = choose_plan(story, steps, (range(1, 4), range(2), range(2), range(2)), cost)
    players = [person.name for person in choose_people(story.rng, 3)]
    name = players[0]
    worth, hits, terms = [], [], []
    for color, ring in story.rng.sample(HITS, kinds):
        points, count = story.number(2, 10), story.number(2, 9)
        worth.append(f"a {color} {ring} is worth {points} points")
        hits.append(f"{count} {color} {ring}s")
        terms.append(Term(count, points, f"the {color} {ring}s give {{}} points."))
    story.tell(f"in a game, {join(worth)}.")
    story.tell(f"{name} hits {join(hits)}.", f"{name} throws well and hits {join(hits)}.")
    total = story.add_terms(terms, "points")
    if lost:
        count = story.number(2, 15)
        story.tell(f"{name} loses {count} points for a foul.", f"for a foul, {name} loses {count} points.")
        total = story.work(f"{name} has {{}} points left.", total, "-", count)
    last = name
    if times:
        count, last = story.number(2, 3), players[1]
        story.tell(f"{last} scores {'twice' if count == 2 else '3 times'} as many points as {name}.")
        total = story.work(f"{last} has {{}} points.", total, "*", count)
    if other:
        count, before, last = story.number(2, 20), last, players[2]
        more = bool(story.number(0, 1))
        story.tell(f"{last} scores {count} {'more' if more else 'fewer'} points than {before}.")
        story.work(f"{last} has {{}} points.", total, "+" if more else "-", count)
    story.ask(f"how many points does {last} have?", f"what is the score of {last}?")
    story.distract(
        distractors,
        f"the game lasts {story.number(10, 60)} minutes.",
        f"{name} is {story.number(7, 16)} years old.",
        f"{story.number(10, 90)} people watch the game.",
        f"{last} wears the number {story.number(2, 99)}.",
    )


# ---- farm -----------------------------------------------------------------------------------------------------------

YIELDS = {"cow": (6, 12), "goat": (2, 5), "sheep": (2, 4), "camel": (4, 8)}  # liters of milk a day


def tell_farm(story: Story, steps: int, distractors: int) -> None:
    """Animals give milk; some of it is drunk, more is bought, and it is all put into cans."""

    def cost(kinds: int, drunk: int, bought: int, cans: int) -> int:
        return 2 * kinds - 1 + drunk + bought + cans

    kinds, drunk, bought, cans = choose_plan(story, steps, (range(1, 4), range(2), range(2), range(2)), cost)
    herds, terms = [], []
    for animal in story.rng.sample(list(YIELDS), kinds):
        count, liters = story.number(2, 9), story.number(*YIELDS[animal])
        animals = animal if animal == "sheep" else f"{animal}s"
        herds.append(f"{count} {animals} that give {liters} liters of milk each")
        terms.append(Term(count, liters, f"the {animals} give {{}} liters."))
    story.tell(f"on a farm there are {join(herds)}.", f"a farmer has {join(herds)}.")
    total = story.add_terms(terms, "liters")
    if drunk:
        count = story.number(2, 12)
        story.tell(f"the calves drink {count} liters of the milk.", f"{count} liters of the milk are spilled.")
        total = story.work("then {} liters are left.", total, "-", count)
    if bought:
        count = story.number(2, 20)
        story.tell(f"a neighbor brings {count} more liters.")
        total = story.work("with the milk of the neighbor it is {} liters.", total, "+", count)
    if cans:
        count = story.number(2, 9)
        story.tell(f"all of the milk is now filled into {count} cans, the same amount into each.")
        story.work("each can has {} liters.", total, "/", count)
        story.ask("how many liters of milk are in each can?")
    else:
        story.ask(
            "how many liters of milk are there now?"
            if drunk or bought
            else "how many liters of milk do the animals give?"
        )
    story.distract(
        distractors,
        f"the farm is {story.number(20, 90)} years old.",
        f"the barn has {story.number(2, 9)} doors.",
        f"there are {story.number(3, 12)} cats on the farm.",
        f"the nearest town is {story.number(5, 40)} miles away.",
    )
