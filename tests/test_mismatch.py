"""Trainer against sampler: the numbers by hand, the gates, and a real step of the native path."""

import copy
import math
import statistics
from dataclasses import replace

import pytest
import torch

from adaptthink.config.schema import TrainConfig
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import DivergedError
from adaptthink.models.loading import load_policy
from adaptthink.modes import Mode, encode_prompt
from adaptthink.problems import make_problem
from adaptthink.sampling.sampler import Sampler
from adaptthink.training.credit import assign_evenly
from adaptthink.training.mismatch import (
    DECISION,
    Mismatch,
    check_mismatch,
    describe_mismatch,
    find_excess,
    gate_mismatch,
    pass_weights,
)
from adaptthink.training.rollout import collect
from adaptthink.training.update import accumulate_gradients, make_optimizer, update

NAN = math.nan
# Two responses: one thinks, three tokens; one does not, two tokens and one of padding. Column 0 decides.
TRAINER = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, -1.0, NAN]])
BEHAVIOR = torch.tensor([[math.log(0.5), -2.1, -2.8], [math.log(0.5), -1.4, NAN]])
MASK = torch.tensor([[True, True, True], [True, True, False]])
DECISIONS = torch.tensor([-1.3, NAN])
NO_THINK = torch.tensor([False, True])


def gate(how, **others):
    given = {"logprob_BT": TRAINER, "behavior_BT": BEHAVIOR, "mask_BT": MASK, "decision_B": DECISIONS} | others
    return gate_mismatch(**given, no_think_B=NO_THINK, gate=how)


def test_the_numbers_by_hand():
    """Δ is +0.1 and −0.2 in the thought, +0.4 in the answer, +0.3 at the one decision that can be compared."""
    found = describe_mismatch(gate("warn").parts)
    assert found["mismatch_error_think"] == pytest.approx((math.exp(0.1) + math.exp(0.2)) / 2)
    assert found["mismatch_kl_think"] == pytest.approx((math.exp(0.1) - 1.1 + math.exp(-0.2) - 0.8) / 2, rel=1e-5)
    assert found["mismatch_largest_think"] == pytest.approx(0.2, rel=1e-5)
    assert found["mismatch_error_no_think"] == pytest.approx(math.exp(0.4))
    assert found["mismatch_error_decision"] == pytest.approx(math.exp(0.3))
    assert found["mismatch_kl_decision"] == pytest.approx(math.exp(0.3) - 1.3, rel=1e-5)


def test_without_modes_the_body_is_one_part():
    """No tensor is made on the default device: on a GPU it would be another one than the mask's, as here."""
    with torch.device("meta"):
        gated = gate_mismatch(TRAINER, BEHAVIOR, MASK, None, None, "mask")
    found = describe_mismatch(gated.parts)
    assert found["mismatch_error_body"] == pytest.approx((math.exp(0.1) + math.exp(0.2) + math.exp(0.4)) / 3)
    assert gated.masked_B.tolist() == [True, True]


