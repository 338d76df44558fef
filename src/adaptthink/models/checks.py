"""Whether a model is what it seems: files that can be read, every tensor in its place, finite weights, ids in range.

Each fault is one line, a UserError, when a model is loaded; `doctor` lists what was checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adaptthink.errors import UserError
from adaptthink.modes import Check, Message, ThinkTemplate, encode, encode_prompt, render

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

JSON_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "model.safetensors.index.json",
)
FIRST_PROMPT = "47+8=?"
TEMPLATE_ROLES = ("system", "user", "assistant")  # of the tokens that have to be known to the model
MAX_FAULT_CHARACTERS = 300


@contextmanager
def readable_faults(what: str) -> Iterator[None]:
    """Turn what transformers raises about a model's files into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  (the files may hold anything, and each library raises errors of its own)
        fault = describe_fault(error)
        if isinstance(error, OSError) and re.search("connect to|offline", fault, re.IGNORECASE):
            fault = f"{fault.rstrip('.')}; connect to the hub, or give a model folder that is on this machine"
        raise UserError(f"cannot load {what}: {fault}") from None


def describe_fault(error: Exception) -> str:
    """Return an error of a library in one line, without the advice on the network that some write below it."""
    text = str(error).strip()
    line = " ".join((text.splitlines()[0] if isinstance(error, OSError) and text else text).split())
    if not isinstance(error, OSError | ValueError | RuntimeError) or not line:
        line = f"{type(error).__name__}: {line}".rstrip(": ")
    return line if len(line) <= MAX_FAULT_CHARACTERS else line[:MAX_FAULT_CHARACTERS] + "…"


def check_json_files(folder: Path) -> None:
    """Raise UserError if one of a model folder's JSON files holds no object; of hub ids nothing is read."""
    for path in (folder / name for name in JSON_FILES):
        if not path.exists():
            continue
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read as JSON ({describe_fault(error)}); restore the file") from None
        if not isinstance(value, dict):
            raise UserError(f"{path} holds a {type(value).__name__}, not a JSON object; restore the file")


def check_tensors(name: str, model: PreTrainedModel, report: Mapping[str, Collection[Any]]) -> None:
    """Raise UserError if transformers' loading report says that weights are not those in the files.

    What the files hold beside the model's own tensors may stay there (a value head, old buffers), but not a tensor that
    stands where the model has weights of this kind: a bias, a further layer.
    """
    advice = "restore the files, or make config.json fit them"
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"the files of '{name}' lack {len(missing)} of its tensors ({missing[0]}), which would be filled with "
            f"random numbers; {advice}"
        )
    if mismatched := sorted(report["mismatched_keys"]):
        tensor, found, needed = mismatched[0]
        raise UserError(
            f"{len(mismatched)} tensors of '{name}' have another shape than config.json says ({tensor}: "
            f"{tuple(found)}, not {tuple(needed)}); {advice}"
        )
    if dropped := find_dropped(model, report["unexpected_keys"]):
        raise UserError(
            f"the files of '{name}' hold {len(dropped)} weights that its config.json has no place for "
            f"({dropped[0]}); {advice}"
        )
    if report.get("error_msgs"):
        raise UserError(f"cannot load the model '{name}': {' '.join(str(report['error_msgs']).split())}; {advice}")


def find_dropped(model: PreTrainedModel, unexpected: Collection[str]) -> list[str]:
    """Return those of the tensors without a place that are weights or biases of the model's own modules, in order.

    Layers are alike: a module counts as the model's own also under the number of a layer that the model lacks.
    """
    modules = {drop_numbers(name) for name, _ in model.named_modules()}
    buffers = {drop_numbers(name) for name, _ in model.named_buffers()}
    prefix = f"{model.base_model_prefix}."

    def is_own(name: str) -> bool:
        module, _, kind = name.rpartition(".")
        names = {drop_numbers(module), drop_numbers(prefix + module)}
        return (
            kind in {"weight", "bias"}
            and not names.isdisjoint(modules)
            and drop_numbers(name) not in buffers
            and drop_numbers(prefix + name) not in buffers
        )

    return sorted(name for name in unexpected if is_own(name))


