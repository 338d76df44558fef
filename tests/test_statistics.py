"""Statistics against hand-computed numbers, other implementations, their own laws, and simulated truth."""

import itertools
import math
from fractions import Fraction
from statistics import fmean, stdev

import coverage_simulation as simulation
import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from adaptthink.evaluation import statistics
from adaptthink.evaluation.statistics import (
    Difference,
    Interval,
    holm,
    mean_difference,
    mean_interval,
    mean_over_levels,
    measure_calibration,
    pass_at_k,
    pass_interval,
    relative_change,
    share_difference,
    share_interval,
    sign_flip_p_value,
)


def named(rows):
    return {f"p{number}": row for number, row in enumerate(rows)}


def ends(interval):
    return interval.low, interval.high


def answered(means, k):
    """Samples of every problem, 1 or 0, that have the given problem means."""
    return named([[1] * round(k * mean) + [0] * round(k - k * mean) for mean in means])


# ---- means ----------------------------------------------------------------------------------------------------------


def test_a_symmetric_mean_is_the_textbook_t_interval():
    interval = mean_interval(named([[0], [1], [2], [3]]))
    # mean 1.5, standard error sqrt(5/3)/2 = 0.6454972, t(0.975, 3) = 3.1824463, no skewness
    assert (interval.estimate, interval.num_problems, interval.confidence) == (1.5, 4, 0.95)
    assert ends(interval) == pytest.approx((1.5 - 2.0542603, 1.5 + 2.0542603))
    assert ends(interval) == pytest.approx(DescrStatsW([0.0, 1, 2, 3]).tconfint_mean(0.05))


def test_the_standard_error_is_the_cluster_robust_one():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(15, 1)) + rng.normal(size=(15, 4))
    rows = np.concatenate([rows, -rows])  # symmetric, so that nothing is corrected
    responses, problems = rows.ravel(), np.repeat(np.arange(30), 4)
    fit = sm.OLS(responses, np.ones((120, 1))).fit(cov_type="cluster", cov_kwds={"groups": problems}, use_t=True)
    assert ends(mean_interval(named(rows))) == pytest.approx(tuple(fit.conf_int()[0]))


def test_the_skewness_correction_inverts_halls_polynomial():
    values = np.array([1.0, 1.2, 1.3, 2.0, 2.1, 9.0])
    low, high = statistics.mean_limits(values)
    a = stats.skew(values, bias=False) / math.sqrt(6)
    error = values.std(ddof=1) / math.sqrt(6)
    for end, sign in ((low, 1), (high, -1)):
        t = (values.mean() - end) / error
        corrected = t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6
        assert corrected == pytest.approx(sign * stats.t.ppf(0.975, 5))
    assert high - values.mean() > values.mean() - low  # a long upper tail may hide more above than below


def test_problems_weigh_the_same_whatever_their_number_of_samples():
    assert mean_interval(named([[1, 1, 1, 1], [3]])).estimate == 2
    assert share_interval(named([[1, 1, 1, 1], [0]])).estimate == 0.5


@pytest.mark.parametrize(
    "tokens", [(5, 60, 3), (1, 1, 128), (128, 128, 7), (2, 90), (1, 1, 1, 1, 1, 128), (100, 120, 128)]
)
def test_token_intervals_stay_within_the_range_of_a_response(tokens):
    found = mean_interval({f"{n}": [count] for n, count in enumerate(tokens)}, within=(1.0, 128.0))
    assert 1 <= found.low < found.estimate < found.high <= 128


def test_very_few_problems_get_t_on_the_logarithm_of_the_mean():
    """By hand: mean 4, standard error 1/√3 · 2 = 1.1547, t(2) = 4.30265: factor exp(4.30265 · 1.1547 / 4) = 3.4628."""
    found = mean_interval({"a": [2], "b": [4], "c": [6]}, within=(1.0, 100.0))
    assert (found.low, found.high) == (pytest.approx(4 / 3.4628, rel=1e-4), pytest.approx(4 * 3.4628, rel=1e-4))
    anywhere = mean_interval({"a": [2], "b": [4], "c": [6]})  # such numbers may be negative: plain t, as none is skewed
    assert anywhere.low == pytest.approx(4 - 4.30265 * 1.1547, rel=1e-4)


