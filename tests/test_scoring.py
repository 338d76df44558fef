"""Log-probabilities for the update: the same numbers and gradients in every way of computing them."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from adaptthink.models import scoring
from adaptthink.models.scoring import has_plain_head, token_logprobs
from adaptthink.objective import policy_logprobs

IDS = torch.tensor([[5, 9, 17, 33, 4, 60], [100, 8, 7, 61, 0, 0]])
ROWS, COLUMNS, TOKENS = torch.tensor([0, 0, 1, 1, 0]), torch.tensor([2, 3, 1, 2, 4]), torch.tensor([33, 4, 7, 61, 60])
TEMPERATURE = 0.6


def plain(model):
    """One full forward pass, all logits."""
    logits = model(input_ids=IDS).logits
    return policy_logprobs(logits, torch.roll(IDS, -1, dims=1), TEMPERATURE)[ROWS, COLUMNS]


def value_and_gradient(model, compute):
    model.zero_grad()
    logprobs = compute()
    (logprobs * torch.arange(1.0, 6.0)).sum().backward()
    return logprobs.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("piece", [1, 2, 5, 1000])
def test_values_and_gradients_do_not_depend_on_the_pieces(random_model, monkeypatch, piece):
    expected, expected_gradient = value_and_gradient(random_model, lambda: plain(random_model))
    monkeypatch.setattr(scoring, "LOGIT_ELEMENTS", piece * random_model.config.vocab_size)
    found, gradient = value_and_gradient(
        random_model, lambda: token_logprobs(random_model, IDS, ROWS, COLUMNS, TOKENS, TEMPERATURE)
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for name, value in expected_gradient.items():
        torch.testing.assert_close(gradient[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_no_logits_beyond_the_limit_are_kept(random_model, monkeypatch):
    """What autograd saves for the backward must not hold a (tokens, vocabulary) tensor."""
    monkeypatch.setattr(scoring, "LOGIT_ELEMENTS", random_model.config.vocab_size)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape) or tensor, lambda x: x):
        token_logprobs(random_model, IDS, ROWS, COLUMNS, TOKENS, TEMPERATURE)
    vocabulary = random_model.config.vocab_size
    assert not [shape for shape in saved if len(shape) > 1 and shape[-1] == vocabulary and shape[-2] != 128]


def test_a_head_that_caps_its_logits_is_noticed():
    config = Gemma2Config(
        vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=2.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)
    assert not has_plain_head(model)
    found = token_logprobs(model, IDS, ROWS, COLUMNS, TOKENS, TEMPERATURE)
    torch.testing.assert_close(found, plain(model), atol=1e-5, rtol=1e-5)


def test_bfloat16_stays_close_and_the_head_is_still_known(random_model):
    scoring._plain_heads.clear()
    with torch.autocast("cpu", torch.bfloat16):
        low = token_logprobs(random_model, IDS, ROWS, COLUMNS, TOKENS, TEMPERATURE)
    assert scoring._plain_heads[random_model]
    full = plain(random_model)
    assert low.dtype == torch.float32
    assert 0 < (low - full).abs().max() < 0.25
