"""Loading a policy: model, tokenizer and think template together, verified before anything is generated.

`tiny` is the embedded reasoner; `make_tiny.py` beside this file made it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from adaptthink.config import EngineConfig
from adaptthink.errors import UserError
from adaptthink.modes import ThinkTemplate, probe

TINY = Path(__file__).parent / "tiny"
FINGERPRINT_ELEMENTS = 1024


@dataclass(frozen=True, slots=True)
class Policy:
    """A model that can be asked: everything that belongs to it, on one device."""

    name: str
    model: PreTrainedModel
    tokenizer: Any  # PreTrainedTokenizerFast; transformers' own annotations are too loose to help
    template: ThinkTemplate
    eos_ids: tuple[int, ...]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the weights, the tokenizer's size or the chat template.

        Reads the first elements of each tensor only, so that it is quick for any size.
        """
        digest = hashlib.sha256(f"{len(self.tokenizer)}\x1f{self.tokenizer.chat_template}".encode())
        for name, tensor in self.model.state_dict().items():
            head = tensor.detach().flatten()[:FINGERPRINT_ELEMENTS].float().cpu()
            digest.update(f"{name}{tuple(tensor.shape)}".encode() + head.numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), tokenizer and chat template in Hugging Face format."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def model_path(name: str) -> str:
    """Return what transformers loads for `name`: a folder, or a hub id. Raises UserError for a missing folder."""
    if name == "tiny":
        return str(TINY)
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model folder '{name}' has no config.json; give a folder in Hugging Face format")
        return str(path)
    if not is_hub_id(name):
        raise UserError(f"no model folder '{name}': give an existing folder, a hub id like 'org/name', or 'tiny'")
    return name


def is_hub_id(name: str) -> bool:
    """Whether a model's name is one of a hub, such as org/name, and none of a file or folder here."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def load_tokenizer(name: str) -> Any:
    """Load a model's tokenizer alone; raises UserError if it cannot be had."""
    try:
        return AutoTokenizer.from_pretrained(model_path(name))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot load the tokenizer of '{name}': {first_line(error)}") from None


def load_policy(name: str, *, think_opener: str = "Alright", device: str | None = None) -> Policy:
    """Load a model for generation or training, after its template has been probed.

    The weights are float32 on a CPU and bfloat16 on a GPU. Raises UserError when the model cannot be loaded or its
    template cannot work (see `modes.probe`).
    """
    tokenizer = load_tokenizer(name)
    template = probe(tokenizer, think_opener=think_opener)
    transformers_logging.disable_progress_bar()  # ours are the only bars on the screen
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    try:
        model = AutoModelForCausalLM.from_pretrained(model_path(name), dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot load the model '{name}': {first_line(error)}") from None
    embeddings = model.config.get_text_config().vocab_size
    if template.close_id >= embeddings:
        raise UserError(
            f"model '{name}' has {embeddings} embeddings, but its tokenizer's "
            f"'{template.close}' has id {template.close_id}; resize the embeddings to the tokenizer"
        )
    model = model.eval()
    model.to(device)
    return Policy(name, model, tokenizer, template, eos_ids(model, tokenizer))


def arithmetic_dtype(model: PreTrainedModel, config: EngineConfig) -> torch.dtype:
    """What a config's generation and update compute in: bfloat16 where it says so, else as the weights are."""
    return torch.bfloat16 if config.dtype == "bfloat16" else model.dtype


def eos_ids(model: PreTrainedModel, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a response of a model."""
    return end_tokens(model.generation_config, tokenizer)


def end_tokens(generation: GenerationConfig | None, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a response, from the generation config and the tokenizer."""
    configured = getattr(generation, "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
    if not found:
        raise UserError("the model has no end-of-sequence token; set eos_token_id in its generation_config.json")
    return tuple(sorted(found))


def first_line(error: Exception) -> str:
    """The first line of an error's text: enough for a person, without the library's advice on the network."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
