"""Allocation: the kept samples cost the configured share, and the expected gradient is that of the uniform design."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rollouts import correct, make_rollout

from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.engines.base import ScriptedEngine
from adaptthink.grading import Verdict
from adaptthink.modes import Mode, probe
from adaptthink.problems import make_problem
from adaptthink.sampling.sampler import Sampler
from adaptthink.training import allocation
from adaptthink.training.allocation import (
    MIN_PROBABILITY,
    Allocation,
    RunningStatistics,
    restore_statistics,
    solve_probabilities,
    sum_strata,
    update_statistics,
)
from adaptthink.training.credit import Credit
from adaptthink.training.reference import Reference
from adaptthink.training.rollout import collect
from adaptthink.training.update import update

PROBLEMS = [make_problem(f"{n}+1=?", str(n + 1), level=1) for n in range(40)]
HALF = (Verdict.CORRECT, Verdict.WRONG)
REFERENCE = {
    problem.id: Reference(problem.id, (Verdict.CORRECT,) * 2 if number % 2 else HALF, (5, 5))
    for number, problem in enumerate(PROBLEMS)
}
STATISTICS = {  # values: 0.5, 0.05, 0.025 and 0.0075, up to the imagined sample
    "no_think/always": RunningStatistics(1e6, 0.25e6, 1e6),
    "no_think/often": RunningStatistics(1e6, 0.25e6, 10e6),
    "think/often": RunningStatistics(1e6, 0.25e6, 20e6),
    "think/always": RunningStatistics(1e6, 0.09e6, 40e6),
}


def expected_tokens(probabilities):
    return sum(q * STATISTICS[stratum].tokens for stratum, q in probabilities.items())


def test_value_by_hand():
    # (3 + 0.25) / (12 + 1) = 0.25, its root 0.5, over 60 / 12 = 5 tokens.
    assert RunningStatistics(12, 3, 60).value == pytest.approx(0.1)


@pytest.mark.parametrize("token_share", [0.2, 0.4, 0.6, 0.9])
def test_the_expected_tokens_are_the_configured_share(token_share):
    found = solve_probabilities(STATISTICS, token_share)
    assert expected_tokens(found) == pytest.approx(token_share * 71e6)
    inside = [stratum for stratum, q in found.items() if MIN_PROBABILITY < q < 1]
    scales = [found[stratum] / STATISTICS[stratum].value for stratum in inside]
    assert scales == pytest.approx(scales[:1] * len(scales))  # in proportion to their values
    assert found["no_think/always"] >= found["no_think/often"] >= found["think/often"] >= found["think/always"]


def test_the_allocation_has_less_variance_than_any_other_of_the_same_cost():
    """Σ n·V/q over strata with V = E[A²]/E[T], against 2,000 random allocations of no more tokens."""
    found = solve_probabilities(STATISTICS, 0.6)
    assert all(q > MIN_PROBABILITY for q in found.values())

    def variance(probabilities):
        return sum(s.squares / (s.tokens / s.samples) / probabilities[name] for name, s in STATISTICS.items())

    generator = np.random.default_rng(0)
    for _ in range(2000):
        values = generator.uniform(MIN_PROBABILITY, 1, size=len(STATISTICS))
        other = dict(zip(STATISTICS, values, strict=True))
        if expected_tokens(other) <= expected_tokens(found):
            assert variance(other) >= variance(found) * (1 - 1e-9)


def test_extremes_of_the_share():
    assert solve_probabilities(STATISTICS, 1.0) == pytest.approx(dict.fromkeys(STATISTICS, 1.0))
    assert solve_probabilities(STATISTICS, 0.01) == dict.fromkeys(STATISTICS, MIN_PROBABILITY)


def test_every_sample_is_kept_by_default_and_in_the_first_steps():
    for share, step in ((1.0, 100), (0.5, allocation.UNIFORM_STEPS)):
        keep_probability = Allocation(share, REFERENCE, STATISTICS).plan(step)
        assert {keep_probability(problem, mode) for problem in PROBLEMS for mode in Mode} == {1.0}
    keep_probability = Allocation(0.5, REFERENCE, {"think/always": STATISTICS["think/always"]}).plan(100)
    assert keep_probability(PROBLEMS[1], Mode.THINK) == pytest.approx(0.5)
    assert keep_probability(PROBLEMS[1], Mode.NO_THINK) == 1.0  # a stratum without samples so far
    assert keep_probability(PROBLEMS[1], None) == 1.0


def test_sums_by_stratum_by_hand():
    def rollout(problem, mode, length, weight):
        ids = (1,) * length
        return replace(correct(problem, mode, (1,), ids, (0.0,) * length), weight=weight)

    rollouts = [
        rollout(PROBLEMS[1], Mode.THINK, 10, 4.0),
        rollout(PROBLEMS[1], Mode.THINK, 20, 1.0),
        rollout(PROBLEMS[0], Mode.NO_THINK, 3, 1.0),
    ]
    sums = sum_strata(rollouts, [0.0, -1.0, 0.5], REFERENCE)
    assert sums == {
        "think/always": RunningStatistics(5.0, 1.0, 60.0),
        "no_think/often": RunningStatistics(1.0, 0.25, 3.0),
    }
    assert update_statistics({"think/always": RunningStatistics(10, 10, 10)}, sums) == {
        "think/always": RunningStatistics(14.0, 10.0, 69.0),
        "no_think/often": RunningStatistics(1.0, 0.25, 3.0),
    }
    learning = Allocation(0.5, REFERENCE, {})
    rows = [{"strata": learning.learn(rollouts[:count], [0.0, -1.0, 0.5][:count])} for count in (2, 3)]
    assert rows[1]["strata"]["no_think/often"] == {"samples": 1.0, "squares": 0.25, "tokens": 3.0}
    assert learning.statistics == restore_statistics(rows)
    assert learning.statistics["think/always"] == RunningStatistics(9.5, pytest.approx(1.9), 114.0)


def test_strata_are_in_one_order_in_every_process():
    """Sums over strata depend on their order in the last bit, and sets of texts have another in each process."""
    strata = [f"{mode}/{often}" for mode in Mode for often in ("always", "often", "seldom", "never")]
    one = RunningStatistics(1.0, 1.0, 1.0)
    past, own = dict.fromkeys(strata[:5], one), dict.fromkeys(reversed(strata[3:]), one)
    assert list(update_statistics(past, own)) == list(update_statistics(own, past)) == sorted(strata)


@pytest.fixture
def sampler(tokenizer):
    """Answers right to even problems only, in both modes; think responses are long."""
    template = probe(tokenizer)

    def script(prompt, prefix):
        thinking = "" if template.close_id in prefix else "\n47+8=55\n" * 2 + "</think>"
        return tokenizer.encode(f"{thinking}\\boxed{{7}}<|eos|>", add_special_tokens=False)

    return Sampler(ScriptedEngine(script), tokenizer, template)


def design(sampler, step, keep_probability):
    settings = {"samples_per_problem": 2, "max_think_tokens": 64, "max_no_think_tokens": 16, "temperature": 1.0}
    return collect(sampler, PROBLEMS, check(TrainConfig, settings), step, keep_probability)


@pytest.mark.slow
def test_the_expected_gradient_is_that_of_the_uniform_design(sampler):
    """400 steps; every sample has a gradient of its own (random here, the same each time, as the responses are). Each
    component of the weighted sum must lie within 4.5 standard errors of the uniform design's, and without
    the weights it must not."""
    keep_probability = Allocation(0.4, REFERENCE, STATISTICS).plan(100)
    assert MIN_PROBABILITY < keep_probability(PROBLEMS[1], Mode.THINK) < keep_probability(PROBLEMS[0], Mode.THINK) < 1
    whole = design(sampler, 0, lambda problem, mode: 1.0)
    generator = np.random.default_rng(0)
    gradients = {(one.problem.id, one.mode): generator.normal(loc=1.0, size=8) for one in whole}
    exact = sum(gradients.values())
    weighted, plain, tokens = [], [], []
    for step in range(1, 401):
        kept = design(sampler, step, keep_probability)
        weighted.append(sum(one.weight * gradients[one.problem.id, one.mode] for one in kept))
        plain.append(sum(gradients[one.problem.id, one.mode] for one in kept))
        tokens.append(sum(len(one.response_ids) for one in kept))
    error = np.std(weighted, axis=0, ddof=1) / math.sqrt(len(weighted))
    assert (np.abs(np.mean(weighted, axis=0) - exact) < 4.5 * error).all()
    assert (np.abs(np.mean(plain, axis=0) - exact) > 4.5 * error).any()
    assert np.mean(tokens) < 0.7 * sum(len(one.response_ids) for one in whole)


def test_what_is_kept_does_not_depend_on_what_is_dropped(sampler):
    whole = {(one.problem.id, one.mode): one.response_ids for one in design(sampler, 3, lambda problem, mode: 1.0)}
    kept = design(sampler, 3, lambda problem, mode: 0.3)
    assert 0 < len(kept) < len(whole)
    assert {one.weight for one in kept} == {1 / 0.3}
    assert all(whole[one.problem.id, one.mode] == one.response_ids for one in kept)
    again = design(sampler, 3, lambda problem, mode: 0.3)
    assert [one.problem.id for one in again] == [one.problem.id for one in kept]
    # A larger probability keeps all that a smaller one keeps.
    more = {(one.problem.id, one.mode) for one in design(sampler, 3, lambda problem, mode: 0.6)}
    assert {(one.problem.id, one.mode) for one in kept} < more


def test_the_update_weighs_what_was_kept(random_model):
    """A weight of 3 is three times the advantage, and the divisor is the size of the uniform design."""
    config = check(TrainConfig, {"problems_per_step": 4, "samples_per_problem": 2, "max_grad_norm": 1e9})
    logprobs = (math.log(0.5), -5.0, -5.5)
    one = make_rollout(PROBLEMS[0], Mode.THINK, (5, 9), (60, 61, 62), logprobs, 1, Verdict.WRONG)

    def gradient(rollout, advantage):
        model = random_model
        captured = {}

        class Spy(torch.optim.SGD):
            def step(self, *args, **kwargs):
                captured.update({name: p.grad.clone() for name, p in model.named_parameters()})

        update(model, Spy(model.parameters(), lr=0.0), [rollout], [Credit(advantage, advantage)], config, step=1)
        return captured

    heavy, strong, light = gradient(replace(one, weight=3.0), -0.2), gradient(one, -0.6), gradient(one, -0.2)
    for name, value in heavy.items():
        torch.testing.assert_close(value, strong[name], rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(value, 3 * light[name], rtol=1e-5, atol=1e-9)
