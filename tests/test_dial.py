"""The dial: a curve by hand, a guarantee that holds where a naive choice breaks it, and what is stored of it."""

import itertools
import math
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from dial_simulation import WORLDS, certified, losses, naive, problems_of, slope, violations
from hypothesis import given
from hypothesis import strategies as st

from adaptthink.dial import curve as curve_module
from adaptthink.dial import decide as decide_module
from adaptthink.dial import guarantee
from adaptthink.dial.curve import (
    ALWAYS_THINK,
    Measured,
    compute_curve,
    compute_points,
    floor_digits,
    list_thresholds,
    measure,
    select_answers,
    thin_curve,
)
from adaptthink.dial.decide import decide
from adaptthink.dial.guarantee import (
    HeldOutVerdict,
    Kind,
    check_held_out,
    choose_budget,
    choose_loss,
    compute_bet_logs,
    compute_p_values,
    count_problems_needed,
    split_halves,
)
from adaptthink.dial.stored import calibrate, read_dial, write_dial
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import UserError
from adaptthink.evaluation import statistics
from adaptthink.evaluation.store import Decision, Outcome, Setting
from adaptthink.grading import Verdict
from adaptthink.modes import Mode, choose_mode, encode_prompt

SETTING = Setting("m", "weights", 0.6, 0.95, 128, 16, 0)

# Two samples in each mode. Means: think 1, 0.5, 1, 0.5 right, 15, 30, 50, 100 tokens;
# no_think 0.5, 1, 0, 0 right, 5, 5, 8, 10 tokens.
FOUR = (
    Measured("a", "1", 0.9, (1, 1), (1, 0), (10, 20), (4, 6)),
    Measured("b", "1", 0.9, (1, 0), (1, 1), (30, 30), (5, 5)),
    Measured("c", "2", 0.5, (1, 1), (0, 0), (40, 60), (8, 8)),
    Measured("d", "2", 0.1, (0, 1), (0, 0), (80, 120), (10, 10)),
)


def test_the_curve_by_hand_ties_move_together():
    rows = [
        (one.threshold, one.no_think_share, one.accuracy, one.mean_tokens, one.accuracy_difference, one.token_change)
        for one in compute_curve(FOUR)
    ]
    assert rows == [
        (ALWAYS_THINK, 0, 0.75, 48.75, 0, 0),
        (0.9, 0.5, 0.75, 40, 0, pytest.approx(40 / 48.75 - 1)),
        (0.5, 0.75, 0.5, 29.5, -0.25, pytest.approx(29.5 / 48.75 - 1)),
        (0.1, 1, 0.375, 7, -0.375, pytest.approx(7 / 48.75 - 1)),
        (0, 1, 0.375, 7, -0.375, pytest.approx(7 / 48.75 - 1)),
    ]


def test_the_curve_chooses_as_one_prompt_is_decided():
    """At the threshold itself no_think is chosen, by `choose_mode` and by what computes many thresholds at once."""
    for threshold in (0.0, 0.1, 0.5, 0.5000001, 0.9, 1.0, ALWAYS_THINK):
        [point] = compute_points(FOUR, [threshold])
        modes = [choose_mode(one.no_think_probability, threshold) for one in FOUR]
        assert point.no_think_share == modes.count(Mode.NO_THINK) / 4
    assert [choose_mode(0.5, threshold) for threshold in (0.5, 0.51)] == [Mode.NO_THINK, Mode.THINK]


def test_intervals_are_those_of_the_statistics_on_the_same_samples():
    think = {one.problem_id: one.think_correct for one in FOUR}
    tokens = {one.problem_id: one.think_tokens for one in FOUR}
    dialled = think | {one.problem_id: one.no_think_correct for one in FOUR[:3]}
    dialled_tokens = tokens | {one.problem_id: one.no_think_tokens for one in FOUR[:3]}
    [point] = compute_points(FOUR, [0.5])
    expected = {
        "no_think": statistics.share_interval({"a": [1], "b": [1], "c": [1], "d": [0]}),
        "accuracy": statistics.share_interval(dialled),
        "tokens": statistics.mean_interval(dialled_tokens, within=(1.0, math.inf)),
        "accuracy_difference": statistics.share_difference(dialled, think).interval,
    }
    for name, interval in expected.items():
        assert getattr(point, f"{name}_interval") == pytest.approx((interval.low, interval.high)), name
    change = statistics.relative_change(dialled_tokens, tokens).interval
    assert point.token_change_interval[0] == pytest.approx(change.low)
    assert point.token_change_interval[1] == (None if math.isinf(change.high) else pytest.approx(change.high))


