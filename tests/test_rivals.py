"""Methods of other papers: credit against plain formulas, what takes no part, and a few steps of each."""

import math
import statistics
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch
from test_train import native_sampler, run_training

from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError
from adaptthink.grading import Grade, Rule, Verdict
from adaptthink.modes import Mode
from adaptthink.objective import decision_loss, token_loss
from adaptthink.storage.runs import read_metrics
from adaptthink.training.advantages import cap_rewards, leave_one_out, standardise, whiten
from adaptthink.training.batch import Batch, RolloutSummary
from adaptthink.training.credit import Credit, count_update_tokens, spread_credit
from adaptthink.training.methods import check_method, list_methods, load_method

N, T = Mode.NO_THINK, Mode.THINK
R, W, U = Verdict.CORRECT, Verdict.WRONG, Verdict.UNKNOWN
FREE = ("dler", "thinkprune", "tlmre")  # length methods, which force nothing
FORCED = ("adapt", "degrpo", "tnt")
NOTHING = (0.0, 0.0)


def config(method, **values):
    free = {"no_think_share": 0} if method.partition(":")[0] in FREE else {}
    return check(TrainConfig, {"method": method, "samples_per_problem": 4} | free | values)


def sample(mode, verdict, tokens, *, problem="a", answer=7):
    """A response; behind the close token of a thought are `answer` tokens."""
    thinking = tokens - 1 - answer if mode is T else 0
    return RolloutSummary(problem, mode, verdict, tokens, math.log(0.5), thinking_tokens=thinking)


def group(modes, verdicts, tokens, problem="a"):
    return [sample(*row, problem=problem) for row in zip(modes, verdicts, tokens, strict=True)]


def assign(method, rollouts, progress=0.0, **values):
    """The credit of a step, as pairs of decision and body."""
    credits = load_method(method).assign_credit(
        Batch(rollouts, [None] * len(rollouts), progress), config(method, **values)
    )
    return [(one.decision, one.body) for one in credits], credits


def near(rows):
    return [pytest.approx(row, rel=1e-6, abs=1e-9) for row in rows]


def by_tokens(values, sizes):
    """Mean and deviation (n − 1) of values that stand once for each token."""
    listed = np.repeat(values, sizes)
    return listed.mean(), listed.std(ddof=1)


EASY = group([N, N, T, T], [R, W, R, R], [7, 7, 21, 31])
ALIKE = group([N, N, T, T], [W, W, W, W], [7, 7, 41, 51], problem="b")
THOUGHTS = group([T] * 4, [R, R, R, W], [20, 30, 40, 60])
HARD = group([T] * 4, [W, W, R, W], [50, 128, 90, 128], problem="b")


def test_degrpo_by_hand():
    """Rewards 1, −1, ½, ½; their mean is ¼. Tokens behind decisions: 6 + 6 + 20 + 30, and 6 + 6 + 40 + 50 of b."""
    found, _ = assign("degrpo:alpha=0.1", EASY + ALIKE)
    scale = 8 / (62 + 102)
    advantages = [0.75, -1.25, 0.25, 0.25, 0, 0, 0, 0]
    assert found == near([(0.1 * one, scale * one) for one in advantages])


def test_degrpo_takes_the_reward_of_a_thought_and_leaves_out_what_is_not_graded():
    rollouts = group([N, N, T, T], [R, U, R, W], [7, 7, 21, 31])
    found, _ = assign("degrpo:alpha=1,think_reward=0.8", rollouts)
    mean, scale = (1 + 0.8 - 1) / 3, 4 / (6 + 20 + 30)
    expected = [1 - mean, None, 0.8 - mean, -1 - mean]
    assert found == near([NOTHING if one is None else (one, scale * one) for one in expected])
    assert assign("degrpo", [sample(N, R, 7), sample(T, U, 20)])[0] == [NOTHING] * 2  # nothing to compare with


