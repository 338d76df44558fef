"""A second solver of problems in words: it reads the English of a question, and shares no code with what wrote it.

Every sentence must be one that it knows, be it a fact or one of the distractors. Only the question's text is used.
"""

import re
from fractions import Fraction

DISTRACTORS = re.compile(
    r"""(?:
    .* \b is\ \d+\ years\ old | the\ walk\ to\ the\ (?:store|lessons)\ takes\ \d+\ minutes
    | the\ store\ opens\ at .* | there\ are\ \d+\ (?:other\ people|chairs|birds|cats)\b.* | .*\ lives\ .*
    | .*\ has\ \d+\ (?:cousins|other\ students) | .*\ met\ .* | it\ is\ \d+\ degrees\ outside | the\ party\ starts\ .*
    | the\ class\ has\ .* | the\ [\w\ ]+\ lasts\ .* | tickets\ for\ the\ .* | last\ year\ .* | each\ lesson\ takes\ .*
    | the\ driver\ .* | the\ trip\ is\ .* | the\ \w+\ has\ \d+\ windows.* | the\ house\ .* | it\ rained\ .*
    | \d+\ people\ watch.* | .*\ wears\ the\ number.* | the\ barn\ .* | the\ nearest\ town\ .*
    )$""",
    re.VERBOSE | re.IGNORECASE,
)


class UnreadError(Exception):
    """A question says something that this solver does not understand."""


class Reader:
    """The sentences of one question, and the ones that were understood."""

    def __init__(self, question):
        *self.facts, self.asked = re.findall(r"[^.?]+[.?]", question)
        self.facts = [fact.strip(" .") for fact in self.facts]
        self.asked = self.asked.strip(" ?")
        self.used = set()

    def find(self, pattern):
        """All matches in the facts, in order; each fact that has one is understood."""
        found = []
        for number, fact in enumerate(self.facts):
            for match in re.finditer(pattern, fact, re.IGNORECASE):
                self.used.add(number)
                found.append(match)
        return found

    def numbers(self, pattern):
        """The number in each match, whichever group has it."""
        return [int(next(filter(None, match.groups()))) for match in self.find(pattern)]

    def one(self, pattern, default=0):
        found = self.numbers(pattern)
        assert len(found) < 2
        return found[0] if found else default

    def check_all_read(self):
        unread = [fact for number, fact in enumerate(self.facts) if number not in self.used]
        if unknown := [fact for fact in unread if not DISTRACTORS.match(fact)]:
            raise UnreadError(f"these sentences mean nothing: {unknown}")


def divide(total, parts):
    """The exact quotient; a fraction, which is no answer, where there is none."""
    return Fraction(total, parts)


def shopping(read):
    total = sum(int(one[1]) * int(one[2]) for one in read.find(r"(\d+) [a-z ]+ for \$(\d+) each"))
    total += sum(read.numbers(r"\ba (?!coupon)[a-z ]+ for \$(\d+)"))
    total -= read.one(r"coupon for \$(\d+) off|takes \$(\d+) off")
    if people := read.one(r"^(\d+) people share the cost equally|equally among (\d+) people"):
        assert "each person" in read.asked
        return divide(total, people)
    if has := read.one(r"^\w+ has \$(\d+)$"):
        assert "left" in read.asked
        return has - total
    if pays := read.one(r"pays with \$(\d+)|gives the clerk \$(\d+)"):
        assert "back" in read.asked or "change" in read.asked
        return pays - total
    return total


