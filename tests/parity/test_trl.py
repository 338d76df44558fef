"""TRL's trainer on the recorded rollouts: the native loss and gradient, by another road.

Everything from TRL's data loading to its optimiser step is real; only the drawing of responses is replaced. TRL's
output layer computes log-probabilities in float32 whatever the model's type, so for the comparison in float64 it is
made again from its own source, with float64 in place of float32 (`recorded.in_float64`).
"""

import importlib.util
import math
from dataclasses import replace

import pytest
import torch

if importlib.util.find_spec("trl") is None:
    pytest.skip("TRL is not installed here; pip install '.[trl]'", allow_module_level=True)

import recorded
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

from adaptthink.integrations import trl
from adaptthink.models.loading import load_policy
from adaptthink.modes import Mode
from adaptthink.problems.arithmetic import Split, generate_problems
from adaptthink.training.initial import InitialModel
from adaptthink.training.methods import adaptthink

pytestmark = pytest.mark.slow
SETTINGS = {"temperature": 0.8, "num_generations": recorded.SAMPLES, "max_completion_length": 64}
SETTINGS |= {"max_no_think_tokens": 16, "max_grad_norm": 0.0, "max_steps": 1}
LOCAL = {
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
}
NUM_ROLLOUTS = recorded.PROBLEMS * recorded.SAMPLES
DTYPES = pytest.mark.parametrize("dtype", recorded.BOUNDS, ids=str)