def adapt_by_hand(rollouts, gamma=0.5, split=0.5):
    """Standardised values of decision and body, of one problem, over a list with one entry for each token."""
    reward = [float(one.verdict is R) for one in rollouts]
    fast = np.mean([value for value, one in zip(reward, rollouts, strict=True) if one.mode is N])
    slow = np.mean([value for value, one in zip(reward, rollouts, strict=True) if one.mode is T])
    of_mode = 0.5 * (fast - gamma) + 0.5 * (fast - slow)
    rows = [
        [value + of_mode * {N: split, T: split - 1}[one.mode]] + [value] * (one.tokens - 1)
        for value, one in zip(reward, rollouts, strict=True)
    ]
    listed = np.concatenate(rows)
    mean, size = listed.mean(), max(0.1, listed.std())
    return [((row[0] - mean) / size, (row[1] - mean) / size) for row in rows]


@pytest.mark.parametrize(("gamma", "split"), [(0.5, 0.5), (0.25, 0.5), (0.5, 0)])
def test_adapt_by_hand(gamma, split):
    found, _ = assign(f"adapt:gamma={gamma},split={split}", EASY + ALIKE)
    scale = 8 / (66 + 106)
    rows = adapt_by_hand(EASY, gamma, split) + adapt_by_hand(ALIKE, gamma, split)
    assert found == near([(scale * decision, scale * body) for decision, body in rows])
    assert (found[4][0] == found[4][1]) is (split == 0)  # as published, no_think's decision has its answer's value
    assert found[6][0] > found[6][1]  # both modes fail: R_m = −gamma/2 favours thinking


def test_adapt_follows_fast_against_an_eighth_and_three_quarters_of_slow():
    """Where all thoughts are right, the decision of thoughts loses from 7/8 of no_think on."""
    for right, wins in [(6, False), (7, None), (8, True)]:
        rollouts = group([N] * 8 + [T] * 8, [R] * right + [W] * (8 - right) + [R] * 8, [7] * 8 + [30] * 8)
        found, _ = assign("adapt", rollouts, samples_per_problem=16)
        difference = np.mean([row[0] for row in found[:8]]) - np.mean([row[0] for row in found[8:]])
        assert abs(difference) < 1e-9 if wins is None else bool(difference > 0) is wins


def test_adapt_filters_and_needs_both_modes_for_a_reward_of_the_mode():
    found, _ = assign("adapt:filter=1", EASY + ALIKE)
    scale = 8 / 66
    assert found[4:] == [NOTHING] * 4
    assert found[:4] == near([(scale * decision, scale * body) for decision, body in adapt_by_hand(EASY)])
    one_mode = group([N, N, T, T], [U, U, R, W], [7, 7, 21, 31])
    found, _ = assign("adapt", one_mode)
    mean, deviation = 21 / 52, math.sqrt(21 / 52 * 31 / 52)
    values = [(1 - mean) / deviation * 4 / 52, (0 - mean) / deviation * 4 / 52]
    assert found == near([NOTHING, NOTHING, (values[0],) * 2, (values[1],) * 2])


def test_tnt_by_hand():
    """The answers of thoughts have 7 and 5 tokens; no_think answers may have 2·6 = 12, and one has 13."""
    rollouts = [sample(N, R, 13), sample(N, R, 14), sample(N, W, 7)]
    rollouts += [sample(T, R, 30), sample(T, W, 20, answer=5), sample(T, W, 128, answer=-1)]
    rewards = [2.0, -2.0, -1.0, 1.0, 0.0, 0.0]
    mean, deviation = statistics.mean(rewards), statistics.stdev(rewards)
    found, _ = assign("tnt", rollouts, samples_per_problem=6)
    assert found == near([((value - mean) / (deviation + 1e-6),) * 2 for value in rewards])


def test_tnt_without_a_thought_that_ended_takes_its_other_cap():
    rollouts = [sample(N, R, 10), sample(N, W, 11), sample(T, W, 128, answer=-1), sample(T, U, 30)]
    for method, rewards in [("tnt", [2, -1, 0]), ("tnt:cap_without=9", [2, -2, 0])]:
        found, _ = assign(method, rollouts)
        assert found == near([*[(one, one) for one in standardise(rewards)], NOTHING])
    assert assign("tnt", ALIKE[:2])[0] == [NOTHING] * 2
    assert assign("tnt", EASY[:1])[0] == [NOTHING]


