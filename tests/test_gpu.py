"""What a GPU must not change: log-probabilities, gradients, samples, checkpoints, memory.

`pytest -m gpu tests/test_gpu.py` runs on a GPU and skips without one; with `--device cpu` the same code runs there.
Figures that a test prints with `record_property` are in the file of `--junitxml`.
"""

import copy
import gc
import json
import math

import pytest
import torch
from rollouts import correct
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForCausalLM

from adaptthink.callbacks import Callback
from adaptthink.cli import jobs
from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.engines.base import Request
from adaptthink.engines.native import NativeEngine
from adaptthink.models.loading import TINY, load_policy, load_trainee
from adaptthink.models.scoring import compute_response_logprobs
from adaptthink.modes import Mode, encode_prompt
from adaptthink.problems import make_problem
from adaptthink.storage.runs import read_metrics
from adaptthink.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint, select_trained_parameters
from adaptthink.training.credit import assign_evenly
from adaptthink.training.update import accumulate_gradients, make_optimizer, update

pytestmark = pytest.mark.gpu

TEMPERATURE = 0.8
QUESTIONS = ("47+8=?", "12*9=?", "3+4*5=?", "81-46=?")
FLOAT32 = 2e-4  # nats, the largest difference between two log-probabilities of a token
BFLOAT16 = 1.0  # nats; a bfloat16 number has eight bits, and a logit of 20 stands on a grid of 1/8
MEAN_SHARE = 1 / 50  # of these bounds, for the mean difference


@pytest.fixture(scope="module")
def device(request):
    name = request.config.getoption("--device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU here; --device cpu runs the same code on the processor")
    return name


def config(device, **values):
    small = {
        "device": device, "learning_rate": 1e-3, "steps": 4, "problems_per_step": 4, "samples_per_problem": 4,
        "max_think_tokens": 48, "max_no_think_tokens": 12, "temperature": TEMPERATURE, "checkpoint_every": 2,
        "probe_every": 2, "problems_per_level": 2, "reference_samples": 2, "probe_problems_per_level": 1,
    }  # fmt: skip
    return check(TrainConfig, small | values)


def requests(policy, *, samples=4, max_tokens=40):
    """Requests of some questions, half of each one's samples in each mode."""
    prompts = [tuple(encode_prompt(policy.tokenizer, policy.template, question)) for question in QUESTIONS]
    return [
        Request(prompt, max_tokens, 100 * number + k, tuple(policy.template.prefix_ids(list(Mode)[k % 2])))
        for number, prompt in enumerate(prompts)
        for k in range(samples)
    ]


def sample(policy, dtype=None, *, seed=1):
    engine = NativeEngine(policy.model, policy.eos_ids, dtype=dtype)
    requested = requests(policy)
    return requested, engine.generate(requested, temperature=TEMPERATURE, seed=seed)


def make_credits(number):
    """Credits from −1 to 1, even over each response."""
    return assign_evenly(torch.linspace(-1.0, 1.0, number).tolist())


def rollouts(requested, completions):
    """Rollouts of these, all of them right; the decision token has the log-probability that the paper's π_IS gives."""
    problem = make_problem("1+1=?", "2")
    return [
        correct(problem, list(Mode)[index % 2], one.prompt_ids, done.token_ids, (math.log(0.5), *done.logprobs[1:]))
        for index, (one, done) in enumerate(zip(requested, completions, strict=True))
    ]


def forward_logprobs(model, requested, completions):
    """Log-probabilities of the response tokens from one plain forward pass of transformers for each response."""
    found = []
    for one, done in zip(requested, completions, strict=True):
        ids = torch.tensor([one.prompt_ids + done.token_ids], device=model.device)
        with torch.inference_mode():
            logprobs = (model(ids).logits[0].float() / TEMPERATURE).log_softmax(-1)
        start = len(one.prompt_ids) - 1
        found.append([logprobs[start + t, token].item() for t, token in enumerate(done.token_ids)])
    return found


