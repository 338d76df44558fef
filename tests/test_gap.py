"""The gap objective: credit by hand, its gradient against autograd of the objective itself, its optimum, the pull."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rollouts import make_rollout
from test_train import native_sampler, run_training

from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError
from adaptthink.grading import Verdict
from adaptthink.models.loading import load_policy
from adaptthink.modes import Mode
from adaptthink.problems import make_problem
from adaptthink.problems.arithmetic import Split, generate_problems
from adaptthink.storage.runs import read_metrics
from adaptthink.training.batch import Batch, RolloutSummary
from adaptthink.training.credit import Credit, count_update_tokens, spread_credit
from adaptthink.training.initial import keep_initial
from adaptthink.training.methods import check_method, load_method
from adaptthink.training.methods.gap import Gap
from adaptthink.training.rollout import collect

MODES = (Mode.NO_THINK, Mode.NO_THINK, Mode.THINK, Mode.THINK)
R, W, U = Verdict.CORRECT, Verdict.WRONG, Verdict.UNKNOWN


def config(**values):
    return check(TrainConfig, {"method": "gap", "samples_per_problem": 4, "problems_per_step": 1} | values)


def group(verdicts, *, no_think=0.2, think=0.6, tokens=(3, 3, 11, 21), problem="a"):
    """Four samples of one problem, no_think first, with the probabilities of their decision tokens."""
    probability = {Mode.NO_THINK: no_think, Mode.THINK: think}
    return [
        RolloutSummary(problem, mode, verdict, length, math.log(probability[mode]))
        for mode, verdict, length in zip(MODES, verdicts, tokens, strict=True)
    ]


def test_credit_by_hand():
    """z = log(0.2/0.6); the gap is 0.05 + 0.5 − 1; no_think has a quarter of the mass on both."""
    found = Gap().assign_credit(Batch(group([R, W, R, R]), [0.5] * 4, 0.0), config())
    slope = 0.015 * (-0.45 + 0.05 * math.log(3))
    decision_no_think, decision_think = (slope + 0.03 * 0.25) * 2, (-slope + 0.03 * 0.75) * 2
    pull = 0.5 * 4 / (2 + 2)
    body = 2 * 0.25 * 1 / 15  # weight × (1 − 0) / mean tokens of a thought behind the decision
    expected = [
        (decision_no_think, body, pull),
        (decision_no_think, -body, pull),
        (decision_think, 0.5 / 10, 0.0),  # R − R̄_ref, at full weight
        (decision_think, 0.5 / 20, 0.0),
    ]
    assert [(one.decision, one.body, one.pull) for one in found] == [pytest.approx(row) for row in expected]


def test_what_cannot_be_graded_takes_no_part():
    found = Gap().assign_credit(Batch(group([R, U, R, W]), [0.5] * 4, 0.0), config())
    alone = Gap().assign_credit(Batch(group([R, R, R, W]), [0.5] * 4, 0.0), config())
    assert found[1].body == 0.0
    assert found[0].decision == alone[0].decision  # the mean of the one that is known
    assert found[0].body == 0.0  # nothing to compare with
    lost = Gap().assign_credit(Batch(group([U, U, R, W]) + group([R, W, R, W], problem="b"), [0.5] * 8, 0.0), config())
    assert lost[:4] == [Credit(0.0, 0.0)] * 4
    assert all(one.decision for one in lost[4:])


def test_a_response_beyond_the_cap_earns_nothing():
    """Of the thoughts of 11 and 21 tokens the second is too long: the gap and its own advantage count it as wrong."""
    capped = Gap(cap=20).assign_credit(Batch(group([R, W, R, R]), [0.5] * 4, 0.0), config())
    wrong = Gap().assign_credit(Batch(group([R, W, R, W]), [0.5] * 4, 0.0), config())
    assert capped == wrong


def objective(logit_V, gap, method):
    """What the decision of one problem maximises, as docs/explanation/gap.md has it; tokens 0 and 1 are the starts."""
    logprob_V = logit_V.log_softmax(-1)
    z = logprob_V[0] - logprob_V[1]
    return method.decision * (gap * z - method.tau * z**2 / 2) + method.mass * logprob_V[:2].logsumexp(-1)


@pytest.mark.parametrize("verdicts", [[R, W, R, R], [W, W, R, R], [R, R, W, R]])
def test_the_decisions_gradient_is_that_of_the_objective(verdicts):
    method = Gap()
    logit_V = torch.tensor([-3.0, 1.0, 0.5, -0.2], dtype=torch.float64, requires_grad=True)
    logprob_V = logit_V.log_softmax(-1)
    rewards = [float(verdict is R) for verdict in verdicts]
    gap = 0.05 + sum(rewards[:2]) / 2 - sum(rewards[2:]) / 2
    [expected] = torch.autograd.grad(objective(logit_V, gap, method), logit_V)
    samples = group(verdicts, no_think=logprob_V[0].exp().item(), think=logprob_V[1].exp().item())
    credits = method.assign_credit(Batch(samples, [0.5] * 4, 0.0), config())
    logprob_BT = torch.stack([logprob_V[0], logprob_V[0], logprob_V[1], logprob_V[1]])[:, None]
    credit_BT = torch.tensor([[one.decision] for one in credits], dtype=torch.float64)
    mask_BT = torch.ones(4, 1, dtype=torch.bool)
    loss = method.compute_loss(logprob_BT, logprob_BT.detach(), credit_BT, mask_BT, config())
    [found] = torch.autograd.grad(loss.loss_B.sum() / 4, logit_V)
    torch.testing.assert_close(-found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("no_think", "delta"), [(1.0, 0.05), (1.0, 0.1), (0.5, 0.05)])
def test_the_optimum_is_the_gap_over_tau_reached_from_far_away_without_a_flat_start(no_think, delta):
    """Thinking is always right, no_think at the given rate. Half of the way is done in a few dozen steps of z."""
    method, z = Gap(), -14.0
    target = (delta + no_think - 1.0) / method.tau
    share = lambda z: 1 / (1 + math.exp(-z))  # noqa: E731
    path = [z]
    for _ in range(4000):
        samples = group([R, R if no_think == 1.0 else W, R, R], no_think=share(z), think=share(-z))
        credits = method.assign_credit(Batch(samples, [1.0] * 4, 0.0), config(delta=delta))
        logits = torch.tensor([z, 0.0], dtype=torch.float64, requires_grad=True)
        logprob_V = logits.log_softmax(-1)
        loss = -(credits[0].decision * logprob_V[0] * 2 + credits[2].decision * logprob_V[1] * 2) / 4
        [gradient] = torch.autograd.grad(loss, logits)
        z -= 7.0 * (gradient[0] - gradient[1]).item()
        path.append(z)
    assert z == pytest.approx(target, abs=0.02)
    if target > 0:
        first, second = path[100] - path[0], path[200] - path[100]
        assert first > second > 0  # fastest where it is furthest: no plateau at the start


def test_the_pull_is_the_gradient_of_the_divergence_from_the_initial_model():
    """In expectation over the policy's own tokens, w·(π_ref/π − 1)·∇log π = −w·∇KL(π_ref ‖ π)."""
    logit_V = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64, requires_grad=True)
    initial_V = torch.tensor([0.1, 0.4, 0.2], dtype=torch.float64).log_softmax(-1)
    logprob_V = logit_V.log_softmax(-1)
    problem = make_problem("1+1=?", "2")
    total = torch.zeros((), dtype=torch.float64)
    for token in range(3):
        behavior = (0.0, logprob_V[token].item())
        rollout = make_rollout(problem, Mode.NO_THINK, (1,), (9, token), behavior, 1, R)
        rollout = replace(rollout, initial_logprobs=(0.0, initial_V[token].item()))
        credit_T = spread_credit(Credit(0.0, 0.0, pull=0.7), rollout.behavior_logprobs, rollout.initial_logprobs)
        total = total + logprob_V[token].exp().detach() * float(credit_T[1]) * logprob_V[token]
    [found] = torch.autograd.grad(total, logit_V, retain_graph=True)
    divergence = (initial_V.exp() * (initial_V - logprob_V)).sum()
    [expected] = torch.autograd.grad(-0.7 * divergence, logit_V)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_the_pull_of_a_token_that_was_all_but_dropped_is_bounded():
    problem = make_problem("1+1=?", "2")
    rollout = make_rollout(problem, Mode.NO_THINK, (1,), (9, 5), (0.0, -30.0), 1, R)
    credit_T = spread_credit(Credit(0.1, 0.0, pull=1.0), rollout.behavior_logprobs, (0.0, -0.1))
    np.testing.assert_allclose(credit_T, [0.1, 9.0], rtol=1e-6)