def test_dler_by_hand():
    """Under a cap of 35 a's rewards are 1, 1, 0, 0; b's are all 0 and leave the step."""
    found, credits = assign("dler:cap=35", THOUGHTS + HARD)
    sizes, values = [20, 30, 35, 35], np.array([0.5, 0.5, -0.5, -0.5])
    mean, deviation = by_tokens(values, sizes)
    expected = (values - mean) / deviation * 8 / 120
    assert found == near([*[(one, one) for one in expected], *[NOTHING] * 4])
    assert [one.tokens for one in credits[:4]] == sizes


def test_dler_normalises_over_the_batch_and_not_over_the_problem():
    found, _ = assign("dler:cap=0", THOUGHTS + HARD)
    sizes = [one.tokens for one in THOUGHTS + HARD]
    values = np.array([0.25] * 3 + [-0.75] + [-0.25, -0.25, 0.75, -0.25])
    mean, deviation = by_tokens(values, sizes)
    assert found == near([(one, one) for one in (values - mean) / deviation * 8 / sum(sizes)])


def test_dler_gives_easy_problems_a_shorter_cap_late():
    """Of a, 3 of 4 are right within 64: later only the one of 20 tokens earns. Of b none is right within 64."""
    early, _ = assign("dler:easy_cap=25", THOUGHTS + HARD, progress=0.74)
    assert early == assign("dler", THOUGHTS + HARD)[0]
    late, _ = assign("dler:easy_cap=25", THOUGHTS + HARD, progress=0.75)
    values = np.array([0.75, -0.25, -0.25, -0.25])
    mean, deviation = by_tokens(values, [20, 30, 40, 60])
    assert late == near([*[(one, one) for one in (values - mean) / deviation * 8 / 150], *[NOTHING] * 4])
    half = group([T] * 4, [R, R, W, W], [20, 30, 40, 60])
    assert assign("dler:easy_cap=25", half, 0.75)[0] != assign("dler", half, 0.75)[0]  # half is easy
    quarter = group([T] * 4, [R, W, W, W], [30, 20, 40, 60])
    assert assign("dler:easy_cap=25", quarter, 0.75)[0] == assign("dler", quarter, 0.75)[0]


def test_dler_drops_equal_rewards_and_what_is_not_graded():
    unknown = group([T] * 4, [R, U, W, U], [20, 30, 40, 60])
    found, _ = assign("dler", unknown + HARD)
    mean, deviation = by_tokens([0.5, -0.5], [20, 40])
    values = [(one - mean) / deviation * 8 / 60 for one in (0.5, -0.5)]
    assert found == near([(values[0],) * 2, NOTHING, (values[1],) * 2, NOTHING, *[NOTHING] * 4])
    assert assign("dler", HARD)[0] == [NOTHING] * 4


def test_tlmre_by_hand():
    """Correct lengths of a: 20, 30, 40; the only correct one of b, of three samples, earns 1 − alpha/2."""
    rollouts = THOUGHTS + HARD[1:]
    found, _ = assign("tlmre:alpha=0.4", rollouts)
    z = [(size - 30) / (statistics.pstdev([20, 30, 40]) + 1e-7) for size in (20, 30, 40)]
    earned = [[1 - 0.4 / (1 + math.exp(-one)) for one in z] + [0], [0, 0.8, 0]]
    values = [one - (sum(rewards) - one) / (len(rewards) - 1) for rewards in earned for one in rewards]
    sizes = [one.tokens for one in rollouts]
    mean, deviation = by_tokens(values, sizes)
    expected = [(value - mean) / deviation / size for value, size in zip(values, sizes, strict=True)]
    assert found == near([(one, one) for one in expected])
    assert found[0][0] * 20 > found[1][0] * 30 > found[2][0] * 40 > 0 > found[3][0]


def test_tlmre_counts_no_lengths_but_those_of_correct_ones():
    found, _ = assign("tlmre", THOUGHTS)
    other = group([T] * 4, [R, R, R, W], [20, 30, 40, 60])
    other += [sample(T, U, 128)]
    assert assign("tlmre", other)[0] == near([*found, NOTHING])
    alike = group([T] * 4, [R] * 4, [30] * 4)
    assert assign("tlmre", alike)[0] == near([NOTHING] * 4)
    assert assign("tlmre", alike[:1])[0] == [NOTHING]


