"""Allocation: what is drawn costs what was asked for, and the expected gradient is that of the uniform design."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.engines.base import ScriptedEngine
from adaptthink.grading import Verdict
from adaptthink.modes import Mode, probe
from adaptthink.problems import make_problem
from adaptthink.sampling.sampler import MaxTokens, Rollout, Sampler, Sampling, collect
from adaptthink.training import allocation
from adaptthink.training.allocation import (
    LEAST,
    RunningStatistics,
    keep_probability_of,
    observe,
    probabilities,
    update_statistics,
)
from adaptthink.training.reference import Reference
from adaptthink.training.train import update

PROBLEMS = [make_problem(f"{n}+1=?", str(n + 1), level=1) for n in range(40)]
HALF = (Verdict.CORRECT, Verdict.WRONG)
REFERENCE = {
    problem.id: Reference(problem.id, (Verdict.CORRECT,) * 2 if number % 2 else HALF, (5, 5))
    for number, problem in enumerate(PROBLEMS)
}
MOMENTS = {  # worth: 0.5, 0.05, 0.025 and 0.0075, up to the imagined sample
    "no_think/always": RunningStatistics(1e6, 0.25e6, 1e6),
    "no_think/often": RunningStatistics(1e6, 0.25e6, 10e6),
    "think/often": RunningStatistics(1e6, 0.25e6, 20e6),
    "think/always": RunningStatistics(1e6, 0.09e6, 40e6),
}


def tokens_of(drawn):
    return sum(share * MOMENTS[cell].tokens for cell, share in drawn.items())


def test_worth_by_hand():
    # (3 + 0.25) / (12 + 1) = 0.25, its root 0.5, over 60 / 12 = 5 tokens.
    assert RunningStatistics(12, 3, 60).worth == pytest.approx(0.1)


@pytest.mark.parametrize("token_share", [0.2, 0.4, 0.6, 0.9])
def test_the_expected_tokens_are_the_share_that_was_asked_for(token_share):
    drawn = probabilities(MOMENTS, token_share)
    assert tokens_of(drawn) == pytest.approx(token_share * 71e6)
    free = [cell for cell, share in drawn.items() if LEAST < share < 1]
    scales = [drawn[cell] / MOMENTS[cell].worth for cell in free]
    assert scales == pytest.approx(scales[:1] * len(scales))  # in proportion to their worth
    assert drawn["no_think/always"] >= drawn["no_think/often"] >= drawn["think/often"] >= drawn["think/always"]


def test_the_allocation_has_less_variance_than_any_other_of_the_same_cost():
    """Σ n·V/q over cells with V = E[A²]/E[T], against 2,000 random allocations scaled to the same tokens."""
    moments = {cell: RunningStatistics(m.samples, m.squares, m.tokens) for cell, m in MOMENTS.items()}
    drawn = probabilities(moments, 0.6)
    assert all(share > LEAST for share in drawn.values())

    def variance(shares):
        return sum(m.squares / (m.tokens / m.samples) / shares[cell] for cell, m in moments.items())

    generator = np.random.default_rng(0)
    for _ in range(2000):
        other = dict(zip(moments, generator.uniform(LEAST, 1, size=len(moments)), strict=True))
        cost = tokens_of(other)
        if cost <= tokens_of(drawn):
            assert variance(other) >= variance(drawn) * (1 - 1e-9)


def test_extremes_of_the_share():
    assert probabilities(MOMENTS, 1.0) == pytest.approx(dict.fromkeys(MOMENTS, 1.0))
    assert probabilities(MOMENTS, 0.01) == dict.fromkeys(MOMENTS, LEAST)


def test_nothing_is_left_out_by_default_nor_in_the_first_steps():
    for share, step in ((1.0, 100), (0.5, allocation.FIRST_STEPS)):
        keep_probability = keep_probability_of(MOMENTS, share, REFERENCE, step)
        assert {keep_probability(problem, mode) for problem in PROBLEMS for mode in Mode} == {1.0}
    keep_probability = keep_probability_of({"think/always": MOMENTS["think/always"]}, 0.5, REFERENCE, 100)
    assert keep_probability(PROBLEMS[1], Mode.THINK) == pytest.approx(0.5)
    assert keep_probability(PROBLEMS[1], Mode.NO_THINK) == 1.0  # a cell that was never seen
    assert keep_probability(PROBLEMS[1], None) == 1.0


def test_observations_by_hand():
    def rollout(problem, mode, length, weight):
        ids = (1,) * length
        return Rollout(problem, mode, (1,), ids, (0.0,) * length, (True,) * length, "", Verdict.CORRECT, weight)

    rollouts = [
        rollout(PROBLEMS[1], Mode.THINK, 10, 4.0),
        rollout(PROBLEMS[1], Mode.THINK, 20, 1.0),
        rollout(PROBLEMS[0], Mode.NO_THINK, 3, 1.0),
    ]
    seen = observe(rollouts, [0.0, -1.0, 0.5], REFERENCE)
    assert seen == {
        "think/always": RunningStatistics(5.0, 1.0, 60.0),
        "no_think/often": RunningStatistics(1.0, 0.25, 3.0),
    }
    assert update_statistics({"think/always": RunningStatistics(10, 10, 10)}, seen) == {
        "think/always": RunningStatistics(14.0, 10.0, 69.0),
        "no_think/often": RunningStatistics(1.0, 0.25, 3.0),
    }


def test_cells_are_in_one_order_in_every_process():
    """Sums over cells depend on their order in the last bit, and sets of texts have another in each process."""
    cells = [f"{mode}/{often}" for mode in Mode for often in ("always", "often", "seldom", "never")]
    one = RunningStatistics(1.0, 1.0, 1.0)
    past, seen = dict.fromkeys(cells[:5], one), dict.fromkeys(reversed(cells[3:]), one)
    assert list(update_statistics(past, seen)) == list(update_statistics(seen, past)) == sorted(cells)


@pytest.fixture
def sampler(tokenizer):
    """Answers right to even problems only, in both modes; a thought is long."""
    template = probe(tokenizer)

    def script(prompt, prefix):
        thinking = "" if template.close_id in prefix else "\n47+8=55\n" * 2 + "</think>"
        return tokenizer.encode(f"{thinking}\\boxed{{7}}<|eos|>", add_special_tokens=False)

    return Sampler(ScriptedEngine(script), tokenizer, template)


def design(sampler, seed, keep_probability):
    sampling = Sampling(MaxTokens(64, 16), temperature=1.0, seed=seed)
    return collect(
        sampler, PROBLEMS, samples=2, no_think_share=0.5, sampling=sampling, keep_probability=keep_probability
    )


def test_the_expected_gradient_is_that_of_the_uniform_design(sampler):
    """Lots drawn 400 times; every sample has a gradient of its own (random here, the same each time, as the responses
    are). Each component of the weighted sum must lie within 4.5 standard errors of the uniform design's, and without
    the weights it must not."""
    keep_probability = keep_probability_of(MOMENTS, 0.4, REFERENCE, 100)
    assert LEAST < keep_probability(PROBLEMS[1], Mode.THINK) < keep_probability(PROBLEMS[0], Mode.THINK) < 1
    whole = design(sampler, 0, lambda problem, mode: 1.0)
    generator = np.random.default_rng(0)
    gradients = {(one.problem.id, one.mode): generator.normal(loc=1.0, size=8) for one in whole}
    exact = sum(gradients.values())
    weighted, plain, tokens = [], [], []
    for seed in range(400):
        drawn = design(sampler, seed, keep_probability)
        weighted.append(sum(one.weight * gradients[one.problem.id, one.mode] for one in drawn))
        plain.append(sum(gradients[one.problem.id, one.mode] for one in drawn))
        tokens.append(sum(len(one.response_ids) for one in drawn))
    error = np.std(weighted, axis=0, ddof=1) / math.sqrt(len(weighted))
    assert (np.abs(np.mean(weighted, axis=0) - exact) < 4.5 * error).all()
    assert (np.abs(np.mean(plain, axis=0) - exact) > 4.5 * error).any()
    assert np.mean(tokens) < 0.7 * sum(len(one.response_ids) for one in whole)


def test_what_is_drawn_does_not_depend_on_what_is_left_out(sampler):
    whole = {(one.problem.id, one.mode): one.response_ids for one in design(sampler, 3, lambda problem, mode: 1.0)}
    drawn = design(sampler, 3, lambda problem, mode: 0.3)
    assert 0 < len(drawn) < len(whole)
    assert {one.weight for one in drawn} == {1 / 0.3}
    assert all(whole[one.problem.id, one.mode] == one.response_ids for one in drawn)
    again = design(sampler, 3, lambda problem, mode: 0.3)
    assert [one.problem.id for one in again] == [one.problem.id for one in drawn]
    # A larger chance keeps all that a smaller one drew.
    more = {(one.problem.id, one.mode) for one in design(sampler, 3, lambda problem, mode: 0.6)}
    assert {(one.problem.id, one.mode) for one in drawn} < more


def test_the_update_weighs_what_was_drawn(random_model):
    """A weight of 3 is three times the advantage, and the divisor is the size of the uniform design."""
    config = check(TrainConfig, {"problems_per_step": 4, "samples_per_problem": 2, "max_grad_norm": 1e9})
    one = Rollout(
        PROBLEMS[0], Mode.THINK, (5, 9), (60, 61, 62), (math.log(0.5), -5.0, -5.5), (True,) * 3, "", Verdict.WRONG
    )

    def gradient(rollout, advantage):
        model = random_model
        captured = {}

        class Spy(torch.optim.SGD):
            def step(self, *args, **kwargs):
                captured.update({name: p.grad.clone() for name, p in model.named_parameters()})

        update(model, Spy(model.parameters(), lr=0.0), [rollout], torch.tensor([advantage]), config, step=1)
        return captured

    heavy, strong, light = gradient(replace(one, weight=3.0), -0.2), gradient(one, -0.6), gradient(one, -0.2)
    for name, value in heavy.items():
        torch.testing.assert_close(value, strong[name], rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(value, 3 * light[name], rtol=1e-5, atol=1e-9)