def ages(read):
    [first] = read.find(r"^(?!a neighbor)(\w+) is (\d+) years old$")
    known = {first[1]: int(first[2])}
    times = {"twice": 2, "3 times": 3, "4 times": 4}
    for one in read.find(
        r"^(\w+) is (?:(\d+) years (older|younger) than|(twice|half|3 times|4 times) as old as) (\w+)$"
    ):
        name, years, side, factor, other = one.groups()
        if years:
            gap = int(years) if side == "older" else -int(years)
            new, age = (name, known[other] + gap) if other in known else (other, known[name] - gap)
        elif factor == "half":
            new, age = (name, divide(known[other], 2)) if other in known else (other, known[name] * 2)
        else:
            size = times[factor]
            new, age = (name, known[other] * size) if other in known else (other, divide(known[name], size))
        assert new not in known
        known[new] = age
    if later := re.search(r"will (\w+) be in (\d+) years", read.asked):
        return known[later[1]] + int(later[2])
    if earlier := re.search(r"was (\w+) (\d+) years ago", read.asked):
        return known[earlier[1]] - int(earlier[2])
    names = re.findall(r"[A-Z]\w+", read.asked.removeprefix("How").removeprefix("What"))
    assert len(names) == 1 or "together" in read.asked or "sum" in read.asked
    return sum(known[name] for name in names)


def rates(read):
    number, total = r"(\d+) (?:hour|day)s", 0
    for one in read.find(r"^.* works .*$"):
        rate, *_ = re.findall(r"(?:[a-z]s|es) (\d+) ", one[0])
        times = re.findall(number, one[0])
        assert (
            len(times)
            == one[0].count(" and ") - one[0].count("and works") - one[0].count("and he") - one[0].count("and she") + 1
        )
        total += int(rate) * sum(map(int, times))
    total += read.one(r"already had (\d+) .* at the start$|^at the start .* had (\d+) ")
    total -= read.one(r"^then .* (?:sells?|spends?|gives? away) (\d+) ")
    groups = read.one(
        r"to (\d+) shops, the same number to each$|tickets for \$(\d+) each with (?:all|the rest of) the money$"
    )
    return divide(total, groups) if groups else total


def sharing(read):
    total = read.one(r"^\w+ has (\d+) (?!\w+ (?:of|with) \d)(?!cousins)[a-z ]+$")
    for one in read.find(r"(\d+) (?:bags|boxes|packs|jars) (?:of|with) (\d+) "):
        total += int(one[1]) * int(one[2])
    total += sum(read.numbers(r"(\d+) more "))
    total -= sum(read.numbers(r"(?:loses|eats) (\d+) |^\w+ gives (\d+) .* to \w+ teacher$|mother (\d+) "))
    children = read.one(r"equally among (\d+) ")
    if not children:
        return total
    had = read.one(r"each \w+ (?:already )?had (\d+) ")
    assert read.asked.endswith("have now" if had else "get")
    return divide(total, children) + had


def units(read):
    total = 0
    for unit, factor in {
        "feet": 12,
        "hours": 60,
        "weeks": 7,
        "dozen": 12,
        "quarters": 25,
        "dimes": 10,
        "nickels": 5,
    }.items():
        total += factor * sum(read.numbers(rf"(\d+) {unit}\b"))
    total += sum(read.numbers(r"and (\d+) (?:inches|minutes|days|single)\b"))
    total -= read.one(
        r"uses (\d+) |already practiced for (\d+) |it rains on (\d+) |spends (\d+) cents|pays (\d+) cents"
    )
    parts = read.one(r"pieces of (\d+) inches$|evenly over (\d+) days$|into (\d+) baskets, the same number in each$")
    return divide(total, parts) if parts else total


def calendar(read):
    if "lesson" in read.asked or read.find(r"lessons"):
        return lessons(read)
    [first] = read.find(r"^the ([a-z ]+) is on ([A-Z]\w+) (\d+)$")
    days = {first[1]: int(first[3])}
    told = r"(?:(\d+) weeks)?(?: and )?(?:(\d+) days)? (after|before)"
    patterns = (
        rf"^the (?P<new>[a-z ]+) is {told} the (?P<old>[a-z ]+)$",
        rf"^{told} the (?P<old>[a-z ]+) is the (?P<new>[a-z ]+)$",
    )
    while found := [
        one for pattern in patterns for one in read.find(pattern) if one["new"] not in days and one["old"] in days
    ]:
        for one in found:
            numbers = [int(part or 0) for part in re.search(told, one[0]).groups()[:2]]
            distance = 7 * numbers[0] + numbers[1]
            days[one["new"]] = days[one["old"]] + (distance if " after the " in one[0] else -distance)
    event = re.fullmatch(rf"On what day of {first[2]} is the ([a-z ]+)", read.asked)[1]
    assert 1 <= min(days.values()) <= max(days.values()) <= 30
    return days[event]


