"""The objective against hand-computed numbers, finite differences and an independent plain-Python implementation."""

import math
import random

import pytest
import torch

from adaptthink.objective import LOG_RATIO_LIMIT, advantage, decision_logprob, policy_logprobs, policy_loss

RATIOS = ("sequence_mean", "sequence", "token")


def plain_loss(logprob, behavior, adv, mask, clip, ratio):
    """One sequence, lists of floats; written from the paper's text without tensors."""
    differences = [a - b for a, b, m in zip(logprob, behavior, mask, strict=True) if m]
    if not differences:
        return 0.0

    def surrogate(log_ratio):
        r = math.exp(min(max(log_ratio, -LOG_RATIO_LIMIT), LOG_RATIO_LIMIT))
        return min(r * adv, min(max(r, 1 - clip), 1 + clip) * adv)

    if ratio == "token":
        return -sum(surrogate(d) for d in differences) / len(differences)
    total = sum(differences)
    return -surrogate(total / len(differences) if ratio == "sequence_mean" else total)


def random_batch(seed, rows=6, width=7):
    rng = random.Random(seed)
    behavior = [[-rng.uniform(0.05, 2) for _ in range(width)] for _ in range(rows)]
    logprob = [[b + rng.gauss(0, 0.15) for b in row] for row in behavior]
    mask = [[rng.random() < 0.8 for _ in range(width)] for _ in range(rows)]
    mask[0] = [False] * width
    mask[1] = [True] * width
    adv = [rng.choice((-0.95, -0.2, 0.05, 1.0)) for _ in range(rows)]
    return logprob, behavior, adv, mask


def as_tensors(logprob, behavior, adv, mask):
    return (
        torch.tensor(logprob, dtype=torch.float64, requires_grad=True),
        torch.tensor(behavior, dtype=torch.float64),
        torch.tensor(adv, dtype=torch.float64),
        torch.tensor(mask),
    )


def test_advantage_by_hand():
    no_think = torch.tensor([True, True, False, False])
    reward = torch.tensor([1.0, 0.0, 1.0, 0.0])
    reference = torch.tensor([0.75, 0.75, 1.0, 0.25])
    expected = torch.tensor([0.30, -0.70, 0.0, -0.25])
    torch.testing.assert_close(advantage(no_think, reward, reference, 0.05), expected)


def test_advantage_of_nothing_is_nothing():
    empty = torch.empty(0)
    assert advantage(empty.bool(), empty, empty, 0.05).shape == (0,)


def test_decision_logprob_is_the_log_of_the_share():
    assert decision_logprob(True, 0.5) == pytest.approx(-0.6931471805599453)
    assert decision_logprob(False, 0.5) == pytest.approx(-0.6931471805599453)
    assert decision_logprob(True, 0.25) == pytest.approx(math.log(0.25))
    assert decision_logprob(False, 0.25) == pytest.approx(math.log(0.75))


def test_a_sampled_think_start_keeps_its_probability_within_the_mode():
    # Three quarters of the samples think; the policy gave this think start 1/3 of what it does not give no_think.
    assert decision_logprob(False, 0.25, math.log(1 / 3)) == pytest.approx(math.log(0.25))


def test_a_mode_that_is_never_drawn_is_refused():
    assert decision_logprob(True, 1.0) == 0.0
    assert decision_logprob(False, 0.0) == 0.0
    with pytest.raises(ValueError, match="no think response is ever sampled"):
        decision_logprob(False, 1.0)
    with pytest.raises(ValueError, match="no no_think response is ever sampled"):
        decision_logprob(True, 0.0)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        decision_logprob(True, share)


def test_sequence_mean_by_hand():
    # Differences 0.3, -0.1, 0.1 have mean 0.1: r = e^0.1 = 1.10517, inside the clip; loss = -r * 0.5.
    logprob = torch.tensor([[-0.7, -1.1, -0.4]])
    behavior = torch.tensor([[-1.0, -1.0, -0.5]])
    loss = policy_loss(
        logprob, behavior, torch.tensor([0.5]), torch.ones(1, 3, dtype=torch.bool), clip=0.2, ratio="sequence_mean"
    )
    assert loss.loss_B.item() == pytest.approx(-0.5525855, abs=1e-6)
    assert loss.clipped_B.item() == 0


