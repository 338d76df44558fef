"""Checks of a set: counts by hand, and planted leaks that must be found while others must not."""

import random

import pytest

from adaptthink.grading import AnswerKind
from adaptthink.problems import checks, make_problem
from adaptthink.problems.checks import build_index, check_problems, find_nearest
from adaptthink.problems.sources import Purpose, Reading, read_every_problem
from adaptthink.storage.rows import BadRow

LONG = "A farmer has twelve hens and each of them lays three eggs a day so how many eggs are there in a week?"


def problem(prompt, answer="1", level=None, kind=AnswerKind.MATH):
    return make_problem(prompt, answer, level=level, source="p", kind=kind)


def test_counts():
    rows = [
        problem("How many?", "3", 2),
        problem("How many?", "3", 2),  # the same
        problem(" how  MANY? ", "3", 2),  # the same to a reader
        problem("How many?", "4", 2),  # contradicts
        BadRow("p, line 5", "no"),
        problem("Which?", "B", "stem", AnswerKind.CHOICE),
        problem("Unknown?", " ", 10),
        problem("What?", "5", 10),
        problem("Else?", "5"),
    ]
    check = check_problems("p", rows)
    assert (check.num_rows, check.num_bad, check.num_unparsable) == (9, 1, 1)
    assert (check.num_repeats, check.num_contradictions) == (3, 1)
    assert check.num_kept == 6  # all but the first repeat, the bad row and the unparsable reference answer
    assert check.levels == {"2": 3, "10": 1, "stem": 1, "none": 1}
    assert list(check.levels) == ["2", "10", "stem", "none"]
    assert check.kinds == {"choice": 1, "math": 5}
    assert check.bad_rows == ("p, line 5: no",)
    assert check.unparsable == ("' ' of 'Unknown?'",)
    assert check.leaks == ()


@pytest.mark.parametrize("batch", [1, 3, 10_000])
def test_counts_do_not_depend_on_batches(monkeypatch, batch):
    monkeypatch.setattr(checks, "BATCH", batch)
    rows = [BadRow(f"p, line {n}", "no") for n in range(9)] + [problem(f"{n % 4}?") for n in range(10)]
    check = check_problems("p", rows)
    assert (check.num_rows, check.num_bad, check.num_kept, check.num_repeats) == (19, 9, 4, 6)
    assert check.bad_rows == tuple(f"p, line {n}: no" for n in range(5))


@pytest.mark.parametrize(
    ("prompt", "share", "exact"),
    [
        (LONG, 1, True),
        (LONG.upper().replace(" ", "\n "), 1, True),
        (LONG.replace(" so", ", so:"), 1, False),  # other signs, the same words
        ("Please help me. " + LONG + " Explain.", 1, False),
        (" ".join(LONG.split()[:14]), 1, False),  # its beginning
        (LONG.replace("hens", "geese"), 11 / 16, False),  # 23 words are 16 runs of 8; five hold the fifth word
        ("A farmer has twelve hens.", None, False),  # shorter than a run, and not the whole
        ("How many eggs are there in a week?", None, False),  # one run, which it shares: too few to decide
        (
            "Find the sum of all whole numbers below one hundred that seven divides, and give it as a number.",
            None,
            False,
        ),
    ],
)
def test_near_duplicates(prompt, share, exact):
    index = build_index("other", ["Is it so?", LONG])
    match = find_nearest(index, prompt)
    if share is None:
        assert match is None
    else:
        assert (match.number, match.exact) == (1, exact)
        assert match.share == pytest.approx(share)


def test_short_prompts_are_near_only_as_a_whole():
    index = build_index("other", ["What is 2 + 3?"])
    assert find_nearest(index, "What is 2 * 3") is not None  # signs are no words: better to be looked at than missed
    assert find_nearest(index, "What is 2 + 4?") is None


def test_boilerplate_is_no_leak():
    """What more than ten problems of a set begin with is no evidence about any of them."""
    opening = "For which of these two scenarios does the main character do something clearly wrong, in your opinion"
    many = [f"{opening}: scenario {n}?" for n in range(12)]
    assert find_nearest(build_index("other", many[:10]), f"{opening}: or none?") is not None
    assert find_nearest(build_index("other", many), f"{opening}: or none?") is None
    assert find_nearest(build_index("other", many), many[3].replace(":", ";")).number == 3


def test_leaks_are_counted_on_both_sides():
    index = build_index("test", [LONG, LONG + " ", "What is 2 + 3?", "Why?"])
    rows = [problem(LONG), problem(LONG), problem("So: " + LONG), problem("what is 2 + 3?"), problem("Who?")]
    (leak,) = check_problems("p", rows, [index]).leaks
    assert (leak.against, leak.num_against) == ("test", 3)  # its repeat is not counted
    assert (leak.num_exact, leak.num_near, leak.num_given_away) == (2, 1, 2)
    assert [(example.prompt, example.other) for example in leak.examples] == [
        (LONG, LONG),
        ("what is 2 + 3?", "What is 2 + 3?"),
        ("So: " + LONG, LONG),
    ]


def prompts_of(name, data_folder):
    reading = Reading(data=data_folder, instruction="")
    return [row.prompt for row in read_every_problem(name, Purpose.CHECK, per_level=1, seed=0, reading=reading)]


@pytest.mark.parametrize(
    ("name", "against", "exact", "near"),
    [
        ("gsm8k:train", "gsm8k:test", 0, 2),
        ("gsm8k:train", "svamp:test", 0, 0),
        ("math", "math500", 0, 48),
        ("math", "amc23", 0, 0),
    ],
)
def test_leaks_between_real_sets(data_folder, name, against, exact, near):
    index = build_index(against, prompts_of(against, data_folder))
    matches = [find_nearest(index, prompt) for prompt in prompts_of(name, data_folder)]
    assert sum(match.exact for match in matches if match) == exact
    assert sum(not match.exact for match in matches if match) == near


def changed(prompt, way, rng):
    words = prompt.split()
    match way:
        case "signs":
            return prompt.replace("$", "").replace("\\", " ").replace(",", " ,").upper()
        case "framed":
            return "Solve this problem carefully and show your work. " + prompt + " Write down the final answer."
        case "one word in twenty":
            return " ".join("thing" if rng.random() < 0.05 else word for word in words)
        case "first two thirds":
            return " ".join(words[: 2 * len(words) // 3])
    raise AssertionError(way)


@pytest.mark.parametrize(
    ("way", "found"), [("signs", 0.99), ("framed", 0.99), ("one word in twenty", 0.7), ("first two thirds", 0.95)]
)
def test_planted_leaks_are_found(data_folder, way, found):
    """300 problems of GSM8K's test split, each changed; what is found must be the very problem."""
    rng = random.Random(0)
    prompts = prompts_of("gsm8k:test", data_folder)[:300]
    index = build_index("gsm8k:test", prompts)
    matches = [find_nearest(index, changed(prompt, way, rng)) for prompt in prompts]
    right = sum(match is not None and match.number == number for number, match in enumerate(matches))
    assert right / len(prompts) >= found
    assert sum(match is not None for match in matches) == right
