"""How levels are ordered and named, how records become JSON and come back, how numbers are written."""

import json
import math
import re
from dataclasses import replace

import pytest
from evaluations import outcomes

from adaptthink.cli.compare import show_scores
from adaptthink.cli.console import Terminal
from adaptthink.evaluation.formats import (
    FAULTS,
    MEASURES,
    choose_token_digits,
    write_deltas,
    write_estimate,
    write_number,
    write_range,
    write_speed,
)
from adaptthink.evaluation.levels import name_level, rank_level, write_level
from adaptthink.evaluation.scores import (
    Change,
    Evaluation,
    Scores,
    Speed,
    compare_scores,
    compute_tokens_per_correct,
    summarise,
)
from adaptthink.evaluation.statistics import Difference, Interval
from adaptthink.grading import Verdict
from adaptthink.problems import make_problem
from adaptthink.storage.records import from_json, to_json


def test_levels_have_one_order_and_one_title():
    levels = ["stem", "10", "2", "-1", "all", "²"]
    assert sorted(levels, key=rank_level) == ["-1", "2", "10", "all", "stem", "²"]
    assert [write_level(level) for level in levels] == ["stem", "Level 10", "Level 2", "Level -1", "all", "²"]
    assert [name_level(make_problem("q", "1", level=level)) for level in (3, "stem", None)] == ["3", "stem", "all"]


# ---- records --------------------------------------------------------------------------------------------------------


def test_an_evaluation_comes_back_as_it_was_written():
    evaluation = summarise([*outcomes({"p": [1, 0], "q": [1, 1]}), *outcomes({"r": [0]}, level="10")])
    assert evaluation.levels["10"].tokens_interval is None
    assert from_json(Evaluation, json.loads(json.dumps(to_json(evaluation)))) == evaluation


def test_an_evaluation_of_an_older_version_has_no_cost_and_no_speed():
    evaluation = summarise(outcomes({"p": [1], "q": [0]}))
    written = to_json(evaluation)
    del written["speed"]
    for scores in (written["overall"], written["levels"]["1"]):
        assert scores.pop("tokens_per_correct_interval")[1] is None  # two problems do not bound it
        del scores["tokens_per_correct"]
    read = from_json(Evaluation, written)
    assert (read.overall.tokens_per_correct, read.overall.tokens_per_correct_interval) == (None, None)
    assert read.speed == Speed()
    assert from_json(Evaluation, to_json(evaluation)) == evaluation  # an infinite end included


def test_an_infinite_end_is_null_in_json_and_infinite_again():
    change = Change(
        Difference(Interval(0.1, 0.05, 0.2, 0.95, 9), 0.01, 0.1),
        Difference(Interval(-0.5, -0.9, math.inf, 0.95, 9), 1.0, math.inf),
    )
    written = json.loads(json.dumps(to_json({1: change}), allow_nan=False))
    assert written["1"]["tokens"]["interval"]["high"] is None
    assert [written["1"][name]["verdict"] for name in ("accuracy", "tokens")] == ["higher", "not distinguishable"]
    assert from_json(Change, written["1"]) == change


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"overall": None}, "overall: "),
        ({"levels": {"1": {}}}, "levels.1.accuracy: Field required"),
        ({"ungradable": "some"}, "ungradable: "),
    ],
)
def test_the_first_fault_of_a_record_is_named(fault, message):
    written = to_json(summarise(outcomes({"p": [1], "q": [0]}))) | fault
    with pytest.raises(ValueError, match=f"^{message}"):
        from_json(Evaluation, written)