def test_sequence_by_hand():
    # The same differences sum to 0.3: r = 1.34986, above 1.2 with A > 0, so the loss is -1.2 * 0.5 and clipped.
    logprob = torch.tensor([[-0.7, -1.1, -0.4]])
    behavior = torch.tensor([[-1.0, -1.0, -0.5]])
    loss = policy_loss(
        logprob, behavior, torch.tensor([0.5]), torch.ones(1, 3, dtype=torch.bool), clip=0.2, ratio="sequence"
    )
    assert loss.loss_B.item() == pytest.approx(-0.6)
    assert loss.clipped_B.item() == 1


def test_token_by_hand():
    # Ratios e^0.3 -> 1.2 (clipped), e^-0.1 = 0.904837, e^0.1 = 1.105171; A = 0.5; mean of -0.6, -0.4524187, -0.5525855.
    logprob = torch.tensor([[-0.7, -1.1, -0.4]])
    behavior = torch.tensor([[-1.0, -1.0, -0.5]])
    loss = policy_loss(
        logprob, behavior, torch.tensor([0.5]), torch.ones(1, 3, dtype=torch.bool), clip=0.2, ratio="token"
    )
    assert loss.loss_B.item() == pytest.approx((-0.6 - 0.4524187 - 0.5525855) / 3, abs=1e-6)
    assert loss.clipped_B.item() == pytest.approx(1 / 3)


def test_clip_by_sign_of_the_advantage():
    # r = e^-0.5 = 0.60653 is below 0.8: with A > 0 it counts, with A < 0 the clip holds it and the gradient is cut.
    logprob = torch.tensor([[-1.5], [-1.5]], requires_grad=True)
    behavior = torch.tensor([[-1.0], [-1.0]])
    mask = torch.ones(2, 1, dtype=torch.bool)
    result = policy_loss(logprob, behavior, torch.tensor([1.0, -1.0]), mask, clip=0.2, ratio="sequence_mean")
    assert result.loss_B.tolist() == pytest.approx([-0.6065307, 0.8])
    assert result.clipped_B.tolist() == [0, 1]
    result.loss_B.sum().backward()
    assert logprob.grad.flatten().tolist() == pytest.approx([-0.6065307, 0.0])


@pytest.mark.parametrize(("ratio", "expected"), [("sequence", 2e-6), ("token", None), ("sequence_mean", 0.957)])
def test_cold_start_gradient_of_the_decision_token(ratio, expected):
    """P(no_think) = 1e-6, T = 300, nothing else has moved: the figures of the module's docstring."""
    length = 300
    behavior = torch.full((1, length), -1.0, dtype=torch.float64)
    behavior[0, 0] = math.log(0.5)
    logprob = behavior.clone()
    logprob[0, 0] = math.log(1e-6)
    logprob.requires_grad_()
    mask = torch.ones(1, length, dtype=torch.bool)
    one = torch.ones(1, dtype=torch.float64)
    policy_loss(logprob, behavior, one, mask, clip=0.2, ratio=ratio).loss_B.sum().backward()
    gradient = -logprob.grad[0, 0].item()
    if ratio == "sequence_mean":
        assert gradient * length == pytest.approx(expected, abs=1e-3)
    elif ratio == "sequence":
        assert gradient == pytest.approx(expected, rel=1e-6)
    else:  # the token's own ratio, 2e-6, over the T tokens of the mean
        assert gradient * length == pytest.approx(2e-6, rel=1e-6)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_plain_implementation(ratio, seed):
    batch = random_batch(seed)
    tensors = as_tensors(*batch)
    result = policy_loss(*tensors, clip=0.2, ratio=ratio)
    expected = [plain_loss(*row, 0.2, ratio) for row in zip(*batch, strict=True)]
    assert result.loss_B.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("seed", range(3))
def test_gradient_agrees_with_finite_differences_of_the_plain_implementation(ratio, seed):
    logprob, behavior, adv, mask = random_batch(seed)
    tensors = as_tensors(logprob, behavior, adv, mask)
    policy_loss(*tensors, clip=0.2, ratio=ratio).loss_B.sum().backward()
    step = 1e-6
    for row, values in enumerate(logprob):
        for column in range(len(values)):

            def loss_at(shift, row=row, column=column, values=values):
                moved = list(values)
                moved[column] += shift
                return plain_loss(moved, behavior[row], adv[row], mask[row], 0.2, ratio)

            slope = (loss_at(step) - loss_at(-step)) / (2 * step)
            assert tensors[0].grad[row, column].item() == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize("ratio", RATIOS)
