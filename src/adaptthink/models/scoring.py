"""Log-probabilities of responses under a model, with gradient, with as little work as possible.

* The output projection is applied to response tokens only, and in pieces where there are many, so that the
  logits of a whole batch never exist at once.
* A prompt that several responses of a batch share is run once, where that saves at least a tenth of the tokens: its
  keys and values are then the cache that each response starts from, gradient included.
  This is not possible with gradient checkpointing, which cannot keep a cache.
* The last token of a response predicts nothing, so it is not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adaptthink.engines.project import fast_products
from adaptthink.models.batches import TokenIds, make_micro_batches
from adaptthink.objective import policy_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGIT_ELEMENTS = 2**25  # float32 logits that may exist at once (128 MiB); beyond, they are recomputed in the backward

LOGIT_SCALES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")  # in a config
SHARING = {
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "smollm3",
    "olmo2",
    "phi3",
}  # families that continue from a given cache

_plain_heads: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def compute_response_logprobs(
    model: PreTrainedModel,
    prompts: Sequence[TokenIds],
    responses: Sequence[TokenIds],
    temperature: float,
    *,
    shared: bool = False,
) -> Tensor:
    """Return log π of every response token at `temperature`, (B, T), zero behind a response's end.

    With `shared` each different prompt is run once; the model must allow it (`can_share`), and `make_micro_batches`
    decides where it saves work.
    """
    device = next(model.parameters()).device
    length_B = torch.tensor([len(response) for response in responses], device=device)
    token_BT = pad(responses, device)
    row_N, position_N = (torch.arange(token_BT.shape[1], device=device) < length_B[:, None]).nonzero(as_tuple=True)
    token_N = token_BT[row_N, position_N]
    if has_plain_head(model):
        predict = compute_shared_hidden if shared else compute_hidden
        with nullcontext() if recomputes_layers(model) else fast_products(device):
            hidden_ND = predict(model.base_model, prompts, responses, device)[row_N, position_N]
        logprob_N = project_pieces(hidden_ND, token_N, model.get_output_embeddings(), temperature)
    else:
        logits_BSV = model(input_ids=join_sequences(prompts, responses, device)).logits
        logits_BTV = select_responses(logits_BSV, prompts, token_BT.shape[1])
        logprob_N = policy_logprobs(logits_BTV[row_N, position_N][None], token_N[None], temperature)[0]
    return logprob_N.new_zeros(token_BT.shape).index_put((row_N, position_N), logprob_N)


@torch.no_grad()
def score_responses(
    model: PreTrainedModel,
    prompts: Sequence[TokenIds],
    responses: Sequence[TokenIds],
    temperature: float,
    *,
    limit: int,
    dtype: torch.dtype,
) -> list[tuple[float, ...]]:
    """Return log π of each response's tokens, without gradient, in micro-batches of at most `limit` tokens."""
    scored: list[tuple[float, ...]] = [()] * len(responses)
    batches = make_micro_batches(prompts, responses, limit, sharing=can_share(model))
    with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        for batch in batches:
            own_prompts, own_responses = ([rows[index] for index in batch.indices] for rows in (prompts, responses))
            logprob_BT = compute_response_logprobs(model, own_prompts, own_responses, temperature, shared=batch.shared)
            for index, row in zip(batch.indices, logprob_BT.tolist(), strict=True):
                scored[index] = tuple(row[: len(responses[index])])
    return scored


def compute_hidden(
    body: nn.Module, prompts: Sequence[TokenIds], responses: Sequence[TokenIds], device: torch.device
) -> Tensor:
    """Return the hidden states (B, T, D) that predict the responses' tokens, each prompt run with its response.

    Sequences are padded at the right. That needs no attention mask: causal attention never attends to the padding.
    """
    states_BSD = body(input_ids=join_sequences(prompts, responses, device), use_cache=False).last_hidden_state
    return select_responses(states_BSD, prompts, max(map(len, responses)))