def test_many_thresholds_are_computed_in_parts(monkeypatch):
    whole = compute_curve(FOUR)
    monkeypatch.setattr(curve_module, "POINTS_AT_ONCE", 2)
    assert compute_curve(FOUR) == whole
    assert whole[0].accuracy_difference_interval == (0, 0)  # always thinking differs from itself by nothing


def test_a_thinned_curve_keeps_both_ends_and_what_was_chosen():
    problems = [replace(FOUR[0], problem_id=str(n), no_think_probability=n / 1000) for n in range(1, 1000)]
    whole = compute_curve(problems)
    thinned = thin_curve(whole, [0.123], 11)
    assert len(whole) == 1001
    assert [point.threshold for point in thinned] == [2, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.123, 0.1, 0]
    assert thin_curve(whole[:5], [], 11) == whole[:5]


@given(st.floats(0, 1), st.integers(0, 10**6), st.integers(-20, 0))
def test_rounding_down_changes_no_decision(probability, digits, exponent):
    low = floor_digits(probability)
    assert low <= probability
    assert len(Decimal(repr(low)).as_tuple().digits) <= 6 or low in (0, 1)
    threshold = float(f"{digits}e{exponent - 6}")
    assert (probability >= threshold) == (low >= threshold)


def test_thresholds_are_distinct_after_rounding():
    problems = [replace(FOUR[0], no_think_probability=p) for p in (0.1234567, 0.1234562, 1.0, 0.0, 5e-324)]
    assert list_thresholds(problems) == [ALWAYS_THINK, 1.0, 0.123456, 4.94065e-324, 0.0]


# ---- putting samples together ---------------------------------------------------------------------------------------


def outcome(problem, requested, verdict=Verdict.CORRECT, tokens=5, index=0):
    mode = Mode.NO_THINK if requested == "no_think" else Mode.THINK
    return Outcome(problem, "1", requested, index, mode, verdict, tokens, None)


def world_of(names="abcd"):
    outcomes = [outcome(name, requested) for name in names for requested in ("auto", "think", "no_think")]
    return outcomes, {name: Decision(0.5, 0.4) for name in names}


def test_samples_and_decisions_are_put_together():
    outcomes, decisions = world_of()
    outcomes += [outcome("a", "think", Verdict.TRUNCATED, 128, 1), outcome("a", "no_think", Verdict.WRONG, 7, 1)]
    first, *_ = measure(outcomes, decisions)
    assert first == Measured("a", "1", 0.5, (1, 0), (1, 0), (5, 128), (5, 7))


def test_problems_without_a_parsable_reference_answer_are_left_out():
    outcomes, decisions = world_of()
    unreadable = [outcome("x", requested, Verdict.REFERENCE_UNPARSABLE) for requested in ("think", "no_think")]
    assert [one.problem_id for one in measure([*outcomes, *unreadable], decisions)] == list("abcd")


@pytest.mark.parametrize(
    ("requested", "decided", "message"),
    [
        ("no_think", True, "problem 'c' has no forced no_think sample; complete the folder"),
        ("think", True, "problem 'c' has no forced think sample; complete the folder"),
        (None, False, r"problem 'c' has no decision \(P\(no_think\)\); complete the folder"),
        ("think", False, r"problem 'c' has no forced think sample and no decision"),
    ],
)
def test_what_is_missing_is_refused_by_name(requested, decided, message):
    outcomes, decisions = world_of()
    outcomes = [one for one in outcomes if (one.problem_id, one.requested) != ("c", requested)]
    if not decided:
        del decisions["c"]
    with pytest.raises(UserError, match=message):
        measure(outcomes, decisions)


