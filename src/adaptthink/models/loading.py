"""Loading a policy: model, tokenizer and think template together, verified before anything is generated."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch

from adaptthink.config.schema import EngineConfig, EngineName, SftConfig, TrainConfig, UpdateConfig, WeightsConfig
from adaptthink.errors import UserError
from adaptthink.models.checks import check_json_files, check_tensors, examine, list_eos_ids, readable_faults
from adaptthink.models.context import find_context_tokens
from adaptthink.models.embedded import EMBEDDED
from adaptthink.models.lora import add_adapter
from adaptthink.models.stored import StoredModel, make_transformers_model, read_stored
from adaptthink.models.think_starts import probe_configured
from adaptthink.models.think_tokens import Additions, add_think_tokens
from adaptthink.modes import NO_DATE, Check, ThinkTemplate, describe

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import GenerationConfig, PreTrainedModel

TINY = EMBEDDED["tiny"]
HASHED_AT_ONCE = 2**22  # elements of a tensor; bounds the memory of their copy in float32
C = TypeVar("C", bound=WeightsConfig)
P = TypeVar("P", "Policy", "Tokenization")


@dataclass(frozen=True, slots=True)
class Policy:
    """A model with its tokenizer and think template, on one device.

    With an `adapter`, `model` is the model inside it, and its trained parameters are the adapter's. Loaded for
    generation only, `model` is a `StoredModel` where there is one.

    >>> import adaptthink as at
    >>> policy = at.load("tiny")
    >>> policy.name, policy.template.close
    ('tiny', '</think>')
    """

    name: str
    model: PreTrainedModel
    tokenizer: Any  # PreTrainedTokenizerFast; transformers' own annotations are too loose to help
    template: ThinkTemplate
    eos_ids: tuple[int, ...]
    adapter: PeftModel | None = None

    def plain(self) -> PreTrainedModel:
        """Return the model without adapter: itself, or a copy of it with the adapter merged in."""
        return copy.deepcopy(self.adapter).merge_and_unload() if self.adapter else self.model

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any weight, the tokenizer's size or the chat template.

        Every weight is read, as float32, so that they are the same whatever the dtype it was loaded in.
        """
        digest = hashlib.sha256(f"{len(self.tokenizer)}\x1f{self.tokenizer.chat_template}".encode())
        weights = self.plain().state_dict()
        with ThreadPoolExecutor() as pool:
            for name, own in zip(weights, pool.map(compute_tensor_digest, weights.values()), strict=True):
                digest.update(f"{name}{tuple(weights[name].shape)}".encode() + own)
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write weights (safetensors, an adapter merged), tokenizer and chat template in Hugging Face format."""
        with quiet_transformers():
            self.plain().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class Tokenization:
    """What a model's folder says about prompts and responses: all but the weights."""

    name: str
    tokenizer: Any
    template: ThinkTemplate
    eos_ids: tuple[int, ...]
    context_tokens: int | None  # of prompt and response together


def compute_tensor_digest(tensor: torch.Tensor) -> bytes:
    """Return the SHA-256 of a tensor's elements as float32."""
    digest = hashlib.sha256()
    for part in tensor.detach().flatten().split(HASHED_AT_ONCE):
        digest.update(part.float().cpu().numpy())
    return digest.digest()


def find_model(name: str) -> str:
    """Return what transformers loads for `name`: a folder, or a hub id. Raises UserError for a missing folder."""
    if name in EMBEDDED:
        return str(EMBEDDED[name])
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model folder '{name}' has no config.json; give a folder in Hugging Face format")
        return str(path)
    if not is_hub_id(name):
        embedded = " or ".join(f"'{model}'" for model in EMBEDDED)
        raise UserError(f"no model folder '{name}': give an existing folder, a hub id like 'org/name', {embedded}")
    return name


