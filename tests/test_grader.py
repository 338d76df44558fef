"""The seam between sampling and grading: reward functions of a user's own, their values, failures and time limits."""

import asyncio
import threading

import pytest
from rollouts import make_rollout

from adaptthink.engines.base import Finish, ScriptedEngine
from adaptthink.errors import UserError
from adaptthink.grading import Grade, Rule, Verdict
from adaptthink.modes import Mode, probe
from adaptthink.problems import make_problem
from adaptthink.sampling.grader import AnswerGrader, RewardGrader, load_reward
from adaptthink.sampling.reading import Response
from adaptthink.sampling.requests import MaxTokens
from adaptthink.sampling.sampler import Sampler, Sampling, sample_rollouts

PROBLEM = make_problem("Say hello.", "hello")


def response(answer="hello", finish=Finish.STOP):
    return Response(Mode.THINK, "hm", answer, finish, 9, 3)


def grade(function, one=None, **options):
    [found] = RewardGrader(function, **options).grade([(PROBLEM, one or response())])
    return found


@pytest.mark.parametrize(
    ("returned", "verdict", "reward"),
    [
        (1, Verdict.CORRECT, 1.0),
        (0.75, Verdict.CORRECT, 0.75),
        (0.25, Verdict.WRONG, 0.25),
        (0, Verdict.WRONG, 0.0),
        (True, Verdict.CORRECT, 1.0),
        (False, Verdict.WRONG, 0.0),
        (Verdict.CORRECT, Verdict.CORRECT, 1.0),
        (Verdict.UNPARSED, Verdict.UNPARSED, 0.0),
        (Grade(Verdict.CORRECT, "hello", Rule.EXACT), Verdict.CORRECT, 1.0),
    ],
)
def test_what_a_reward_function_may_return(returned, verdict, reward):
    found = grade(lambda problem, one: returned)
    assert (found.verdict, found.reward) == (verdict, reward)


@pytest.mark.parametrize("returned", ["1", None, float("nan"), float("inf"), -2, 1.5, [1]])
def test_anything_else_is_refused_by_name(returned):
    with pytest.raises(UserError, match=r"test_grader:.*returned .*; return a number from 0 to 1, a bool or a Verdict"):
        grade(lambda problem, one: returned)


def test_it_gets_the_problem_and_the_response():
    def reward(problem, one):
        return problem.answer == one.answer and one.thinking == "hm"

    assert grade(reward).verdict is Verdict.CORRECT
    assert grade(reward, response("bye")).verdict is Verdict.WRONG


WITHOUT_ANSWER = [  # (response, verdict)
    (response(None), Verdict.UNCLOSED),
    (response("hel", Finish.LENGTH), Verdict.TRUNCATED),
    (response(None, Finish.LENGTH), Verdict.TRUNCATED),
]


@pytest.mark.parametrize(("one", "verdict"), WITHOUT_ANSWER)
def test_a_response_without_an_answer_never_reaches_it(one, verdict):
    assert grade(lambda problem, one: pytest.fail("called"), one) == Grade(verdict, None, Rule.FORM)


@pytest.mark.parametrize(("one", "verdict"), WITHOUT_ANSWER)
def test_the_comparison_has_the_same_verdicts_for_it(one, verdict):
    assert AnswerGrader().grade([(PROBLEM, one)]) == [Grade(verdict, None, Rule.FORM)]


def test_async_functions_are_awaited_and_run_beside_each_other():
    both = threading.Barrier(2)  # neither returns before the other is running

    async def reward(problem, one):
        await asyncio.to_thread(both.wait)
        return one.answer == problem.answer

    found = RewardGrader(reward, seconds=600).grade([(PROBLEM, response()), (PROBLEM, response("no"))])
    assert [one.verdict for one in found] == [Verdict.CORRECT, Verdict.WRONG]


def test_one_that_never_returns_is_unknown_and_holds_nothing_up(caplog):
    never = threading.Event()
    found = grade(lambda problem, one: never.wait(), seconds=0.05)
    assert found.verdict is Verdict.UNKNOWN
    assert "no result within reward_seconds = 0.05" in caplog.text
    never.set()


def test_one_that_raises_is_unknown_and_is_logged(caplog):
    calls = []

    def reward(problem, one):
        calls.append(one)
        raise ValueError("judge unreachable")

    assert grade(reward).verdict is Verdict.UNKNOWN
    assert len(calls) == 3
    assert "judge unreachable" in caplog.text
    assert PROBLEM.id in caplog.text


def test_one_that_fails_once_is_called_again(caplog):
    calls = []

    def reward(problem, one):
        calls.append(one)
        if len(calls) == 1:
            raise ConnectionError
        return 0.75

    assert grade(reward).reward == 0.75
    assert len(calls) == 2
    assert caplog.text == ""


def test_a_sampler_grades_by_it_and_rollouts_keep_the_number(tokenizer):
    ids = tokenizer.encode("</think>3<|eos|>", add_special_tokens=False)
    grader = RewardGrader(lambda problem, one: int(one.answer) / 4)
    sampler = Sampler(ScriptedEngine(lambda *_: ids), tokenizer, probe(tokenizer), grader)
    [[rollout]] = sample_rollouts(sampler, [PROBLEM], [None], Sampling(MaxTokens(9, 9), 1.0))
    assert (rollout.verdict, rollout.grade.reward) == (Verdict.CORRECT, 0.75)


def test_names_say_where_a_reward_stands():
    assert RewardGrader(make_rollout).name == "rollouts:make_rollout"
    assert RewardGrader(make_rollout, 5.0).describe([]) == {"reward": "rollouts:make_rollout", "seconds": 5.0}


def test_rewards_are_loaded_by_name(monkeypatch, tmp_path):
    (tmp_path / "my_rewards.py").write_text("ODD = 3\ndef score(problem, response):\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_reward("my_rewards:score")(PROBLEM, response()) == 1
    for name, message in [
        ("my_rewards", "names no function; give MODULE:FUNCTION"),
        ("my_rewards:", "names no function"),
        ("nowhere_to_be:found", "cannot import nowhere_to_be"),
        ("my_rewards:missing", "the module my_rewards has no missing"),
        ("my_rewards:ODD", "is no function, but int"),
    ]:
        with pytest.raises(UserError, match=message):
            load_reward(name)