def test_a_threshold_answers_with_the_forced_samples_of_the_mode_it_chooses():
    decisions = {"a": Decision(0.9, 0.1), "b": Decision(0.3, 0.7), "c": Decision(0.5, 0.5)}
    outcomes = [outcome(name, mode) for name in decisions for mode in ("auto", "think", "no_think")]
    found = [(one.problem_id, one.requested) for one in select_answers(outcomes, decisions, 0.5)]
    assert found == [("a", "no_think"), ("b", "think"), ("c", "no_think")]
    assert {one.requested for one in select_answers(outcomes, decisions, ALWAYS_THINK)} == {"think"}


def test_a_decision_that_is_no_number_is_none():
    outcomes, decisions = world_of()
    with pytest.raises(UserError, match="problem 'b' has no decision"):
        measure(outcomes, decisions | {"b": Decision(math.nan, 0.1)})


def test_too_few_problems_are_refused():
    with pytest.raises(
        UserError, match=r"3 problems with a parsable reference answer are too few for a calibration.*at least 4"
    ):
        measure(*world_of("abc"))


def test_halves_are_stratified_and_know_no_outcome():
    problems = [replace(FOUR[0], problem_id=f"{level} {n}", level=level) for level in "123" for n in range(21)]
    choosing, held_out = split_halves(problems)
    assert sorted(one.problem_id for one in (*choosing, *held_out)) == sorted(one.problem_id for one in problems)
    for level in "123":
        assert {sum(one.level == level for one in half) for half in (choosing, held_out)} == {10, 11}
    turned = [replace(one, think_correct=(0.0,), no_think_probability=0.1) for one in reversed(problems)]
    assert [one.problem_id for one in split_halves(turned)[0]] == [one.problem_id for one in choosing]


# ---- the guarantee --------------------------------------------------------------------------------------------------


def slow_p_value(values, limit, high):
    """The definition, one bet after the other."""
    capitals = []
    for bet in range(100):
        share = (bet + 0.5) / 100 / (high - limit)
        capitals.append(math.prod(1 + share * (limit - value) for value in values))
    return min(1.0, 100 / sum(capitals))


def test_p_values_are_those_of_the_definition():
    rng = np.random.default_rng(1)
    direct, think = rng.choice([-1, -0.5, 0, 0.5, 1], 40), rng.choice([-1, 0, 0.5], 40)
    found = compute_p_values(direct, think, 0.2, 1.0)
    assert len(found) == 41
    for count in range(41):
        assert found[count] == pytest.approx(slow_p_value([*direct[:count], *think[count:]], 0.2, 1.0))


@pytest.mark.parametrize("means", [(0.2,) * 6, (0.9, 0.5, 0.1, 0.0, -0.1, -0.2), (0.6, 0.6, 0.0, 0.0, 0.0, 0.0)])
@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_a_p_value_is_one_exactly_counted(means, spread):
    """All outcomes of six problems whose mean loss is the limit: alpha is not exceeded, though levels differ."""
    chances = [(max(0, -mean) + spread / 2, max(0, mean) + spread / 2) for mean in means]
    reached = []
    for outcome in itertools.product((-1, 0, 1), repeat=6):
        probability = math.prod(
            {-1: minus, 1: plus, 0: 1 - minus - plus}[one] for one, (minus, plus) in zip(outcome, chances, strict=True)
        )
        if probability > 0:
            [*_, p] = compute_p_values(np.array(outcome, float), np.zeros(6), 0.2, 1.0)
            reached.append((p, probability))
    assert math.fsum(probability for _, probability in reached) == pytest.approx(1)
    assert math.fsum(probability * math.exp(bet_sum(p)) for p, probability in reached) <= 1 + 1e-9
    for alpha in (0.01, 0.05, 0.2, 0.4, 0.6):
        assert math.fsum(probability for p, probability in reached if p <= alpha) <= alpha


def bet_sum(p):
    """Log of the capital behind a p-value below 1."""
    return -math.log(p) if p < 1 else -math.inf


def test_a_value_beyond_the_bound_is_refused():
    with pytest.raises(ValueError, match="must not exceed"):
        compute_p_values(np.array([1.5]), np.array([0.0]), 0.1, 1.0)
    with pytest.raises(ValueError, match="must not exceed"):
        compute_p_values(np.array([0.5]), np.array([0.0]), 1.0, 1.0)


