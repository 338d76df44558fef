"""Log-probabilities of given tokens under a model, with gradient, without the vocabulary's logits for a whole batch."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from adaptthink.objective import policy_logprobs

LOGIT_ELEMENTS = 2**25  # float32 logits that may exist at once (128 MiB); beyond, they are made again in the backward

BETWEEN = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")  # in a config

_plain_heads: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def token_logprobs(
    model: PreTrainedModel, ids_BS: Tensor, row_N: Tensor, column_N: Tensor, token_N: Tensor, temperature: float
) -> Tensor:
    """Return log π(token_N) at `temperature`, each as predicted at (row_N, column_N) of a right-padded batch.

    The output projection is applied at these places only, and in pieces where there are many. Padding needs no
    attention mask: it stands behind all that is looked at.
    """
    if not has_plain_head(model):
        logits_BSV = model(input_ids=ids_BS).logits
        return policy_logprobs(logits_BSV[row_N, column_N][None], token_N[None], temperature)[0]
    head = model.get_output_embeddings()
    hidden_ND = model.base_model(input_ids=ids_BS).last_hidden_state[row_N, column_N]
    piece = max(1, LOGIT_ELEMENTS // head.weight.shape[0])
    if len(token_N) <= piece:
        return project(hidden_ND, token_N, head, temperature)
    return torch.cat(
        [
            checkpoint(project, hidden, token, head, temperature, use_reentrant=False)
            for hidden, token in zip(hidden_ND.split(piece), token_N.split(piece), strict=True)
        ]
    )


def project(hidden_ND: Tensor, token_N: Tensor, head: nn.Module, temperature: float) -> Tensor:
    """Return the log-probability of one token for each hidden state."""
    return policy_logprobs(head(hidden_ND)[None], token_N[None], temperature)[0]


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether logits are the output embeddings times the last hidden state, and nothing else.

    Some families scale or cap them in between (Granite, Cohere, Gemma 2). Their settings are looked for, and the rest
    is measured once on a few tokens: small logits would not show a cap.
    """
    if model not in _plain_heads:
        head = model.get_output_embeddings()
        config = model.config.get_text_config()
        changed = [name for name in BETWEEN if getattr(config, name, None) not in (None, 1.0)]
        ids = torch.arange(min(8, config.vocab_size), device=model.device)[None]
        with torch.autocast(ids.device.type, enabled=False):
            expected = model(input_ids=ids).logits
            found = head(model.base_model(input_ids=ids).last_hidden_state) if head is not None else None
        _plain_heads[model] = (
            not changed and found is not None and torch.allclose(found, expected, rtol=1e-3, atol=1e-5)
        )
    return _plain_heads[model]
