"""The online dial: weights by hand, capital exactly counted on small worlds, coverage by simulation, restarts."""

import itertools
import json
import math
import random

import numpy as np
import pytest
from online_simulation import (
    Cell,
    make_borderline,
    make_good,
    measured_problems,
    serve,
    slide,
    stay,
    turn,
    watch,
)

from adaptthink.dial import online
from adaptthink.dial.anytime import SHARES, compute_log_wealth, compute_running_limits, find_deviation
from adaptthink.dial.curve import ALWAYS_THINK, Measured
from adaptthink.dial.guarantee import choose_loss
from adaptthink.dial.online import Bin, Count, OnlineDial, estimate_gain, make_policies
from adaptthink.errors import UserError
from adaptthink.modes import Mode

GRID = (0.9, 0.5)


def make_dial(seed=0, **more):
    quick = {"tolerance": 0.2, "thresholds": GRID, "explore_think": 0.2, "explore_direct": 0.2, "seed": seed}
    return OnlineDial(**quick | more)


def certify(dial, count):
    for step in dial.steps[:count]:
        step.certified = True
    return dial


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_policies_by_hand():
    dial = make_dial(explore_think=0.1, explore_direct=0.02)
    assert make_policies(dial).tolist() == [[0.02, 0.02, 0], [0.9, 0.02, 0], [0.9, 0.9, 0]]
    assert online.bound_losses(make_policies(dial), 0) == pytest.approx([45, 45])  # 0.9 / 0.02
    assert online.bound_losses(make_policies(dial), 1) == pytest.approx([9, 45])  # 0.9 / 0.1 above the threshold
    assert online.bound_losses(make_policies(dial), 2) == pytest.approx([9, 9])


def test_weights_by_hand():
    """Guesses 2.5/4 and 1.5/2; the mode was drawn with 0.2 for think and 0.8 for no_think."""
    counts = Bin(Count(3, 3, 2.0), Count(1, 1, 1.0))
    assert estimate_gain(counts, Mode.THINK, 1.0, 0.8) == pytest.approx(-0.125 + 0.375 / 0.2)
    assert estimate_gain(counts, Mode.THINK, 0.0, 0.8) == pytest.approx(-0.125 - 0.625 / 0.2)
    assert estimate_gain(counts, Mode.NO_THINK, 1.0, 0.8) == pytest.approx(-0.125 - 0.25 / 0.8)
    assert estimate_gain(counts, Mode.NO_THINK, 0.0, 0.8) == pytest.approx(-0.125 + 0.75 / 0.8)


@pytest.mark.parametrize("no_think", [0.02, 0.5, 0.9])
def test_a_weighted_answer_is_unbiased_and_bounded(no_think):
    for (hits, tries), (other_hits, other_tries) in itertools.product([(0, 0), (0, 50), (50, 50), (3, 7)], repeat=2):
        counts = Bin(Count(tries, tries, hits), Count(other_tries, other_tries, other_hits))
        gains = {
            (mode, correct): estimate_gain(counts, mode, correct, no_think) for mode in Mode for correct in (0.0, 1.0)
        }
        assert max(map(abs, gains.values())) <= 1 / min(no_think, 1 - no_think) + 1e-12
        mean = (1 - no_think) * (0.7 * gains[Mode.THINK, 1.0] + 0.3 * gains[Mode.THINK, 0.0])
        mean += no_think * (0.4 * gains[Mode.NO_THINK, 1.0] + 0.6 * gains[Mode.NO_THINK, 0.0])
        assert mean == pytest.approx(0.7 - 0.4)


def test_one_answer_by_hand(monkeypatch):
    """P = 0.6 is between the thresholds: drawn as a direct answer with 0.2, and wrong. The gain is 0.5 / 0.2."""
    monkeypatch.setattr(online, "draw", lambda seed, number: 0.1)
    dial = make_dial()
    decision = dial.decide(0.6)
    assert (decision.mode, decision.mode_probability, decision.explored) == (Mode.NO_THINK, 0.2, True)
    assert decision.threshold == ALWAYS_THINK
    assert dial.give_feedback(1, correct=0)
    for step, weight in zip(dial.steps, (0.2, 0.8), strict=True):  # the policies' own probability of a direct answer
        expected = [math.log(1 + share * (0.2 - weight * 2.5) / (4 - 0.2)) for share in SHARES]
        assert step.safe == pytest.approx(expected)
    assert (dial.use.number, dial.use.slack, dial.use.total) == (1, pytest.approx(0.2), 0)
    assert dial.bins[1].no_think == Count(1, 1, 0.0)
    assert dial.bins[1].no_think.guess == 0.25


