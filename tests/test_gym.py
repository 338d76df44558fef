"""reasoning-gym: levels, splits, reference answers that its own scorers accept, and families that cannot be used."""

import contextlib
import json
import sys

import pytest

from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind
from adaptthink.grading import gym as grading_gym
from adaptthink.grading.gym import (
    evaluate,
    load_scorer,
    make_reference_json,
    parse_formula,
    score_entry,
    scores_itself,
)
from adaptthink.problems import gym
from adaptthink.problems.arithmetic import Split
from adaptthink.problems.sources import BOXED, choose_evaluation_problems, choose_training_problems

reasoning_gym = pytest.importorskip("reasoning_gym", reason="needs reasoning-gym: scripts/setup_gym.sh")


def generate(family, per_level=4, seed=0, split=Split.TRAIN):
    return gym.generate_problems(family, per_level, seed=seed, split=split)


def test_problems_of_a_family():
    problems = generate("chain_sum")
    assert [problem.level for problem in problems] == [level for level in range(1, 6) for _ in range(4)]
    assert {problem.kind for problem in problems} == {AnswerKind.REASONING_GYM}
    assert {problem.source for problem in problems} == {"reasoning_gym/chain_sum/train"}
    assert len({problem.id for problem in problems}) == 20
    for problem in problems:
        metadata = json.loads(problem.answer)["metadata"]
        assert metadata["source_dataset"] == "chain_sum"
        assert "source_index" not in metadata  # else the same problem would have many ids
        assert metadata["num_terms"] <= problem.level + 1  # the curriculum's i-th level is i + 1 terms


def test_levels_are_those_of_the_curriculum():
    """Level i sets every attribute to its i-th level; ranges begin at the lowest."""
    attributes = reasoning_gym.factory.create_curriculum("chain_sum").attributes
    terms, digits = attributes["num_terms"].levels, attributes["num_digits"].levels
    configs = gym.read_level_configs("chain_sum")
    assert list(configs) == [1, 2, 3, 4, 5]  # of eleven
    for level, config in configs.items():
        assert (config["min_terms"], config["max_terms"]) == (terms[0], terms[level - 1])
        assert (config["min_digits"], config["max_digits"]) == (digits[0], digits[level - 1])


def test_family_whose_settings_are_not_checked():
    """Two families have settings without a `validate`."""
    assert list(gym.read_level_configs("power_function")) == [1, 2, 3, 4, 5]


def test_curriculum_with_fewer_levels():
    assert list(gym.read_level_configs("gcd")) == [1, 2, 3, 4]
    assert list(gym.read_level_configs("caesar_cipher")) == [
        1,
        2,
    ]  # the library refuses the settings of its third and fourth


def test_family_without_a_curriculum():
    assert [problem.level for problem in generate("gsm_symbolic")] == [None] * 4


def test_same_seed_same_problems():
    assert generate("chain_sum") == generate("chain_sum")
    assert generate("chain_sum") != generate("chain_sum", seed=1)
    few, many = generate("chain_sum", per_level=2), generate("chain_sum", per_level=5)
    assert {problem.id for problem in few} <= {problem.id for problem in many}


def test_splits_are_disjoint():
    prompts = [
        {problem.prompt for problem in generate("leg_counting", 5, split=split)}
        for split in (Split.TRAIN, Split.HELD_OUT, Split.EVALUATION)
    ]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 75
    assert {gym.find_split(prompt) for prompt in prompts[1]} == {Split.HELD_OUT}


def test_sources_of_a_family():
    chosen = choose_training_problems("reasoning_gym:gcd", per_level=3, held_out_per_level=2, seed=0)
    levels = len(gym.read_level_configs("gcd"))
    assert (len(chosen.problems), len(chosen.held_out)) == (3 * levels, 2 * levels)
    evaluation = choose_evaluation_problems("reasoning_gym:gcd", per_level=3, seed=0).problems
    assert {problem.source for problem in evaluation} == {"reasoning_gym/gcd/evaluation"}
    assert evaluation[0].prompt.endswith(f"\n{BOXED}")


@pytest.mark.parametrize(
    "family", ["chain_sum", "gcd", "countdown", "time_intervals", "self_reference", "list_functions", "acre", "maze"]
)
def test_references_survive_json(family):
    """The scorer gives 1 to the family's own answer and less to nonsense."""
    for problem in generate(family, per_level=1):
        reference_answer = json.loads(problem.answer)
        assert "question" not in reference_answer
        assert score_entry(reference_answer["answer"], problem.answer) == 1
        assert scores_itself(problem.answer)
        assert score_entry("certainly not this", problem.answer) < 1


def test_scorer_is_the_familys_own():
    """Countdown takes any expression that gives the target, not the one that is written down."""
    problem = generate("countdown", per_level=1)[0]
    reference_answer = json.loads(problem.answer)
    assert score_entry(f"({reference_answer['answer']})", problem.answer) == 1


def test_reference_that_does_not_score():
    entry = reasoning_gym.create_dataset("rush_hour", seed=1, size=1)[0]
    assert not scores_itself(make_reference_json(entry))


RUN = (
    "string_insertion", "spiral_matrix", "binary_matrix", "n_queens", "simple_integration", "polynomial_multiplication",
    "intermediate_integration", "puzzle24", "countdown", "number_sorting", "bitwise_arithmetic",
)  # fmt: skip