def test_a_range_that_the_data_leave_is_none():
    found = mean_interval({"a": [300], "b": [310], "c": [320]}, within=(1.0, 128.0))  # estimated lengths
    assert found.low < found.estimate <= found.high


def test_equal_problem_means_leave_a_mean_without_width():
    assert ends(mean_interval(named([[7, 7]] * 5))) == (7, 7)


# ---- shares ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "num"), [(0, 10), (1, 10), (5, 10), (29, 30), (30, 30), (400, 500)])
def test_one_sample_each_gives_the_mid_p_interval(right, num):
    interval = share_interval(named([[1]] * right + [[0]] * (num - right)))
    low, high = ends(interval)
    if right:
        at_low = stats.binom.sf(right, num, low) + stats.binom.pmf(right, num, low) / 2
        assert at_low == pytest.approx(0.025)
    else:
        assert low == 0
    if right < num:
        at_high = stats.binom.cdf(right - 1, num, high) + stats.binom.pmf(right, num, high) / 2
        assert at_high == pytest.approx(0.025)
    else:
        assert high == 1
    exact = stats.binomtest(right, num).proportion_ci(method="exact")  # Clopper-Pearson holds it
    assert exact.low - 1e-9 <= low <= interval.estimate <= high <= exact.high + 1e-9


def test_all_right_counts_each_problem_once():
    # half the probability of ten out of ten is 0.025: p = 0.05 ** (1 / 10) = 0.7411344
    for k in (1, 4, 16):
        assert ends(share_interval(named([[1] * k] * 10))) == pytest.approx((0.05**0.1, 1))


def test_samples_count_by_how_little_they_agree():
    def width(rows):
        low, high = ends(share_interval(named(rows)))
        return high - low

    independent = width([[1, 0]] * 50)
    clustered = width([[1, 1], [0, 0]] * 25)
    assert clustered == pytest.approx(width([[1], [0]] * 25))
    # the spread is nil: 2 trials a problem, the most there can be
    low, high = ends(share_interval(named([[1]] * 50 + [[0]] * 50)))
    assert independent == pytest.approx(high - low)


def test_effective_trials_by_hand():
    # means 1, 1/2, 1/2, 0: spread 1/2 · 4/3 = 2/3, all-or-nothing 4 · 1/4 = 1; (2/3 + 0.15) / (1 + 0.15) = 0.7101449
    means = np.array([1, 0.5, 0.5, 0])
    assert statistics._effective(means, np.array(0.25), 0.25) == pytest.approx(4 / 0.7101449)


# ---- pass@k ---------------------------------------------------------------------------------------------------------


def test_pass_at_k_is_exact():
    for n, c in [(1, 0), (1, 1), (5, 2), (16, 1), (16, 15), (200, 3)]:
        for k in {1, 2, n // 2, n} & set(range(1, n + 1)):
            exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
            assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-12)
            assert pass_at_k(n, c, k) == pytest.approx(stats.hypergeom.sf(0, n, c, k), abs=1e-9)


def test_pass_at_k_does_not_overflow():
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)
    assert pass_at_k(10**6, 1, 1) == pytest.approx(1e-6, rel=1e-12)


def test_pass_at_k_is_unbiased():
    rng = np.random.default_rng(0)
    counts = rng.binomial(10, 0.2, 20_000)
    estimates = [pass_at_k(10, int(count), 4) for count in counts]
    truth = 1 - 0.8**4
    assert np.mean(estimates) == pytest.approx(truth, abs=0.01)
    assert abs(np.mean(1 - (1 - counts / 10) ** 4) - truth) > 0.02  # the plug-in estimate is not


def test_pass_interval_by_hand():
    interval = pass_interval(named([[1, 0, 0, 0], [1, 1, 0, 0]]), 2)
    assert interval.estimate == pytest.approx((1 / 2 + 5 / 6) / 2)
    all_samples = named([[1, 0], [0, 0], [1, 1]])
    assert pass_interval(all_samples, 2) == share_interval(named([[1], [0], [1]]))
    assert pass_interval(all_samples, 1) == share_interval(all_samples)