def test_thinkprune_by_hand():
    """The cap of 30 is the last: 60, 45, 30. Of a, lengths are 20, 30, 40 and, wrong, 60."""
    for progress, rewards, cap in [
        (0.0, [1, 1, 1, 0], 60),
        (0.34, [1, 1, 1, 0], 45),
        (0.66, [1, 1, 1, 0], 45),
        (2 / 3, [1, 1, 0, 0], 30),
        (0.99, [1, 1, 0, 0], 30),
    ]:
        found, credits = assign("thinkprune:last_cap=30", THOUGHTS + HARD, progress)
        mean, deviation = statistics.mean(rewards), statistics.stdev(rewards)
        sizes = [min(one.tokens, cap) for one in THOUGHTS + HARD]
        scale = 8 / sum(sizes)  # of b too, whose rewards are equal
        expected = [(value - mean) / (deviation + 1e-6) * scale for value in rewards] + [0] * 4
        assert found == near([(one, one) for one in expected])
        assert [one.tokens for one in credits] == sizes


def test_thinkprune_leaves_out_what_is_not_graded():
    rollouts = group([T] * 4, [R, U, W, U], [20, 30, 40, 60])
    value = 0.5 / (math.sqrt(0.5) + 1e-6) * 4 / 60
    assert assign("thinkprune", rollouts)[0] == near([(value, value), NOTHING, (-value, -value), NOTHING])
    assert assign("thinkprune", rollouts[:1])[0] == [NOTHING]


def test_tokens_behind_a_cap_have_no_credit():
    credit = Credit(0.5, 0.25, tokens=3)
    assert spread_credit(credit, [0.0] * 5).tolist() == [0.5, 0.25, 0.25]
    assert spread_credit(credit, [0.0] * 2).tolist() == [0.5, 0.25]
    assert count_update_tokens(credit, 5) == 3
    assert count_update_tokens(Credit(0.0, 0.0, tokens=3), 5) == 0


def test_a_cap_takes_rewards_of_longer_responses_alone():
    rollouts = [sample(T, R, 30), sample(T, R, 31), sample(T, W, 10), sample(T, U, 40)]
    assert [one.reward for one in cap_rewards(rollouts, 30)] == [1, 0, 0, None]
    assert cap_rewards(rollouts, 0) == rollouts


def test_baselines():
    assert leave_one_out([1.0, 0.0, 0.5]) == pytest.approx([0.75, -0.75, 0.0])
    assert standardise([0.95] * 3) == pytest.approx([0.0] * 3, abs=1e-6)
    found = whiten([1.0, None, 0.0], [1, 100, 3])  # mean ¼, variance (9/16 + 3/16)/3
    assert found == [pytest.approx(1.5, rel=1e-6), None, pytest.approx(-0.5, rel=1e-6)]
    assert whiten([0.5, 0.5], [4, 6]) == [0.0, 0.0]
    assert whiten([None], [3]) == [None]


def one_row(*logprobs):
    row_BT = torch.tensor([logprobs], dtype=torch.float64, requires_grad=True)
    return row_BT, torch.ones_like(row_BT, dtype=torch.bool)


@pytest.mark.parametrize("method", ["degrpo", "adapt"])
def test_a_decisions_gradient_does_not_vanish_at_cold_start(method):
    """π = 1e-4 against ½: −credit·w, with w = 1 in one, and the lower end of the clip, 0.8, in the other."""
    logprob_BT, mask_BT = one_row(math.log(1e-4), -1.0)
    behavior_BT, credit_BT = torch.tensor([[math.log(0.5), -1.0]]), torch.tensor([[2.0, 3.0]])
    loss = load_method(method).compute_loss(logprob_BT, behavior_BT, credit_BT, mask_BT, config(method))
    loss.loss_B.sum().backward()
    assert logprob_BT.grad.tolist() == [pytest.approx([-2.0 if method == "degrpo" else -1.6, -3.0])]


@pytest.mark.parametrize(("probability", "weight"), [(0.9, 1.28), (0.55, 1.1), (0.45, 0.9), (0.1, 0.8)])
def test_cispo_weights_by_the_clipped_ratio_and_does_not_differentiate_it(probability, weight):
    logprob_BT, mask_BT = one_row(math.log(probability))
    behavior_BT, credit_BT = torch.tensor([[math.log(0.5)]], dtype=torch.float64), torch.tensor([[-1.0]])
    loss = load_method("adapt").compute_loss(logprob_BT, behavior_BT, credit_BT, mask_BT, config("adapt"))
    loss.loss_B.sum().backward()
    assert logprob_BT.grad.item() == pytest.approx(weight)


