"""Families of problems in words: shopping and sharing."""

from __future__ import annotations

from adaptthink.problems.words.story import Person, Story, Term, choose_people, choose_plan, join

# ---- shopping -------------------------------------------------------------------------------------------------------

GOODS = {  # singular, plural: the lowest and the highest price
    ("ball", "balls"): (4, 12),
    ("balloon", "balloons"): (2, 4),
    ("book", "books"): (5, 15),
    ("cake", "cakes"): (8, 18),
    ("candle", "candles"): (2, 7),
    ("comic", "comics"): (3, 8),
    ("hat", "hats"): (6, 15),
    ("mug", "mugs"): (4, 9),
    ("notebook", "notebooks"): (2, 6),
    ("pen", "pens"): (2, 5),
    ("plant", "plants"): (5, 12),
    ("poster", "posters"): (4, 9),
    ("puzzle", "puzzles"): (6, 14),
    ("sandwich", "sandwiches"): (3, 8),
    ("scarf", "scarves"): (8, 18),
    ("toy car", "toy cars"): (3, 9),
}


def tell_shopping(story: Story, steps: int, distractors: int) -> None:
    """Several things are bought; then perhaps a coupon, and change, or a cost that is shared."""

    def cost(several: int, single: int, coupon: int, end: int) -> int:
        return several + max(several + single - 1, 0) + coupon + bool(end) if 0 < several + single < 4 else 0

    several, single, coupon, end = choose_plan(story, steps, (range(4), range(3), range(2), range(4)), cost)
    [buyer] = choose_people(story.rng, 1)
    they = buyer.they
    terms, bought = [], []
    for number, goods in enumerate(story.rng.sample(list(GOODS), several + single)):
        price = story.number(*GOODS[goods])
        count = story.number(2, 6) if number < several else 1
        bought.append(f"{count} {goods[1]} for ${price} each" if count > 1 else f"a {goods[0]} for ${price}")
        added = "Together that is" if number == 1 else f"With the {goods[count > 1]} it is"
        wording = f"the {goods[1]} cost {{}} dollars."
        terms.append(Term(count, price, wording, added) if count > 1 else Term(price, None, added=added))
    has, pays, shares = end == 1, end == 2, end == 3
    total = story.add_terms(terms, "dollars")
    who = they if has else buyer.name
    story.tell(f"{who} buys {join(bought)}.", f"{who} goes to the store and buys {join(bought)}.")
    if coupon:
        off = story.number(2, max(2, min(9, total // 2)))
        story.tell(f"{they} has a coupon for ${off} off.", f"the clerk takes ${off} off the price.")
        total = story.work("after the discount it is {} dollars.", total, "-", off)
    if has:
        money = total + story.number(2, 30)
        story.facts.insert(0, f"{buyer.name} has ${money}.")
        story.work(f"{they} has {{}} dollars left.", money, "-", total)
        story.ask(f"how many dollars does {they} have left?", f"how much money does {they} have left?")
    elif pays:
        money = story.choose([note for note in (10, 20, 50, 100, 200) if note > total][:2] or [400])
        story.tell(f"{they} pays with ${money}.", f"{they} gives the clerk ${money}.")
        story.work(f"{they} gets back {{}} dollars.", money, "-", total)
        story.ask(f"how many dollars does {they} get back?", f"how much change does {they} get?")
    elif shares:
        count = story.number(2, 5)
        story.tell(f"{count} people share the cost equally.", f"the cost is split equally among {count} people.")
        story.work("each person pays {} dollars.", total, "/", count)
        story.ask("how many dollars does each person pay?", "how much does each person pay?")
    else:
        story.ask(
            f"how many dollars does {they} pay?",
            f"how much does {they} spend in all?" if len(terms) > 1 else f"how much does {they} spend?",
            f"how much money does {they} spend?",
        )
    story.distract(
        distractors,
        f"{they} is {story.number(8, 60)} years old.",
        f"the walk to the store takes {story.number(5, 30)} minutes.",
        f"the store opens at {story.number(7, 10)} o'clock.",
        f"there are {story.number(3, 12)} other people in the store.",
        f"{they} lives {story.number(2, 9)} blocks away from the store.",
    )


# ---- sharing --------------------------------------------------------------------------------------------------------

SHARED = {
    "candies": "eats",
    "cookies": "eats",
    "crackers": "eats",
    "grapes": "eats",
    "strawberries": "eats",
} | dict.fromkeys(("beads", "marbles", "shells", "stamps", "stickers", "trading cards"), "loses")
RECEIVERS = (("friend", "friends"), ("child", "children"), ("cousin", "cousins"), ("classmate", "classmates"))
CONTAINERS = ("bags", "boxes", "packs", "jars")


def tell_sharing(story: Story, steps: int, distractors: int) -> None:
    """Things come together and go away; then they are shared equally among some, who may have had some before."""

    def cost(packed: int, events: int, more: int, shared: int, own: int) -> int:
        fits = (shared or not (own or events)) and (packed or shared) and (packed or not more or shared)
        return packed + events + 2 * more + shared + own if fits else 0

    parts = (range(2), range(3), range(2), range(2), range(2))
    packed, events, more, shared, own = choose_plan(story, steps, parts, cost)
    [person] = choose_people(story.rng, 1)
    name, they = person.name, person.they
    things = story.choose(SHARED)
    container, other = story.rng.sample(CONTAINERS, 2)
    if packed:
        count, each = story.number(2, 9), story.number(3, 9)
        story.tell(
            f"{name} has {count} {container} of {each} {things} each.",
            f"{name} has {count} {container} with {each} {things} in each.",
        )
        total = story.work(f"{they} has {{}} {things}.", count, "*", each)
    else:
        total = story.number(8, 60)
        story.tell(f"{name} has {total} {things}.")
    if more:
        count, each = story.number(2, 5), story.number(3, 9)
        story.tell(f"then {they} buys {count} {other} of {each} {things} each.")
        bought = story.work(f"{they} buys {{}} {things}.", count, "*", each)
        total = story.work(f"now {they} has {{}} {things}.", total, "+", bought)
    kinds = story.rng.sample(("gain", "loss", "gift"), events)
    for kind in kinds:
        total = tell_event(story, person, things, kind, total)
    if not shared:
        story.ask(f"how many {things} does {they} have?", f"how many {things} does {name} have in all?")
    else:
        share(story, person, things, total, rest=bool(kinds) and kinds[-1] != "gain", own=bool(own))
    story.distract(
        distractors,
        f"{they} is {story.number(7, 14)} years old.",
        f"the party starts at {story.number(2, 6)} o'clock.",
        f"there are {story.number(3, 12)} chairs in the room.",
        f"{name} lives {story.number(2, 20)} miles away.",
    )


def tell_event(story: Story, person: Person, things: str, kind: str, total: int) -> int:
    """Tell of things that come or go; return how many there are then."""
    they, their, count = person.they, person.their, story.number(2, 12)
    if kind == "gain":
        story.tell(
            f"{their} aunt gives {person.them} {count} more {things}.",
            f"{they} finds {count} more {things}.",
            f"{they} gets {count} more {things} from {their} uncle.",
        )
        return story.work(f"with the new ones {they} has {{}} {things}.", total, "+", count)
    if kind == "gift":
        story.tell(
            f"{they} gives {count} {things} to {their} teacher.", f"{they} gives {their} mother {count} {things}."
        )
    else:
        story.tell(f"{they} {SHARED[things]} {count} {things}.", f"then {they} {SHARED[things]} {count} {things}.")
    return story.work(f"then {they} has {{}} {things} left.", total, "-", count)


def share(story: Story, person: Person, things: str, total: int, *, rest: bool, own: bool) -> None:
    """Tell that things are shared equally, and ask how many each gets, or then has."""
    they, (one, several) = person.they, story.choose(RECEIVERS)
    count = story.number(2, 9)
    story.tell(f"{they} shares {'the rest of the' if rest else 'the'} {things} equally among {count} {several}.")
    each = story.work(f"each {one} gets {{}} {things}.", total, "/", count)
    if own:
        had = story.number(2, 12)
        story.tell(f"each {one} already had {had} {things}.", f"before that, each {one} had {had} {things}.")
        story.work(f"then each {one} has {{}} {things}.", each, "+", had)
        story.ask(f"how many {things} does each {one} have now?")
    else:
        story.ask(f"how many {things} does each {one} get?")