# ---- two models -----------------------------------------------------------------------------------------------------


def test_paired_shares_by_hand():
    # 20 problems, one sample: 5 right with new only, 1 with old only; (6 − 2)/22, √((8/22 − d²)/22)
    new = named([[1]] * 5 + [[0]] * 1 + [[1]] * 14)
    old = named([[0]] * 5 + [[1]] * 1 + [[1]] * 14)
    result = share_difference(new, old)
    centre = 4 / 22
    half = 1.959964 * math.sqrt((8 / 22 - centre**2) / 22)
    assert result.interval.estimate == pytest.approx(0.2)
    assert ends(result.interval) == pytest.approx((centre - half, centre + half), abs=1e-6)
    table = [[14, 5], [1, 0]]
    assert result.p_value == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert result.smallest_detectable == pytest.approx(half * (1.959964 + 0.8416212) / 1.959964, abs=1e-6)
    assert result.verdict == "not distinguishable"


def test_two_perfect_models_are_not_distinguishable_and_the_interval_says_how_well():
    perfect = named([[1] * 4] * 30)
    result = share_difference(perfect, perfect)
    assert result.p_value == 1
    assert result.verdict == "not distinguishable"
    assert ends(result.interval) == pytest.approx((-0.0866, 0.0866), abs=1e-4)  # 1.96 · √(2/32/32)
    assert result.smallest_detectable > 0.1


def test_sign_flips_are_those_of_brute_force():
    differences = [0.3, -0.1, 0.25, 0.4, 0.05, -0.2, 0.15, 0.35]
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in itertools.product((1, -1), repeat=8)
    ]
    extreme = sum(abs(value) >= sum(differences) - 1e-12 for value in sums)
    assert sign_flip_p_value(differences) == pytest.approx(extreme / 256)
    assert sign_flip_p_value([*differences, 0, 0]) == sign_flip_p_value(differences)


@pytest.mark.parametrize("size", [2, 3, 13, 14, 60, 501])
@pytest.mark.parametrize("values", ["normal", "thirds", "ones"])
def test_sign_flips_are_those_of_scipy(size, values):
    """All of them for few problems; the same random ones, with the observed sum among them, for many."""
    rng = np.random.default_rng(size)
    differences = {
        "normal": rng.normal(0.2, 1, size),
        "thirds": rng.choice([-2, -1, 1, 2, 3], size) / 3,  # sums that are equal but for rounding
        "ones": rng.choice([-1.0, 1.0], size),
    }[values]
    expected = stats.permutation_test(
        (differences,), lambda values, axis: values.sum(axis), permutation_type="samples", batch=500, rng=0
    )
    assert sign_flip_p_value(differences) == expected.pvalue


def test_many_problems_agree_with_t_and_give_the_same_p_again():
    rng = np.random.default_rng(1)
    differences = rng.normal(0.1, 1, 300)
    p_value = sign_flip_p_value(differences)
    assert p_value == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)
    assert p_value == sign_flip_p_value(differences)


def test_relative_change_ends_where_a_paired_t_test_does():
    rng = np.random.default_rng(2)
    old = rng.lognormal(5, 0.5, 25)
    new = old * rng.lognormal(-0.5, 0.4, 25)
    result = relative_change(named(new[:, None]), named(old[:, None]))
    assert result.interval.estimate == pytest.approx(new.mean() / old.mean() - 1)
    for end in ends(result.interval):
        assert stats.ttest_rel(new, (1 + end) * old).pvalue == pytest.approx(0.05)
    assert result.verdict == "lower"
    # and close to a Poisson regression with errors clustered by problem
    exog = sm.add_constant(np.repeat([1.0, 0.0], 25))
    fit = sm.GEE(np.concatenate([new, old]), exog, np.tile(np.arange(25), 2), family=sm.families.Poisson()).fit()
    assert ends(result.interval) == pytest.approx(tuple(np.expm1(fit.conf_int()[1])), abs=0.03)


