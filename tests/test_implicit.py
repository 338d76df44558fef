"""The signs of thinking in an answer, each by hand."""

import json
import random
import statistics

import pytest

from adaptthink.grading.implicit_thinking import (
    Signs,
    compute_medians_of_others,
    measure_repetition,
    read_signs,
    thinks_implicitly,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Wait, 3+4 is 7. \\boxed{7}", ("Wait",)),
        ("So x = 2. Alternatively, factor it. Hmm, hmmm.", ("Alternatively", "Hmm", "hmmm")),
        (
            "It is 5, but wait: no. Let me double-check. Let me recheck.",
            ("but wait", "Let me double-check", "Let me recheck"),
        ),
        ("Hold on. On second thought, let me check.", ("Hold on", "On second thought")),
        ("They wait 5 minutes, alternatively 6. Waiting is allowed. Let me explain. \\boxed{5}", ()),
        ("", ()),
    ],
)
def test_keywords_count_where_a_second_thought_begins(text, found):
    [signs] = read_signs([("g", text)])
    assert signs.keywords == found
    assert thinks_implicitly(signs) == bool(found)


def test_repetition_by_hand():
    assert measure_repetition("a b c d e") == 0
    assert measure_repetition("a b c d a b c d") == pytest.approx(1 - 4 / 5)  # abcd bcda cdab dabc abcd
    assert measure_repetition("x " * 13) == pytest.approx(1 - 1 / 10)
    assert measure_repetition("a b c") == 0


def test_length_is_relative_to_the_others_of_the_group():
    answers = [("1", "x" * 10), ("2", "x" * 7), ("1", "x" * 20), ("1", "x" * 60), ("1", "x" * 30)]
    ratios = [signs.relative_length for signs in read_signs(iter(answers))]
    assert ratios == [10 / 30, None, 20 / 30, 60 / 20, 30 / 20]
    assert [signs.relative_length for signs in read_signs([("g", ""), ("g", "abc")])] == [0.0, None]


def test_medians_of_others_as_the_library_has_them():
    rng = random.Random(0)
    for _ in range(500):
        values = [rng.randint(0, 9) for _ in range(rng.randint(2, 8))]
        assert compute_medians_of_others(values) == [
            statistics.median(values[:i] + values[i + 1 :]) for i in range(len(values))
        ]
    assert compute_medians_of_others([4]) == [0]


def test_length_and_repetition_count_only_together():
    assert thinks_implicitly(Signs((), 0.3, 3.0))
    assert not thinks_implicitly(Signs((), 0.9, 2.9))
    assert not thinks_implicitly(Signs((), 0.29, 50.0))
    assert not thinks_implicitly(Signs((), 0.9, None))
    assert thinks_implicitly(Signs(("Wait",), 0.0, None))


@pytest.mark.parametrize(("name", "field", "most"), [("gsm8k_test", "answer", 0), ("math500_test", "solution", 0.01)])
def test_solutions_that_people_wrote_are_hardly_ever_counted(data_folder, name, field, most):
    lines = (data_folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    signs = read_signs((name, json.loads(line)[field]) for line in lines)
    assert len(signs) >= 500
    assert sum(map(thinks_implicitly, signs)) <= most * len(signs)