def test_a_request_below_the_grid_always_thinks_and_loses_nothing():
    dial = certify(make_dial(allowance=10**6), 2)
    assert {dial.decide(0.49).mode for _ in range(50)} == {Mode.THINK}
    dial.give_feedback(1, correct=0)
    expected = [math.log(1 + share * 0.2 / (4 - 0.2)) for share in SHARES]
    assert dial.steps[0].safe == pytest.approx(expected)
    assert (dial.use.number, dial.use.total, dial.use.spread) == (1, 0, 0)


def test_shares_of_modes_are_those_that_are_stated():
    dial = certify(make_dial(allowance=10**6, window=5), 1)
    seen = [[dial.decide(probability) for _ in range(3000)] for probability in (0.95, 0.9, 0.7)]
    shares = [np.mean([one.mode is Mode.NO_THINK for one in group]) for group in seen]
    assert shares == pytest.approx([0.8, 0.8, 0.2], abs=0.03)
    assert [one.threshold for one in seen[0][:1]] == [0.9]
    for one in itertools.chain(*seen):
        likely = (one.no_think_probability >= 0.9) == (one.mode is Mode.NO_THINK)
        assert one.mode_probability == pytest.approx(0.8 if likely else 0.2)
        assert one.explored is not likely


# ---- exactly counted ------------------------------------------------------------------------------------------------


def enumerate_paths(monkeypatch, make, world, length):
    """Every path of a small world: (probability, dial, requests), where each request is (cell, step, dial before)."""
    drawn = [0.0]
    monkeypatch.setattr(online, "draw", lambda seed, number: drawn[0])
    options = list(itertools.product(range(2), (False, True), (0.0, 1.0)))
    for path in itertools.product(options, repeat=length):
        dial, probability, lost, wrong = make(), 1.0, 0.0, 0
        for kind, is_direct, correct in path:
            cell = world(dial, wrong)[kind]
            position = online.find_bin(dial.thresholds, cell.probability)
            no_think = make_policies(dial)[dial.step, position]
            accuracy = cell.direct if is_direct else cell.think
            probability *= cell.share * (no_think if is_direct else 1 - no_think)
            probability *= accuracy if correct else 1 - accuracy
            if not probability:
                break
            lost += no_think * (cell.think - cell.direct)
            drawn[0] = 0.0 if is_direct else 1.0
            decision = dial.decide(cell.probability)
            assert (decision.mode is Mode.NO_THINK) == is_direct
            dial.give_feedback(decision.number, correct=correct)
            wrong += not correct
        if probability:
            yield probability, dial, lost


def capital(logs):
    return float(np.exp(logs).mean())


def test_capital_against_a_loss_of_the_tolerance_is_a_martingale_exactly(monkeypatch):
    """Two kinds, all losses 0.6: policy 1 loses 0.5·0.6·(0.7 + 0.3) = 0.3, the tolerance; policy 2 more.

    With so little confidence policies come into use on the way, which changes the weights of the rest.
    """
    cells = [Cell(0.5, 0.95, 0.8, 0.2), Cell(0.5, 0.7, 0.8, 0.2)]
    settings = {"tolerance": 0.3, "explore_think": 0.3, "explore_direct": 0.3, "allowance": 10**6}
    total, first, second, reached, used = 0.0, 0.0, 0.0, 0.0, 0.0
    for probability, dial, _ in enumerate_paths(
        monkeypatch, lambda: make_dial(confidence=0.1, **settings), lambda dial, wrong: cells, 4
    ):
        total += probability
        first += probability * capital(dial.steps[0].safe)
        second += probability * capital(dial.steps[1].safe)
        reached += probability * dial.steps[0].certified
        used += probability * (dial.step > 0)
    assert total == pytest.approx(1)
    assert first == pytest.approx(1)
    assert second < 1
    assert 0 < used <= reached <= 0.9