def test_a_relative_change_to_an_unsure_mean_has_no_upper_end():
    old, new = named([[1], [1], [1], [500]]), named([[40], [41], [42], [43]])
    result = relative_change(new, old)
    assert result.interval.high == math.inf
    assert stats.ttest_rel([40, 41, 42, 43], np.array([1, 1, 1, 500]) * (1 + result.interval.low)).pvalue == (
        pytest.approx(0.05)
    )
    assert result.verdict == "not distinguishable"
    assert relative_change(old, new).interval.low == -1


def test_relative_change_over_levels_is_the_mean_of_the_levels():
    old = {"a": [10], "b": [30], "c": [100], "d": [300]}
    new = {"a": [5], "b": [15], "c": [110], "d": [290]}
    levels = {"a": 1, "b": 1, "c": 2, "d": 2}
    whole = relative_change(new, old, levels)
    assert whole.interval.estimate == pytest.approx((-0.5 + 0) / 2)
    one = relative_change({p: new[p] for p in "ab"}, {p: old[p] for p in "ab"}).interval
    two = relative_change({p: new[p] for p in "cd"}, {p: old[p] for p in "cd"}).interval
    assert whole.interval == mean_over_levels([one, two])
    # scaling a level changes neither its change nor the test
    scaled = relative_change({**new, "c": [1100], "d": [2900]}, {**old, "c": [1000], "d": [3000]}, levels)
    assert scaled.interval.estimate == pytest.approx(whole.interval.estimate)
    assert scaled.p_value == whole.p_value


def test_levels_weigh_the_same():
    old = named([[0]] * 8 + [[0]] * 2)
    new = named([[0]] * 8 + [[1]] * 2)
    levels = {problem: int(index >= 8) for index, problem in enumerate(old)}
    assert share_difference(new, old).interval.estimate == pytest.approx(0.2)
    assert share_difference(new, old, levels).interval.estimate == pytest.approx(0.5)


def test_square_and_add_by_hand():
    whole = mean_over_levels([Interval(0.9, 0.6, 0.95, 0.95, 10), Interval(0.5, 0.1, 0.7, 0.95, 20)])
    assert whole.estimate == pytest.approx(0.7)
    assert ends(whole) == pytest.approx((0.7 - 0.25, 0.7 + math.hypot(0.05, 0.2) / 2))
    assert whole.num_problems == 30


def test_the_smallest_detectable_difference_is_that_of_a_power_calculation():
    rng = np.random.default_rng(4)
    half = rng.normal(size=(20, 1))
    differences = np.concatenate([half, -half])  # symmetric: no correction
    result = mean_difference(named(differences), named(np.zeros((40, 1))))
    effect = TTestPower().solve_power(nobs=40, alpha=0.05, power=0.8)
    assert result.smallest_detectable == pytest.approx(effect * differences.std(ddof=1), rel=0.02)


def test_the_smallest_detectable_difference_is_detected_four_times_out_of_five():
    rng = np.random.default_rng(5)
    zeros = named(np.zeros((10, 1)))
    results = [mean_difference(named(rng.normal(0.8, 1, (10, 1))), zeros) for _ in range(200)]
    typical = np.mean([result.smallest_detectable for result in results])
    power = np.mean(
        [mean_difference(named(rng.normal(typical, 1, (10, 1))), zeros).verdict == "higher" for _ in range(300)]
    )
    assert 0.70 < power < 0.90


def test_false_alarms_are_rare_with_few_problems():
    rng = np.random.default_rng(6)
    new, old = simulation.pair_world(rng, 10, (4, 4), (0.7, 0.7), 0.3, 0.5, 300)
    results = [share_difference(answered(a, 4), answered(b, 4)) for a, b in zip(new, old, strict=True)]
    assert np.mean([result.p_value < 0.05 for result in results]) <= 0.07
    assert np.mean([result.verdict != "not distinguishable" for result in results]) <= 0.07
    assert np.mean([result.p_value < 0.5 for result in results]) > 0.3  # and the p-values are not all near 1


