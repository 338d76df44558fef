"""LoRA (Hu et al. 2021) by PEFT: small matrices are trained, and the model's own weights stay frozen."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from adaptthink.config.schema import UpdateConfig
from adaptthink.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def add_adapter(model: PreTrainedModel, config: UpdateConfig, new_tokens: Sequence[int] = ()) -> PeftModel:
    """Return `model` with a new adapter in it, which is zero at first; all other weights are frozen.

    It trains the embeddings of `new_tokens` too, and those at the output with them where they are the same weight.

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
        trainable_token_indices=name_embeddings(model, new_tokens),
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(config.seed)
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about a name that PEFT 0.21 still uses
        warnings.filterwarnings("ignore", message="Model (has|with) `tie_word")  # refused below
        try:
            adapter = get_peft_model(model, settings)
        except ValueError as error:
            raise UserError(
                f"lora_targets = '{targets}' does not fit this model: {error}; give names of its linear layers, such "
                "as q_proj,v_proj, or all-linear"
            ) from None
    assert isinstance(adapter, PeftModel)  # and no mixture of adapters
    check_targets(adapter, "lora_targets")
    return adapter


def name_embeddings(model: PreTrainedModel, tokens: Sequence[int]) -> dict[str, list[int]] | None:
    """Return the layers that hold embeddings of tokens, by name; the output layer only if its weight is its own."""
    if not tokens:
        return None
    names = {id(layer): name for name, layer in model.named_modules()}
    layers: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    own = layers[:1] if layers[0].weight is layers[1].weight else layers
    return {names[id(layer)]: list(tokens) for layer in own}


def check_targets(adapter: torch.nn.Module, setting: str) -> None:
    """Raise UserError if an adapter is on a weight that two layers share; `setting` names what chose the layers.

    Embeddings and output layer are one weight in many models. With an adapter on one of them the merged model would be
    another one than was trained: merging changes the weight of both.
    """
    from peft.tuners.trainable_tokens import TrainableTokensLayer  # noqa: PLC0415  (not installed everywhere)
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415
    from peft.utils import AuxiliaryTrainingWrapper, TrainableTokensWrapper  # noqa: PLC0415

    owners: dict[int, list[str]] = {}
    for name, weight in adapter.named_parameters(remove_duplicate=False):
        owners.setdefault(id(weight), []).append(name)
    for name, layer in adapter.named_modules():
        if not isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
            continue
        if isinstance(layer, TrainableTokensWrapper | TrainableTokensLayer):  # which PEFT applies to both
            continue
        base: Any = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer.original_module
        if len(owners.get(id(getattr(base, "weight", None)), [])) > 1:
            raise UserError(
                f"{setting} puts an adapter on {name.rpartition('.')[2]}, whose weight is shared by embeddings and "
                "output layer (tie_word_embeddings): merged, it would be another model than was trained; leave "
                "embeddings and output layer out, as all-linear does"
            )
