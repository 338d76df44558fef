"""The fast path against transformers' own modules, family by family; and what it leaves to them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from adaptthink.engines.base import Request
from adaptthink.engines.cache import SlotCache
from adaptthink.engines.decoder import supports
from adaptthink.engines.forward import FastPathForward, ModuleForward, make_forward, prefill_prompts
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.project import can_pack, fast_products, has_bfloat16, make_projection

SHAPE = {
    "vocab_size": 211, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
FAMILIES = {
    "llama": LlamaConfig(**SHAPE),
    "llama, tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama, biases": LlamaConfig(**SHAPE, attention_bias=True),
    "llama, own head size": LlamaConfig(**SHAPE, head_dim=20),
    "llama, rotation of llama3": LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
}
PROMPTS = [tuple(range(3, 3 + length)) for length in (1, 7, 12, 5)]


def random_model(config: PretrainedConfig):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():  # norms and biases begin as ones and zeros, which hide mistakes
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model.eval()


def logits_of(forward, steps=5):
    """Next-token logits after the prompts and after each of some fed tokens, a row dropped in between."""
    cache, logits = prefill_prompts(forward, PROMPTS, torch.device("cpu"))
    seen = [logits]
    for step in range(steps):
        if step == 3:
            cache.keep(torch.tensor([0, 2, 3]))
        cache.begin(cache.lengths_B, 1)
        seen.append(forward.step(torch.arange(len(cache.lengths_B)) + 17 * step, cache))
        cache.lengths_B = cache.starts_B + 1
    return seen


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_logits_equal_those_of_the_modules(family):
    model = random_model(FAMILIES[family])
    assert supports(model)
    for fast, own in zip(
        logits_of(FastPathForward(model, torch.float32)), logits_of(ModuleForward(model, torch.float32)), strict=True
    ):
        assert fast.std() > 0.1
        torch.testing.assert_close(fast, own, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_prefill_equals_a_plain_call_of_the_model():
    model = random_model(FAMILIES["qwen3"])
    _, logits = prefill_prompts(FastPathForward(model, torch.float32), PROMPTS, torch.device("cpu"))
    for row, prompt in zip(logits, PROMPTS, strict=True):
        torch.testing.assert_close(row, model(torch.tensor([prompt])).logits[0, -1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("forward", [FastPathForward, ModuleForward])
@torch.inference_mode()
def test_bfloat16_stays_close_to_float32(forward):
    """Both passes compute in bfloat16 over weights that stay float32."""
    model = random_model(FAMILIES["qwen2"])
    for low, full in zip(
        logits_of(forward(model, torch.bfloat16)), logits_of(forward(model, torch.float32)), strict=True
    ):
        assert low.dtype == torch.float32
        assert not torch.equal(low, full)
        assert (low - full).abs().mean() < 0.03 * full.std()


def test_the_weights_are_those_at_the_time_of_the_call():
    model = random_model(FAMILIES["llama"])
    engine = NativeEngine(model, [210])
    before = engine.next_token_logprobs([PROMPTS[1]], [5])
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.5)
    after = engine.next_token_logprobs([PROMPTS[1]], [5])
    assert after != before
    expected = model(torch.tensor([PROMPTS[1]])).logits[0, -1].log_softmax(-1)[5].item()
    assert after[0][0] == pytest.approx(expected, abs=1e-5)


class Wrapped(torch.nn.Linear):
    """Stands for an adapter."""


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"mlp_bias": True},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
    ],
)
def test_what_the_lean_pass_does_not_know_is_left_to_the_modules(change):
    model = random_model(LlamaConfig(**(SHAPE | change)))
    assert not supports(model)
    assert isinstance(make_forward(model, torch.float32), ModuleForward)


def test_other_architectures_and_adapters_are_left_to_the_modules():
    assert not supports(random_model(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=2)))
    model = random_model(FAMILIES["llama"])
    model.model.layers[0].self_attn.q_proj = Wrapped(48, 48, bias=False)
    assert not supports(model)


def test_both_passes_generate_the_same_responses(monkeypatch):
    model = random_model(FAMILIES["qwen2"])
    requests = [Request(PROMPTS[i % 4], 3 + i % 9, i, (8,) * (i % 3), (9,) * (i % 2)) for i in range(30)]

    def generate():
        return NativeEngine(model, [210], max_concurrent_sequences=7).generate(
            requests, temperature=1.0, top_p=0.9, seed=1
        )

    fast = generate()
    monkeypatch.setattr("adaptthink.engines.native.make_forward", ModuleForward)
    own = generate()
    assert [completion.token_ids for completion in fast] == [completion.token_ids for completion in own]


def test_each_row_is_written_at_its_own_place():
    cache = SlotCache(1)
    cache.begin(torch.tensor([0, 0]), 4)
    keys, _ = cache.slots[0].write(torch.ones(2, 4, 2, 1, 3))
    cache.lengths_B = torch.tensor([2, 4])
    assert keys.shape == (2, 1, 4, 3)
    cache.begin(cache.lengths_B, 1)
    keys, values = cache.slots[0].write(torch.full((2, 1, 2, 1, 3), 2.0))
    assert keys[:, 0, :, 0].tolist() == [[1, 1, 2, 1, 0], [1, 1, 1, 1, 2]]
    assert torch.isfinite(values).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 64, 300])
@pytest.mark.parametrize("biased", [True, False])
@torch.inference_mode()
def test_packed_projections_equal_plain_ones(dtype, rows, biased, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, 2, 192, generator=generator).to(dtype)
    weight = torch.randn(400, 192, generator=generator).to(dtype)
    bias = torch.randn(400, generator=generator).to(dtype) if biased else None
    expected = torch.nn.functional.linear(states.double(), weight.double(), bias.double() if biased else None)
    tolerance = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.2, "rtol": 0.02}
    assert can_pack(weight) == (dtype == torch.float32 or has_bfloat16())
    packed = make_projection(weight, bias)(states)
    assert packed.dtype == dtype
    torch.testing.assert_close(packed.double(), expected, **tolerance)
    monkeypatch.setattr("adaptthink.engines.project.can_pack", lambda weight: False)  # a build without the operators
    torch.testing.assert_close(make_projection(weight, bias)(states).double(), expected, **tolerance)


def test_a_processor_without_bfloat16_in_onednn_packs_float32_alone(monkeypatch):
    monkeypatch.setattr("adaptthink.engines.project.has_bfloat16", lambda: False)
    weight = torch.zeros(400, 192)
    assert can_pack(weight)
    assert not can_pack(weight.bfloat16())
    assert make_projection(weight.bfloat16())(torch.ones(2, 192, dtype=torch.bfloat16)).tolist() == [[0.0] * 400] * 2


@pytest.mark.parametrize("shape", [(7, 128), (3, 11, 128), (1024, 128), (5, 431, 128)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_products_of_an_update_have_values_and_gradients_of_plain_ones(shape, biased, frozen):
    torch.manual_seed(0)
    weight, grad = torch.randn(192, 128), torch.randn(*shape[:-1], 192)
    inputs = [torch.randn(shape), weight, torch.randn(192)][: 2 + biased]
    if len(shape) == 3:  # neither contiguous
        inputs[0], grad = inputs[0].transpose(0, 1), grad.transpose(0, 1)

    def run(dtype):
        own = [one.to(dtype).requires_grad_(not frozen or one is not weight) for one in inputs]
        product = torch.nn.functional.linear(*own)
        product.backward(grad.to(dtype))
        return product.detach().double(), [None if one.grad is None else one.grad.double() for one in own]

    expected, expected_grads = run(torch.float64)
    with fast_products(weight.device):
        found, grads = run(torch.float32)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    assert [one is None for one in grads] == [one is None for one in expected_grads]
    for one, other in zip(grads, expected_grads, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_products_of_an_update_are_onednns_in_float32_alone():
    weight = torch.randn(192, 128, requires_grad=True)
    with fast_products(weight.device):
        fast = torch.nn.functional.linear(torch.randn(1025, 128), weight)
        double = torch.nn.functional.linear(torch.randn(1025, 128).double(), weight.double())
        with torch.autocast("cpu", torch.bfloat16):
            cast = torch.nn.functional.linear(torch.randn(1025, 128), weight)
    assert "_Product" in fast.grad_fn.name()
    assert "_Product" not in double.grad_fn.name() + cast.grad_fn.name()
    assert double.dtype == torch.float64
    assert cast.dtype == torch.bfloat16


def test_products_of_an_update_meet_few_numbers_of_rows():
    """OneDNN keeps about a megabyte for each; a training meets thousands."""
    seen = set()

    class Rows(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "_linear_pointwise" in func.name():
                seen.add(len(args[0]))
            return func(*args, **(kwargs or {}))

    weight = torch.randn(192, 128, requires_grad=True)
    for rows in range(513, 1025, 73):
        with Rows(), fast_products(weight.device):
            states = torch.randn(rows, 128, requires_grad=True)
            torch.nn.functional.linear(states, weight).sum().backward()
    assert seen == {1024}