@pytest.mark.parametrize(("tolerance", "least"), [(0.01, 449), (0.05, 88)])
def test_how_many_problems_a_loss_of_nothing_needs(tolerance, least):
    """By hand: the mean over λ of (1 + λ·tolerance)^n is about (e^x − 1)/x with x = n·tolerance: 20 at x = 4.5."""
    assert count_problems_needed(np.zeros(7), tolerance, 1.0, 0.05) == least
    assert compute_p_values(np.zeros(least), np.zeros(least), tolerance, 1.0)[0] <= 0.05
    assert compute_p_values(np.zeros(least - 1), np.zeros(least - 1), tolerance, 1.0)[0] > 0.05


def test_no_number_of_problems_shows_what_is_not_so():
    assert count_problems_needed(np.array([0.0, 0.5]), 0.25, 1.0, 0.05) is None
    once = np.array([0.0] * 30 + [0.5])
    needed = count_problems_needed(once, 0.25, 1.0, 0.05)
    repeated = np.tile(once, 3)
    assert needed < len(repeated)
    assert slow_p_value(repeated, 0.25, 1.0) < 0.05 < slow_p_value(once[-needed + 1 :], 0.25, 1.0)
    assert compute_bet_logs(once, 0.25, 1.0).shape == (31, 100)


def in_sequence(problems, limit):
    """Fixed-sequence testing, written as it is described."""
    steps, counts, loss = losses(problems)
    chosen = ALWAYS_THINK
    for step, p in zip(steps, compute_p_values(loss, np.zeros_like(loss), limit, 1.0)[counts], strict=True):
        if p > 0.05:
            break
        chosen = step
    return chosen


ALLOWED = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "limit"), WORLDS)
def test_the_guarantee_holds_where_a_naive_choice_breaks_it(world, limit):
    assert violations(world, certified, limit) <= ALLOWED
    assert violations(world, naive, limit) > 0.3


def test_the_choice_is_that_of_the_procedure_as_it_is_told(monkeypatch):
    monkeypatch.setattr(guarantee, "check_held_out", lambda *rest: None)
    rng = np.random.default_rng(5)
    chosen = []
    for _ in range(20):
        problems, _ = slope(rng)
        chosen.append(certified(problems, 0.1))
        assert chosen[-1] == floor_digits(in_sequence(problems, 0.1))
    assert np.median(chosen) < 0.9  # and it is no empty promise: 2/3 is the least that is within the tolerance


def heavy(rng, count=400):
    """Answers take 30 tokens on average with a tail up to 1,000, the limit; thinking twice that: any choice is over."""
    think, no_think = (np.where(rng.random(count) < share, 1000.0, 10.0) for share in (0.05, 0.0207))
    probability = rng.random(count)
    problems = problems_of(probability, np.ones(count), np.ones(count), think.tolist(), no_think.tolist())
    return problems, lambda threshold: 10 + 990 * (0.05 - 0.0293 * (1 - min(threshold, 1)))


def test_a_token_budget_is_kept_where_a_naive_choice_exceeds_it(monkeypatch):
    monkeypatch.setattr(guarantee, "check_held_out", lambda *rest: None)

    def certified(problems):
        choice = choose_budget(problems, 30, 1000)
        return choice.no_think_probability if choice.certified else -1.0

    def naive(problems):
        ordered = sorted(split_halves(problems)[0], key=lambda one: -one.no_think_probability)
        saved = np.cumsum([one.think_tokens[0] - one.no_think_tokens[0] for one in ordered]) / len(ordered)
        within = np.flatnonzero(np.mean([one.think_tokens[0] for one in ordered]) - saved <= 30)
        return ordered[within[0]].no_think_probability if len(within) else -1.0

    def broken(choose):
        rng, count = np.random.default_rng(3), 0
        for _ in range(400):
            problems, truth = heavy(rng)
            threshold = choose(problems)
            count += threshold >= 0 and truth(threshold) > 30
        return count / 400

    assert broken(certified) <= ALLOWED
    assert broken(naive) > 0.3