def is_hub_id(name: str) -> bool:
    """Return whether a model's name is a hub id, such as org/name, and not a file or folder."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def load_tokenizer(name: str) -> Any:
    """Return a model's tokenizer; raises UserError if it cannot be loaded."""
    from transformers import AutoTokenizer  # noqa: PLC0415  (slow to import)

    path = find_model(name)
    check_json_files(Path(path))
    with quiet_transformers(), readable_faults(f"the tokenizer of '{name}'"):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def load_model(name: str, *, dtype: Any, **options: Any) -> PreTrainedModel:
    """Return a model with weights in `dtype`, a torch.dtype or its name, "auto": as saved; `options` are transformers'.

    Raises UserError if they cannot be loaded, and if a tensor is missing, has another shape, or has no place in the
    model (`check_tensors`): transformers would fill or drop these with a warning.
    """
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  (slow to import)

    path = find_model(name)
    check_json_files(Path(path))
    options = {"trust_remote_code": False, "use_safetensors": True} | options  # the other format can hold code
    with quiet_transformers(), readable_faults(f"the model '{name}'"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        model, report = loaded
    check_tensors(name, model, report)
    return model


def load_generator(name: str, *, dtype: Any) -> PreTrainedModel:
    """Return a model for generation alone: a `StoredModel` where there is one, else what `load_model` returns."""
    with quiet_transformers():
        stored = read_stored(Path(find_model(name)), dtype)
    return load_model(name, dtype=dtype) if stored is None else cast("PreTrainedModel", stored)


def load_policy(
    name: str,
    *,
    think_start: str = "Alright",
    prompt_date: str | None = None,
    device: str = "auto",
    dtype: torch.dtype | Literal["auto"] | None = None,
    generation_only: bool = False,
    on_check: Callable[[Check], None] = lambda check: None,
) -> Policy:
    """Return a model after its template has been probed and its weights have been examined.

    The weights are in `dtype` ("auto": as saved); the default is float32 on a CPU and as saved on a GPU. A model for
    `generation_only` is ready sooner (`models/stored.py`), and cannot be trained or saved. `on_check` is called with
    each check that was made, for `doctor`. Raises UserError for a device that does not exist, and if the
    model cannot be loaded, its template cannot work (`modes.probe`) or its weights cannot (`checks.examine`).
    """
    chosen = choose_device(device)
    tokenizer = load_tokenizer(name)
    template = probe_configured(tokenizer, think_start, prompt_date)
    for check in describe(tokenizer, template):
        on_check(check)
    weights = dtype or (torch.float32 if chosen.type == "cpu" else "auto")
    model = (load_generator if generation_only else load_model)(name, dtype=weights).eval()
    on_check(Check("tensors", "all of the model's, each of its shape", ok=True))
    eos_ids = find_eos_ids(model, tokenizer, template)
    model.to(chosen)
    for check in examine(name, model, tokenizer, template, eos_ids):
        on_check(check)
    return Policy(name, model, tokenizer, template, eos_ids)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' progress bars and warnings; both settings are global to the process, so they are restored."""
    from transformers.utils import logging  # noqa: PLC0415  (slow to import)

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def load_configured(
    config: EngineConfig, *, generation_only: bool = False, on_check: Callable[[Check], None] = lambda check: None
) -> Policy:
    """Return the model of a config, in the precision of generation (see `load_policy`)."""
    dtype = torch.float32 if config.dtype == "float32" else None
    return load_policy(
        config.model,
        think_start=config.think_start,
        prompt_date=config.prompt_date,
        device=config.device,
        dtype=dtype,
        generation_only=generation_only,
        on_check=on_check,
    )


def load_tokenization(config: EngineConfig) -> Tokenization:
    """Return what a config's model is but its weights, which another program has (see `load_policy`)."""
    from transformers import AutoConfig, GenerationConfig  # noqa: PLC0415  (slow to import)

    tokenizer, path = load_tokenizer(config.model), find_model(config.model)
    template = probe_configured(tokenizer, config.think_start, config.prompt_date)
    with quiet_transformers(), readable_faults(f"the config of '{config.model}'"):
        model_config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        try:
            generation = GenerationConfig.from_pretrained(path)
        except OSError:  # it has none of its own
            generation = GenerationConfig.from_model_config(model_config)
    eos_ids = read_eos_ids(generation, tokenizer, template)
    return Tokenization(config.model, tokenizer, template, eos_ids, find_context_tokens(model_config))


def load_trainee(config: TrainConfig, *, generation_first: bool = False) -> Policy:
    """Return the model of a config, for training: in float32, or as `load_configured` does under a LoRA adapter.

    With `generation_first` it may be one that generates only, until `make_trainable`.

    A step of AdamW moves a weight by about the learning rate. In bfloat16 the numbers around 0.02 are 0.0001 apart, so
    steps of the paper's 0.000002 would be rounded away. An adapter's own weights are always float32.
    """
    if not config.lora_rank:
        return load_policy(
            config.model,
            think_start=config.think_start,
            prompt_date=config.prompt_date,
            device=config.device,
            dtype=torch.float32,
            generation_only=generation_first and config.engine is EngineName.NATIVE,
        )
    return prepare_trainee(load_configured(config), config)


def load_start(config: SftConfig) -> tuple[Policy, Additions]:
    """Return the model of a cold start, before `prepare_trainee`, and what it was given that it lacked.

    Raises UserError as `load_policy` does, and for a chat template that cannot be opened.
    """
    device, tokenizer = choose_device(config.device), load_tokenizer(config.model)
    in_full = not config.lora_rank or device.type == "cpu" or config.dtype == "float32"  # as `load_trainee` has it
    model = load_model(config.model, dtype=torch.float32 if in_full else "auto").eval()
    added = add_think_tokens(tokenizer, model)
    template = probe_configured(tokenizer, config.think_start, config.prompt_date)
    policy = Policy(config.model, model, tokenizer, template, find_eos_ids(model, tokenizer, template))
    model.to(device)
    list(examine(config.model, model, tokenizer, template, policy.eos_ids))
    return policy, added


def make_trainable(policy: Policy) -> Policy:
    """Return a policy whose model can be trained and saved, over the same weights."""
    if not isinstance(policy.model, StoredModel):
        return policy
    with quiet_transformers():
        return replace(policy, model=make_transformers_model(policy.model))


def freeze_date(policy: P, config: C, recorded: str | None = None) -> tuple[P, C]:
    """Return policy and config with the day that the policy's prompts are rendered with, where its template writes one.

    It is the configured one, else the `recorded` one of what is continued, else the policy's own. Raises UserError for
    a configured day that the template does not write.
    """
    if policy.template.date is None:
        if config.prompt_date:
            raise UserError(f"prompt_date = {config.prompt_date} {NO_DATE}")
        return policy, config
    date = config.prompt_date or recorded or policy.template.date
    return set_date(policy, date), config.model_copy(update={"prompt_date": date})


def set_date(policy: P, date: str | None) -> P:
    """Return a policy whose prompts have a day, YYYY-MM-DD, where its template writes one; None changes nothing."""
    return replace(policy, template=replace(policy.template, date=date)) if policy.template.date and date else policy


def prepare_trainee(policy: Policy, config: UpdateConfig, *, new_tokens: Sequence[int] = ()) -> Policy:
    """Return a loaded policy as it is trained (see `load_trainee`): its weights in float32, or under a LoRA adapter.

    An adapter trains the embeddings of `new_tokens` too.
    """
    if config.lora_rank:
        return replace(policy, adapter=add_adapter(policy.model, config, new_tokens))
    policy.model.float()
    return policy


def choose_device(requested: str) -> torch.device:
    """Return the requested device; "auto" is a GPU if there is one. Raises UserError if the device does not exist."""
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(requested)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(
            f"device = '{requested}' does not exist: PyTorch {torch.__version__} sees {count} GPUs; give one of these, "
            "or --device cpu; nvidia-smi shows what the machine has"
        )
    return device


def choose_dtype(model: PreTrainedModel, config: WeightsConfig) -> torch.dtype:
    """Return the precision of a config's generation and update on the model's device."""
    if config.dtype == "auto":
        return torch.float32 if model.device.type == "cpu" else torch.bfloat16
    return torch.float32 if config.dtype == "float32" else torch.bfloat16


def find_eos_ids(model: PreTrainedModel, tokenizer: Any, template: ThinkTemplate) -> tuple[int, ...]:
    """Return every token that ends a response of a model; raises UserError if there is none (see `read_eos_ids`)."""
    return read_eos_ids(model.generation_config, tokenizer, template)


def read_eos_ids(generation: GenerationConfig | None, tokenizer: Any, template: ThinkTemplate) -> tuple[int, ...]:
    """Return every token that ends a response: those configured, and if the chat template ends turns without, its own.

    Raises UserError if there is none, for one that is no token, and for one that the template writes within a response.
    """
    configured = list_eos_ids(generation)
    for token in configured:
        if type(token) is not int or token < 0:
            raise UserError(
                f"eos_token_id = {token!r} in the model's generation_config.json is no token id; give a whole number, "
                "or a list of them"
            )
    found = {tokenizer.eos_token_id, *configured} - {None}
    if found.isdisjoint(template.turn_end_ids):
        found.update(template.turn_end_ids[:1])
    if not found:
        raise UserError("the model has no end-of-sequence token; set eos_token_id in its generation_config.json")
    inside = found & {*template.think_prefix_ids, *template.no_think_prefix_ids}
    if inside:
        raise UserError(
            f"the end token {tokenizer.decode([min(inside)])!r} is one that responses begin with, so none would have "
            "an answer; set eos_token_id in generation_config.json and eos_token in tokenizer_config.json to the token "
            "that ends an answer"
        )
    return tuple(sorted(found))