def test_scores_that_are_not_finite_are_refused():
    written = to_json(summarise(outcomes({"p": [1], "q": [0]})))
    written["overall"]["accuracy"] = math.nan
    with pytest.raises(ValueError, match=r"overall\.accuracy: Input should be a finite number"):
        from_json(Evaluation, written)


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_numbers_by_hand():
    assert [write_number(value) for value in (1234.56, -0.04, -3.96, None, math.inf)] == [
        "1,234.6", "0.0", "−4.0", "–", "∞",
    ]  # fmt: skip
    assert [write_number(value, 1, "%", signed=True) for value in (1.25, -0.04, -3.96, None)] == [
        "+1.2%", "0.0%", "−4.0%", "–",
    ]  # fmt: skip
    assert write_range((0.905, 1.0), scale=100) == "90.5–100.0"
    assert write_range((-0.004, 0.028), scale=100, signed=True) == "−0.4 to +2.8"
    assert write_range((-0.5, None), 0, scale=100, signed=True) == "−50 to ∞"
    assert write_range(None) == "–"
    assert write_estimate(Interval(0.948, 0.918, 0.968, 0.95, 9), 100) == "94.8 (91.8–96.8)"
    assert write_estimate(Interval(-0.012, -0.05, 0.028, 0.95, 9), 100, signed=True) == "−1.2 (−5.0 to +2.8)"


def test_tokens_per_correct_answer_by_hand():
    """Tokens of wrong answers count; none correct has no cost, and one problem no interval."""
    right, wrong = outcomes({"p": [1], "q": [1, 1]}, tokens=10), outcomes({"r": [0]}, tokens=70)
    overall = summarise([*right, *wrong]).overall
    assert overall.tokens_per_correct == pytest.approx((10 + 10 + 70) / 2)
    low, high = overall.tokens_per_correct_interval
    assert low < 45 < high
    unequal = {"p": [10.0, 30.0], "q": [50.0]}, {"p": [1.0, 0.0], "q": [0.0]}  # each problem weighs the same
    assert compute_tokens_per_correct(*unequal).estimate == pytest.approx(35 / 0.25)
    alone, none = summarise(outcomes({"p": [1, 0]}, tokens=8)).overall, summarise(wrong).overall
    assert (alone.tokens_per_correct, alone.tokens_per_correct_interval) == (16, None)
    assert (none.tokens_per_correct, none.tokens_per_correct_interval) == (None, None)


def test_speed_by_hand():
    """Of responses that were timed; those that are wrong, or cannot be graded, took their time too."""
    seconds = (4.0, None, 1.0, 3.0, 2.0)
    timed = [
        replace(one, seconds=value) for one, value in zip(outcomes({"p": [1, 0], "q": [1, 1, 0]}), seconds, strict=True)
    ]
    timed[0] = replace(timed[0], verdict=Verdict.UNKNOWN)
    assert summarise(timed).speed == Speed(2.5, pytest.approx(3.85))
    assert summarise(outcomes({"p": [1]})).speed == Speed()
    assert write_speed(Speed(1.25, 61.0)) == "median 1.2 s, 95th percentile 61.0 s"
    assert write_speed(Speed(tokens_per_second=1234.5)) == "1,234 tokens per second"
    assert write_speed(Speed()) == ""


def test_deltas_as_the_paper_writes_them():
    change = compare_scores(outcomes({"p": [1], "q": [1]}, tokens=30), outcomes({"p": [1], "q": [0]}, tokens=120))
    assert write_deltas(change) == ("+50.0", "−75.0%")
    assert write_deltas(None) == ("–", "–")


def test_measures_of_scores_by_hand():
    scores = Scores(0.5, (0.25, 0.75), 1234.5, (1000.0, 1500.0), 1.0, (0.9, 1.0), 0.125, 8, {}, 2469.0, (1e3, math.inf))
    assert [measure.write_both(scores, 0) for measure in MEASURES] == [
        "50.0 (25.0–75.0)", "1,234 (1,000–1,500)", "2,469", "100.0 (90.0–100.0)",
    ]  # fmt: skip
    assert [measure.write(None, 0) for measure in MEASURES] == ["–"] * 4
    counts = {"unparsed": 3, "unclosed": 1, "timeout": 1, "error": 1, "correct": 2}
    assert [one.write_both(replace(scores, verdicts=counts), 0) for one in FAULTS] == ["37.5", "12.5", "12.5", "25.0"]
    assert choose_token_digits([None, scores]) == 0
    assert choose_token_digits([]) == 1


# ---- the terminal ---------------------------------------------------------------------------------------------------


