r"""Grading by hand: what is read, what counts as equal, what is not an answer at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptthink.grading import Verdict, grade, last_boxed, reward, same_answer

CLOSE = "</think>"


@pytest.mark.parametrize(
    ("response", "gold", "verdict"),
    [
        ("Alright\n47+8=55\n</think>\\boxed{55}<|eos|>", "55", Verdict.CORRECT),
        ("</think>\\boxed{55}<|eos|>", "55", Verdict.CORRECT),
        ("</think>\\boxed{54}<|eos|>", "55", Verdict.WRONG),
        ("</think>I first had \\boxed{54}, but it is \\boxed{55}.", "55", Verdict.CORRECT),
        ("</think>\\boxed{55} or perhaps \\boxed{54}", "55", Verdict.WRONG),
        ("</think>\\boxed{55} and \\boxed{", "55", Verdict.CORRECT),
        ("</think>\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", Verdict.CORRECT),
        ("</think>55", "55", Verdict.UNPARSED),
        ("</think>", "55", Verdict.UNPARSED),
        ("</think>\\boxed{55", "55", Verdict.UNPARSED),
        ("</think>\\boxed{}", "55", Verdict.WRONG),
        ("\\boxed{55}</think>so it is 55", "55", Verdict.UNPARSED),  # boxed only in the thought
        ("\\boxed{54}</think>\\boxed{55}", "55", Verdict.CORRECT),
        ("</think>\\boxed{55}</think>\\boxed{54}", "55", Verdict.WRONG),  # after the last close marker
        ("</think>\\boxed{55}</think>", "55", Verdict.UNPARSED),
        ("Alright 55 \\boxed{55}", "55", Verdict.TRUNCATED),  # the thought never closed
        ("", "55", Verdict.TRUNCATED),
    ],
)
def test_grade(response, gold, verdict):
    assert grade(response, gold, close=CLOSE, finished=True) is verdict


@pytest.mark.parametrize("response", ["Alright", "</think>\\boxed{55}", "a</think>b"])
def test_unfinished_is_truncated_whatever_it_says(response):
    assert grade(response, "55", close=CLOSE, finished=False) is Verdict.TRUNCATED


def test_the_close_marker_is_the_one_that_was_given():
    assert grade("</seed:think>\\boxed{5}", "5", close="</seed:think>", finished=True) is Verdict.CORRECT
    assert grade("</seed:think>\\boxed{5}", "5", close=CLOSE, finished=True) is Verdict.TRUNCATED


def test_reward_is_one_for_correct_only():
    assert {verdict: reward(verdict) for verdict in Verdict} == {
        Verdict.CORRECT: 1.0,
        Verdict.WRONG: 0.0,
        Verdict.UNPARSED: 0.0,
        Verdict.TRUNCATED: 0.0,
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\boxed{7}", "7"),
        ("a \\boxed{7} b", "7"),
        ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed{{a}{b{c}}}", "{a}{b{c}}"),
        ("\\boxed{x^{2}+1} {y}", "x^{2}+1"),
        ("\\boxed{}", ""),
        ("\\boxed{7", None),
        ("\\boxed{{7}", None),
        ("\\boxed7", None),
        ("boxed{7}", None),
        ("", None),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed{\\boxed{3}", "3"),  # the outer one never closes, the inner one does
        ("\\boxed{\\boxed{3}}", "3"),
        ("\\boxed{4}} \\boxed{", "4"),
    ],
)
def test_last_boxed(text, found):
    assert last_boxed(text) == found


@pytest.mark.parametrize(
    ("found", "gold"),
    [
        ("7", "7.0"),
        (" 7 ", "7"),
        ("14/2", "7"),
        ("1/2", "0.5"),
        ("-3", "-3.00"),
        ("-0", "0"),
        ("+5", "5"),
        ("1e2", "100"),
        ("0.1", "1/10"),
        ("10000000000000000001", "10000000000000000001.0"),  # beyond what a float can tell apart
        ("ja", " ja"),
        ("1e999999999", "1e999999999"),
    ],
)
def test_same_answers(found, gold):
    assert same_answer(found, gold)
    assert same_answer(gold, found)


@pytest.mark.parametrize(
    ("found", "gold"),
    [
        ("7", "8"),
        ("7", "7.0000001"),
        ("1/3", "0.333333"),
        ("10000000000000000001", "10000000000000000000"),
        ("ja", "Ja"),
        ("", "0"),
        ("seven", "7"),
        ("1/0", "7"),
        ("nan", "7"),
        ("1e999999999", "7"),  # must not be written out: it would fill the memory
        ("1e-999999999", "7"),
        ("7", "1E+999999999"),
    ],
)
def test_different_answers(found, gold):
    assert not same_answer(found, gold)
    assert not same_answer(gold, found)


@given(
    st.text(alphabet="\\boxed{}{} 17a", max_size=60)
    | st.lists(st.sampled_from(["\\boxed{", "}", "{", "x"])).map("".join)
)
def test_last_boxed_never_raises_and_finds_balanced_text_only(text):
    found = last_boxed(text)
    if found is not None:
        assert "\\boxed{" + found + "}" in text
        assert found.count("{") == found.count("}")


balanced = st.recursive(
    st.text(alphabet=st.characters(exclude_characters="{}")),
    lambda inner: st.lists(st.one_of(inner, inner.map(lambda text: "{" + text + "}")), max_size=4).map("".join),
    max_leaves=12,
)


@given(before=st.text(), inside=balanced, after=st.text(alphabet=st.characters(exclude_characters="\\")))
def test_boxing_balanced_text_returns_it(before, inside, after):
    assert last_boxed(f"{before}\\boxed{{{inside}}}{after}") == inside


@given(st.text(), st.text(), st.booleans())
def test_grade_never_raises(response, gold, finished):
    assert grade(response, gold, close=CLOSE, finished=finished) in Verdict


@given(st.integers(), st.integers(min_value=1, max_value=10**6))
def test_equal_fractions_are_the_same_answer(numerator, denominator):
    assert same_answer(f"{numerator}/{denominator}", f"{3 * numerator}/{3 * denominator}")
    assert not same_answer(f"{numerator}/{denominator}", f"{3 * numerator + 1}/{3 * denominator}")
