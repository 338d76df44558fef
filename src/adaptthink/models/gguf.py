"""A GGUF file made a model folder in Hugging Face format, which all commands read.

It is a step of its own, and no way to load a model: the weights of a quantised file have to be unpacked to be trained,
which takes time and, in float32, several times the file's size; done once, the folder serves every later command, vLLM
and other programs.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from adaptthink.errors import UserError
from adaptthink.models.checks import check_tensors, readable_faults
from adaptthink.models.loading import quiet_transformers
from adaptthink.storage.runs import replace_folder


def convert_gguf(path: Path, folder: Path, *, dtype: torch.dtype = torch.float32) -> int:
    """Write the model in a GGUF file, with its tokenizer and chat template, to `folder`; return its number of weights.

    Raises UserError without the package `gguf`, and for a file that transformers cannot read.
    """
    import transformers  # noqa: PLC0415  (slow to import)

    if find_spec("gguf") is None:
        raise UserError("reading a GGUF file needs the package gguf: pip install '.[gguf]' in the project's folder")
    if not path.is_file():
        raise UserError(f"no GGUF file '{path}'")
    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    with quiet_transformers(), readable_faults(f"the GGUF file '{path}'"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=dtype, output_loading_info=True)
        unpacked, report = loaded
    check_tensors(str(path), unpacked, report)
    with quiet_transformers(), replace_folder(folder) as new:
        make_plain(unpacked).save_pretrained(new)
        tokenizer.save_pretrained(new)
    return sum(parameter.numel() for parameter in unpacked.parameters())


def make_plain(unpacked: Any) -> Any:
    """Return a model over the same weights without the marks of a quantised file, which it no longer is."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    config = unpacked.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(unpacked.state_dict(), assign=True)
    model.tie_weights()
    return model