def test_scores_are_printed_by_level_in_80_plain_columns(capsys):
    levels = [one for level in range(1, 6) for one in outcomes({f"{level}{n}": [1, 0] for n in "ab"}, level=str(level))]
    show_scores({"original_no_think": summarise(levels)})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "\x1b" in line or line != line.rstrip()]
    assert lines.index("original_no_think") < lines.index(next(line for line in lines if line.startswith("  Level 1 ")))
    names = [line[:9] for line in lines[: lines.index("verdicts, % of the responses")] if line.startswith("  ")]
    assert names[-6:] == [*(f"  Level {n}" for n in range(1, 6)), "  overall"]


def test_the_shares_of_all_verdicts_follow_the_scores(capsys):
    counts = {"unparsed": 3, "unclosed": 1, "timeout": 1, "error": 1, "correct": 2}
    scores = Scores(0.25, (0.1, 0.5), 9.0, None, 0.0, (0.0, 0.5), 0.0, 8, counts)
    show_scores({"auto": Evaluation({"1": scores}, scores)})
    lines = capsys.readouterr().out.splitlines()
    heading, _, line = lines[lines.index("verdicts, % of the responses") + 1 :][:3]
    assert heading.split() == ["correct", "unparsed", "unclosed", "failed", "responses"]
    assert line.split() == ["auto", "25.0", "37.5", "12.5", "25.0", "8"]


def test_the_speed_is_shown_where_it_is_known_and_nothing_where_it_is_not(capsys):
    plain = summarise(outcomes({"p": [1], "q": [0]}))
    show_scores({"auto": plain})
    assert "speed" not in capsys.readouterr().out
    show_scores({"auto": replace(plain, speed=Speed(1.25, 3.0)), "think": plain})
    lines = capsys.readouterr().out.splitlines()
    table = lines[lines.index("speed of the responses") + 1 :]
    rule = next(index for index, line in enumerate(table) if line.startswith("─"))
    assert sorted(" ".join(table[:rule]).split()) == ["95th", "median,", "percentile,", "s", "s"]
    auto, think = table[rule + 1 : rule + 3]
    assert (auto.split(), think.split()) == (["auto", "1.2", "3.0"], ["think", "–", "–"])


METRICS = {
    "step": 165, "rollout_seconds": 2.0, "update_seconds": 3.0, "reward_think": None, "reward_no_think": 0.5,
    "mean_tokens_think": 12073.4, "mean_tokens_no_think": 658.0, "truncated_share_think": 0.07,
    "probe_no_think_logprob": -12.345, "probe_mode_mass": 0.987, "probe_no_think_share": 0.6,
    "probe_no_think_by_level": {"1": 1.0, "2": 0.9, "3": 0.5, "4": 0.05, "5": 0.0},
}  # fmt: skip


def word_ends(line):
    return [found.end() for found in re.finditer(r"\S+", line)]


def test_the_steps_of_a_training_stand_under_their_headings_in_80_columns(capsys):
    printer = Terminal(999)
    printer.on_step({"rollout_seconds": 1, "update_seconds": 1})  # not a step on which held-out problems are measured
    printer.on_step(METRICS)
    above, headings, line = capsys.readouterr().out.splitlines()
    assert headings.split() == [
        "step", "think", "no_think", "think", "no_think", "cut", "log", "mass", "1", "2", "3", "4", "5", "left",
    ]  # fmt: skip
    assert line.split() == [
        "165/999", "-", "0.50", "12073", "658", "0.07", "-12.35", "0.99", "100", "90", "50", "5", "0", "48:39",
    ]  # fmt: skip
    assert (len(headings), len(line)) == (80, 80)
    assert word_ends(headings) == word_ends(line)
    assert len(above) <= 80


def test_a_set_of_many_levels_shows_their_mean(capsys):
    names = dict.fromkeys(("anatomy", "law", "physics"), 0.5)
    Terminal(999).on_step(METRICS | {"probe_no_think_by_level": names})
    _, headings, line = capsys.readouterr().out.splitlines()
    assert headings.split()[-2:] == ["all", "left"]
    assert line.split()[-2] == "60"
