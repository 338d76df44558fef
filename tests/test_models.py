"""Loading a policy: where it is put, in which dtype, and why weights that are trained are float32."""

import pytest
import torch
from rollouts import correct

from adaptthink.config.resolve import check
from adaptthink.config.schema import EngineConfig, TrainConfig
from adaptthink.errors import UserError
from adaptthink.models import loading as models
from adaptthink.models.loading import choose_device, choose_dtype, load_configured, load_policy, load_trainee
from adaptthink.models.scoring import compute_response_logprobs
from adaptthink.modes import Mode
from adaptthink.problems import make_problem
from adaptthink.training.credit import Credit
from adaptthink.training.update import update

ACCELERATOR = torch.device("meta")  # stands for one: anything that is not the CPU


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    """The embedded model as most models are published: saved in bfloat16."""
    folder = tmp_path_factory.mktemp("halved")
    load_policy("tiny", dtype=torch.bfloat16).save(folder)
    return str(folder)


def dtypes(model):
    return {parameter.dtype for parameter in model.parameters()}


def on_accelerator(monkeypatch):
    monkeypatch.setattr(models, "choose_device", lambda requested: ACCELERATOR)


def test_on_a_cpu_everything_is_float32(halved):
    for policy in (load_policy(halved), load_configured(EngineConfig(model=halved)), load_trainee(TrainConfig())):
        assert policy.model.device.type == "cpu"
        assert dtypes(policy.model) == {torch.float32}
        assert choose_dtype(policy.model, EngineConfig()) == torch.float32


def test_on_an_accelerator_weights_stay_as_saved_but_are_float32_where_they_are_trained(halved, monkeypatch):
    on_accelerator(monkeypatch)
    assert dtypes(load_configured(EngineConfig(model=halved)).model) == {torch.bfloat16}
    assert dtypes(load_configured(EngineConfig(model=halved, dtype="float32")).model) == {torch.float32}
    for dtype in ("auto", "bfloat16", "float32"):
        trainee = load_trainee(TrainConfig(model=halved, dtype=dtype))
        assert trainee.model.device.type == "meta"
        assert dtypes(trainee.model) == {torch.float32}
    assert choose_dtype(trainee.model, TrainConfig()) == torch.bfloat16
    assert choose_dtype(trainee.model, TrainConfig(dtype="float32")) == torch.float32


def test_under_an_adapter_the_frozen_weights_stay_as_saved(halved, monkeypatch):
    on_accelerator(monkeypatch)
    parameters = list(load_trainee(TrainConfig(model=halved, lora_rank=2)).model.parameters())
    assert {weight.dtype for weight in parameters if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in parameters if not weight.requires_grad} == {torch.bfloat16}


def test_the_fingerprint_changes_with_any_weight():
    policy = load_policy("tiny")
    before = policy.fingerprint
    largest = max(policy.model.parameters(), key=torch.Tensor.numel).data.view(-1)
    largest[-1] += 0.5
    assert policy.fingerprint != before


def test_the_fingerprint_does_not_depend_on_the_dtype_that_the_device_asks_for(halved):
    assert load_policy(halved).fingerprint == load_policy(halved, dtype=torch.bfloat16).fingerprint
    assert load_policy(halved).fingerprint != load_policy("tiny").fingerprint


@pytest.mark.parametrize("requested", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there_is_said(requested, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(
        UserError, match=rf"device = '{requested}' does not exist: PyTorch .* sees 0 GPUs; .*--device cpu"
    ):
        load_configured(EngineConfig(device=requested))


def test_devices_that_are_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="sees 2 GPUs"):
        choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("requested", ["gpu", "cuda:", "cuda:x", "mps", ""])
def test_a_device_by_another_name_is_said(requested):
    with pytest.raises(UserError, match="device = "):
        check(EngineConfig, {"device": requested})


def moved_share(policy, dtype, steps=3):
    """The share of all weights that some updates at the paper's learning rate change; one response, rewarded."""
    settings = check(TrainConfig, {"dtype": dtype, "problems_per_step": 1, "samples_per_problem": 2})
    prompt, response = (5, 9, 17), (60, 61, 62, 63)
    with torch.no_grad():
        [own] = compute_response_logprobs(policy.model, [prompt], [response], settings.temperature).tolist()
    one = correct(make_problem("1+1=?", "2"), Mode.THINK, prompt, response, own)
    before = [parameter.detach().clone() for parameter in policy.model.parameters()]
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    for step in range(1, steps + 1):
        update(policy.model, optimizer, [one], [Credit(1.0, 1.0)], settings, step)
    changed = [(old != new).flatten() for old, new in zip(before, policy.model.parameters(), strict=True)]
    return torch.cat(changed).float().mean().item()


def test_bfloat16_weights_would_lose_the_papers_updates_and_ours_keep_them():
    """Steps of 2e-6 are rounded away where neighbouring numbers are 1e-4 apart; float32 weights take them."""
    assert moved_share(load_policy("tiny", dtype=torch.bfloat16), "bfloat16") < 0.05
    assert moved_share(load_trainee(TrainConfig()), "bfloat16") > 0.75
    assert moved_share(load_trainee(TrainConfig()), "float32") > 0.75