def test_inputs_are_not_modified(ratio):
    tensors = as_tensors(*random_batch(0))
    before = [tensor.detach().clone() for tensor in tensors]
    policy_loss(*tensors, clip=0.2, ratio=ratio).loss_B.sum().backward()
    for tensor, copy in zip(tensors, before, strict=True):
        assert torch.equal(tensor.detach(), copy)


@pytest.mark.parametrize("ratio", RATIOS)
def test_what_stands_under_the_mask_is_never_read(ratio):
    logprob, behavior, adv, mask = as_tensors(*random_batch(1))
    hostile = logprob.detach().clone()
    hostile[~mask] = float("nan")
    hostile.requires_grad_()
    expected = policy_loss(logprob, behavior, adv, mask, clip=0.2, ratio=ratio)
    result = policy_loss(hostile, behavior, adv, mask, clip=0.2, ratio=ratio)
    assert torch.equal(result.loss_B, expected.loss_B)
    result.loss_B.sum().backward()
    expected.loss_B.sum().backward()
    assert torch.equal(hostile.grad, logprob.grad)


@pytest.mark.parametrize("ratio", RATIOS)
def test_padding_does_not_change_a_sequence(ratio):
    logprob, behavior, adv, mask = as_tensors(*random_batch(2))
    padded = [torch.nn.functional.pad(x.detach(), (0, 5), value=v) for x, v in ((logprob, -3.0), (behavior, 0.0))]
    wide = policy_loss(*padded, adv, torch.nn.functional.pad(mask, (0, 5)), clip=0.2, ratio=ratio)
    torch.testing.assert_close(
        wide.loss_B, policy_loss(logprob, behavior, adv, mask, clip=0.2, ratio=ratio).loss_B.detach()
    )


@pytest.mark.parametrize("ratio", RATIOS)
def test_all_masked_row_has_no_loss_and_no_gradient(ratio):
    logprob, behavior, adv, mask = as_tensors(*random_batch(3))
    result = policy_loss(logprob, behavior, adv, mask, clip=0.2, ratio=ratio)
    assert not mask[0].any()
    assert result.loss_B[0].item() == 0
    assert result.clipped_B[0].item() == 0
    result.loss_B.sum().backward()
    assert logprob.grad[0].abs().sum().item() == 0


@pytest.mark.parametrize("ratio", RATIOS)
def test_empty_batch(ratio):
    empty = torch.empty(0, 4)
    result = policy_loss(empty, empty, torch.empty(0), empty.bool(), clip=0.2, ratio=ratio)
    assert result.loss_B.shape == (0,)
    assert result.clipped_B.shape == (0,)


@pytest.mark.parametrize("ratio", RATIOS)
def test_extreme_log_ratios_stay_finite(ratio):
    logprob = torch.tensor([[-1.0, 0.0], [-500.0, -500.0]], requires_grad=True)
    behavior = torch.tensor([[-900.0, -900.0], [-1.0, 0.0]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    result = policy_loss(logprob, behavior, torch.tensor([-1.0, 1.0]), mask, clip=0.2, ratio=ratio)
    result.loss_B.sum().backward()
    assert torch.isfinite(result.loss_B).all()
    assert torch.isfinite(logprob.grad).all()


def test_on_policy_gradient_is_that_of_plain_policy_gradient():
    """At r = 1 both normalised forms have the gradient of -A * mean log pi."""
    behavior = torch.tensor([[-1.0, -2.0, -0.5]], dtype=torch.float64)
    for ratio in ("sequence_mean", "token"):
        logprob = behavior.clone().requires_grad_()
        mask = torch.ones(1, 3, dtype=torch.bool)
        adv = torch.tensor([0.7], dtype=torch.float64)
        policy_loss(logprob, behavior, adv, mask, clip=0.2, ratio=ratio).loss_B.sum().backward()
        assert logprob.grad.flatten().tolist() == pytest.approx([-0.7 / 3] * 3)


def test_policy_logprobs_are_taken_at_the_temperature():
    logits = torch.tensor([[[1.0, 2.0, 0.0]]])
    # At T = 0.5 the logits are 2, 4, 0: log-softmax of the second is -log(1 + e^-2 + e^-4) = -0.1429316.
    result = policy_logprobs(logits, torch.tensor([[1]]), temperature=0.5)
    assert result.item() == pytest.approx(-0.1429316, abs=1e-6)