class Spy(torch.optim.SGD):
    """An optimiser that changes nothing and keeps the gradient that it is given."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=0.0)
        self.named, self.gradients = dict(model.named_parameters()), []

    def step(self, closure=None):
        self.gradients.append({name: one.grad.clone() for name, one in self.named.items() if one.grad is not None})


def train(tmp_path, model, requested, reference, **settings):
    """Train with TRL; return the log and the gradient of every step."""
    args = trl.AdaptThinkConfig(output_dir=str(tmp_path), **(SETTINGS | LOCAL | settings))
    spy = Spy(model)
    tokenizer = load_policy("tiny", device="cpu").tokenizer
    trainer = trl.AdaptThinkTrainer(
        model,
        args,
        trl.problem_dataset(requested),
        processing_class=tokenizer,
        reference=reference,
        optimizers=(spy, None),
    )
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row], spy.gradients


def replay(monkeypatch, tmp_path, dtype=torch.float64, **settings):
    """Train one step on the recorded rollouts; return its loss and gradient."""
    if dtype == torch.float64:
        recorded.all_in_float64(monkeypatch)
        parts = (chunked_logprob._addmm_fp32, chunked_logprob._forward_tile, chunked_logprob._backward_tile)
        *_, wide = recorded.in_float64(*parts, chunked_logprob.ChunkedLogProbFunction)
        monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", wide)
    method = settings.get("method", "adaptthink")
    rollouts = [
        replace(one, initial_logprobs=()) for one in recorded.native_rollouts(recorded.config(method=method), dtype)
    ]
    initial = InitialModel(load_policy("tiny", device="cpu"), recorded.initial_model(dtype))
    monkeypatch.setattr(trl.AdaptThinkTrainer, "_keep_initial", lambda self: initial)
    by_place = {(one.problem.id, index % recorded.SAMPLES): one for index, one in enumerate(rollouts)}

    def sample_rows(sampler, rows, positions, args, step, training):
        return [by_place[row.id, position] for row, position in zip(rows, positions, strict=True)]

    monkeypatch.setattr(trl, "sample_rows", sample_rows)
    requested = dict.fromkeys(one.problem for one in rollouts)
    reference = {id_: one.reward for id_, one in recorded.references().items()}
    [row], [gradient] = train(tmp_path, recorded.moved_model(dtype), requested, reference, **settings)
    return row["loss"], gradient


def difference(found, expected):
    """The length of the difference of two gradients, relative to that of the expected one."""
    assert found.keys() == expected.keys()
    gaps = torch.stack([(found[name] - gradient).norm() for name, gradient in expected.items()])
    norms = torch.stack([gradient.norm() for gradient in expected.values()])
    assert norms.min() > 1e-4 * norms.norm(), "a tensor that is lost must show"
    return (gaps.norm() / norms.norm()).item()


@DTYPES
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("ratio", ["sequence_mean", "sequence", "token"])
def test_loss_and_gradient_are_the_native_ones(monkeypatch, tmp_path, ratio, accumulation, dtype):
    size = NUM_ROLLOUTS // accumulation
    batches = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    loss, gradient = replay(monkeypatch, tmp_path, dtype, ratio=ratio, **batches)
    expected_loss, expected = recorded.native_loss_and_gradient(recorded.config(ratio=ratio), dtype)
    assert loss == pytest.approx(expected_loss, rel=max(recorded.BOUNDS[dtype], 1e-6))  # the log is in float32
    assert difference(gradient, expected) < recorded.BOUNDS[dtype]


@DTYPES
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("method", ["gap", "gap:pull=0,tau=0.2"])
def test_the_gap_objectives_gradient_is_the_native_one(monkeypatch, tmp_path, method, accumulation, dtype):
    size = NUM_ROLLOUTS // accumulation
    batches = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    loss, gradient = replay(monkeypatch, tmp_path, dtype, method=method, **batches)
    expected_loss, expected = recorded.native_loss_and_gradient(recorded.config(method=method), dtype)
    assert loss == pytest.approx(expected_loss, rel=1e-4, abs=1e-6)  # a small sum of large parts, logged in float32
    assert difference(gradient, expected) < recorded.BOUNDS[dtype]


@pytest.mark.parametrize(("method", "share"), [("adapt", 0.5), ("degrpo", 0.5), ("dler:cap=12", 0), ("tlmre", 0)])
def test_the_gradient_of_other_methods_is_the_native_one(monkeypatch, tmp_path, method, share):
    """With a cap, credit ends before the responses do."""
    values = {"method": method, "no_think_share": share}
    loss, gradient = replay(monkeypatch, tmp_path, per_device_train_batch_size=NUM_ROLLOUTS, **values)
    expected_loss, expected = recorded.native_loss_and_gradient(recorded.config(**values), torch.float64)
    assert loss == pytest.approx(expected_loss, rel=1e-4, abs=1e-6)
    assert difference(gradient, expected) < recorded.BOUNDS[torch.float64]


def assert_caught(gradient):
    """A fault makes a greater difference than is allowed in either type of numbers."""
    _, expected = recorded.native_loss_and_gradient(recorded.config(), torch.float64)
    assert difference(gradient, expected) > max(recorded.BOUNDS.values())


def recomputed(logprob_BT, behavior_BT, mask_BT):
    return logprob_BT.detach()


def recomputed_decision(logprob_BT, behavior_BT, mask_BT):
    first_B1 = mask_BT.int().argmax(1, keepdim=True)
    return behavior_BT.to(logprob_BT).scatter(1, first_B1, logprob_BT.detach().gather(1, first_B1))


@pytest.mark.parametrize("fault", [recomputed, recomputed_decision])
def test_recomputed_old_logprobs_are_caught(monkeypatch, tmp_path, fault):
    """What trainers do in the setting of one update per batch would put π_θ where π_IS belongs."""
    right = adaptthink.policy_loss

    def wrong(logprob_BT, behavior_BT, advantage_B, mask_BT, **settings):
        return right(logprob_BT, fault(logprob_BT, behavior_BT, mask_BT), advantage_B, mask_BT, **settings)

    with monkeypatch.context() as faulty:  # the native loss is the same function
        faulty.setattr(adaptthink, "policy_loss", wrong)
        _, gradient = replay(monkeypatch, tmp_path, per_device_train_batch_size=NUM_ROLLOUTS)
    assert_caught(gradient)


def test_a_masked_token_that_counts_is_caught(monkeypatch, tmp_path):
    right = adaptthink.policy_loss

    def wrong(logprob_BT, behavior_BT, advantage_B, mask_BT, **settings):
        filled_BT = mask_BT.clone()
        filled_BT[:, 1:-1] |= mask_BT[:, :-2] & mask_BT[:, 2:]
        return right(logprob_BT, behavior_BT, advantage_B, filled_BT, **settings)

    with monkeypatch.context() as faulty:  # the native loss is the same function
        faulty.setattr(adaptthink, "policy_loss", wrong)
        _, gradient = replay(monkeypatch, tmp_path, per_device_train_batch_size=NUM_ROLLOUTS)
    assert_caught(gradient)


def test_one_half_survives_to_the_loss(monkeypatch, tmp_path):
    """One update per batch, on fresh rollouts: every ratio but the decision's is 1, so the loss is known by hand."""
    sampled = []

    def spied(*arguments):
        sampled.extend(sample_rows(*arguments))
        return list(sampled)

    sample_rows = trl.sample_rows
    monkeypatch.setattr(trl, "sample_rows", spied)
    requested = generate_problems(1, seed=3, split=Split.TRAIN)[:4]
    reference = dict(zip((one.id for one in requested), [0.25, 0.5, 0.75, 1.0], strict=True))
    model = load_policy("tiny", device="cpu").model
    [row], _ = train(tmp_path, model, requested, reference, per_device_train_batch_size=16)
    losses = []
    for one in sampled:
        ratio = math.exp((one.behavior_logprobs[0] - math.log(0.5)) / len(one.response_ids))
        value = (one.verdict == "correct") - reference[one.problem.id] + 0.05 * (one.mode is Mode.NO_THINK)
        losses.append(-min(ratio * value, min(max(ratio, 0.8), 1.2) * value))
    assert len(losses) == 16
    assert max(abs(math.exp(one.behavior_logprobs[0]) - 0.5) for one in sampled) > 0.3
    assert row["loss"] == pytest.approx(sum(losses) / 16, rel=1e-4)
    assert row["loss"] != pytest.approx(-sum(losses) / 16, rel=1e-2)
