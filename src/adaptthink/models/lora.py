"""LoRA (Hu et al. 2021) by PEFT: small matrices are trained, and the model's own weights stay frozen."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel


def add_adapter(model: PreTrainedModel, config: TrainConfig) -> PeftModel:
    """Return `model` with a new adapter in it, which is zero at first; all other weights are frozen.

    Raises UserError without PEFT, and if the model has no layers of the names in `lora_targets`.
    """
    try:
        from peft import LoraConfig, PeftModel, TaskType, get_peft_model  # noqa: PLC0415  (not installed everywhere)
    except ImportError as error:
        raise UserError(
            f"lora_rank = {config.lora_rank} needs PEFT, which cannot be imported ({error}); install it in "
            "the project's folder with pip install '.[lora]', or train all weights with --lora-rank 0"
        ) from None
    targets = config.lora_targets
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=targets if targets == "all-linear" else [name.strip() for name in targets.split(",")],
        task_type=TaskType.CAUSAL_LM,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(config.seed)
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about a name that PEFT 0.21 still uses
        try:
            adapter = get_peft_model(model, settings)
        except ValueError as error:
            raise UserError(
                f"lora_targets = '{targets}' does not fit this model: {error}; give names of its linear layers, such "
                "as q_proj,v_proj, or all-linear"
            ) from None
    assert isinstance(adapter, PeftModel)  # and no mixture of adapters
    return adapter
