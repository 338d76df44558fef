"""Log-probabilities for the update: the same numbers and gradients in every way of computing them."""

from functools import partial

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config

from adaptthink.models import scoring
from adaptthink.models.scoring import (
    SHARING,
    can_share,
    checkpoint_gradients,
    compute_response_logprobs,
    has_plain_head,
)
from adaptthink.objective import policy_logprobs

TEMPERATURE = 0.6
PROMPTS = [(5, 9, 17, 33, 4), (100, 8), (5, 9, 17, 33, 4), (5, 9, 17, 33, 4), (100, 8)]
RESPONSES = [(60, 7, 61, 62), (70, 71), (80,), (60, 7, 61, 90, 91, 92), (72, 73, 74)]
WEIGHTS = torch.linspace(-1, 1, 30).view(5, 6)


def plain(model):
    """Each response alone, all logits."""
    rows = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        ids = torch.tensor([prompt + response])
        logprobs = policy_logprobs(model(input_ids=ids).logits[:, :-1], ids[:, 1:], TEMPERATURE)[0, len(prompt) - 1 :]
        rows.append(torch.nn.functional.pad(logprobs, (0, 6 - len(response))))
    return torch.stack(rows)


def found_by(model, *, shared=False):
    return compute_response_logprobs(model, PROMPTS, RESPONSES, TEMPERATURE, shared=shared)


def value_and_gradient(model, compute):
    model.zero_grad()
    logprobs = compute(model)
    (logprobs * WEIGHTS).sum().backward()
    return logprobs.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(model, *, shared):
    expected, expected_gradient = value_and_gradient(model, plain)
    found, gradient = value_and_gradient(model, partial(found_by, shared=shared))
    assert gradient.keys() == expected_gradient.keys()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for name, value in expected_gradient.items():
        torch.testing.assert_close(gradient[name], value, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("piece", [1, 2, 5, 1000])
@pytest.mark.parametrize("shared", [True, False])
def test_values_and_gradients_depend_neither_on_the_pieces_nor_on_sharing(random_model, monkeypatch, piece, shared):
    monkeypatch.setattr(scoring, "LOGIT_ELEMENTS", piece * random_model.config.vocab_size)
    assert can_share(random_model)
    assert_same(random_model.train(), shared=shared)


@pytest.mark.parametrize("family", sorted(SHARING))
def test_prompts_are_shared_rightly_in_every_family(family):
    """Values and gradients of a random model of the family, prompts of two lengths shared, against each row alone."""
    config = AutoConfig.for_model(
        family, vocab_size=128, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, pad_token_id=0, sliding_window=None, use_sliding_window=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    assert can_share(model)
    assert_same(model, shared=True)


def test_a_prompt_is_run_once(random_model, monkeypatch):
    """The first pass sees two different prompts, the second every response without its last token."""
    seen = []
    body = type(random_model.base_model)
    forward = body.forward

    def spy(self, *args, **kwargs):
        seen.append(tuple(kwargs["input_ids"].shape))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(body, "forward", spy)
    has_plain_head(random_model)
    seen.clear()
    found_by(random_model, shared=True)
    assert seen == [(2, 5), (5, 5)]


def test_responses_of_one_token_need_the_prompts_alone(random_model):
    logprobs = compute_response_logprobs(random_model, [(5, 9, 17)] * 3, [(1,), (2,), (3,)], 1.0, shared=True)
    expected = random_model(torch.tensor([[5, 9, 17]])).logits[0, -1].log_softmax(-1)
    torch.testing.assert_close(logprobs[:, 0], expected[1:4], atol=1e-5, rtol=1e-5)


def test_no_logits_beyond_the_limit_are_kept(random_model, monkeypatch):
    """What autograd saves for the backward must not hold a (tokens, vocabulary) tensor."""
    monkeypatch.setattr(scoring, "LOGIT_ELEMENTS", random_model.config.vocab_size)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape) or tensor, lambda x: x):
        found_by(random_model, shared=True)
    vocabulary = random_model.config.vocab_size
    assert saved
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
    assert not can_share(model)
    torch.testing.assert_close(found_by(model), plain(model), atol=1e-5, rtol=1e-5)


def test_bfloat16_stays_close_and_the_head_is_still_known(random_model):
    scoring._plain_heads.clear()
    with torch.autocast("cpu", torch.bfloat16):
        low = found_by(random_model, shared=True)
    assert scoring._plain_heads[random_model]
    full = plain(random_model)
    assert low.dtype == torch.float32
    assert 0 < (low - full).abs().max() < 0.25


def test_recomputation_in_the_backward_changes_nothing(random_model):
    checkpoint_gradients(random_model.train())
    saved = []
    assert not can_share(random_model)
    expected, expected_gradient = value_and_gradient(random_model, plain)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda x: x):
        found_by(random_model)
    recomputing = sum(saved)
    found, gradient = value_and_gradient(random_model, found_by)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for name, value in expected_gradient.items():
        torch.testing.assert_close(gradient[name], value, atol=1e-5, rtol=1e-4, msg=name)
    for module in random_model.modules():
        module.gradient_checkpointing = False
    saved.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda x: x):
        found_by(random_model)
    assert recomputing < sum(saved) / 2
