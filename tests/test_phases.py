"""Where the time goes: what is added up, and what bound it is held against."""

import time
from dataclasses import replace

import pytest
import torch

from adaptthink.planning.roofline import Machine, Shape, compute_generation_bound, compute_update_bound, read_shape
from adaptthink.timing import Clock, profile

SLOW_PRODUCTS = Machine(flops_per_second=1.0, bytes_per_second=1e30)
SLOW_MEMORY = Machine(flops_per_second=1e30, bytes_per_second=1.0)
SHAPE = Shape(body=100, head=10, attention=3, kv=7, element_bytes=4)


def test_a_profile_by_hand():
    rows = [
        {
            "rollout_seconds": 3.0, "generate_seconds": 2.0, "grade_seconds": 0.5, "update_seconds": 1.0,
            "response_tokens": 600, "update_tokens": 50,
            "generate_roofline_seconds": 1.0, "update_roofline_seconds": 0.25,
        },
        {
            "rollout_seconds": 3.0, "generate_seconds": 2.0, "grade_seconds": 0.5, "update_seconds": 1.0,
            "response_tokens": 200, "update_tokens": 50, "probe_seconds": 2.0,
        },
    ]  # fmt: skip
    lines = {phase.name: phase for phase in profile(rows)}
    assert list(lines) == ["rollout", "generate", "grade", "update", "probe"]
    assert lines["rollout"].seconds == 6.0
    assert lines["rollout"].share == 0.6  # of 6 + 2 + 2: what is within the rollout does not count twice
    assert lines["generate"].tokens_per_second == 200
    assert lines["generate"].roofline_share == 0.25
    assert lines["update"].tokens == 100
    assert lines["probe"].tokens is None
    assert lines["probe"].roofline_share is None


def test_a_clock_adds_up_and_begins_again():
    clock = Clock()
    for _ in range(2):
        with clock.phase("update"):
            time.sleep(0.01)
    with pytest.raises(ValueError, match="inside"), clock.phase("probe"):
        raise ValueError("inside")
    taken = clock.take()
    assert taken["update_seconds"] >= 0.02
    assert "probe_seconds" in taken
    assert clock.take() == {}


def test_generation_bound_by_hand():
    """Two responses to one prompt of two tokens, of three tokens and one.

    Prefill: 2·(2·100 + 10) + 2·3·2·3 = 456. One response decodes twice, with 3 and 4 tokens to attend to:
    2·110 + 4·3·3 = 256 and 2·110 + 4·3·4 = 268 operations; 4·(110 + 7·3) = 524 and 4·(110 + 7·4) = 552 bytes.
    """
    prompts, responses = [(1, 2), (1, 2)], [(3, 4, 5), (6,)]
    assert compute_generation_bound(SHAPE, SLOW_PRODUCTS, prompts, responses) == pytest.approx(456 + 256 + 268)
    assert compute_generation_bound(SHAPE, SLOW_MEMORY, prompts, responses) == pytest.approx(524 + 552)


def test_update_bound_by_hand():
    """A prompt of two, a response of three: four tokens are run, three are predicted."""
    expected = 3 * (2 * 4 * 100 + 2 * 3 * 10 + 2 * 3 * 4 * 5)
    assert compute_update_bound(SHAPE, SLOW_PRODUCTS, [(1, 2)], [(3, 4, 5)]) == expected
    assert compute_update_bound(SHAPE, SLOW_PRODUCTS, [], []) == 0


def test_update_bound_under_an_adapter_by_hand():
    """The frozen weights are multiplied twice, the adapter's 5 and attention three times."""
    expected = 2 * (2 * 4 * 100 + 2 * 3 * 10) + 3 * (2 * 4 * 5 + 2 * 3 * 4 * 5)
    assert compute_update_bound(replace(SHAPE, adapter=5), SLOW_PRODUCTS, [(1, 2)], [(3, 4, 5)]) == expected


def test_the_shape_of_a_model(random_model):
    shape = read_shape(random_model, torch.bfloat16)
    config = random_model.config
    matrices = sum(module.weight.numel() for name, module in random_model.named_modules() if name.endswith("_proj"))
    assert shape.body == matrices
    assert shape.head == config.vocab_size * config.hidden_size
    head_dim = config.hidden_size // config.num_attention_heads
    assert shape.attention == config.num_hidden_layers * config.hidden_size
    assert shape.kv == 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim
    assert shape.element_bytes == 2
