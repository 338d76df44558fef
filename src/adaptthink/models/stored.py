"""A model for generation, as its files store it: what the native engine's fast path reads, without transformers'
modules, whose import takes longer than everything else that a small model needs before its first token.

Its parameters have transformers' names, order and values. It covers the families of the fast path where one file holds
exactly the tensors that config.json describes. Everything else is transformers' to load, or to refuse.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from adaptthink.engines.cache import SlotCache
from adaptthink.engines.decoder import FAMILIES, Decoder, find_head_dim, supports

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ELSEWHERE = ("adapter_config.json", "model.safetensors.index.json")  # files that say that the weights are not all here
OTHERWISE = ("quantization_config", "transformers_weights")  # keys of a config.json that say the same of its tensors


class StoredModel(nn.Module):
    """The parameters of a model of the Llama family, without values until `load_state_dict`; configs as transformers'.

    It generates by `engines/decoder.py`, and can be neither trained nor saved; `make_transformers_model` can.
    """

    def __init__(self, config: Any, generation_config: Any) -> None:
        super().__init__()
        self.config, self.generation_config = config, generation_config
        with torch.device("meta"):
            self.model = nn.Module()
            embeddings = torch.empty(config.vocab_size, config.hidden_size)
            # Filling new ones with random numbers, as `nn.Embedding` does, would import PyTorch's compiler.
            self.model.embed_tokens = nn.Embedding.from_pretrained(embeddings, padding_idx=config.pad_token_id)
            self.model.layers = nn.ModuleList(make_layer(config) for _ in range(config.num_hidden_layers))
            self.model.norm = nn.RMSNorm(config.hidden_size)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.model.rotary_emb = make_rotation(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return self.lm_head.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the embeddings."""
        return self.model.embed_tokens  # type: ignore[return-value]

    def get_output_embeddings(self) -> nn.Linear:
        """Return the output projection."""
        return self.lm_head

    def forward(self, input_ids: Tensor) -> Any:
        """Return the logits (B, T, V) of sequences (B, T) without padding, as `.logits`."""
        decoder, cache = Decoder(self, self.dtype), SlotCache(self.config.num_hidden_layers)  # type: ignore[arg-type]
        cache.begin(input_ids.new_zeros(len(input_ids)), input_ids.shape[1])
        positions_BT = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        return SimpleNamespace(logits=decoder.logits(decoder(input_ids, positions_BT, None, cache)))


def make_layer(config: Any) -> nn.Module:
    """Return the parameters of one layer, in transformers' order."""
    hidden, family = config.hidden_size, config.model_type
    head_dim = find_head_dim(config)
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    biased = family == "qwen2" or bool(getattr(config, "attention_bias", False))
    layer = nn.Module()
    layer.self_attn, layer.mlp = nn.Module(), nn.Module()
    layer.self_attn.q_proj = nn.Linear(hidden, queries, bias=biased)
    layer.self_attn.k_proj = nn.Linear(hidden, keys, bias=biased)
    layer.self_attn.v_proj = nn.Linear(hidden, keys, bias=biased)
    layer.self_attn.o_proj = nn.Linear(queries, hidden, bias=biased and family != "qwen2")
    if family == "qwen3":
        layer.self_attn.q_norm, layer.self_attn.k_norm = nn.RMSNorm(head_dim), nn.RMSNorm(head_dim)
    layer.mlp.gate_proj = nn.Linear(hidden, config.intermediate_size, bias=False)
    layer.mlp.up_proj = nn.Linear(hidden, config.intermediate_size, bias=False)
    layer.mlp.down_proj = nn.Linear(config.intermediate_size, hidden, bias=False)
    layer.input_layernorm, layer.post_attention_layernorm = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
    return layer


def make_rotation(config: Any) -> nn.Module:
    """Return the inverse frequencies of rotary embeddings and the scale of their sines and cosines."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: PLC0415

    rotation, kind = nn.Module(), config.rope_parameters["rope_type"]
    if kind == "default":
        dim, base = find_head_dim(config), config.rope_parameters["rope_theta"]
        frequencies, scale = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float) / dim)), 1.0
    else:
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config)
    rotation.register_buffer("inv_freq", frequencies, persistent=False)
    rotation.attention_scaling = scale  # type: ignore[assignment]
    return rotation


def read_stored(folder: Path, dtype: Any) -> StoredModel | None:
    """Return the model of a folder with weights in `dtype` ("auto": as saved); None where transformers has to load it.

    That is so for other families and other layouts, and whenever anything in the files does not fit.
    """
    from transformers import AutoConfig, GenerationConfig  # noqa: PLC0415

    if any((folder / name).exists() for name in ELSEWHERE) or not (folder / "model.safetensors").is_file():
        return None
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.model_type not in FAMILIES or any(getattr(config, key, None) for key in OTHERWISE):
            return None
        model = StoredModel(config, GenerationConfig.from_pretrained(folder))
        chosen = config.dtype if dtype == "auto" else dtype
        if not supports(model) or not isinstance(chosen, torch.dtype):  # type: ignore[arg-type]
            return None
        config.dtype = chosen
        tensors = read_tensors(folder / "model.safetensors", chosen)
        if config.tie_word_embeddings:
            if "lm_head.weight" in tensors:  # perhaps another matrix
                return None
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        model.load_state_dict(tensors, assign=True)
    except Exception:  # noqa: BLE001  (whatever it is, transformers meets it too, and its report is the user's)
        return None
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight  # type: ignore[assignment, union-attr]
    return model.requires_grad_(False)


def make_transformers_model(stored: StoredModel) -> PreTrainedModel:
    """Return transformers' own model, for training. Its parameters are those of `stored`, not copies."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  (slow to import)

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(stored.config)
    model.load_state_dict(dict(stored.named_parameters(remove_duplicate=False)), assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(stored.config).to(stored.device)
    model.generation_config = stored.generation_config
    return cast("PreTrainedModel", model.requires_grad_(True).eval())


def read_tensors(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file in `dtype`; raises ValueError if they are not plain floating point."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        layout = (file.metadata() or {}).get("format")
    if layout != "pt" or not {one.dtype for one in tensors.values()} <= {torch.float32, torch.bfloat16, torch.float16}:
        raise ValueError(f"{path} is not in the layout of plain PyTorch weights")
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}