@pytest.mark.parametrize(
    ("p_value", "low", "high", "verdict"),
    [
        (0.01, 0.1, 0.3, "higher"),
        (0.01, -0.3, -0.1, "lower"),
        (0.05, 0.1, 0.3, "not distinguishable"),
        (0.01, -0.01, 0.3, "not distinguishable"),
        (0.20, 0.1, 0.3, "not distinguishable"),
    ],
)
def test_verdicts(p_value, low, high, verdict):
    interval = Interval((low + high) / 2, low, high, 0.95, 20)
    assert Difference(interval, p_value, 0.1).verdict == verdict


def test_holm_is_that_of_statsmodels_and_can_undo_a_verdict():
    interval = Interval(0.2, 0.1, 0.3, 0.95, 20)
    p_values = {"gsm8k": 0.04, "math500": 0.001, "aime": 0.03, "mmlu": 0.7}
    sets = {name: Difference(interval, p, 0.1) for name, p in p_values.items()}
    adjusted = holm(sets)
    assert list(adjusted) == list(sets)
    expected = multipletests(list(p_values.values()), method="holm")[1]
    assert [difference.p_value for difference in adjusted.values()] == pytest.approx(list(expected))
    assert [sets["gsm8k"].verdict, adjusted["gsm8k"].verdict] == ["higher", "not distinguishable"]
    assert adjusted["math500"].verdict == "higher"
    assert adjusted["gsm8k"].interval == interval
    assert holm({}) == {}


# ---- calibration ----------------------------------------------------------------------------------------------------


def test_calibration_by_hand():
    probabilities = {"a": 0.9, "b": 0.8, "c": 0.2, "d": 0.1, "e": 1.0}
    think = {"a": [1, 1], "b": [1, 1], "c": [1, 1], "d": [1, 0], "e": [1, 0]}
    no_think = {"a": [1, 1], "b": [0, 1], "c": [0, 0], "d": [0, 1], "e": [1, 1]}
    result = measure_calibration(probabilities, think, no_think, delta=0.05, num_bins=2)
    # pays: a, d, e. Low bin: mean 0.15 against 1/2; high bin: mean 0.9 against 2/3
    assert result.error == pytest.approx(2 / 5 * 0.35 + 3 / 5 * (0.9 - 2 / 3))
    low, high = result.bins
    assert (low.low, low.high, low.num_problems, low.probability) == (0, 0.5, 2, pytest.approx(0.15))
    assert low.pays == share_interval({"c": [0], "d": [1]})
    assert (low.gap.estimate, high.gap.estimate) == (0.5, 0.0)
    # what no_think costs exactly delta pays; binary fractions must not decide
    assert measure_calibration({"a": 1.0}, {"a": [1]}, {"a": [0.95]}, 0.05).bins[0].pays.estimate == 1
    assert measure_calibration({"a": 1.0}, {"a": [1]}, {"a": [0.94]}, 0.05).bins[0].pays.estimate == 0


def test_the_error_of_a_calibrated_model_is_what_chance_makes_it():
    rng = np.random.default_rng(1)
    probability = rng.random(400)
    think = named(np.ones((400, 1)))

    def measured(keep_probability):
        pays = named((rng.random(400) < keep_probability).astype(float)[:, None])
        return measure_calibration(named(probability), think, pays, 0.0)

    runs = [measured(probability) for _ in range(40)]
    assert np.mean([run.error for run in runs]) == pytest.approx(runs[0].error_if_calibrated, rel=0.12)
    assert measured(1 - probability).error > 4 * runs[0].error_if_calibrated


def test_empty_bins_are_left_out():
    result = measure_calibration({"a": 0.05, "b": 0.95}, {"a": [1], "b": [1]}, {"a": [0], "b": [1]}, 0.0)
    assert [(each.low, each.high) for each in result.bins] == [(0, 0.1), (0.9, 1)]


# ---- laws -----------------------------------------------------------------------------------------------------------