def compute_shared_hidden(
    body: nn.Module, prompts: Sequence[TokenIds], responses: Sequence[TokenIds], device: torch.device
) -> Tensor:
    """Return what `compute_hidden` does; each different prompt is run once, and its responses copy its cache."""
    index_of = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
    source_B = torch.tensor([index_of[prompt] for prompt in prompts], device=device)
    prompt_PL = pad(list(index_of), device)
    length_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    out = body(input_ids=prompt_PL, use_cache=True)
    first_BD = out.last_hidden_state[source_B, length_B - 1]
    token_BR = pad([response[:-1] for response in responses], device)
    width, count = prompt_PL.shape[1], token_BR.shape[1]
    if not count:
        return first_BD[:, None]
    cache = out.past_key_values
    cache.batch_select_indices(source_B)
    position_R = torch.arange(count, device=device)
    prompt_BRL = (torch.arange(width, device=device) < length_B[:, None])[:, None].expand(-1, count, -1)
    earlier_BRR = (position_R <= position_R[:, None])[None].expand(len(responses), -1, -1)
    rest_BRD = body(
        input_ids=token_BR,
        position_ids=length_B[:, None] + position_R,
        past_key_values=cache,
        attention_mask=torch.cat([prompt_BRL, earlier_BRR], dim=-1)[:, None],
        use_cache=True,
    ).last_hidden_state
    return torch.cat([first_BD[:, None], rest_BRD], dim=1)


def join_sequences(prompts: Sequence[TokenIds], responses: Sequence[TokenIds], device: torch.device) -> Tensor:
    """Return prompts and responses as padded sequences, without the responses' last tokens."""
    return pad([prompt + response[:-1] for prompt, response in zip(prompts, responses, strict=True)], device)


def select_responses(states_BSX: Tensor, prompts: Sequence[TokenIds], width: int) -> Tensor:
    """Return, of states at every position, those that predict `width` response tokens; arbitrary behind the end."""
    start_B = torch.tensor([len(prompt) - 1 for prompt in prompts], device=states_BSX.device)
    column_BT = start_B[:, None] + torch.arange(width, device=states_BSX.device)
    row_B1 = torch.arange(len(prompts), device=states_BSX.device)[:, None]
    return states_BSX[row_B1, column_BT.clamp(max=states_BSX.shape[1] - 1)]


def pad(
    rows: Sequence[Sequence[float] | np.ndarray], device: torch.device, dtype: type[np.generic] = np.int64
) -> Tensor:
    """Return rows of numbers as a tensor, zeros at the right."""
    padded = np.zeros((len(rows), max(map(len, rows), default=0)), dtype)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded).to(device)


def can_share(model: PreTrainedModel) -> bool:
    """Return whether a model can continue from a cache: a known family, full attention, no gradient checkpointing."""
    config = model.config.get_text_config()
    return (
        config.model_type in SHARING
        and set(getattr(config, "layer_types", None) or {"full_attention"}) == {"full_attention"}
        and getattr(config, "sliding_window", None) is None
        and config._attn_implementation == "sdpa"
        and not recomputes_layers(model)
    )


def recomputes_layers(model: PreTrainedModel) -> bool:
    """Return whether the backward computes a model's layers again (gradient checkpointing)."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Make the model recompute each layer's activations in the backward, instead of keeping them."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def project_pieces(hidden_ND: Tensor, token_N: Tensor, head: Any, temperature: float) -> Tensor:
    """Return the log-probability of one token for each hidden state, in pieces that limit the logits in memory."""
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
    with fast_products(hidden_ND.device):  # here, because the backward may call this again
        logits_NV = head(hidden_ND)
    return policy_logprobs(logits_NV[None], token_N[None], temperature)[0]


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Return whether logits are the output embeddings times the last hidden state, and nothing else.

    Some families scale or soft-cap them (Granite, Cohere, Gemma 2). The config is checked for these settings, because
    small logits would not show a soft-cap; everything else is measured once on a few tokens.
    """
    if model not in _plain_heads:
        head = model.get_output_embeddings()
        config = model.config.get_text_config()
        changed = [name for name in LOGIT_SCALES if getattr(config, name, None) not in (None, 1.0)]
        ids = torch.arange(min(8, config.vocab_size), device=model.device)[None]
        with torch.autocast(ids.device.type, enabled=False):
            expected = model(input_ids=ids).logits
            found = head(model.base_model(input_ids=ids).last_hidden_state) if head is not None else None
        _plain_heads[model] = (
            not changed and found is not None and torch.allclose(found, expected, rtol=1e-3, atol=1e-5)
        )
    return _plain_heads[model]
