"""The roofline: the shortest time that generation and update could take on this machine, at its measured peak of
arithmetic and its measured bandwidth of memory (Williams, Waterman and Patterson 2009).

Counted are multiplications with weights and attention. Norms, rotations, sampling and the optimiser are not, so the
share of the roofline that is reached is never overstated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from adaptthink.engines.project import make_projection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GEMM_SIZE = {"cpu": 2048, "cuda": 8192}  # of the square product that the peak is measured on
COPY_BYTES = {"cpu": 2**27, "cuda": 2**30}  # read and written to measure the bandwidth
REPETITIONS = 5  # the fastest one counts


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured: the peak of matrix products and the bandwidth of memory."""

    flops_per_second: float
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that determine its work, in elements; `kv` is one token's keys and values in all layers."""

    body: int  # weights of all matrices except embeddings, output projection and adapter
    head: int
    attention: int  # layers × heads × head size
    kv: int
    element_bytes: int
    adapter: int = 0  # weights that are trained while the others are not; merged into the body to generate


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Return measured peak and bandwidth, with the engine's own operations; takes about a second.

    On a GPU product and copy are larger, so that starting them takes no noticeable part of their time.
    """
    size, copied = GEMM_SIZE[device.type], COPY_BYTES[device.type]
    left = torch.randn(size, size, device=device, dtype=dtype)
    product = make_projection(torch.randn(size, size, device=device, dtype=dtype))
    source = torch.ones(copied // 4, device=device)
    target = torch.empty_like(source)
    with torch.inference_mode():
        seconds = measure_seconds(lambda: product(left), device)
        copying = measure_seconds(lambda: target.copy_(source), device)
    return Machine(2 * size**3 / seconds, 2 * copied / copying)


def measure_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the shortest seconds of some repetitions, after one warm-up."""
    times = []
    for _ in range(REPETITIONS + 1):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def read_shape(model: PreTrainedModel, dtype: torch.dtype) -> Shape:
    """Return a model's shape, from its weights and config."""
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    head = model.get_output_embeddings().weight
    embedded = {id(head), id(model.get_input_embeddings().weight)}
    matrices = [weight for weight in model.parameters() if weight.dim() > 1 and id(weight) not in embedded]
    trained = sum(weight.numel() for weight in matrices if weight.requires_grad)
    frozen = sum(weight.numel() for weight in matrices) - trained
    return Shape(
        body=frozen or trained,
        head=head.numel(),
        attention=config.num_hidden_layers * config.num_attention_heads * head_dim,
        kv=2 * config.num_hidden_layers * config.num_key_value_heads * head_dim,
        element_bytes=dtype.itemsize,
        adapter=trained if frozen else 0,
    )


def compute_generation_bound(
    shape: Shape, machine: Machine, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> float:
    """Return the roofline seconds to prefill each different prompt once and decode all responses in one batch."""
    different = set(map(tuple, prompts))
    prefill = sum(
        2 * (len(ids) * shape.body + shape.head) + count_attention_flops(shape, len(ids)) for ids in different
    )
    prompt_N = np.array([len(ids) for ids in prompts])
    length_N = np.array([len(ids) for ids in responses])
    seconds = prefill / machine.flops_per_second
    for index in range(int(length_N.max(initial=1)) - 1):  # the first token comes from the prefill
        running_N = length_N > index + 1
        rows, context = int(running_N.sum()), int((prompt_N[running_N] + index + 1).sum())
        flops = 2 * rows * (shape.body + shape.head) + 4 * shape.attention * context
        moved = shape.element_bytes * (shape.body + shape.head + shape.kv * context)
        seconds += max(flops / machine.flops_per_second, moved / machine.bytes_per_second)
    return seconds


def count_attention_flops(shape: Shape, length: int) -> int:
    """Return the operations of causal attention over a sequence: scores and weighted values."""
    return 2 * shape.attention * length * (length + 1)


def compute_update_bound(
    shape: Shape, machine: Machine, prompts: Iterable[Sequence[int]], responses: Iterable[Sequence[int]]
) -> float:
    """Return the roofline seconds of forward and backward, at the peak of matrix products.

    Each prompt is run with every response to it. Frozen weights under an adapter are multiplied forward and backward,
    but have no gradient of their own. Padding does not count as work. Shared prompts save work, so an update that
    shares them can be faster than this bound.
    """
    flops, products = 0, 2 if shape.adapter else 3
    for prompt, response in zip(prompts, responses, strict=True):
        length = len(prompt) + len(response) - 1
        flops += products * (2 * length * shape.body + 2 * len(response) * shape.head)
        flops += 3 * (2 * length * shape.adapter + count_attention_flops(shape, length))
    return flops / machine.flops_per_second
