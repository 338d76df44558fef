"""A model's shape before it is loaded, from a config.json or from published values: a plan needs no weights and no
network.

Dense models of the Llama kind: grouped-query attention and a gated MLP. Norms and biases are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig

from adaptthink.errors import UserError
from adaptthink.models.checks import check_json_files, describe_fault
from adaptthink.models.loading import find_model
from adaptthink.planning.roofline import Shape


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes in a config.json that determine work and memory, in elements."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool  # the output projection is the embedding

    @property
    def queries(self) -> int:
        """Width of a layer's queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of a layer's keys, and of its values."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a layer's seven projections."""
        h, i, q, k = self.hidden, self.intermediate, self.queries, self.keys
        return (h, q), (h, k), (h, k), (q, h), (h, i), (h, i), (i, h)

    @property
    def body(self) -> int:
        """Weights of all layers."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def head(self) -> int:
        """Weights of the output projection."""
        return self.vocabulary * self.hidden

    @property
    def weights(self) -> int:
        """Weights of the whole model."""
        return self.body + self.head * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Return the weights of a LoRA adapter of that rank on every projection of every layer (arXiv 2106.09685)."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.linears)

    def shape(self, element_bytes: int) -> Shape:
        """Return the sizes that `roofline` uses, with so many bytes an element."""
        return Shape(
            body=self.body,
            head=self.head,
            attention=self.layers * self.queries,
            kv=2 * self.layers * self.keys,
            element_bytes=element_bytes,
        )


PUBLISHED = {  # of the models in our recipes, from their config.json on the hub
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": Architecture(28, 1536, 8960, 12, 2, 128, 151936, tied=False),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": Architecture(28, 3584, 18944, 28, 4, 128, 152064, tied=False),
    "Qwen/Qwen3-1.7B": Architecture(28, 2048, 6144, 16, 8, 128, 151936, tied=True),
    "Qwen/Qwen3-4B": Architecture(36, 2560, 9728, 32, 8, 128, 151936, tied=True),
    "Qwen/Qwen3-8B": Architecture(36, 4096, 12288, 32, 8, 128, 151936, tied=False),
}


def read_architecture(model: str) -> Architecture:
    """Return a model's shape: from its folder, from published values, or from the hub.

    Raises UserError if no config is found, or if it is not that of a dense model of the Llama kind.
    """
    if model in PUBLISHED and not Path(model).is_dir():
        return PUBLISHED[model]
    path = find_model(model)
    check_json_files(Path(path))
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()
    except Exception as error:  # noqa: BLE001  (a config may hold anything, and transformers raises errors of any kind)
        raise UserError(
            f"the shape of '{model}' is unknown: it is not among {', '.join(PUBLISHED)}, and its config.json cannot be "
            f"loaded ({describe_fault(error)}); give a folder that has one"
        ) from None
    sizes = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    missing = [name for name in sizes if getattr(config, name, None) is None]
    experts = next((name for name in ("num_experts", "num_local_experts") if getattr(config, name, None)), None)
    if missing or experts:
        found = f"no {missing[0]}" if missing else f"{experts} = {getattr(config, experts or '')}"
        raise UserError(
            f"the config of '{model}' has {found}: only dense models of the Llama kind can be planned; "
            "measure one step with --profile instead"
        )
    heads = config.num_attention_heads
    return Architecture(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
    )
