"""Think tokens and a template for a model that has none: what a cold start begins with.

A marker of several tokens becomes one. The embedding of a new token, at the input and at the output, is the mean of
those of the tokens that it was written with before, so that it means to the model what its text meant. A chat template
that knows no thinking is opened: behind its prompts it writes the open marker, as DeepSeek-R1's does. Nothing is
changed in a model that has what is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adaptthink.errors import UserError
from adaptthink.modes import MARKERS, Convention, probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPENED = "{{% if add_generation_prompt %}}{{{{ '{opening}\\n' }}}}{{% endif %}}"
PLAIN = (  # for a model without any chat template
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was added, and the tokens whose mean embedding it begins with."""

    text: str
    id: int
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Additions:
    """What a model was given for its cold start; `template` says what was done to the chat template, if anything."""

    tokens: tuple[NewToken, ...] = ()
    template: str = ""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of the tokens that were added."""
        return tuple(token.id for token in self.tokens)

    def describe(self) -> str:
        """Return one line for people."""
        tokens = [f"{token.text} ({token.id}) from the mean of {' '.join(token.parts)}" for token in self.tokens]
        return "; ".join(filter(None, [*tokens, self.template])) or "nothing: the model has think tokens and a template"


def add_think_tokens(tokenizer: Any, model: PreTrainedModel) -> Additions:
    """Give a tokenizer and its model, in place, the markers of a thought and a template that opens one.

    Raises UserError for a tokenizer whose chat template cannot be opened, or does its thinking elsewhere.
    """
    opening, _ = markers = find_markers(tokenizer)
    tokens = add_markers(tokenizer, model, [marker for marker in markers if len(encode_plain(tokenizer, marker)) > 1])
    changed = []
    if not tokenizer.chat_template:
        if not tokenizer.eos_token:
            raise UserError("the tokenizer has no chat template and no end token; set eos_token in its files")
        tokenizer.chat_template = PLAIN
        changed.append("a plain chat template, as the model has none")
    if probe(tokenizer).convention is Convention.APPENDED:
        tokenizer.chat_template = tokenizer.get_chat_template() + OPENED.format(opening=opening)
        changed.append(f"prompts end in {opening}")
    return Additions(tokens, "; ".join(changed))


def find_markers(tokenizer: Any) -> tuple[str, str]:
    """Return the pair of markers that a tokenizer has as single tokens, else the usual one."""
    known = (pair for pair in MARKERS if all(len(encode_plain(tokenizer, marker)) == 1 for marker in pair))
    return next(known, MARKERS[0])


def add_markers(tokenizer: Any, model: PreTrainedModel, markers: Sequence[str]) -> tuple[NewToken, ...]:
    """Add tokens, with embeddings, for markers that are written with several."""
    from tokenizers import AddedToken  # noqa: PLC0415  (slow to import)

    parts = {marker: encode_plain(tokenizer, marker) for marker in markers}
    texts = {marker: tuple(tokenizer.convert_ids_to_tokens(ids)) for marker, ids in parts.items()}
    if not parts:
        return ()
    tokenizer.add_tokens([AddedToken(marker, normalized=False, special=False) for marker in markers])
    ids = {marker: tokenizer.convert_tokens_to_ids(marker) for marker in markers}
    embeddings: Any = model.get_input_embeddings()
    if max(ids.values()) >= embeddings.weight.shape[0]:  # some models have more embeddings than tokens
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    set_means(model, {ids[marker]: parts[marker] for marker in markers})
    return tuple(NewToken(marker, ids[marker], texts[marker]) for marker in markers)


@torch.no_grad()
def set_means(model: PreTrainedModel, parts: dict[int, list[int]]) -> None:
    """Give each token the mean embedding of others, at the input and, where that is a weight of its own, the output."""
    layers: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    for layer in filter(None, layers):
        for tensor in (layer.weight, getattr(layer, "bias", None)):
            if tensor is not None:
                means = {token: tensor[ids].float().mean(0) for token, ids in parts.items()}
                for token, mean in means.items():
                    tensor[token] = mean.to(tensor.dtype)


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text, without tokens around it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