def test_the_alarm_is_expected_to_grow_by_one_a_request_at_most(monkeypatch):
    """Shiryaev-Roberts: at a loss of the tolerance its mean after n requests is n exactly, so chance takes long."""
    cells = [Cell(0.5, 0.95, 0.8, 0.2), Cell(0.5, 0.7, 0.8, 0.2)]
    settings = {"tolerance": 0.3, "explore_think": 0.3, "explore_direct": 0.3, "allowance": 10**6}
    paths = enumerate_paths(monkeypatch, lambda: certify(make_dial(**settings), 1), lambda dial, wrong: cells, 4)
    assert math.fsum(p * (capital(dial.steps[0].alarm) - 1) for p, dial, _ in paths) == pytest.approx(4)


@pytest.mark.parametrize("side", [1, -1])
def test_the_limits_of_the_loss_so_far_hold_however_it_changes(monkeypatch, side):
    """The empirical-Bernstein process, exactly, where the world looks at what went wrong before."""

    def world(dial, wrong):
        gap = (0.5, -0.3, 0.7, 0.1, 0.0)[wrong]
        return [Cell(0.6, 0.95, 0.8, 0.8 - gap), Cell(0.4, 0.7, 0.7, 0.6)]

    mean = 0.0
    for probability, dial, lost in enumerate_paths(
        monkeypatch, lambda: certify(make_dial(allowance=10**6), 2), world, 4
    ):
        deviation = side * (lost - dial.use.total) / online.use_scale(dial)
        mean += probability * math.exp(compute_log_wealth(deviation, dial.use.spread))
    assert 0.9 < mean <= 1 + 1e-9


def test_limits_by_hand():
    """Where nothing varied, the deviation at which the mean of exp(λx) is 40; and the limits around it."""
    deviation = find_deviation(0.0, 0.025)
    assert np.exp(SHARES * deviation).mean() == pytest.approx(40)
    low, high = compute_running_limits(30.0, 2.0, 0.0, 5.0, 1000, 0.05)
    assert high == pytest.approx((30 + 2 + 5 * deviation) / 1000)
    assert low == pytest.approx((30 - 2 - 5 * deviation) / 1000)
    assert compute_running_limits(0, 0, 0, 5.0, 0, 0.05) == (-1, 1)


# ---- coverage -------------------------------------------------------------------------------------------------------

REPETITIONS = 100
ALLOWED = 0.05 + 3 * math.sqrt(0.05 * 0.95 / REPETITIONS)


def count_bad_uses(count=300, over=1.02, **more):
    bad = 0
    feedback = {name: more.pop(name) for name in ("rate", "delay") if name in more}
    for seed in range(REPETITIONS):
        dial = make_dial(seed, allowance=100, **more)
        bad += serve(dial, stay(make_borderline(dial, over)), count, random.Random(seed), **feedback).bad_use
    return bad / REPETITIONS


@pytest.mark.slow
def test_a_policy_that_loses_a_little_too_much_is_rarely_ever_used():
    assert count_bad_uses() <= ALLOWED
    assert count_bad_uses(confidence=0.3) > 2 * ALLOWED  # the simulation would show it


def test_late_and_partial_feedback_breaks_nothing():
    late = {"rate": lambda mode, correct: 0.6, "delay": lambda rng: rng.randrange(60)}
    assert count_bad_uses(**late) <= ALLOWED


@pytest.mark.slow
def test_feedback_that_depends_on_correctness_breaks_it():
    """The assumption is needed: of direct answers only the right ones are heard of."""
    assert count_bad_uses(rate=lambda mode, correct: float(correct or mode is Mode.THINK)) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["turn", "slide", "watch", "late"])
def test_under_drift_what_was_lost_so_far_is_within_the_tolerance(kind):
    """But for the answers that wait: one where feedback is at once, up to 30 where it may take so many requests."""
    bad = [Cell(1, 0.97, 1, 0)]
    worlds = {"turn": turn(make_good(), bad, 450), "slide": slide(600), "watch": watch, "late": watch}
    delay, waiting = (lambda rng: rng.randrange(30), 30) if kind == "late" else (lambda rng: 0, 1)
    broken, used = 0, 0
    for seed in range(20):
        dial = make_dial(seed, explore_direct=0.1)
        dial.learn(measured_problems(random.Random(1000 + seed), make_good(), 200))
        run = serve(dial, worlds[kind], 700, random.Random(seed), delay=delay, look=50)
        broken += run.excess > waiting * (1 - dial.tolerance) or not run.covered
        used += run.used > 0
    assert broken <= 20 * 0.05 + 3 * math.sqrt(20 * 0.05 * 0.95)
    assert used > 15