def test_k3_estimates_the_divergence_of_the_sampler_from_the_trainer():
    sampler, trainer = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.25, 0.4, 0.35])
    drawn = torch.multinomial(sampler, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    logprobs = [share.log()[drawn][:, None].repeat(1, 2) for share in (trainer, sampler)]
    many = torch.ones(len(drawn), 2, dtype=torch.bool)
    parts = gate_mismatch(*logprobs, many, logprobs[1][:, 0], torch.zeros(len(drawn), dtype=torch.bool), "warn").parts
    exact = float((sampler * (sampler / trainer).log()).sum())
    assert parts["think"].kl / parts["think"].tokens == pytest.approx(exact, rel=0.02)
    assert parts[DECISION].kl == pytest.approx(parts["think"].kl)


def test_parts_add_up():
    assert Mismatch(2, 2.5, 0.1, 0.3) + Mismatch(1, 1.5, 0.2, 0.1) == Mismatch(3, 4.0, pytest.approx(0.3), 0.3)
    assert describe_mismatch({"think": Mismatch(2, 2.5, 0.1, 0.3)}) == {
        "mismatch_error_think": 1.25, "mismatch_kl_think": 0.05, "mismatch_largest_think": 0.3,
    }  # fmt: skip


def test_a_warning_changes_nothing():
    gated = gate("warn")
    assert torch.equal(gated.behavior_BT[MASK], BEHAVIOR[MASK])
    assert torch.equal(gated.mask_BT, MASK)
    assert not gated.masked_B.any()


def test_the_mask_leaves_out_a_response_of_its_own():
    near = torch.where(torch.tensor([[True], [False]]), TRAINER - 0.01, BEHAVIOR)
    gated = gate("mask", behavior_BT=near)
    assert gated.masked_B.tolist() == [False, True]
    assert gated.mask_BT.tolist() == [[True, True, True], [False, False, False]]


def test_a_mask_takes_nan_for_beyond_the_bound():
    broken = TRAINER.clone()
    broken[0, 1] = NAN
    assert gate("mask", logprob_BT=broken).masked_B.tolist() == [True, True]


def test_truncation_bounds_each_token_and_spares_the_decision():
    gated = gate("truncate")
    limit = math.log(1.05)
    assert torch.allclose(gated.behavior_BT[:, 0], BEHAVIOR[:, 0])
    assert torch.allclose(gated.behavior_BT[0, 1:], torch.tensor([-2.0 - limit, -3.0 + limit]))
    assert float(gated.behavior_BT[1, 1]) == pytest.approx(-1.0 - limit)


def test_the_stop_says_which_part_and_by_how_much():
    metrics = describe_mismatch(gate("stop").parts)
    assert next(find_excess(metrics)) == "mean exp|Δ| of think tokens is 1.163, above 1.05"
    with pytest.raises(DivergedError, match=r"step 3: trainer and sampler disagree: mean exp\|Δ\| of think tokens"):
        check_mismatch(metrics, "stop", 3)
    check_mismatch(metrics, "warn", 3)
    assert [*find_excess({"mismatch_error_think": NAN, "mismatch_kl_think": 0.0})]
    assert [*find_excess({"mismatch_error_think": 1.01, "mismatch_kl_think": 1e-3})] == [
        "KL of think tokens is 0.001, above 0.0005"
    ]


# The native path.


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny")


def sample(policy, **settings):
    given = {"problems_per_step": 3, "samples_per_problem": 4, "max_think_tokens": 64, "max_no_think_tokens": 16}
    config = TrainConfig(**(given | settings))
    problems = [make_problem(f"{n}7+8-{n}=?", "15") for n in (1, 2, 3)]
    sampler = Sampler(NativeEngine(policy.model, policy.eos_ids), policy.tokenizer, policy.template)
    return collect(sampler, problems, config, step=1), config


@pytest.mark.parametrize("settings", [{}, {"no_think_share": 0.0}, {"force_think": "ban"}, {"temperature": 1.0}])
def test_the_native_engine_agrees_with_the_trainer_in_float32(policy, settings):
    rollouts, config = sample(policy, **settings)
    found = accumulate_gradients(policy.model, rollouts, assign_evenly([1.0] * len(rollouts)), config)
    policy.model.zero_grad()
    metrics = describe_mismatch(found.mismatch)
    assert all(value - 1 < 1e-5 for name, value in metrics.items() if "error" in name)
    assert all(value < 1e-9 for name, value in metrics.items() if "kl" in name)
    sampled = [one for one in rollouts if one.mode is Mode.THINK]
    assert found.mismatch["think"].tokens == sum(len(one.response_ids) - max(1, one.num_forced) for one in sampled)
    decisions = [one for one in rollouts if settings.get("force_think") != "ban" or one.mode is Mode.NO_THINK]
    assert found.mismatch[DECISION].tokens == len(decisions)


def shift(rollout, amount):
    """A rollout whose engine reports its sampled tokens' log-probabilities too high."""
    first, *others = rollout.behavior_logprobs
    return replace(rollout, behavior_logprobs=(first, *(one + amount for one in others)))


def test_a_sampler_that_is_off_is_seen_masked_and_stopped(policy):
    rollouts, config = sample(policy)
    rollouts[0] = shift(rollouts[0], 0.2)
    credits = assign_evenly([1.0] * len(rollouts))
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    optimizer = make_optimizer(policy.model, config)
    with pytest.raises(DivergedError, match="trainer and sampler disagree"):
        update(policy.model, optimizer, rollouts, credits, config.model_copy(update={"mismatch": "stop"}), step=1)
    assert all(torch.equal(weight, before[name]) for name, weight in policy.model.state_dict().items())
    policy.model.zero_grad()
    masked = accumulate_gradients(policy.model, rollouts, credits, config.model_copy(update={"mismatch": "mask"}))
    gradient = torch.cat([one.grad.flatten() for one in policy.model.parameters()])
    policy.model.zero_grad()
    without = accumulate_gradients(policy.model, rollouts[1:], credits[1:], config)
    expected = torch.cat([one.grad.flatten() for one in policy.model.parameters()])
    policy.model.zero_grad()
    assert masked.masked == 1
    assert masked.loss == pytest.approx(without.loss)
    assert torch.allclose(gradient, expected, atol=1e-7)


class EngineElsewhere(NativeEngine):
    """An engine with a copy of the weights, which it takes or, at fault, keeps."""

    takes = True

    def load_weights(self, model):
        if self.takes:
            self.model.load_state_dict(model.state_dict())


def test_an_engine_that_kept_other_weights_is_seen_at_once():
    policy = load_policy("tiny")
    engine = EngineElsewhere(copy.deepcopy(policy.model), policy.eos_ids)
    config = TrainConfig(engine="openai", endpoint="http://localhost:1")
    prompt = encode_prompt(policy.tokenizer, policy.template, "47+8=?")
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.1)
    metrics = pass_weights(engine, policy, prompt, config)
    assert metrics["mismatch_error_sync"] - 1 < 1e-5
    assert not [*find_excess(metrics)]
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.1)
    engine.takes = False
    starts = [policy.template.no_think_id, *policy.template.think_ids]
    own = NativeEngine(policy.model, policy.eos_ids).next_token_logprobs([prompt], starts, temperature=0.6)[0]
    kept = engine.next_token_logprobs([prompt], starts, temperature=0.6)[0]
    metrics = pass_weights(engine, policy, prompt, config)
    gaps = [abs(one - other) for one, other in zip(own, kept, strict=True)]
    assert metrics["mismatch_largest_sync"] == pytest.approx(max(gaps), rel=1e-3)
    assert metrics["mismatch_error_sync"] == pytest.approx(statistics.fmean(map(math.exp, gaps)), rel=1e-3)
    assert next(iter(find_excess(metrics))).startswith("mean exp|Δ| of sync tokens is")
    assert pass_weights(engine, policy, prompt, TrainConfig()) == {}
