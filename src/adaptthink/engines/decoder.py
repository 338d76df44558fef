"""The fast path of the native engine, a forward pass for the Llama family (Llama, SmolLM2, Qwen2
and 3, full-attention Mistral).

On a small model, or a batch that has become small, most of a decoding step is not arithmetic but the calls around it.
This is the same mathematics as transformers' modules in fewer calls: the three projections of attention in one product,
gate and up in one, keys and values written together, the queries of a group attending to its keys without copying them.
On a CPU the larger projections are packed once for oneDNN (`project.py`). `tests/test_decoder.py` compares it
with transformers' own logits. Other architectures generate through their own modules (`forward.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

from adaptthink.engines.cache import SlotCache
from adaptthink.engines.project import Projection, make_projection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES = {"llama", "qwen2", "qwen3", "mistral"}
PLAIN_ROPE = {"default", "linear", "llama3", "yarn"}  # frequencies that do not change with the length


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights; products that share an input are stacked."""

    attention_norm: Tensor
    qkv: Projection
    query_norm: Tensor | None  # of each head (Qwen3)
    key_norm: Tensor | None
    out: Projection
    mlp_norm: Tensor
    gate_up: Projection
    down: Projection


class Decoder:
    """A snapshot of a model's weights in `dtype`, and the forward pass over them."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        config, body = model.config, model.model
        self.num_heads = config.num_attention_heads
        self.num_groups = config.num_key_value_heads
        self.head_dim = find_head_dim(config)
        self.epsilon = config.rms_norm_eps
        self.embedding = body.embed_tokens.weight.detach().to(dtype)
        head = model.get_output_embeddings().weight
        self.head = make_projection(self.embedding if head is body.embed_tokens.weight else head.detach().to(dtype))
        self.norm = body.norm.weight.detach().to(dtype)
        self.layers = [read_layer(layer, dtype) for layer in body.layers]
        self.inverse_frequencies = body.rotary_emb.inv_freq
        self.rope_scale = body.rotary_emb.attention_scaling
        self.dtype = dtype
        self.rotation = (torch.empty(0), torch.empty(0))

    def __call__(self, ids_BT: Tensor, positions_BT: Tensor, mask: Tensor | None, cache: SlotCache) -> Tensor:
        """Return hidden states (B, T, hidden) before the head; new keys and values go into `cache`.

        Without a mask, attention is causal and all rows start at position 0. A mask of shape (B, 1, T, W) is true where
        a token attends to one of the W in the cache. One of shape (C, 1, W), C = B × groups, is for T = 1, and is added
        to the scores.
        """
        batch, length = ids_BT.shape
        cos, sin = self.find_rotation(positions_BT)
        hidden = F.embedding(ids_BT, self.embedding)
        for layer, slot in zip(self.layers, cache.slots, strict=True):
            normed = normalize(hidden, layer.attention_norm, self.epsilon)
            qkv = layer.qkv(normed).view(batch, length, -1, self.head_dim)
            query_key, value = qkv.split((self.num_heads + self.num_groups, self.num_groups), dim=2)
            if layer.query_norm is not None and layer.key_norm is not None:
                query, key = query_key.split((self.num_heads, self.num_groups), dim=2)
                query = normalize(query, layer.query_norm, self.epsilon)
                query_key = torch.cat([query, normalize(key, layer.key_norm, self.epsilon)], dim=2)
            query, key = rotate(query_key, cos, sin).split((self.num_heads, self.num_groups), dim=2)
            keys, values = slot.write(torch.cat([key, value], dim=2).view(batch, length, 2, -1, self.head_dim))
            if mask is None or mask.dim() == 4:
                mixed = F.scaled_dot_product_attention(
                    query.transpose(1, 2), keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
                ).transpose(1, 2)
            else:
                mixed = self.attend(query, keys, values, mask)
            hidden = hidden + layer.out(mixed.reshape(batch, length, -1))
            gate, up = layer.gate_up(normalize(hidden, layer.mlp_norm, self.epsilon)).chunk(2, dim=-1)
            hidden = hidden + layer.down(F.silu(gate) * up)
        return normalize(hidden, self.norm, self.epsilon)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask_C1W: Tensor) -> Tensor:
        """Return attention of one query token per row: the G heads of each of C groups are one product's queries."""
        query_CGD = query.reshape(len(mask_C1W), -1, self.head_dim)
        keys_CWD, values_CWD = keys.flatten(0, 1), values.flatten(0, 1)
        scores_CGW = torch.baddbmm(mask_C1W, query_CGD, keys_CWD.transpose(1, 2), alpha=self.head_dim**-0.5)
        return torch.bmm(scores_CGW.softmax(-1), values_CWD)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits (…, V) in float32 for hidden states (…, hidden)."""
        return self.head(hidden).float()

    def find_rotation(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and signed sines, (B, T, 1, head_dim) each, from a table that grows by doubling."""
        needed = int(positions_BT.max()) + 1
        if needed > len(self.rotation[0]):
            positions = torch.arange(max(needed, 2 * len(self.rotation[0]), 256), device=positions_BT.device)
            angles = positions[:, None].float() * self.inverse_frequencies.float()[None]
            cos, sin = angles.cos() * self.rope_scale, angles.sin() * self.rope_scale
            self.rotation = torch.cat([cos, cos], -1).to(self.dtype), torch.cat([-sin, sin], -1).to(self.dtype)
        cos, sin = self.rotation
        return cos[positions_BT].unsqueeze(2), sin[positions_BT].unsqueeze(2)