def lessons(read):
    total = sum(int(one[1]) * int(one[2]) for one in read.find(r"has (\d+) \w+ lessons a week for (\d+) weeks$"))
    total += sum(
        int(one[1]) * int(one[2]) for one in read.find(r"^for (\d+) weeks, \w+ has (\d+) \w+ lessons every week$")
    )
    total -= read.one(r"(\d+) of the lessons are canceled$")
    if price := read.one(r"^each lesson .*costs \$(\d+)$"):
        assert "pay" in read.asked
        total = total * price - read.one(r"gets \$(\d+) off the total price$")
    return total


def bus(read):
    riders = read.one(r"^a \w+ (?:leaves|starts its trip) with (\d+) people")
    riders += sum(read.numbers(r"(\d+) people get on\b")) - sum(read.numbers(r"(\d+) people get off\b"))
    if price := read.one(r"pays \$(\d+)$"):
        return riders * price
    rows = read.one(r"in (\d+) rows, the same number in each$")
    return divide(riders, rows) if rows else riders


def garden(read):
    if sides := read.find(r"(\d+) meters long and (\d+) meters wide$"):
        total = 2 * int(sides[0][1]) + 2 * int(sides[0][2]) - read.one(r"gate is (\d+) meters wide$")
        assert read.find(r"a fence goes all around it$|a fence goes around it, but not across the gate$")
        total *= read.one(r"each meter of the fence costs \$(\d+)$", 1)
        return total - read.one(r"already saved \$(\d+) for it$")
    total = sum(int(one[1]) * int(one[2]) for one in read.find(r"(\d+) rows of (\d+) "))
    total -= read.one(r"^then (\d+) of the flowers wilt$")
    vases = read.one(r"into (\d+) vases, the same number in each$")
    return divide(total, vases) if vases else total


def scores(read):
    worth = {one[1]: int(one[2]) for one in read.find(r"a (\w+) ring is worth (\d+) points")}
    [player] = read.find(r"^(\w+) (?:throws well and )?hits ")
    points = {player[1]: sum(worth[one[2]] * int(one[1]) for one in read.find(r"(\d+) (\w+) rings"))}
    points[player[1]] -= read.one(r"loses (\d+) points for a foul$|^for a foul, \w+ loses (\d+) points$")
    for one in read.find(r"^(\w+) scores (twice|3 times) as many points as (\w+)$"):
        points[one[1]] = points[one[3]] * (2 if one[2] == "twice" else 3)
    for one in read.find(r"^(\w+) scores (\d+) (more|fewer) points than (\w+)$"):
        points[one[1]] = points[one[4]] + (int(one[2]) if one[3] == "more" else -int(one[2]))
    return points[re.search(r"(?:does|score of) ([A-Z]\w+)", read.asked)[1]]


def farm(read):
    total = sum(int(one[1]) * int(one[2]) for one in read.find(r"(\d+) \w+ that give (\d+) liters of milk each"))
    total -= read.one(r"drink (\d+) liters|(\d+) liters of the milk are spilled")
    total += read.one(r"brings (\d+) more liters$")
    cans = read.one(r"into (\d+) cans, the same amount into each$")
    return divide(total, cans) if cans else total


READERS = {
    one.__name__: one for one in (shopping, ages, rates, sharing, units, calendar, bus, garden, scores, farm)
}  # fmt: skip


def solve(family, question):
    """Return the answer of a question, from its text alone."""
    read = Reader(question)
    answer = READERS[family](read)
    read.check_all_read()
    return answer