outcomes = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5), min_size=1, max_size=12)
pairs = st.lists(
    st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=4), st.lists(st.integers(0, 1), min_size=1, max_size=4)),
    min_size=1,
    max_size=8,
)
tokens = st.lists(st.lists(st.integers(1, 5000), min_size=1, max_size=3), min_size=2, max_size=10)


@settings(max_examples=60, deadline=None)
@given(outcomes)
def test_share_intervals_hold_the_share_and_mirror(rows):
    interval = share_interval(named(rows))
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.high - interval.low > 0.01
    mirrored = share_interval(named([[1 - value for value in row] for row in rows]))
    assert ends(mirrored) == pytest.approx((1 - interval.high, 1 - interval.low), abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_differences_hold_the_difference_and_change_sign(rows):
    new, old = named([a for a, _ in rows]), named([b for _, b in rows])
    there, back = share_difference(new, old), share_difference(old, new)
    assert -1 <= there.interval.low <= there.interval.estimate <= there.interval.high <= 1
    assert ends(there.interval) == pytest.approx((-back.interval.high, -back.interval.low))
    assert there.p_value == pytest.approx(back.p_value)
    shuffled = share_difference(new, dict(reversed(old.items())))
    assert ends(shuffled.interval) == pytest.approx(ends(there.interval))


@settings(max_examples=60, deadline=None)
@given(tokens, st.floats(0.01, 100))
def test_means_scale_with_their_unit(rows, factor):
    interval = mean_interval(named(rows))
    assert interval.low <= interval.estimate + 1e-9
    assert interval.estimate <= interval.high + 1e-9
    scaled = mean_interval(named([[factor * value for value in row] for row in rows]))
    assert ends(scaled) == pytest.approx((factor * interval.low, factor * interval.high), rel=1e-6, abs=1e-6)
    change = relative_change(named([[factor * value for value in row] for row in rows]), named(rows)).interval
    # Where the old mean is nearly too unsure to divide by, rounding is magnified without bound.
    means = [fmean(row) for row in rows]
    error = stdev(means) / math.sqrt(len(means))
    assume(stats.t.ppf(0.975, len(means) - 1) * error < 0.9 * fmean(means))
    same = pytest.approx(factor - 1, rel=1e-6, abs=1e-5)
    assert (change.estimate, change.low) == (same, same) or change.low == -1
    assert change.high in (same, math.inf)


@given(st.integers(1, 40), st.data())
def test_pass_at_k_grows(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert pass_at_k(n, c, 1) == pytest.approx(c / n)
    assert 0 <= pass_at_k(n, c, k) <= 1
    if k < n:
        assert pass_at_k(n, c, k) <= pass_at_k(n, c, k + 1) + 1e-12
    if c < n:
        assert pass_at_k(n, c, k) <= pass_at_k(n, c + 1, k) + 1e-12


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_raises_and_keeps_the_order(p_values):
    interval = Interval(0, -1, 1, 0.95, 2)
    adjusted = [d.p_value for d in holm({str(i): Difference(interval, p, 1) for i, p in enumerate(p_values)}).values()]
    assert all(p <= a <= min(1, p * len(p_values)) for p, a in zip(p_values, adjusted, strict=True))
    by_raw = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert by_raw == sorted(by_raw)
    assert min(adjusted) == min(1, min(p_values) * len(p_values))


# ---- bad input ------------------------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval({}), "no problems; give at least one"),
        (lambda: mean_interval({"a": [1], "b": []}), "'b' needs a list of at least one number"),
        (lambda: mean_interval({"a": [1], "b": [NAN]}), "'b' has a value that is not a finite number"),
        (lambda: mean_interval({"a": [1, 2]}), "give at least two"),
        (lambda: mean_interval({"a": [1], "b": [2]}, confidence=95), "between 0 and 1"),
        (lambda: share_interval({"a": [1.5]}), "outside \\[0, 1\\]"),
        (lambda: share_interval({"a": [1]}, 1.0), "between 0 and 1"),
        (lambda: pass_at_k(4, 2, 5), "at least 5 samples"),
        (lambda: pass_at_k(4, 2, 0), "k >= 1"),
        (lambda: pass_at_k(4, 5, 1), "5 right out of 4"),
        (lambda: pass_interval({"a": [1, 0]}, 3), "at least 3 samples"),
        (lambda: pass_interval({"a": [0.5, 1]}, 1), "other values than 0 and 1"),
        (lambda: pass_interval({}, 1), "no problems"),
        (lambda: mean_over_levels([]), "one for each level"),
        (lambda: mean_over_levels([Interval(0, 0, 0, 0.9, 1), Interval(0, 0, 0, 0.95, 1)]), "different confidence"),
        (lambda: share_difference({}, {}), "no problems"),
        (lambda: share_difference({"a": [1], "b": [1]}, {"a": [1]}), "1 are in one only \\(first: 'b', in new\\)"),
        (lambda: share_difference({"a": [2]}, {"a": [1]}), "new: problem 'a'"),
        (lambda: mean_difference({"a": [1], "b": [1]}, {"a": [1], "b": [NAN]}), "old: problem 'b'"),
        (lambda: mean_difference({"a": [1], "b": [1]}, {"a": [1], "b": [1]}, {"a": 1}), "1 problems have no level"),
        (lambda: mean_difference({"a": [1], "b": [1]}, {"a": [1], "b": [1]}, {"a": 1, "b": 2}), "at least two"),
        (lambda: relative_change({"a": [1], "b": [1]}, {"a": [0], "b": [0]}), "mean of 0"),
        (lambda: relative_change({"a": [0], "b": [0]}, {"a": [1], "b": [1]}), "mean of 0"),
        (lambda: relative_change({"a": [-1], "b": [4]}, {"a": [1], "b": [1]}), "needs values >= 0"),
        (lambda: sign_flip_p_value([]), "at least one problem"),
        (lambda: sign_flip_p_value([1, NAN]), "finite"),
        (lambda: measure_calibration({"a": 1.2}, {"a": [1]}, {"a": [1]}, 0.1), "must lie in"),
        (lambda: measure_calibration({"a": NAN}, {"a": [1]}, {"a": [1]}, 0.1), "must lie in"),
        (lambda: measure_calibration({}, {"a": [1]}, {"a": [1]}, 0.1), "in think"),
        (lambda: measure_calibration({"a": 1.0}, {"a": [1]}, {"a": [1]}, 0.1, num_bins=0), "at least one bin"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- coverage: 95% intervals hold a known truth in 93-97% of simulated evaluations -----------------------------------

REPETITIONS = 2_000  # one standard error is 0.5 points


def share_coverage(num, k, share, clustering, seed=0):
    means = simulation.share_world(np.random.default_rng(seed), num, k, share, clustering, REPETITIONS)
    return simulation.covered(statistics.share_limits(means, 1 / k), share)


@pytest.mark.parametrize("clustering", [0.1, 0.3, 0.7])
@pytest.mark.parametrize(("num", "k"), [(30, 4), (100, 1), (100, 4), (100, 16), (500, 4)])
def test_share_intervals_cover_clustered_samples(num, k, clustering):
    assert 93 <= share_coverage(num, k, 0.5, clustering) <= 97


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 0.99])
@pytest.mark.parametrize(("num", "k"), list(itertools.product((10, 30, 100, 500), (4, 16))))
def test_share_intervals_never_cover_much_less(num, k, share):
    # small and extreme samples are discrete: there the interval errs on the wide side
    runs = [share_coverage(num, k, share, clustering) for clustering in ((0.0, 0.3, 0.7) if num < 500 else (0.3,))]
    assert min(runs) >= 93 - 0.5
    assert np.mean(runs) >= 93.5


@pytest.mark.parametrize("num", [10, 30, 100, 500])
def test_one_sample_each_is_covered_exactly(num):
    rights = np.arange(num + 1)
    low, high = statistics.share_limits((np.arange(num) < rights[:, None]).astype(float), 1.0)
    exact = {
        share: 100 * float(stats.binom.pmf(rights, num, share)[(low <= share) & (share <= high)].sum())
        for share in np.linspace(0.005, 0.995, 199)
    }
    # no interval can be closer to 95 at every share, as the number right is discrete
    assert min(exact.values()) > 91.5
    assert 95 <= np.mean(list(exact.values())) <= 97
    assert all(exact[min(exact, key=lambda s: abs(s - share))] >= 92.9 for share in (0.05, 0.5, 0.95, 0.99))


def test_responses_counted_as_independent_would_fail():
    rng = np.random.default_rng(0)
    means = simulation.share_world(rng, 100, 16, 0.5, 0.3, REPETITIONS)
    assert simulation.covered(simulation.naive_limits(means, 16), 0.5) < 70
    perfect = simulation.share_world(rng, 30, 1, 0.99, 0.0, REPETITIONS)
    assert simulation.covered(simulation.naive_limits(perfect, 1), 0.99) < 40


def test_without_shrinking_the_clustering_shares_near_one_would_fail(monkeypatch):
    honest = share_coverage(30, 16, 0.95, 0.7)
    monkeypatch.setattr(statistics, "CLUSTERING", 1e-9)
    assert honest >= 93
    assert share_coverage(30, 16, 0.95, 0.7) < 90


@pytest.mark.parametrize(("num", "low", "high"), [(10, 93, 99), (30, 93, 98), (100, 93, 97), (500, 93, 97)])
@pytest.mark.parametrize("ks", [(1, 1), (4, 4), (16, 4)])
@pytest.mark.parametrize(("clustering", "kinship"), [(0.1, 0.0), (0.3, 0.5)])
def test_share_differences_cover(num, low, high, ks, clustering, kinship):
    rng = np.random.default_rng(1)
    new, old = simulation.pair_world(rng, num, ks, (0.8, 0.5), clustering, kinship, REPETITIONS)
    limits = statistics.share_difference_limits(new, old, (1 / ks[0] + 1 / ks[1]) / 2)
    assert low <= simulation.covered(limits, 0.3) <= high


@pytest.mark.parametrize("num", [10, 30, 100])
@pytest.mark.parametrize("ks", [(1, 1), (4, 4), (16, 4)])
@pytest.mark.parametrize("shares", [(0.95, 0.95), (0.99, 0.95), (0.95, 0.8)])
def test_share_differences_near_one_never_cover_much_less(num, ks, shares):
    rng = np.random.default_rng(2)
    new, old = simulation.pair_world(rng, num, ks, shares, 0.7, 0.8, REPETITIONS)
    limits = statistics.share_difference_limits(new, old, (1 / ks[0] + 1 / ks[1]) / 2)
    assert simulation.covered(limits, shares[0] - shares[1]) >= 93 - 0.5


@pytest.mark.parametrize(("deviation", "num"), [(0.3, 10), (0.3, 30), (0.6, 10), (0.6, 30), (0.6, 100), (0.6, 500)])
def test_means_and_changes_of_skewed_tokens_cover(deviation, num):
    rng = np.random.default_rng(3)
    means, truth = simulation.token_world(rng, num, deviation, REPETITIONS)
    assert 93 - 0.5 <= simulation.covered(statistics.mean_limits(means), truth) <= 97
    new, old, change = simulation.change_world(rng, num, deviation, REPETITIONS)
    _, *limits = statistics.ratio_limits(new, old)
    assert 93 - 0.5 <= simulation.covered(limits, change) <= 97


def test_mean_over_levels_covers():
    rng = np.random.default_rng(4)
    shares = (0.98, 0.9, 0.6, 0.3)
    levels = [simulation.share_world(rng, 40, 4, share, 0.3, REPETITIONS) for share in shares]
    limits = [statistics.share_limits(level, 1 / 4) for level in levels]
    hits = []
    for repetition in range(REPETITIONS):
        whole = mean_over_levels(
            [
                Interval(level[repetition].mean(), low[repetition], high[repetition], 0.95, 40)
                for level, (low, high) in zip(levels, limits, strict=True)
            ]
        )
        hits.append(whole.low <= np.mean(shares) <= whole.high)
    assert 0.93 <= np.mean(hits) <= 0.97