def test_without_the_guard_an_adversary_would_take_more(monkeypatch):
    monkeypatch.setattr(OnlineDial, "held_back", False)
    dial = make_dial(patience=10**300)
    dial.learn(measured_problems(random.Random(0), make_good(), 200))
    assert serve(dial, watch, 300, random.Random(0)).excess > 100


# ---- power ----------------------------------------------------------------------------------------------------------


def test_a_calibrations_problems_certify_sooner_than_the_fixed_certificate():
    """No half is held out: 150 problems do, of which the certificate has 75 to choose on; it takes 176."""
    problems = [Measured(str(n), "all", 0.97, (1.0,), (1.0,), (9.0,), (1.0,)) for n in range(150)]
    dial = OnlineDial(tolerance=0.05, thresholds=GRID)
    dial.learn(problems)
    assert [step.certified for step in dial.steps] == [True, True]
    assert not choose_loss(problems, 0.05).certified
    assert dial.report().held_back  # nothing is in reserve
    assert OnlineDial(tolerance=0.05, thresholds=GRID, allowance=60).report().threshold == ALWAYS_THINK


def test_a_good_threshold_comes_into_use_from_nothing():
    reached, dial = [], None
    for seed in range(10):
        dial = make_dial(seed)
        run = serve(dial, stay([Cell(0.6, 0.97, 0.9, 0.9), Cell(0.4, 0.1, 0.9, 0.1)]), 600, random.Random(seed))
        reached.append(run.certified.get(1, math.inf))
        assert not run.bad_use
    assert sorted(reached)[5] < 250
    assert dial.step == 2  # nothing lies between the thresholds, so the lower one loses no more
    assert dial.report().threshold == 0.5


def test_a_threshold_is_withdrawn_when_the_evidence_turns_and_not_before():
    dial = make_dial(allowance=100)
    dial.learn(measured_problems(random.Random(1), make_good(), 300))
    assert dial.step == 2
    rng = random.Random(1)
    serve(dial, stay(make_good()), 1500, rng)
    assert (dial.step, dial.withdrawals) == (2, 0)
    serve(dial, stay([Cell(1.0, 0.97, 0.95, 0.2)]), 100, rng)
    assert 1 <= dial.withdrawals <= 2  # both thresholds at once, or one after the other
    assert [step.certified for step in dial.steps] == [False, False]
    assert max(report.evidence for report in dial.report().steps) <= 1e-9
    assert dial.report().threshold == ALWAYS_THINK


# ---- order, restarts, what is stored --------------------------------------------------------------------------------


def state(dial):
    return dial.steps, dial.bins, dial.use, dial.withdrawals


def test_the_order_in_which_feedback_arrives_changes_nothing():
    rng = random.Random(3)
    verdicts = [(number, rng.choice([0.0, 1.0, None])) for number in range(1, 61)]
    found = []
    for order in ("as asked", "reversed", "mixed"):
        dial = make_dial()
        for number in range(60):
            dial.decide((number % 10) / 10)
        given = {"as asked": verdicts, "reversed": verdicts[::-1], "mixed": random.Random(5).sample(verdicts, 60)}
        for number, correct in given[order]:
            dial.give_feedback(number, correct=correct)
        assert not dial.waiting
        found.append(state(dial))
    assert found[0] == found[1] == found[2]


def test_feedback_waits_for_earlier_requests_until_their_window_closes():
    dial = make_dial(window=3)
    for _ in range(3):
        dial.decide(0.7)
    assert dial.give_feedback(2, correct=1)
    assert (dial.use.number, dial.report().waiting) == (0, 3)
    dial.decide(0.7)  # closes the window of the first, which frees the second
    assert (dial.use.number, [one.number for one in dial.waiting]) == (1, [3, 4])
    before = state(dial)
    assert not dial.give_feedback(1, correct=0)
    assert state(dial) == before
    assert dial.bins[1].think.requests + dial.bins[1].no_think.requests == 2