@pytest.mark.parametrize("family", RUN)
def test_an_answer_is_not_run(family, tmp_path):
    """These scorers would run it as Python."""
    entry = json.loads(make_reference_json(reasoning_gym.create_dataset(family, seed=1, size=1)[0]))
    marker = tmp_path / "ran"
    touch = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    in_letters = "+".join(f"chr({ord(sign)})" for sign in touch)
    for code in (touch, f"[{touch}]", f"eval({in_letters})", f"(lambda: {touch})()", f"x + exec({in_letters})"):
        assert score_entry(code, json.dumps(entry)) < 1
        if isinstance(entry["metadata"].get("problem"), str):
            entry["metadata"]["problem"] = code
            score_entry("1", json.dumps(entry))
        with contextlib.suppress(ValueError, SyntaxError):  # which the worker turns into a verdict
            score_entry("[1]", json.dumps(entry | {"answer": code}))
    assert not marker.exists()


def test_arithmetic_and_literals_are_computed_and_nothing_is_called():
    assert evaluate(" [['a', 1], (2, -3)] ") == [["a", 1], [2, -3]]
    assert evaluate("(0x3 + 5) << 2 ^ ~1") == (0x3 + 5) << 2 ^ ~1
    for text in ("f()", "x", "[].append", "1 if 2 else 3", "{1: 2}", "f'{1}'", "(y := 1)"):
        with pytest.raises(ValueError, match="neither a literal nor arithmetic"):
            evaluate(text)


def test_formulas_are_variables_of_one_letter_and_elementary_functions():
    def parse(text):
        return parse_formula(lambda text: text, text)

    for text in ("x**2/2 + C", "2*exp(x)", "sin(x1) - 3.5*pi", "(6 - 2)*6", "1.5e3*x", "-E**2 + log(x, 10)", "4!"):
        assert parse(text) == text
    for text in (
        "eval(x)",
        "chr(9)",
        "x.y",
        "'a'",
        "x[0]",
        "__x",
        "x_y",
        "lambda: 1",
        "open(x)",
        "1.real",
        "x;y",
        "a:b",
    ):
        with pytest.raises(ValueError, match="this is no formula"):
            parse(text)


@pytest.mark.parametrize("reference_answer", ["[]", "{}", '{"answer": "1", "metadata": 3}'])
def test_reference_that_is_no_entry(reference_answer):
    with pytest.raises(
        ValueError, match="the reference answer of a reasoning_gym problem is JSON with 'answer' and 'metadata'"
    ):
        score_entry("1", reference_answer)


@pytest.mark.parametrize(
    ("family", "score"),
    [
        ("boxnet", "0"),
        ("graph_color", "0"),
        ("propositional_logic", "0"),
        ("rubiks_cube", "0"),
        ("rush_hour", "0"),
        ("arc_agi", "0.05"),  # its scorer wants tuples, which JSON does not have
        ("rearc", "0.05"),
    ],
)
def test_families_that_do_not_accept_their_own_answer(family, score):
    with pytest.raises(UserError) as caught:
        generate(family)
    assert str(caught.value) == (
        f"reasoning_gym: the scorer of '{family}' gives {score} to the family's own answer, "
        "so no response to it could be graded; choose another family"
    )


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("chainsum", "reasoning_gym has no family 'chainsum'; did you mean 'chain_sum'?"),
        ("zzz", "reasoning_gym has no family 'zzz'; families: ab, acre, advanced_geometry"),
        ("knight_swap", "reasoning_gym: 'knight_swap' refuses every level of its own curriculum; choose another"),
        ("word_ladder", "reasoning_gym: level 1 of 'word_ladder' fails (KeyError: 3); choose another family"),
        (
            "coin_flip",
            "reasoning_gym: level 1 of 'coin_flip' holds only about 7 different problems in the split 'train'",
        ),
    ],
)
def test_families_that_cannot_be_used(family, message):
    with pytest.raises(UserError) as caught:
        generate(family, per_level=20)
    assert str(caught.value).startswith(message)


def test_family_that_breaks_down_while_drawing(monkeypatch):
    class Broken:
        def __getitem__(self, index):
            raise IndexError("no\nmore")

    monkeypatch.setattr(reasoning_gym.factory, "create_dataset", lambda *args, **options: Broken())
    with pytest.raises(UserError, match=r"level 1 of 'gcd' fails \(IndexError: no more\); choose another family"):
        generate("gcd")


def test_entry_that_json_cannot_hold():
    with pytest.raises(TypeError):
        make_reference_json({"answer": "1", "metadata": {"x": object()}})


def test_library_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError) as caught:
        generate("chain_sum")
    assert str(caught.value).startswith("reasoning_gym problems need the package reasoning-gym: pip install '.[gym]'")


def test_scorer_is_made_once(monkeypatch):
    load_scorer.cache_clear()
    made = []
    load = grading_gym.load_library
    monkeypatch.setattr(grading_gym, "load_library", lambda: made.append(load()))
    problem = generate("gcd", per_level=1)[0]
    made.clear()
    for _ in range(3):
        score_entry("1", problem.answer)
    assert made == []
