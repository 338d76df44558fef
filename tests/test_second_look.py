"""The second look: tokens of both answers are paid, and only what a server can see makes an answer doubtful."""

from dataclasses import replace

import pytest
from test_dial import FOUR

import adaptthink as at
from adaptthink.cli.dial import describe_second_look
from adaptthink.dial.curve import compute_curve, measure
from adaptthink.dial.second_look import look_again, measure_second_look, think_again
from adaptthink.dial.stored import read_dial
from adaptthink.engines.base import Finish
from adaptthink.evaluation.store import Decision, Outcome, Sample, Setting, open_folder, open_samples
from adaptthink.grading import Verdict
from adaptthink.modes import Mode
from adaptthink.problems import make_problem

NONE = {one.problem_id: [False, False] for one in FOUR}


def test_without_doubt_the_curve_is_the_dials():
    look = look_again(FOUR, NONE)
    assert (look.doubtful, look.right_among_doubtful) == (0, None)
    assert [replace(one, tokens_interval=()) for one in look.curve] == [
        replace(one, tokens_interval=()) for one in compute_curve(FOUR)
    ]


def test_the_curve_by_hand():
    """Doubtful: b's second answer, which was right, and both of c's, which were wrong.

    b then has 1 and a half right, 5 and 5 + 30 tokens; c twice 1 right, 8 + 50 tokens.
    """
    look = look_again(FOUR, NONE | {"b": [False, True], "c": [True, True]})
    assert (look.doubtful, look.right_among_doubtful) == (3 / 8, pytest.approx(1 / 3))
    by_threshold = {one.threshold: one for one in look.curve}
    assert by_threshold[2].accuracy == 0.75
    assert by_threshold[2].mean_tokens == 48.75
    assert by_threshold[0.9].accuracy == pytest.approx((0.5 + 0.75 + 1 + 0.5) / 4)
    assert by_threshold[0.9].mean_tokens == pytest.approx((5 + 20 + 50 + 100) / 4)
    assert by_threshold[0].accuracy == pytest.approx((0.5 + 0.75 + 1 + 0) / 4)
    assert by_threshold[0].mean_tokens == pytest.approx((5 + 20 + 58 + 10) / 4)
    assert think_again(replace(FOUR[0], max_tokens=100), [True, False]).max_tokens == 200


def test_what_is_doubtful(tmp_path):
    """No answer found, the token limit, a word of second thoughts; never that an answer is wrong."""
    answers = {
        "a": (Verdict.WRONG, "It is 5."),
        "b": (Verdict.UNPARSED, "Who knows."),
        "c": (Verdict.CORRECT, "5. Wait, it is 4."),
        "d": (Verdict.TRUNCATED, "1 2 3"),
    }
    open_folder(tmp_path, Setting("m", "w", 0.6, 0.95, 128, 16, 0), [make_problem("1+3=?", "4")])
    outcomes = []
    with open_samples(tmp_path) as write:
        for name, (verdict, text) in answers.items():
            for mode in Mode:
                tokens = {Mode.THINK: 50, Mode.NO_THINK: 10}[mode]
                answer = text if mode is Mode.NO_THINK else "Wait, 4"
                write(Sample(name, mode.value, 0, mode, None, answer, Finish.STOP, tokens, 0, 0))
                graded = verdict if mode is Mode.NO_THINK else Verdict.CORRECT
                outcomes.append(Outcome(name, "1", mode.value, 0, mode, graded, tokens, None))
    measured = measure(outcomes, {name: Decision(0.5, 0.4) for name in answers})
    look = measure_second_look(tmp_path, measured, outcomes)
    assert (look.doubtful, look.right_among_doubtful) == (0.75, pytest.approx(1 / 3))
    assert look.curve[-1].accuracy == 0.75  # a is wrong, and nothing shows it
    assert look.curve[-1].mean_tokens == (10 + 3 * 60) / 4


def test_a_calibration_stores_it(tmp_path):
    problems = at.load_problems("arithmetic", per_level=2)
    dial = at.calibrate("tiny", problems, max_think_tokens=64, max_no_think_tokens=16, output=tmp_path)
    assert read_dial(tmp_path / "dial.json") == dial
    assert [one.threshold for one in dial.second_look.curve] == [one.threshold for one in dial.curve]
    assert describe_second_look(dial, dial.second_look).startswith("second look: ")