def test_only_tokens_with_credit_are_run():
    assert count_update_tokens(Credit(0.5, 0.0), 30) == 1
    assert count_update_tokens(Credit(0.5, 0.1), 30) == 30
    assert count_update_tokens(Credit(0.0, 0.0), 30) == 0
    assert count_update_tokens(Credit(0.0, 0.0, pull=0.1), 30) == 30


def test_the_body_is_clipped_and_the_decision_is_not():
    method = Gap()
    logprob_BT = torch.tensor([[2.0, 0.0, 1.0]], requires_grad=True)
    behavior_BT, credit_BT = torch.zeros(1, 3), torch.tensor([[0.5, 1.0, 1.0]])
    result = method.compute_loss(logprob_BT, behavior_BT, credit_BT, torch.ones(1, 3, dtype=torch.bool), config())
    result.loss_B.sum().backward()
    assert logprob_BT.grad.tolist() == [[-0.5, -1.0, 0.0]]  # a ratio of e is outside of the interval
    assert result.clipped_B.tolist() == [0.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples_per_problem": 2}, "needs two or more in each"),
        ({"no_think_share": 0}, "needs two or more in each"),
        ({"samples_per_problem": 8, "no_think_share": 0.125}, "needs two or more in each"),
        ({"force_think": "ban"}, "has no start"),
    ],
)
def test_settings_that_do_not_go_with_it(values, message):
    with pytest.raises(UserError, match=message):
        check_method(config(**values))