def gradients(policy, rolled, settings):
    """The gradient of the step's loss, one flat vector on the CPU."""
    policy.model.zero_grad()
    credits = make_credits(len(rolled))
    accumulate_gradients(policy.model, rolled, credits, settings)
    found = [parameter.grad.cpu().double().flatten() for _, parameter in select_trained_parameters(policy.model)]
    policy.model.zero_grad()
    return torch.cat(found)


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16)], ids=["float32", "bfloat16"]
)
def test_the_engine_gives_transformers_log_probabilities(device, dtype, bound, record_property):
    policy = load_policy("tiny", device=device, dtype=torch.float32)
    requested, completions = sample(policy, dtype)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=dtype).to(device).eval()
    expected = forward_logprobs(model, requested, completions)
    differences = torch.tensor(
        [
            abs(a - b)
            for done, row in zip(completions, expected, strict=True)
            for a, b in zip(done.logprobs, row, strict=True)
        ]
    )
    record_property("largest_difference", differences.max().item())
    record_property("mean_difference", differences.mean().item())
    assert len(differences) > 200
    assert differences.max() < bound
    assert differences.mean() < bound * MEAN_SHARE


@pytest.mark.parametrize("sharing", [True, False])
def test_the_gradient_is_the_cpus(device, sharing, record_property):
    here, there = load_policy("tiny", device=device, dtype=torch.float32), load_policy("tiny", device="cpu")
    requested, completions = sample(there)
    rolled = rollouts(requested, completions)
    settings = config(device, dtype="float32", gradient_checkpointing=not sharing, micro_batch_tokens=256)
    for policy in (here, there):
        make_optimizer(policy.model, settings)  # which switches gradient checkpointing on
    expected = gradients(there, rolled, settings)
    found = gradients(here, rolled, settings)
    assert expected.norm() > 0
    record_property("gradient_float32", relative(found, expected))
    assert relative(found, expected) < 1e-3


def test_the_gradient_in_bfloat16_points_the_same_way(device, record_property):
    policy = load_policy("tiny", device=device, dtype=torch.float32)
    rolled = rollouts(*sample(policy))
    exact, rounded = (gradients(policy, rolled, config(device, dtype=dtype)) for dtype in ("float32", "bfloat16"))
    assert not torch.equal(exact, rounded)
    record_property("gradient_bfloat16", relative(rounded, exact))
    assert cosine_similarity(exact, rounded, dim=0) > 0.97


def test_the_same_seed_gives_the_same_samples(device):
    policy = load_policy("tiny", device=device, dtype=torch.float32)
    first, again, other = (sample(policy, seed=seed)[1] for seed in (1, 1, 2))
    assert first == again
    assert [done.token_ids for done in first] != [done.token_ids for done in other]
    processor = sample(load_policy("tiny", device="cpu"), seed=1)[1]
    same = sum(a.token_ids == b.token_ids for a, b in zip(first, processor, strict=True))
    assert same >= len(first) - 1  # one that stands on the border between two tokens may fall to the other side


def test_lora_trains_the_adapter_alone_and_the_engine_follows(device):
    settings = config(device, lora_rank=4, dtype="float32")
    policy = load_trainee(settings)
    before = {name: tensor.detach().clone() for name, tensor in policy.model.named_parameters()}
    optimizer = make_optimizer(policy.model, settings)
    requested, completions = sample(load_policy("tiny", device=device, dtype=torch.float32))
    rolled = rollouts(requested, completions)
    for step in (1, 2, 3):
        update(
            policy.model,
            optimizer,
            rolled,
            make_credits(len(rolled)),
            settings,
            step,
        )
    changed = {name for name, tensor in policy.model.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    engine = NativeEngine(policy.plain(), policy.eos_ids)
    done = engine.generate(requested, temperature=TEMPERATURE, seed=1)
    with torch.no_grad():
        seen = compute_response_logprobs(
            policy.model, [one.prompt_ids for one in requested], [one.token_ids for one in done], TEMPERATURE
        )
    moved = 0.0
    for row, one, old in zip(seen, done, completions, strict=True):
        assert row[: len(one.token_ids)].tolist() == pytest.approx(one.logprobs, abs=5 * FLOAT32)
        moved = max(moved, abs(one.logprobs[0] - old.logprobs[0]))
    assert moved > 0.01  # it is no longer the model without the adapter


def test_a_checkpoint_comes_back_exactly_and_the_next_step_is_the_same(device, tmp_path):
    settings = config(device, dtype="float32")
    policy = load_trainee(settings)
    optimizer = make_optimizer(policy.model, settings)
    rolled = rollouts(*sample(policy))
    credits = assign_evenly(torch.linspace(-1.0, 1.0, len(rolled)).tolist())
    update(policy.model, optimizer, rolled, credits, settings, 1)
    save_checkpoint(tmp_path, 1, policy.model, optimizer, keep=1)
    resumed = load_trainee(settings)
    other = make_optimizer(resumed.model, settings)
    assert find_checkpoint(tmp_path, warn=pytest.fail) == 1
    load_checkpoint(tmp_path, 1, resumed.model, other)
    for (name, a), b in zip(policy.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.device == b.device
    for a, b in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])
        assert a["exp_avg_sq"].device == b["exp_avg_sq"].device
    assert relative(gradients(resumed, rolled, settings), gradients(policy, rolled, settings)) < 1e-4


