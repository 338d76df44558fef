"""Linear projections for generation: on a CPU, weights are packed once for oneDNN where that is faster.

PyTorch's own product in float32 packs nothing in advance. On an AMD EPYC (2 cores, 576 × 3072, float32) the packed
product takes 0.54 times as long with 16 rows and 0.73 with 256 (docs/log.md). The two operators are the ones that
PyTorch's compiler emits for frozen weights; they are not public, so a build without them falls back to `F.linear`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

Projection = Callable[[Tensor], Tensor]

PACKED_ELEMENTS = 2**16  # of a weight; for smaller ones packing was not faster
TYPICAL_ROWS = 64  # that the packing is optimised for; others work as well


def make_projection(weight: Tensor, bias: Tensor | None = None) -> Projection:
    """Return x ↦ x·weightᵀ + bias for x of shape (…, in), weight (out, in)."""
    if can_pack(weight):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)
        return lambda states: torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
    return lambda states: F.linear(states, weight, bias)


def can_pack(weight: Tensor) -> bool:
    """Return whether oneDNN is available and the weight is large enough to gain from packing."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and weight.numel() >= PACKED_ELEMENTS
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
