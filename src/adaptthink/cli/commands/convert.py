"""`adaptthink convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from adaptthink.cli.parameters import Json, Writable, write_result
from adaptthink.errors import UserError


def convert(
    model: Annotated[Path, Parameter(help="A GGUF file.")],
    folder: Annotated[Path, Parameter(help="Model folder to make; it must not exist."), Writable],
    /,
    *,
    dtype: Annotated[
        Literal["float32", "bfloat16"], Parameter(help="Of the weights in the folder; float32 to train them all.")
    ] = "float32",
    json: Json = None,
) -> None:
    """Make a model folder of a GGUF file, with its tokenizer and chat template."""
    if folder.exists():
        raise UserError(f"'{folder}' exists; give a folder that does not")
    import torch

    from adaptthink.models.gguf import convert_gguf

    folder.parent.mkdir(parents=True, exist_ok=True)
    count = convert_gguf(model, folder, dtype=getattr(torch, dtype))
    print(f"{count:,} weights in {folder}; adaptthink doctor {folder} says whether the model can be trained")
    write_result(json, {"model": str(folder), "weights": count, "dtype": dtype})
