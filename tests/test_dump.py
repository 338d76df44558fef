"""Steps that are not finite: skipped, kept, and repeated from what was kept."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from adaptthink.config.schema import TrainConfig
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import DivergedError, UserError
from adaptthink.models.loading import load_policy
from adaptthink.problems import make_problem
from adaptthink.sampling.sampler import Sampler
from adaptthink.training.credit import Credit, assign_evenly
from adaptthink.training.dump import Dump, Skipping, load_weights, read_dump, write_dump
from adaptthink.training.rollout import collect
from adaptthink.training.update import accumulate_gradients

CONFIG = TrainConfig(problems_per_step=2, samples_per_problem=4, max_think_tokens=64, max_no_think_tokens=16, steps=9)


@pytest.fixture
def policy():
    return load_policy("tiny", device="cpu")


@pytest.fixture
def rollouts(policy):
    sampler = Sampler(NativeEngine(policy.model, policy.eos_ids), policy.tokenizer, policy.template)
    return collect(sampler, [make_problem("7+8=?", "15"), make_problem("2+3-1=?", "4")], CONFIG, step=1)


def break_one(rollouts):
    """A response whose second token's log-probability is NaN, as a broken engine may give it."""
    broken = rollouts[5]
    values = (broken.behavior_logprobs[0], math.nan, *broken.behavior_logprobs[2:])
    return [*rollouts[:5], replace(broken, behavior_logprobs=values), *rollouts[6:]]


def test_what_is_written_is_the_step_to_the_last_digit(policy, rollouts, tmp_path):
    credits = [Credit(0.3, -0.2, 0.1, 4), *assign_evenly([0.5] * (len(rollouts) - 1))]
    rollouts[0] = replace(rollouts[0], initial_logprobs=rollouts[0].behavior_logprobs, weight=1.5)
    write_dump(tmp_path, policy.model, Dump(3, "why", CONFIG, rollouts, credits))
    read = read_dump(tmp_path)
    assert (read.step, read.reason, read.config, read.credits) == (3, "why", CONFIG, credits)

    def gradient(dump):
        policy.model.zero_grad()
        found = accumulate_gradients(policy.model, dump[0], dump[1], CONFIG)
        return found.loss, [one.grad.clone() for one in policy.model.parameters()]

    loss, whole = gradient((rollouts, credits))
    again, repeated = gradient((read.rollouts, read.credits))
    assert loss == again
    assert all(torch.equal(one, other) for one, other in zip(whole, repeated, strict=True))
    own = dict(policy.model.named_parameters())
    assert all(torch.equal(value, own[name]) for name, value in load_file(tmp_path / "model.safetensors").items())


def test_a_step_that_is_not_finite_is_skipped_and_kept(policy, rollouts, tmp_path):
    before = [one.clone() for one in policy.model.parameters()]
    said = []
    taking = Skipping(tmp_path, 3, said.append)
    credits = assign_evenly([1.0] * len(rollouts))
    metrics = taking.compute_gradient(policy.model, break_one(rollouts), credits, CONFIG, 4)
    assert (metrics["loss"], metrics["grad_norm"]) == (None, None)
    assert "step 4: loss nan" in metrics["skipped"]
    assert said == [f"warning: {metrics['skipped']}; skipped, and kept: adaptthink replay {tmp_path / 'step-000004'}"]
    assert all(torch.equal(one, other) for one, other in zip(before, policy.model.parameters(), strict=True))
    assert all(one.grad is None for one in policy.model.parameters())
    good = taking.compute_gradient(policy.model, rollouts, credits, CONFIG, 5)
    assert math.isfinite(good["loss"])
    assert taking.in_a_row == 0


def test_a_dump_that_cannot_be_written_ends_no_training(policy, rollouts, tmp_path):
    """As on a full disk."""
    (tmp_path / "file").write_text("")
    said = []
    taking = Skipping(tmp_path / "file", 1, said.append)
    bad, credits = break_one(rollouts), assign_evenly([1.0] * len(rollouts))
    assert "loss nan" in taking.compute_gradient(policy.model, bad, credits, CONFIG, 1)["skipped"]
    assert len(said) == 1
    assert "skipped, and not kept, as" in said[0]
    with pytest.raises(DivergedError, match=r"2 steps in a row; not kept, as .* cannot be written: Not a directory"):
        taking.compute_gradient(policy.model, bad, credits, CONFIG, 2)


def test_damaged_weights_of_a_dump_are_one_line(policy, rollouts, tmp_path):
    write_dump(tmp_path, policy.model, Dump(3, "why", CONFIG, rollouts, assign_evenly([1.0] * len(rollouts))))
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # the sign or a digit of some weight
    for damaged in (b"cut", bytes(content)):
        weights.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors' does not match its hash in step\.json"):
            read_dump(tmp_path)


def test_a_dump_of_another_model_is_one_line(policy, rollouts, random_model, tmp_path):
    write_dump(tmp_path, policy.model, Dump(3, "why", CONFIG, rollouts, assign_evenly([1.0] * len(rollouts))))
    with pytest.raises(UserError, match="holds the weights of another model than its settings name"):
        load_weights(tmp_path, random_model.model)


def test_too_many_in_a_row_end_the_training(policy, rollouts, tmp_path):
    taking = Skipping(tmp_path, 1, lambda text: None)
    bad, credits = break_one(rollouts), assign_evenly([1.0] * len(rollouts))
    taking.compute_gradient(policy.model, bad, credits, CONFIG, 1)
    with pytest.raises(DivergedError, match=r"2 steps in a row; look into them: adaptthink replay .*step-000002"):
        taking.compute_gradient(policy.model, bad, credits, CONFIG, 2)


def test_replay_names_the_response(policy, rollouts, tmp_path, run):
    credits = assign_evenly([1.0] * len(rollouts))
    write_dump(tmp_path / "d", policy.model, Dump(4, "loss nan", CONFIG, break_one(rollouts), credits))
    status, out, _ = run("replay", tmp_path / "d", "--json", tmp_path / "r.json")
    assert status == 0
    assert "1 of 8 responses are not finite by themselves; the weights are finite" in out
    assert f"row 6 ({rollouts[5].mode}, {len(rollouts[5].response_ids)} tokens" in out
    found = json.loads((tmp_path / "r.json").read_text())
    assert [one["row"] for one in found["responses"] if one["loss"] is None or math.isnan(one["loss"])] == [6]


def test_a_folder_without_a_step_is_one_line(tmp_path, run):
    status, _, err = run("replay", tmp_path)
    assert status == 2
    assert "holds no step to repeat (step.json is missing)" in err
    (tmp_path / "step.json").write_text("{")
    with pytest.raises(UserError, match=r"step\.json: damaged"):
        read_dump(tmp_path)
