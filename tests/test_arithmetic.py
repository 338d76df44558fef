"""Procedural problems: by hand, the same on every machine, and in one split each."""

import re

import pytest

from adaptthink.problems import make_problem, make_problem_id
from adaptthink.problems.arithmetic import (
    OPERATIONS_BY_LEVEL,
    Chain,
    Kind,
    Split,
    format_question,
    generate_chains,
    generate_problems,
)

BY_HAND = [
    (Chain(47, (8, -3)), (47, 55, 52), "47+8-3", "47+8-3=?", "Tom has 47 gets 8 gives 3 how many?"),
    (Chain(5, (-5,)), (5, 0), "5-5", "5-5=?", "Tom has 5 gives 5 how many?"),
    (
        Chain(90, (9, -1, -9, 1)),
        (90, 99, 98, 89, 90),
        "90+9-1-9+1",
        "90+9-1-9+1=?",
        "Tom has 90 gets 9 gives 1 gives 9 gets 1 how many?",
    ),
]

EVERY_SINGLE_STEP = [
    Chain(first, (step,)) for first in range(1, 100) for step in range(-9, 10) if step and 0 <= first + step <= 99
]
COUNTS = {Split.SUPERVISED: 873, Split.TRAIN: 322, Split.HELD_OUT: 92, Split.EVALUATION: 414}


def chain_of(prompt):
    """Read a chain back from either wording, without the code under test."""
    expression = prompt.replace(" gets ", "+").replace(" gives ", "-")
    first, *steps = re.findall(r"[+-]?\d+", expression)
    return Chain(int(first), tuple(int(step) for step in steps))


@pytest.mark.parametrize(("chain", "values", "expression", "as_chain", "as_story"), BY_HAND)
def test_chain_by_hand(chain, values, expression, as_chain, as_story):
    assert chain.values == values
    assert chain.expression == expression
    assert format_question(chain, Kind.CHAIN) == as_chain
    assert format_question(chain, Kind.STORY) == as_story


def test_splits_and_ids_are_pinned():
    """Literal values: a change here would silently move problems between splits and orphan every store."""
    assert Chain(47, (8, -3)).split is Split.EVALUATION
    assert Chain(5, (4,)).split is Split.SUPERVISED
    assert Chain(12, (-9, 9, 1)).split is Split.TRAIN
    assert make_problem_id("34+4=?", "38", "arithmetic/chain/train") == "1c8086a0f9b3adf1"
    assert make_problem_id("34+4=?", "38") == "5e3963a312f31a90"
    first = generate_problems(1, seed=0, split=Split.EVALUATION)
    assert [(problem.id, problem.prompt, problem.answer) for problem in first[::2]] == [
        ("a1abfd57258df542", "33+2=?", "35"),
        ("eaedfd371674da5c", "94+4-4-8=?", "86"),
        ("1583056ea3b2f845", "48-2+9-4+9+1-5+2+8+3=?", "69"),
    ]


def test_id_depends_on_every_part_and_on_nothing_else():
    base = make_problem("1+1=?", "2", source="a")
    assert make_problem("1+1=?", "2", level=3, source="a").id == base.id
    others = {make_problem(*parts, source=s).id for *parts, s in [("1+1=? ", "2", "a"), ("1+1=?", "3", "a")]}
    assert base.id not in others | {make_problem("1+1=?", "2", source="b").id}
    assert make_problem_id("ab", "c") != make_problem_id("a", "bc")


def test_split_follows_from_the_chain_alone():
    """Thousands of samples with other seeds: each split yields its own chains, and no chain is in two of them."""
    generated = {
        split: {
            chain.expression
            for operations in OPERATIONS_BY_LEVEL.values()
            for chain, _ in zip(generate_chains(seed, split, operations), range(250), strict=False)
        }
        for seed, split in enumerate(Split)
    }
    assert sum(len(expressions) for expressions in generated.values()) > 3000
    for one in Split:
        assert not any(generated[one] & generated[other] for other in Split if other is not one)


def test_every_chain_of_one_operation_by_split():
    """Counted out once with plain hashlib; close to 50, 20, 5 and 25 %."""
    splits = [chain.split for chain in EVERY_SINGLE_STEP]
    assert {split: splits.count(split) for split in Split} == COUNTS


def test_both_kinds_ask_for_the_same_chains():
    chain_kind = generate_problems(20, seed=3, split=Split.TRAIN, kind=Kind.CHAIN)
    story_kind = generate_problems(20, seed=3, split=Split.TRAIN, kind=Kind.STORY)
    assert [chain_of(p.prompt) for p in chain_kind] == [chain_of(p.prompt) for p in story_kind]
    assert [p.answer for p in chain_kind] == [p.answer for p in story_kind]
    assert not {p.id for p in chain_kind} & {p.id for p in story_kind}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("split", Split)
def test_problems_are_what_was_requested(kind, split):
    found = generate_problems(30, seed=11, split=split, kind=kind)
    assert [problem.level for problem in found] == [level for level in (1, 2, 3, 4, 5) for _ in range(30)]
    assert len({problem.prompt for problem in found}) == len({problem.id for problem in found}) == 150
    for problem in found:
        chain = chain_of(problem.prompt)
        assert len(chain.steps) == {1: 1, 2: 2, 3: 3, 4: 6, 5: 9}[problem.level]
        assert all(1 <= abs(step) <= 9 for step in chain.steps)
        assert all(0 <= value <= 99 for value in chain.values)
        assert problem.answer == str(chain.first + sum(chain.steps))
        assert chain.split is split
        assert problem.source == f"arithmetic/{kind}/{split}"


def test_seed_decides_which_problems():
    assert generate_problems(20, seed=5, split=Split.TRAIN) == generate_problems(20, seed=5, split=Split.TRAIN)
    assert generate_problems(20, seed=5, split=Split.TRAIN) != generate_problems(20, seed=6, split=Split.TRAIN)


def test_asking_for_more_gives_the_same_and_more():
    few, many = (generate_problems(count, seed=2, split=Split.TRAIN) for count in (5, 25))
    for level in OPERATIONS_BY_LEVEL:
        own = [problem for problem in many if problem.level == level]
        assert own[:5] == [problem for problem in few if problem.level == level]


def test_enough_level_one_problems_to_evaluate_on():
    found = generate_problems(300, seed=0, split=Split.EVALUATION)
    assert len({problem.id for problem in found if problem.level == 1}) == 300


def test_too_many_problems_requested():
    with pytest.raises(ValueError, match=r"^level 1 of split 'held_out' holds only about \d+ different") as caught:
        generate_problems(100, seed=0, split=Split.HELD_OUT)
    message = str(caught.value)
    assert message.endswith("but 100 were requested; request fewer")
    assert int(re.search(r"about (\d+)", message)[1]) == COUNTS[Split.HELD_OUT]