# ---- choices --------------------------------------------------------------------------------------------------------


def graded(count, loses_below, *, probability=lambda n, count: (n + 0.5) / count):
    """Problems that no_think answers as well as think if P(no_think) is above `loses_below`, and never below it."""
    probability = [probability(n, count) for n in range(count)]
    return problems_of(
        probability,
        [1] * count,
        [p > loses_below for p in probability],
        [40.0 if p < 0.5 else 20.0 for p in probability],
        [5.0] * count,
    )


def test_the_certified_threshold_uses_the_tolerance_and_no_more():
    choice = choose_loss(graded(2000, 0.3), 0.05)
    assert choice.certified
    assert (choice.kind, choice.tolerance, choice.token_budget) == (Kind.ACCURACY_LOSS, 0.05, None)
    assert 0.25 < choice.no_think_probability < 0.3
    assert (choice.num_problems, choice.held_out.num_problems, choice.problems_needed) == (1000, 1000, None)
    point = choice.held_out.point
    assert point.threshold == choice.no_think_probability
    assert point.accuracy_difference == pytest.approx(choice.no_think_probability - 0.3, abs=0.01)
    assert choice.held_out.against_thinking == "lower"  # a loss within the tolerance may well be visible


def test_a_budget_is_used_by_as_much_thinking_as_it_allows():
    problems = graded(2000, 0.3)  # always thinking: 30 tokens; half of that is what the surest half saves first
    choice = choose_budget(problems, 24, 64)
    assert choice.certified
    assert (choice.kind, choice.tolerance, choice.token_budget) == (Kind.TOKEN_BUDGET, None, 24)
    # By hand: 30 - 15·(1 - t) tokens at a threshold t above a half, so 24 at 0.6; the guarantee takes its part.
    assert 0.4 < choice.no_think_probability < 0.6
    assert choice.held_out.verdict is HeldOutVerdict.CONFIRMED
    assert choice.held_out.point.mean_tokens <= 24
    generous = choose_budget(problems, 40, 64)
    assert (generous.certified, generous.no_think_probability) == (True, ALWAYS_THINK)


def test_too_few_problems_certify_nothing_and_say_how_many_would():
    choice = choose_loss(graded(100, 0.3), 0.01)
    assert (choice.certified, choice.no_think_probability) == (False, None)
    assert (choice.num_problems, choice.problems_needed, choice.held_out) == (50, 898, None)
    assert choose_loss(graded(choice.problems_needed, 0.0), 0.01).certified
    assert choose_loss(graded(200, 1.1), 0.05).problems_needed > 200  # what is surest of no_think is wrong
    hopeless = choose_budget(graded(100, 0.3), 4, 64)
    assert (hopeless.certified, hopeless.problems_needed) == (False, None)  # even direct answers take 5 tokens


def test_a_threshold_that_no_problem_reached_is_tested_too():
    """The surest problems gain, but fewer than 449 problems cannot rule out a loss among surer ones yet unseen."""
    rng = np.random.default_rng(0)
    gains = problems_of(rng.random(800), [0] * 800, [1] * 800)
    assert not choose_loss(gains, 0.01).certified
    assert choose_loss(gains[:400] + problems_of(rng.random(800), [0] * 800, [1] * 800)[400:], 0.03).certified


def test_the_held_out_half_confirms_contradicts_or_leaves_open():
    lossy = problems_of([0.9] * 400, [1] * 400, [n % 5 > 0 for n in range(400)])  # a loss of 0.2
    verdicts = {
        limit: check_held_out(lossy, 0.5, Kind.ACCURACY_LOSS, limit).verdict.value for limit in (0.1, 0.19, 0.3)
    }
    assert verdicts == {0.1: "contradicted", 0.19: "consistent", 0.3: "confirmed"}
    assert check_held_out(lossy, 0.5, Kind.ACCURACY_LOSS, 0.3).against_thinking == "lower"
    assert check_held_out(lossy, 0.95, Kind.ACCURACY_LOSS, 0.3).against_thinking == "not distinguishable"
    thinking = graded(400, 0.3)
    assert check_held_out(thinking, ALWAYS_THINK, Kind.TOKEN_BUDGET, 25).verdict is HeldOutVerdict.CONTRADICTED


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -0.1])
def test_a_tolerance_must_be_a_share(tolerance):
    with pytest.raises(ValueError, match="tolerance must lie between 0 and 1"):
        choose_loss(FOUR, tolerance)


