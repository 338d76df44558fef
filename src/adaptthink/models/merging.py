"""Merging: the weighted mean of two models' weights, one that thinks and one that answers at once.

ModelMerging is a baseline of the paper (arXiv 2505.13417, section 5.2), of arXiv 2501.12599 and, among others,
arXiv 2503.20641. No training is needed where a model that does not think is at hand; docs/explanation/methods.md says
how the miniature gets one.
"""

from __future__ import annotations

from pathlib import Path

import torch

from adaptthink.errors import UserError
from adaptthink.models.loading import load_policy
from adaptthink.storage.runs import replace_folder


@torch.no_grad()
def merge(first: str, second: str, weight: float, folder: Path) -> None:
    """Write to `folder` the model with weights `weight`·first + (1 − `weight`)·second, computed in float32.

    The rest, tokenizer and dtype too, is the first one's. Raises UserError for a weight outside of [0, 1], for a model
    that cannot be loaded, and for two whose weights or tokens differ in number or shape.
    """
    if not 0 <= weight <= 1:
        raise UserError(f"weight = {weight:g} is no share of the first model; give a number from 0 to 1")
    merged, other = (load_policy(name, device="cpu", dtype="auto") for name in (first, second))
    own, others = (dict(one.model.named_parameters()) for one in (merged, other))
    if merged.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise UserError(f"'{first}' and '{second}' have different tokens; merge models tuned from one model")
    for name in {**own, **others}:
        if name not in own or name not in others or own[name].shape != others[name].shape:
            raise UserError(
                f"'{first}' and '{second}' differ in the shape of {name}; merge models tuned from one model"
            )
        own[name].copy_(torch.lerp(others[name].float(), own[name].float(), weight))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replace_folder(folder) as new:
        merged.save(new)