def test_an_interrupted_training_goes_on(device, tmp_path):
    settings = config(device)

    class Interrupt(Callback):
        def on_step(self, metrics):
            if metrics["step"] == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # after step 3, whose checkpoint is that of step 2
        jobs.train_job(settings, tmp_path, reference_store=None, resume=False, clean=False, callbacks=[Interrupt()])
    jobs.train_job(settings, tmp_path, reference_store=None, resume=True, clean=False)
    rows = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    assert (
        load_policy(str(tmp_path / "model"), device=device).fingerprint
        != load_policy("tiny", device=device).fingerprint
    )


def held_bytes(device):
    """Bytes of all tensors on the device that are still in use."""
    gc.collect()
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated()
    tensors = {
        one.data_ptr(): one.nbytes for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)
    }
    return sum(tensors.values())


def test_rollouts_and_updates_give_their_memory_back(device):
    settings = config(device, dtype="bfloat16")
    policy = load_trainee(settings)
    optimizer = make_optimizer(policy.model, settings)

    def step(number):
        rolled = rollouts(*sample(policy, torch.bfloat16, seed=number))
        update(
            policy.model,
            optimizer,
            rolled,
            assign_evenly(torch.linspace(-1.0, 1.0, len(rolled)).tolist()),
            settings,
            number,
        )

    step(1)  # after which the optimiser has its state, and libraries their workspace
    before = held_bytes(device)
    for number in (2, 3, 4):
        step(number)
    weights = sum(parameter.nbytes for parameter in policy.model.parameters())
    assert before > 3 * weights  # weights and both moments
    assert abs(held_bytes(device) - before) < weights / 10


def test_trainer_and_sampler_agree_in_bfloat16(device, record_property):
    """The sampler's log-probabilities against those that the update computes, by mode, at position 0 and after.

    `token_mult_prob_error` and `gen_kl_error` are NeMo-RL's: the mean over tokens of exp |Δ|, and of exp Δ − Δ − 1.
    """
    policy = load_policy("tiny", device=device, dtype=torch.float32)
    requested, completions = sample(policy, torch.bfloat16)
    with torch.no_grad(), torch.autocast(policy.model.device.type, torch.bfloat16):
        seen = compute_response_logprobs(
            policy.model, [one.prompt_ids for one in requested], [one.token_ids for one in completions], TEMPERATURE
        ).cpu()
    found = {}
    for index, mode in enumerate(Mode):
        pairs = list(zip(seen[index :: len(Mode)], completions[index :: len(Mode)], strict=True))
        first = torch.tensor([row[0].item() - one.logprobs[0] for row, one in pairs])
        rest = torch.cat([row[1 : len(one.token_ids)] - torch.tensor(one.logprobs[1:]) for row, one in pairs])
        for place, gap in (("first", first), ("rest", rest)):
            found[f"{mode}_{place}"] = {
                "tokens": len(gap),
                "token_mult_prob_error": gap.abs().exp().mean().item(),
                "gen_kl_error": (gap.exp() - gap - 1).mean().item(),
                "mean_difference": gap.abs().mean().item(),
            }
    record_property("mismatch_bfloat16", json.dumps(found))
    for mode in Mode:
        assert found[f"{mode}_rest"]["token_mult_prob_error"] < 1.05  # NeMo-RL's bound
        assert found[f"{mode}_first"]["token_mult_prob_error"] < 1.15  # few tokens, some of them improbable
    assert all(part["tokens"] >= 8 for part in found.values())


def test_a_sampler_of_other_weights_is_seen(device):
    """The measure of the test above, with weights that are not the trainer's."""
    policy = load_policy("tiny", device=device, dtype=torch.float32)
    other = copy.deepcopy(policy.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.05)
    requested = requests(policy)
    done = NativeEngine(other, policy.eos_ids, dtype=torch.bfloat16).generate(
        requested, temperature=TEMPERATURE, seed=1
    )
    expected = forward_logprobs(policy.model, requested, done)
    gap = torch.tensor(
        [abs(a - b) for one, row in zip(done, expected, strict=True) for a, b in zip(one.logprobs, row, strict=True)]
    )
    assert gap.exp().mean() > 1.05