def drop_numbers(name: str) -> str:
    """Return a module's name with each layer's number replaced by a sign."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name)


def examine(
    name: str, model: PreTrainedModel, tokenizer: Any, template: ThinkTemplate, eos_ids: Sequence[int]
) -> Iterator[Check]:
    """Yield what was checked of a loaded model, one line each; raises UserError for the first fault.

    Weights are finite, the tokens of a conversation are all among its embeddings, and a first prompt gives finite
    logits. A model without values (on the meta device) is not examined.
    """
    if model.device.type == "meta":
        return
    if faulty := find_non_finite(model):
        raise UserError(
            f"the weights of '{name}' are not finite: {faulty} holds NaN or infinity; restore the files, or merge or "
            "convert again in a wider dtype"
        )
    yield Check("weights", "finite", ok=True)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and context < 1:
        raise UserError(
            f"max_position_embeddings = {context} in the config.json of '{name}' leaves no context; correct it"
        )
    yield check_token_ids(name, model, tokenizer, template, eos_ids)
    yield check_end_tokens(model, tokenizer, template, eos_ids)
    prompt = encode_prompt(tokenizer, template, FIRST_PROMPT)
    try:
        with torch.inference_mode():
            logits_V = model(input_ids=torch.tensor([prompt], device=model.device)).logits[0, -1]
    except Exception as error:  # noqa: BLE001  (a wrong value in config.json may fail anywhere in the model)
        raise UserError(
            f"the model '{name}' fails on a first prompt: {describe_fault(error)}; compare its config.json with the "
            "original"
        ) from None
    if not bool(logits_V.isfinite().all()):
        raise UserError(
            f"the logits of '{name}' are not finite on a first prompt, though its weights are; compare its config.json "
            "with the original, or load it with --dtype float32"
        )
    yield Check("logits", "finite on a first prompt", ok=True)


def find_non_finite(model: torch.nn.Module) -> str | None:
    """Return the name of the first parameter that holds NaN or an infinity, None if all are finite."""
    for name, parameter in model.named_parameters():
        if (
            parameter.is_floating_point() and parameter.element_size() > 1 and parameter.numel()
        ):  # float8 has no aminmax
            low, high = torch.aminmax(parameter.detach())
            if not bool((low.isfinite() & high.isfinite()).item()):
                return name
    return None


def check_token_ids(
    name: str, model: PreTrainedModel, tokenizer: Any, template: ThinkTemplate, eos_ids: Sequence[int]
) -> Check:
    """Return how the tokenizer fits the embeddings; raises UserError if a token of a conversation has none."""
    embeddings: Any = model.get_input_embeddings()
    size = embeddings.weight.shape[0]
    used = {*template.think_prefix_ids, *template.no_think_prefix_ids, template.close_id, *eos_ids}
    used.update(encode_prompt(tokenizer, template, FIRST_PROMPT))
    for roles in (TEMPLATE_ROLES, TEMPLATE_ROLES[1:]):
        try:
            turns = [Message(role, FIRST_PROMPT) for role in (*roles, "user")]
            used.update(encode(tokenizer, render(tokenizer, template, turns)))
        except UserError:  # a template need not know a system message, or more than one turn
            continue
    beyond = sorted(token for token in used if token >= size)
    if beyond:
        raise UserError(
            f"model '{name}' has {size} embeddings, but its tokenizer's '{tokenizer.decode(beyond[:1])}' has id "
            f"{beyond[0]}; resize the embeddings to the tokenizer"
        )
    return Check("token ids", f"{len(tokenizer)} tokens, {size} embeddings", ok=True)


def check_end_tokens(model: PreTrainedModel, tokenizer: Any, template: ThinkTemplate, eos_ids: Sequence[int]) -> Check:
    """Return which tokens end a response, and whether the files of the model say so too."""
    shown = ", ".join(f"{tokenizer.decode([token])!r} ({token})" for token in eos_ids)
    configured = {*list_eos_ids(model.generation_config), tokenizer.eos_token_id}
    if template.turn_end_ids and configured.isdisjoint(template.turn_end_ids):
        shown += (
            f"; the chat template ends turns with {tokenizer.decode(template.turn_end_ids[:1])!r}, which the model's "
            "files do not list: it ends responses here; add it to eos_token_id in generation_config.json for other "
            "programs"
        )
    return Check("end tokens", shown, ok=True)


def list_eos_ids(generation: GenerationConfig | None) -> list[Any]:
    """Return the end tokens in a generation config, as they are written there."""
    configured = getattr(generation, "eos_token_id", None)
    return [*configured] if isinstance(configured, list | tuple) else [] if configured is None else [configured]
