"""The ways of working a chain, against texts written by hand."""

import pytest

from adaptthink.models.make_tiny import generate_examples, make_tokenizer, write_thinking
from adaptthink.models.ways import Way, read_way, write_work
from adaptthink.problems.arithmetic import Chain

FOUR, ONE = Chain(47, (8, -3, 9, -4)), Chain(4, (5,))


@pytest.mark.parametrize(
    ("chain", "way", "text"),
    [
        (FOUR, Way.LONG, "+8\n47+8\n=55\n-3\n55-3\n=52\n+9\n52+9\n=61\n-4\n61-4\n=57"),
        (FOUR, Way.MEDIUM, "47+8=55\n55-3=52\n52+9=61\n61-4=57"),
        (FOUR, Way.SHORT, "47+8=55-3=52+9=61-4=57"),
        (ONE, Way.LONG, "+5\n4+5\n=9"),
        (ONE, Way.MEDIUM, "4+5=9"),
        (ONE, Way.SHORT, "4+5=9"),
    ],
)
def test_each_way_is_written_as_documented(chain, way, text):
    assert write_work(chain, way) == text


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("again", Way)
def test_a_way_is_read_from_its_first_pass(way, again):
    assert read_way(f"Alright\n{write_work(FOUR, way)}\nWait\n{write_work(FOUR, again)}\n") is way
    assert read_way(f"Okay\n{write_work(FOUR, way)[:9]}") is way  # a thought that was cut


@pytest.mark.parametrize("thinking", ["", "Alright", "Alright\n", "Alright\n47", "Alright\n47+8", "\n=55", "47+8=55"])
def test_other_beginnings_are_in_none(thinking):
    assert read_way(thinking) is None


def test_one_operation_is_read_as_short_where_it_could_be_medium():
    assert [read_way(f"Alright\n{write_work(ONE, way)}\n") for way in Way] == [Way.LONG, Way.SHORT, Way.SHORT]
    assert read_way(f"Alright\n{write_work(ONE, Way.SHORT)}\nWait\n{write_work(ONE, Way.SHORT)}\n") is Way.SHORT


@pytest.mark.parametrize(("way", "rechecks", "text"), [
    (Way.SHORT, 0, "\n4+5=9\n"),
    (Way.SHORT, 2, "\n4+5=9\nWait\n4+5=9\nWait\n4+5=9\n"),
    (Way.LONG, 1, "\n+5\n4+5\n=9\nWait\n4+5=9\n"),
])  # fmt: skip
def test_rechecks_are_short(way, rechecks, text):
    assert write_thinking(ONE, way, rechecks) == text


def test_the_ways_change_nothing_else_in_the_training_examples():
    tokenizer = make_tokenizer()
    short_alone, mixed = (
        generate_examples(tokenizer, 3, 0.5, ways) for ways in ({Way.SHORT: 1.0}, dict.fromkeys(Way, 1.0))
    )
    read = set()
    for _ in range(40):
        one, other = next(short_alone), next(mixed)
        assert one.thinks == other.thinks
        assert one.ids[: one.prompt_tokens] == other.ids[: other.prompt_tokens]
        texts = [tokenizer.decode(example.ids[example.prompt_tokens :]) for example in (one, other)]
        if one.thinks:
            assert texts[0].count("Wait") == texts[1].count("Wait")
            assert texts[0].partition("</think>")[1:] == texts[1].partition("</think>")[1:]
            read.add(read_way(texts[1]))
        else:
            assert texts[0] == texts[1]
    assert read == set(Way)
