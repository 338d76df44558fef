"""Problems in words: answers checked by another solver and another evaluator, levels, splits, variety."""

import random
import re
from collections import Counter

import pytest
from word_replay import UnreadError, solve

from adaptthink.errors import UserError
from adaptthink.problems import words
from adaptthink.problems.arithmetic import Split
from adaptthink.problems.sources import choose_evaluation_problems, choose_training_problems
from adaptthink.problems.words import (
    FAMILIES,
    LEVELS,
    SHIFTED,
    Level,
    generate_problems,
    generate_word_problem,
    generate_word_problems,
)
from adaptthink.problems.words.thoughts import split_equation

UNTOLD = {
    2,
    5,
    7,
    10,
    12,
    25,
    60,
}  # numbers that a solution may bring in: halves and sides, days, coins, dozens, minutes
STEPS = {1: {1}, 2: {2}, 3: {3}, 4: {4}, 5: {5, 6}}


@pytest.fixture(scope="module")
def problems():
    """Forty of each family and level."""
    rng = random.Random(0)
    names = [*FAMILIES, *SHIFTED]
    return [generate_word_problem(rng, name, level) for name in names for level in LEVELS for _ in range(40)]


def test_answers_are_those_of_a_solver_that_reads_the_question(problems):
    for problem in problems:
        assert solve(problem.family, problem.question) == problem.answer, problem


def test_the_other_solver_notices_changed_numbers_and_unknown_sentences(problems):
    for problem in problems[:40]:
        first = re.search(r"\d+", problem.question)
        changed = f"{problem.question[: first.start()]}{int(first[0]) + 1}{problem.question[first.end() :]}"
        assert solve(problem.family, changed) != problem.answer
    with pytest.raises(UnreadError, match="A dog hides 3 of them"):
        solve("sharing", "Tom has 12 beads. A dog hides 3 of them. How many beads does Tom have?")


def test_solutions_compute_the_answer_from_the_questions_numbers(problems):
    for problem in problems:
        known = {int(number) for number in re.findall(r"\d+", problem.question)} | UNTOLD
        unused = set()
        for text, equation in zip(problem.steps, problem.equations, strict=True):
            assert text.count(equation) == text.count("=") == 1
            assert re.fullmatch(r"\d+[-+*/]\d+=\d+", equation)
            left, value = equation.split("=")
            assert eval(left) == int(value)  # digits and one sign
            operands = {int(number) for number in re.findall(r"\d+", left)}
            assert operands <= known, problem
            unused -= operands
            known.add(int(value))
            unused.add(int(value))
        assert int(problem.equations[-1].partition("=")[2]) == problem.answer
        assert unused == {problem.answer}, problem  # every other result was needed


@pytest.mark.parametrize(
    ("equation", "pieces"),
    [
        ("85-17=68", "85-10=75 75-7=68"),
        ("5+38=43", "5+30=35 35+8=43"),
        ("200-154=46", "200-150=50 50-4=46"),
        ("18*5=90", "10*5=50 8*5=40 50+40=90"),
        ("12*14=168", "10*12=120 4*12=48 120+48=168"),
        ("84/6=14", "6*10=60 84-60=24 24/6=4"),
        ("276/12=23", "12*20=240 276-240=36 36/12=3"),
        ("47+8=55", ""),
        ("47+20=67", ""),
        ("6*9=54", ""),
        ("20*4=80", ""),
        ("54/6=9", ""),
        ("80/4=20", ""),
    ],
)
def test_an_equation_in_pieces(equation, pieces):
    assert split_equation(equation) == pieces.split()


def test_a_thought_works_out_each_result_before_it_is_stated(problems):
    for problem in problems:
        worked, _, check = problem.thought.partition(" Let me check: ")
        assert check == ", ".join(problem.equations) + "."
        for step, equation in zip(problem.steps, problem.equations, strict=True):
            before, found, worked = worked.partition(step)
            assert found
            pieces = re.findall(r"(\d+[-+*/]\d+)=(\d+)", before)
            assert " ".join(f"{left}={value}" for left, value in pieces) == " ".join(split_equation(equation))
            for left, value in pieces:
                assert eval(left) == int(value)  # digits and one sign
            if pieces:  # the last is the result, or in a division its ones
                assert equation.endswith(pieces[-1][1] if "/" not in equation else pieces[-1][1][-1])
        assert not worked


