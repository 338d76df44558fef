"""Linear projections on a CPU by oneDNN: on an AMD processor they take half the time of PyTorch's own, which are MKL's.

Generation packs the larger weights once (`make_projection`), an update computes with all, gradient included
(`fast_products`). Measured in docs/log. The operators are the ones that PyTorch's compiler emits for frozen weights;
they are not public, so a build without them falls back to `F.linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812  (its usual name)
from torch.overrides import TorchFunctionMode

Projection = Callable[[Tensor], Tensor]

PACKED_ELEMENTS = 2**16  # of a weight; for smaller ones packing hardly pays in generation, whose rows are few
TYPICAL_ROWS = 64  # that the packing is optimised for; others work as well
ROW_STEP = 512  # an update's rows are padded to a multiple: oneDNN keeps about a megabyte for each number that it meets


def make_projection(weight: Tensor, bias: Tensor | None = None) -> Projection:
    """Return x ↦ x·weightᵀ + bias for x of shape (…, in), weight (out, in)."""
    if can_pack(weight):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)
        return lambda states: torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
    return lambda states: F.linear(states, weight, bias)


def can_pack(weight: Tensor) -> bool:
    """Return whether oneDNN is available for the weight's type, and the weight large enough to gain from packing."""
    if weight.device.type != "cpu" or weight.numel() < PACKED_ELEMENTS or not has_onednn():
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and has_bfloat16())


def has_onednn() -> bool:
    """Return whether this build of PyTorch has oneDNN and its operators."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def has_bfloat16() -> bool:
    """Return whether oneDNN computes in bfloat16 on this processor; it refuses to on those with AVX2 alone."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


def fast_products(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which modules on a CPU compute `F.linear` in float32 by oneDNN, its gradient too.

    A backward runs outside of it, so what is computed again there (`torch.utils.checkpoint`) has to enter it itself.
    """
    return _OneDnnProducts() if device.type == "cpu" and has_onednn() else nullcontext()


class _OneDnnProducts(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not kwargs and not torch.is_autocast_enabled("cpu"):
            states, weight, bias = (*args, None)[:3]
            if states.dtype == weight.dtype == torch.float32 and states.numel() >= ROW_STEP * weight.shape[1]:
                return _Product.apply(states, weight, bias)
        return func(*args, **(kwargs or {}))


class _Product(torch.autograd.Function):
    """x·weightᵀ + bias for x of shape (…, in), weight (out, in)."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(states, weight)
        return multiply(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        states, weight = ctx.saved_tensors
        for_states, for_weight, for_bias = ctx.needs_input_grad
        grad_NO = grad.flatten(0, -2)
        return (
            multiply(grad, weight.t().contiguous(), None) if for_states else None,
            grad_NO.t() @ states.flatten(0, -2) if for_weight else None,
            grad_NO.sum(0) if for_bias else None,
        )


def multiply(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x·weightᵀ + bias for x of shape (…, in), weight (out, in)."""
    rows_NI = states.flatten(0, -2)
    padded_MI = F.pad(rows_NI, (0, 0, 0, -len(rows_NI) % ROW_STEP))
    product_MO = torch.ops.mkldnn._linear_pointwise(padded_MI, weight, bias, "none", [], "")
    return product_MO[: len(rows_NI)].unflatten(0, states.shape[:-1])