def small(**values):
    own = {"max_think_tokens": 12, "max_no_think_tokens": 5, "learning_rate": 1e-2, "temperature": 1.0}
    own |= {"checkpoint_every": 1, "probe_every": 2, "micro_batch_tokens": 200, "problems_per_step": 2}
    return config(**own | values)


def test_a_resumed_training_is_held_to_the_model_before_the_first_step(random_policy, tmp_path):
    """Four steps, and two and two: the same weights, which they were not if the pull began anew at step 3."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    before = {name: one.clone() for name, one in random_policy.model.state_dict().items()}
    run_training(random_policy, small(steps=4), whole)
    expected = {name: one.clone() for name, one in random_policy.model.state_dict().items()}
    random_policy.model.load_state_dict(before)
    with pytest.raises(KeyboardInterrupt):
        run_training(random_policy, small(steps=4), parts, stop_after=2)
    random_policy.model.load_state_dict(before)
    run_training(random_policy, small(steps=4), parts)
    for name, one in random_policy.model.state_dict().items():
        torch.testing.assert_close(one, expected[name], rtol=0, atol=0)
    assert [row["step"] for row in read_metrics(parts / "metrics.jsonl")] == [1, 2, 3, 4]


def test_the_initial_model_scores_no_think_answers_alone(random_policy):
    sampler, settings = native_sampler(random_policy), small(steps=1)
    sampled = collect(sampler, generate_problems(2, seed=0, split=Split.TRAIN), settings, step=1)
    initial = keep_initial(random_policy)
    with torch.no_grad():
        for parameter in random_policy.model.parameters():
            parameter.mul_(1.1)
    for one in initial.score(sampled, {Mode.NO_THINK}, settings):
        if one.mode is Mode.THINK:
            assert one.initial_logprobs == ()
        else:  # the engine's own, from before the weights were changed
            assert one.initial_logprobs == pytest.approx(one.behavior_logprobs, abs=1e-4)


def test_an_adapter_is_switched_off_for_the_initial_model(tmp_path):
    pytest.importorskip("peft")
    from adaptthink.models.loading import prepare_trainee

    base = load_policy("tiny", device="cpu")
    settings = small(steps=1, lora_rank=2, model="tiny")
    policy = prepare_trainee(load_policy("tiny", device="cpu"), settings)
    sampled = collect(native_sampler(base), generate_problems(1, seed=0, split=Split.TRAIN), settings, step=1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    for one in keep_initial(policy).score(sampled, {Mode.NO_THINK}, settings):
        if one.mode is Mode.NO_THINK:
            assert one.initial_logprobs == pytest.approx(one.behavior_logprobs, abs=1e-4)


def test_settings_of_a_method():
    assert load_method("gap:tau=0.1,pull=0") == Gap(tau=0.1, pull=0.0)
    assert not load_method("gap:pull=0").initial_modes
    for text, message in [
        ("gapp", "method = 'gapp' is unknown; there are: .*adaptthink, .*gap, grpo"),
        ("gap:rate=1", "gap has no setting 'rate'; it has tau, decision, mass, pull"),
        ("adaptthink:tau=1", "adaptthink has no setting 'tau'; it has none"),
        ("gap:tau=much", "tau takes a number from 0 on, not 'much'"),
        ("gap:tau=-1", "tau takes a number from 0 on, not '-1'"),
        ("gap:tau=inf", "tau takes a number from 0 on, not 'inf'"),
        ("gap:tau=1,tau=2", "tau is given twice"),
        ("gap:tau", "tau takes a number from 0 on, not ''"),
    ]:
        with pytest.raises(UserError, match=message):
            load_method(text)
