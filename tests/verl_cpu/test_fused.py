"""Log-probabilities in pieces, as verl computes them by the settings of ours: the same values and the same gradient."""

import pytest
import torch

pytest.importorskip("verl")  # in .venv-verl

from verl.models.transformers.monkey_patch import patch_forward_with_backends
from verl.utils.experimental import torch_functional

from adaptthink.integrations.verl.launcher import has_plain_logits
from adaptthink.integrations.verl.settings import make_verl_settings
from adaptthink.models.loading import load_policy
from adaptthink.models.scoring import compute_response_logprobs

PROMPTS = [(5, 6, 7), (8, 9), (10, 11, 12, 13)]
RESPONSES = [(20, 21, 22, 23, 24), (30, 31), (40, 41, 42)]
TEMPERATURE = 0.7


def patch(model, monkeypatch):
    """Give a model's class verl's forward, in pieces of three tokens, until the test is over."""
    monkeypatch.setattr(type(model), "forward", type(model).forward)
    make = torch_functional.FusedLinearForPPO.__init__
    monkeypatch.setattr(torch_functional.FusedLinearForPPO, "__init__", lambda self, **kw: make(self, 3, **kw))
    patch_forward_with_backends(model, use_fused_kernels=True, fused_kernels_backend="torch")


def gradients(model):
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def test_values_and_gradient_are_the_native_ones(monkeypatch):
    model = load_policy("tiny", device="cpu").model.train()
    weight_BT = torch.tensor([[1.0, -2.0, 0.5, 3.0, -1.0], [0.3, 2.0, 0, 0, 0], [1.5, -0.5, 2.5, 0, 0]])
    logprob_BT = compute_response_logprobs(model, PROMPTS, RESPONSES, TEMPERATURE)
    (logprob_BT * weight_BT).sum().backward()
    expected = gradients(model)
    patch(model, monkeypatch)
    total = torch.zeros(())
    for prompt, response, native_T, weight_T in zip(PROMPTS, RESPONSES, logprob_BT, weight_BT, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        own_T = model(input_ids=ids, return_dict=True, temperature=TEMPERATURE).log_probs[0]
        own_T = own_T[len(prompt) - 1 : -1]
        torch.testing.assert_close(own_T, native_T[: len(response)], rtol=2e-6, atol=1e-5)
        total = total + (own_T * weight_T[: len(response)]).sum()
    total.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=2e-5, msg=name)


def test_the_settings_turn_it_on_where_logits_are_plain(tmp_path):
    from adaptthink.config.schema import VerlConfig

    key = "actor_rollout_ref.model.use_fused_kernels"
    assert make_verl_settings(VerlConfig(), "tiny", tmp_path)[key] is True
    assert make_verl_settings(VerlConfig(), "tiny", tmp_path, plain_logits=False)[key] is False
    folder = tmp_path / "capped"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gemma2", "final_logit_softcapping": 30.0}', encoding="utf-8")
    assert not has_plain_logits(str(folder))
    (folder / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    assert has_plain_logits(str(folder))