def test_a_budget_must_lie_below_max_tokens():
    with pytest.raises(ValueError, match="between 0 and the maximum of 128 tokens, got 128"):
        choose_budget(FOUR, 128, 128)
    with pytest.raises(ValueError, match="must not exceed"):
        choose_budget(FOUR, 30, 60)  # one of the problems takes 100


# ---- what is stored -------------------------------------------------------------------------------------------------


def test_a_dial_comes_back_as_it_was_stored(tmp_path):
    made = calibrate(graded(400, 0.3), SETTING, "arithmetic", tolerance=0.05, token_budget=20)
    assert [choice.kind for choice in made.choices] == [Kind.ACCURACY_LOSS, Kind.TOKEN_BUDGET]
    assert made.threshold == made.choices[1]  # the budget was requested
    assert calibrate(FOUR, SETTING, "arithmetic", tolerance=0.05).threshold.kind is Kind.ACCURACY_LOSS
    path = tmp_path / "adaptthink.json"
    write_dial(path, made)
    assert read_dial(path, "weights") == made
    assert read_dial(path) == made


def test_infinite_ends_are_stored_as_none(tmp_path):
    made = calibrate(FOUR, SETTING, "s", tolerance=0.05)
    point = replace(made.curve[0], token_change_interval=(-1.0, None))
    write_dial(tmp_path / "d.json", replace(made, curve=(point,)))
    assert "Infinity" not in (tmp_path / "d.json").read_text()
    assert read_dial(tmp_path / "d.json").curve == (point,)


def test_a_dial_that_cannot_be_used_is_refused(tmp_path):
    path = tmp_path / "adaptthink.json"
    with pytest.raises(UserError, match=r"no dial '.*adaptthink.json', so no threshold"):
        read_dial(path)
    made = calibrate(FOUR, SETTING, "s", tolerance=0.05)
    write_dial(path, made)
    with pytest.raises(UserError, match=r"other weights \(fingerprint weights, the model's is others\)"):
        read_dial(path, "others")
    write_dial(path, replace(made, version=2))
    with pytest.raises(UserError, match="version 2, but this program reads 1"):
        read_dial(path)
    by_hand = '{"threshold": {"no_think_probability": 0.3}}'  # earlier versions documented it
    for text, where in (
        ('{"version": 1}', "threshold: Field required"),
        ("{oops", "Expecting property name"),
        (by_hand, "version: Field required"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"damaged \(.*{where}.*a threshold of your own is given by --thresh") as e:
            read_dial(path)
        assert "\n" not in str(e.value)


# ---- deciding -------------------------------------------------------------------------------------------------------


def test_decisions_follow_the_threshold(random_policy, monkeypatch):
    monkeypatch.setattr(decide_module, "PROMPTS_AT_ONCE", 2)
    texts = ["1+1=?", "47+8=?", "12+88-31=?"]
    engine = NativeEngine(random_policy.model, random_policy.eos_ids)
    ids = [encode_prompt(random_policy.tokenizer, random_policy.template, text) for text in texts]
    expected = [math.exp(row[0]) for row in engine.next_token_logprobs(ids, [random_policy.template.no_think_id])]
    found = decide(random_policy, texts, 0.0)
    assert [one.no_think_probability for one in found] == pytest.approx(expected, rel=1e-5)
    assert {one.mode for one in found} == {Mode.NO_THINK}
    middle = sorted(one.no_think_probability for one in found)[1]
    modes = [one.mode for one in decide(random_policy, texts, middle * 0.9999)]
    assert modes == [Mode.NO_THINK if probability >= middle * 0.9999 else Mode.THINK for probability in expected]
    assert modes.count(Mode.NO_THINK) == 2
    assert {one.mode for one in decide(random_policy, texts, ALWAYS_THINK)} == {Mode.THINK}
    assert decide(random_policy, [], 0.5) == []