def find_head_dim(config: Any) -> int:
    """Return the size of an attention head."""
    return getattr(config, "head_dim", None) or int(config.hidden_size // config.num_attention_heads)


def rotate(states: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Return states (B, T, heads, head_dim) with rotary position embeddings applied."""
    left, right = states.chunk(2, dim=-1)
    return torch.addcmul(states * cos, torch.cat([right, left], dim=-1), signed_sin)


def normalize(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return the RMSNorm over the last dimension. On a CPU `F.rms_norm` is composed of more calls than these."""
    if states.device.type != "cpu":
        return F.rms_norm(states, weight.shape, weight, epsilon)
    norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float32)
    scale = norm.square_().mul_(1 / states.shape[-1]).add_(epsilon).rsqrt_()
    return (states * scale).to(states.dtype) * weight


def read_layer(layer: Any, dtype: torch.dtype) -> Layer:
    """Return one layer's weights, products that share an input stacked."""

    def stacked(*modules: Any) -> Projection:
        weight = torch.cat([module.weight.detach() for module in modules])
        biased = modules[0].bias is not None
        bias = torch.cat([module.bias.detach() for module in modules]).to(dtype) if biased else None
        return make_projection(weight.to(dtype), bias)

    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        attention_norm=layer.input_layernorm.weight.detach().to(dtype),
        qkv=stacked(attention.q_proj, attention.k_proj, attention.v_proj),
        query_norm=attention.q_norm.weight.detach().to(dtype) if hasattr(attention, "q_norm") else None,
        key_norm=attention.k_norm.weight.detach().to(dtype) if hasattr(attention, "k_norm") else None,
        out=stacked(attention.o_proj),
        mlp_norm=layer.post_attention_layernorm.weight.detach().to(dtype),
        gate_up=stacked(mlp.gate_proj, mlp.up_proj),
        down=stacked(mlp.down_proj),
    )


def supports(model: PreTrainedModel) -> bool:
    """Return whether the fast path covers this model: its family, activation and rotation, and plain modules only."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    plain = all(
        type(module) is torch.nn.Linear
        for name, module in model.named_modules()
        if name.endswith("_proj") or name == "lm_head"
    )
    return (
        config.model_type in FAMILIES
        and getattr(config, "hidden_act", "") == "silu"
        and not getattr(config, "mlp_bias", False)
        and rope.get("rope_type", "default") in PLAIN_ROPE
        and rope.get("partial_rotary_factor", 1.0) == 1.0
        and plain
    )