def test_a_restart_at_any_time_changes_no_decision(tmp_path):
    kept, restarted = (certify(make_dial(window=20), 1) for _ in range(2))
    rng = random.Random(7)
    for decided in range(1, 151):
        probability = rng.random()
        assert restarted.decide(probability) == kept.decide(probability)
        number, correct = rng.randint(max(1, decided - 25), decided), rng.choice([0.0, 0.3, 1.0])
        answers = []
        for dial in (kept, restarted):
            try:
                answers.append(dial.give_feedback(number, correct=correct))
            except UserError as error:  # a second verdict on the same request
                answers.append(str(error))
        assert answers[0] == answers[1]
        restarted.write(tmp_path / "online.json")
        restarted = OnlineDial.read(tmp_path / "online.json")
        assert restarted == kept
    assert kept.use.number > 50


def test_a_report_shows_the_bins():
    dial = make_dial()
    for probability, correct in ((0.95, 1), (0.6, 0), (0.6, None), (0.1, 1)):
        dial.give_feedback(dial.decide(probability).number, correct=correct)
    report = dial.report()
    assert (report.requests, report.with_feedback, report.waiting, report.loss) == (4, 3, 0, 0)
    assert [low for low, _ in report.bins] == [0.9, 0.5, 0.0]
    assert [one.think.requests + one.no_think.requests for _, one in report.bins] == [1, 2, 1]
    assert [one.think.with_feedback + one.no_think.with_feedback for _, one in report.bins] == [1, 1, 1]
    assert report.loss_limits == (-1, 1)
    assert OnlineDial().report().loss is None


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 1.0}, r"tolerance is a share between 0 and 1 \(0.05: five points\), got 1.0"),
        ({"tolerance": math.nan}, "tolerance is a share"),
        ({"thresholds": ()}, "at least one"),
        ({"thresholds": (0.5, 0.0)}, r"must lie in \(0, 1\]"),
        ({"thresholds": (0.5, 0.9)}, "must fall"),
        ({"confidence": 1.0}, "confidence must lie between"),
        ({"explore_think": 0.0}, "without exploration nothing is learned"),
        ({"explore_think": 0.6}, "at most 0.5, got 0.6"),
        ({"explore_direct": 0.3}, "at most 0.2, got 0.3"),
        ({"explore_direct": -0.1}, "above 0"),
        ({"window": 0}, "window and patience must be at least 1"),
        ({"allowance": math.nan}, "allowance at least 0"),
    ],
)
def test_settings_that_guarantee_nothing_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make_dial(**settings)


def test_exploration_is_half_of_the_tolerance_by_default():
    assert OnlineDial(tolerance=0.01).explore_direct == 0.005


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_is_refused(probability):
    dial = make_dial()
    with pytest.raises(UserError, match="P\\(no_think\\) is a probability"):
        dial.decide(probability)
    assert dial == make_dial()


def test_feedback_that_cannot_be_is_refused():
    dial = make_dial()
    dial.decide(0.7)
    dial.decide(0.7)
    for number in (0, 3):
        with pytest.raises(UserError, match=f"feedback on request {number}, but the dial has decided 2"):
            dial.give_feedback(number, correct=1)
    for correct in (-1, 2, math.nan):
        with pytest.raises(UserError, match="feedback is 1 for right"):
            dial.give_feedback(2, correct=correct)
    assert dial.give_feedback(2, correct=1)
    assert dial.give_feedback(2, correct=1)  # sent twice
    with pytest.raises(UserError, match=r"feedback on request 2 was 1.0, and is now 0"):
        dial.give_feedback(2, correct=0)
    with pytest.raises(UserError, match="before its first request only"):
        dial.learn([])


def test_a_state_that_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "online.json"
    with pytest.raises(UserError, match="no online dial"):
        OnlineDial.read(path)
    make_dial().write(path)
    stored = json.loads(path.read_text())
    for changed, message in (
        ({"version": 2}, "version 2, but this program reads 1"),
        ({"steps": "x"}, "holds no online dial \\(steps: "),
        ({"thresholds": [0.5]}, "does not fit its thresholds"),
        ({"tolerance": None}, "holds no online dial \\(tolerance: "),
    ):
        path.write_text(json.dumps(stored | changed))
        with pytest.raises(UserError, match=message):
            OnlineDial.read(path)
    for content in ("{oops", "[]"):
        path.write_text(content)
        with pytest.raises(UserError, match="damaged"):
            OnlineDial.read(path)
    del stored["steps"][0]["safe"]  # which would begin anew
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match="it is not all that was written"):
        OnlineDial.read(path)