def test_levels_set_steps_distractors_and_size(problems):
    for problem in problems:
        assert len(problem.steps) in STEPS[problem.level]
        numbers = [int(number) for equation in problem.equations for number in re.findall(r"\d+", equation)]
        assert max(numbers) <= LEVELS[problem.level].limit
        assert len(problem.question.split()) <= 80
        assert problem.question.endswith("?")
        assert problem.solution.endswith(".")
    assert [LEVELS[level].distractors for level in LEVELS] == [(0,), (0,), (0,), (1,), (1, 2)]
    assert {len(problem.steps) for problem in problems if problem.level == 5} == {5, 6}


def test_a_distractor_is_one_more_sentence_and_changes_nothing(monkeypatch):
    plain = {}
    for count in (0, 1, 2):
        monkeypatch.setitem(LEVELS, 4, Level((4,), (count,)))
        for family in [*FAMILIES, *SHIFTED]:
            problem = generate_word_problem(random.Random(7), family, 4)
            plain.setdefault(family, problem)
            assert problem.equations == plain[family].equations
            sentences = set(re.findall(r"[^.?]+[.?]", problem.question))
            assert len(sentences - set(re.findall(r"[^.?]+[.?]", plain[family].question))) == count


def test_sentences_are_whole(problems):
    for problem in problems:
        text = f"{problem.question} {problem.solution}"
        assert not re.search(r"[{}]|  | [.,?]|\b(\w+) \1\b|\b1 \w+s\b|\ba [aeiou]", text), text
        for sentence in re.findall(r"[^.?]+[.?]", text):
            assert re.match(r" ?[A-Z0-9]", sentence), text


def test_no_computation_is_in_two_splits_whatever_the_words():
    seen = {}
    for split in Split:
        for shifted in (False, True):
            for one in generate_word_problems(12, seed=1, split=split, shifted=shifted):
                assert seen.setdefault(one.equations, split) is split
    assert set(seen.values()) == set(Split)


def test_shifted_families_are_others():
    assert not set(FAMILIES) & set(SHIFTED)
    for name, families in (("words", FAMILIES), ("words:shifted", SHIFTED)):
        found = choose_evaluation_problems(name, per_level=12, seed=0).problems
        sources = Counter(problem.source for problem in found)
        assert sources == {f"words/{family}/evaluation": 60 // len(families) for family in families}
    chosen = choose_training_problems("words", per_level=12, held_out_per_level=6, seed=0)
    assert {problem.source for problem in chosen.problems} == {f"words/{family}/train" for family in FAMILIES}
    assert {problem.source for problem in chosen.held_out} == {f"words/{family}/held_out" for family in FAMILIES}


def test_shifted_problems_cannot_be_trained_on():
    with pytest.raises(UserError, match=r"'words:shifted' is for evaluation alone, .* train on 'words'"):
        choose_training_problems("words:shifted", per_level=5, held_out_per_level=1, seed=0)
    with pytest.raises(UserError, match="'words' has no part 'shopping'; it has: shifted"):
        choose_evaluation_problems("words:shopping", per_level=5, seed=0)


def test_asking_for_more_gives_the_same_and_more():
    few, many = (generate_problems(count, seed=3, split=Split.TRAIN) for count in (8, 20))
    for level in LEVELS:
        own = [problem for problem in many if problem.level == level]
        assert own[:8] == [problem for problem in few if problem.level == level]
    assert few != generate_problems(8, seed=4, split=Split.TRAIN)


def test_a_problem_is_the_same_on_every_machine():
    [first, *_] = generate_problems(1, seed=0, split=Split.TRAIN)
    question = "Rosa buys 4 candles for $2 each. How many dollars does she pay?"
    assert (first.prompt, first.answer, first.id) == (question, "8", "6ede604d39b9dc56")


def test_too_many_problems_requested(monkeypatch):
    monkeypatch.setattr(words, "MAX_MISSES", 20)
    with pytest.raises(ValueError, match=r"^level 1 of split 'held_out' holds only about \d+ different problems, but"):
        generate_problems(4000, seed=0, split=Split.HELD_OUT)