def test_what_is_masked_is_not_read():
    logprob_BT = torch.tensor([[math.nan, math.nan]], requires_grad=True)
    mask_BT = torch.zeros(1, 2, dtype=torch.bool)
    loss = decision_loss(logprob_BT, torch.zeros(1, 2), torch.full((1, 2), math.nan), mask_BT, clip=0.2, cispo=True)
    assert loss.loss_B.tolist() == [0.0]
    loss.loss_B.sum().backward()
    assert torch.nan_to_num(logprob_BT.grad).tolist() == [[0.0, 0.0]]


def test_clip_high_is_the_upper_end_alone():
    """Ratios of 1.25 and 0.75: the first counts with 0.28 and not with 0.2, the second, of a negative credit, never."""
    for clip_high, gradients in [(0.28, [-1.25, 0.0]), (None, [0.0, 0.0])]:
        logprob_BT, mask_BT = one_row(math.log(1.25), math.log(0.75))
        credit_BT = torch.tensor([[1.0, -1.0]])
        loss = token_loss(logprob_BT, torch.zeros(1, 2), credit_BT, mask_BT, clip=0.2, clip_high=clip_high)
        loss.loss_B.sum().backward()
        assert logprob_BT.grad.tolist() == [pytest.approx(gradients)]
    logprob_BT, mask_BT = one_row(math.log(1.25))
    dler = load_method("dler")
    dler.compute_loss(logprob_BT, torch.zeros(1, 1), torch.ones(1, 1), mask_BT, config("dler")).loss_B.sum().backward()
    assert logprob_BT.grad.item() == pytest.approx(-1.25)


@pytest.mark.parametrize("name", FREE)
def test_a_length_method_forces_nothing(name):
    with pytest.raises(UserError, match=f"method = '{name}' .* give no_think_share = 0"):
        check_method(config(name, no_think_share=0.5))
    assert list(load_method(name).assign_modes(config(name))) == [None] * 4
    check_method(config(name))


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        *[(name, {"samples_per_problem": 1, "no_think_share": 0}, "samples_per_problem >= 2") for name in FORCED],
        *[(name, {"samples_per_problem": 1}, "samples_per_problem >= 2") for name in FREE],
        *[(name, {"delta": 0.1}, f"delta has no effect: the method {name} ") for name in FREE + FORCED],
        *[(name, {"ratio": "token"}, "ratio has no effect") for name in (*FREE, "adapt", "degrpo")],
        ("adapt", {"no_think_share": 0}, "needs both; give no_think_share = 0.5"),
        ("dler:cap=32,easy_cap=32", {}, "easy_cap = 32 must be below cap = 32"),
    ],
)
def test_settings_that_do_not_go_with_a_method(method, values, message):
    with pytest.raises(UserError, match=message):
        check_method(config(method, **values))


class AlternatingGrader:
    """Finds every second response correct: an untrained model's never are."""

    def __init__(self):
        self.verdicts = cycle([R, W])

    def grade(self, responses, *, on_graded=None):
        """Read nothing of the responses."""
        return [Grade(next(self.verdicts), None, Rule.EXACT) for _ in responses]


@pytest.mark.parametrize("name", [name for name in list_methods() if not load_method(name).from_store])
def test_a_few_steps_train(name, random_policy, tmp_path):
    before = {key: one.clone() for key, one in random_policy.model.state_dict().items()}
    sampler = replace(native_sampler(random_policy), grader=AlternatingGrader())
    small = {"max_think_tokens": 12, "max_no_think_tokens": 5, "learning_rate": 1e-2, "temperature": 1.0, "steps": 3}
    small |= {"problems_per_step": 2, "probe_every": 3, "micro_batch_tokens": 200}
    run_training(random_policy, config(name, **small), tmp_path / name, sampler=sampler)
    rows = read_metrics(tmp_path / name / "metrics.jsonl")
    assert [row["responses"] for row in rows] == [8, 8, 8]
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    after = random_policy.model.state_dict()
    assert not all(torch.equal(one, before[key]) for key, one in after.items())
