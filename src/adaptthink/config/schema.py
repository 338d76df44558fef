"""One schema per command, and how its values come together: defaults < recipes < environment < command line.

A recipe is a TOML file. Keys at its top are shared by every command that has them; a table named after a command
(`[presample]`, `[train]`, `[evaluate]`) holds keys for that command alone, but that training, which pre-samples what is
missing, reads `[presample]` too, all but the engine. Unknown keys are errors that name the nearest known key.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from adaptthink.errors import UserError

RECIPES = Path(__file__).parent / "recipes"
PREFIX = "ADAPTTHINK_"  # of environment variables
ENGINE_KEYS = ("engine", "endpoint")  # pre-sampling may have more servers than training

# How a training runs, and not what it is: these may change when it is resumed, and a model's card leaves them out.
HOW = frozenset(
    {
        "data", "device", "endpoint", "engine_memory", "gradient_checkpointing", "grading_seconds", "keep_checkpoints",
        "max_concurrent_sequences", "max_failed_grades", "max_prompt_tokens", "micro_batch_tokens", "offload",
        "overrides", "ray_address", "tensor_parallel",
    }
)  # fmt: skip

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(gt=0, le=10)]


class Config(BaseModel):
    """Base of all schemas: strict about names, finite numbers only, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def check_together(self) -> None:
        """Raise UserError where values that are fine alone do not go together."""


class EngineConfig(Config):
    """Keys that say which model answers, and how it is run."""

    model: str = Field("tiny", description="A model folder, a hub id, or 'tiny' (the embedded reasoner).")
    max_think_tokens: Positive = Field(16384, description="Response cap in think mode, thought included.")
    max_no_think_tokens: Positive = Field(4096, description="Response cap in no_think mode.")
    think_start: str = Field("Alright", description="w_start: the first token of a thought that is forced open.")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "auto", description="Where the model is: cpu, cuda, cuda:N, or auto (a GPU where there is one)."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of generation and of the update's forward; auto: bfloat16 on a GPU, float32 on a CPU. "
        "Weights that are trained are float32 whatever it says.",
    )
    max_concurrent_sequences: Positive = Field(1024, description="Responses generated at the same time; bounds memory.")
    engine: Literal["native", "vllm", "openai"] = Field(
        "native", description="What generates: this program, vLLM beside it, or a running server of vLLM."
    )
    endpoint: tuple[str, ...] = Field(
        (), description="Where the servers of the openai engine are, such as http://localhost:8000; implies the engine."
    )
    engine_memory: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="Share of the device's memory that the vllm engine takes; a model in training needs the rest."
    )
    seed: int = Field(0, description="Seed of everything random.")

    @field_validator("endpoint", mode="before")
    @classmethod
    def split_endpoints(cls, value: object) -> object:
        """Take one URL, or several with commas between them, for a list: so they come from a variable."""
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def imply_engine(cls, values: object) -> object:
        """Where endpoints are given and no engine is, the engine is the one that has them."""
        if isinstance(values, dict) and values.get("endpoint") and "engine" not in values:
            return values | {"engine": "openai"}
        return values

    def check_together(self) -> None:
        """Raise UserError if there is an endpoint without the engine that needs one, or the other way round."""
        if self.engine == "openai" and not self.endpoint:
            raise UserError("engine = 'openai' needs to know where its server is; give --endpoint URL")
        if self.engine != "openai" and self.endpoint:
            raise UserError(
                f"engine = '{self.engine}' has no endpoint, but endpoint = {', '.join(self.endpoint)}"
                f"{said_by_variable()}; give --engine openai, or no endpoint"
            )


class PolicyConfig(EngineConfig):
    """Keys that every command which answers problems shares."""

    problems: str = Field(
        "arithmetic",
        description="'arithmetic', a set such as gsm8k or mmlu:stem, reasoning_gym:FAMILY, a file, or several (a,b).",
    )
    data: Path | None = Field(None, description="Folder with local copies of named sets; what is not there: the hub.")
    fields: str | None = Field(
        None, description="Columns of a file, such as prompt=question,answer=final_answer (level, kind, choices too)."
    )
    instruction: str | None = Field(
        None, description="Text put after each prompt; not given: what the source asks for by itself; '': nothing."
    )
    max_problems: Positive | None = Field(None, description="Use so many problems at most, chosen by their ids.")
    boxed_only: bool = Field(
        True, description="Read answers in \\boxed{} only (as the paper), not where they are announced or stand alone."
    )
    grading_seconds: Annotated[float, Field(gt=0)] = Field(
        2.0, description="Seconds after which a symbolic comparison of one answer is stopped."
    )


class PresampleConfig(PolicyConfig):
    """Reference pre-sampling: K free thoughts per problem from the model before training (R̄_ref)."""

    problems_per_level: Positive = Field(100, description="How many problems of each level (arithmetic only).")
    reference_samples: Positive = Field(16, description="K of R̄_ref: samples per problem.")
    reference_temperature: Temperature = Field(0.6, description="Sampling temperature of the reference.")
    reference_top_p: Annotated[float, Field(gt=0, le=1)] = Field(0.95, description="Nucleus of the reference.")


class TrainConfig(PresampleConfig):
    """Training with the paper's settings as defaults."""

    delta: Annotated[float, Field(ge=0, le=1)] = Field(0.05, description="δ: how much accuracy no_think may cost.")
    advantage: Literal["reference", "group"] = Field(
        "reference", description="Compare rewards with R̄_ref (the paper), or within a problem's samples (GRPO)."
    )
    no_think_share: Share = Field(0.5, description="Share of no_think samples; 0 forces nothing (plain on-policy).")
    samples_per_problem: Positive = Field(16, description="K: responses per problem and step.")
    token_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Share of the uniform design's tokens to sample (ours): below 1, a lot leaves out samples that "
        "teach little for their length, and the others weigh more.",
    )
    force_think_start: bool = Field(
        True, description="Open thoughts with think_start (the paper); else with any token, drawn from the policy."
    )
    ratio: Literal["sequence_mean", "sequence", "token"] = Field(
        "sequence_mean", description="Importance ratio: length-normalised (official code), Eq. 9 literally, per token."
    )
    clip: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="ε of the clipped loss.")
    implicit_thinking: Literal["allowed", "no_reward"] = Field(
        "allowed",
        description="no_think answers that think all the same: rewarded like others (the paper), or never (ours).",
    )
    steps: Positive = Field(314, description="Optimiser steps.")
    problems_per_step: Positive = Field(128, description="Problems in a batch.")
    temperature: Temperature = Field(0.6, description="Sampling temperature of the policy.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(2e-6, description="Peak learning rate (AdamW).")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="Steps of linear warm-up.")
    schedule: Literal["constant", "stable_decay"] = Field(
        "constant",
        description="Learning rate after the warm-up; stable_decay falls to 0 over the last 30% of the steps.",
    )
    lora_rank: Annotated[int, Field(ge=0)] = Field(
        0, description="Rank of a LoRA adapter that is trained in place of the weights; 0: the weights themselves."
    )
    lora_alpha: Positive = Field(32, description="Scale of the adapter: its product counts lora_alpha / lora_rank.")
    lora_targets: str = Field(
        "all-linear", description="Layers that get an adapter: all-linear (all but the output), or q_proj,v_proj."
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Gradient norm above which it is scaled down."
    )
    micro_batch_tokens: Positive = Field(
        16384, description="Tokens per forward pass of the update at most, padding included; bounds memory."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward: less memory, about a third more work."
    )
    probe_every: Positive = Field(5, description="Steps between two looks at the mode choice on held-out problems.")
    probe_problems_per_level: Positive = Field(16, description="Held-out problems of each level for the probe.")
    probe_samples: Annotated[int, Field(ge=0)] = Field(
        0, description="Responses to each held-out problem at each look, in the mode the model chooses; graded."
    )
    checkpoint_every: Positive = Field(20, description="Steps between two checkpoints.")
    max_failed_grades: Share = Field(
        0.05, description="Stop if grading timed out or failed on more than this share of the last steps' responses."
    )
    keep_checkpoints: Annotated[int, Field(ge=2)] = Field(2, description="Checkpoints kept.")

    def check_together(self) -> None:
        """Raise UserError unless the no_think share is a whole number of samples, and forced if they are allotted."""
        super().check_together()
        if len(self.endpoint) > 1:
            raise UserError(
                f"training sends its weights to one server, and endpoint names {len(self.endpoint)}"
                f"{said_by_variable()}; give one or none, or presample on all of them first and train with --reference"
            )
        if self.token_share < 1 and self.no_think_share == 0:
            raise UserError("token_share < 1 allots samples to the modes, but no_think_share = 0 forces none; use 1")
        if self.advantage == "group" and (self.samples_per_problem < 2 or self.token_share < 1):
            raise UserError(
                "advantage = 'group' compares a problem's samples with each other: it needs samples_per_problem >= 2 "
                "and token_share = 1"
            )
        num_no_think = self.samples_per_problem * self.no_think_share
        if abs(num_no_think - round(num_no_think)) > 1e-9:
            raise UserError(
                f"no_think_share = {self.no_think_share} of samples_per_problem = {self.samples_per_problem} is "
                f"{num_no_think:g} samples; choose a share that gives a whole number, "
                f"such as {max(1, round(num_no_think)) / self.samples_per_problem}"
            )


class VerlConfig(TrainConfig):
    """Training on verl (`train --backend verl`): the same settings, and where it runs."""

    nodes: Positive = Field(1, description="verl: machines of the Ray cluster.")
    gpus_per_node: Positive = Field(8, description="verl: GPUs of each machine.")
    tensor_parallel: Positive = Field(1, description="verl: GPUs that one vLLM replica is spread over.")
    ray_address: str | None = Field(
        None, description="verl: a running Ray cluster, such as auto or host:6379; not given: Ray on this machine."
    )
    max_prompt_tokens: Positive = Field(2048, description="verl: room for a prompt; a longer one is an error.")
    offload: bool = Field(False, description="verl: weights and optimiser wait in the machine's memory meanwhile.")
    overrides: tuple[str, ...] = Field(
        (), description="verl: settings of its own (key=value), which win over those that follow from these."
    )


class EvaluateConfig(PolicyConfig):
    """Evaluation in auto and forced modes with the paper's decoding."""

    problems_per_level: Positive = Field(200, description="How many problems of each level (arithmetic only).")
    kind: Literal["chain", "story"] = Field(
        "chain", description="Wording (arithmetic only); story is out of distribution."
    )
    samples_per_problem: Positive = Field(1, description="Responses per problem and mode.")
    temperature: Temperature = Field(0.6, description="Sampling temperature.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(0.95, description="Nucleus.")
    chat: str | None = Field(
        None, description="Ask the model named MODEL behind this chat API, such as https://host/v1 (docs/chat.md)."
    )
    dialect: Literal["openai", "anthropic"] = Field("openai", description="The API that the chat endpoint speaks.")
    switch: Literal[
        "none",
        "enable_thinking",
        "template_thinking",
        "reasoning_effort",
        "thinking_type",
        "reasoning",
        "budget",
        "adaptive",
    ] = Field("none", description="How the chat endpoint is told a mode; none: it cannot be, and only auto is asked.")
    key_variable: str | None = Field(
        None, description="Environment variable with its key; not given: OPENAI_API_KEY, ANTHROPIC_API_KEY."
    )
    concurrency: Positive = Field(8, description="Questions in flight at the chat endpoint.")
    effort: str | None = Field(
        None, description="Level of thinking at the chat endpoint, where the switch knows levels."
    )
    no_think_effort: str = Field(
        "none", description="Level that stands for no_think with the switch reasoning_effort; for older models minimal."
    )
    budget_tokens: Positive | None = Field(
        None, description="Tokens of thought at the chat endpoint, for the switch budget."
    )
    completion_cap: bool = Field(False, description="Send the cap as max_completion_tokens (OpenAI's own models).")
    inline_thinking: bool = Field(
        False,
        description="The chat endpoint leaves thoughts in the text, and its prompts open them (vLLM without a parser).",
    )
    server_sampling: bool = Field(
        False, description="Leave temperature and top_p to the chat endpoint; some models refuse them."
    )
    price_input: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Price of a million prompt tokens at the chat endpoint."
    )
    price_output: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Price of a million tokens that the chat endpoint writes."
    )


class ServeConfig(EngineConfig):
    """A server with an OpenAI-style interface."""

    host: str = Field("127.0.0.1", description="Address to listen on; there is no authentication.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port to listen on; 0: any free one.")
    name: str | None = Field(None, description="What clients call the model; not given: the last part of its name.")
    threshold: Share | None = Field(
        None,
        description="P(no_think) from which on a request in mode auto is answered without thinking, and below which it "
        "is thought about; not given: the one in the model folder's adaptthink.json, else the model draws its mode.",
    )
    temperature: Annotated[float, Field(ge=0, le=10)] = Field(
        0.6, description="Sampling temperature where a request says nothing; 0: the most likely token."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(0.95, description="Nucleus where a request says nothing.")
    reasoning_format: Literal["separate", "inline"] = Field(
        "separate", description="Thoughts in fields of their own, or in the answer's text between a pair of markers."
    )


COMMANDS: dict[str, type[Config]] = {
    "presample": PresampleConfig,
    "train": TrainConfig,
    "verl": VerlConfig,
    "evaluate": EvaluateConfig,
    "serve": ServeConfig,
}

C = TypeVar("C", bound=Config)


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe given by path, or by the name of one that ships with the package."""
    for candidate in (Path(name), RECIPES / f"{name}.toml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
    raise UserError(f"no recipe '{name}': give the path of a TOML file or one of: {known}")


def all_keys() -> set[str]:
    """Return the keys of all commands."""
    return set().union(*(schema.model_fields for schema in COMMANDS.values()))


def unknown_key(where: str, key: str, known: Iterable[str]) -> UserError:
    """Build the error for a misspelt key, with the nearest name."""
    near = difflib.get_close_matches(key, list(known), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(sorted(known))}"
    return UserError(f"{where}: unknown key '{key}'{hint}")


def read_recipe(path: Path, command: str) -> dict[str, Any]:
    """Return the values that one recipe file gives to `command`, after checking every key in it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a valid TOML file: {error}") from None
    shared = {key: value for key, value in content.items() if key not in COMMANDS}
    for key in shared:
        if key not in all_keys():
            raise unknown_key(str(path), key, all_keys() | set(COMMANDS))
    for table, schema in COMMANDS.items():
        values = content.get(table, {})
        if not isinstance(values, dict):
            raise UserError(f"{path}: '{table}' must be a table ([{table}]), not a value")
        for key in values:
            if key not in schema.model_fields:
                raise unknown_key(f"{path} [{table}]", key, schema.model_fields)
    schema = COMMANDS[command]
    values = {key: value for key, value in shared.items() if key in schema.model_fields}
    for table, other in COMMANDS.items():  # a command's own table comes last
        if issubclass(schema, other):
            foreign = ENGINE_KEYS if table == "presample" and table != command else ()
            own = {key: value for key, value in content.get(table, {}).items() if key not in foreign}
            values = lay_over(values, own)
    return values


def from_environment(schema: type[Config], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the values given as ADAPTTHINK_<KEY> variables, after checking that some command has each key."""
    known = {f"{PREFIX}{key.upper()}" for key in all_keys()}
    for variable in environment:
        if variable.startswith(PREFIX) and variable not in known:
            raise unknown_key("environment", variable, known)
    names = {name: f"{PREFIX}{name.upper()}" for name in schema.model_fields}
    return {name: environment[variable] for name, variable in names.items() if variable in environment}


def resolve(
    command: str, schema: type[C], *, recipes: Iterable[str | Path] = (), flags: Mapping[str, Any] | None = None
) -> C:
    """Merge defaults < recipes (later ones win) < environment < flags into a checked config.

    Raises UserError that names the key, the value and what is allowed.
    """
    values: dict[str, Any] = {}
    for name in recipes:
        values = lay_over(values, read_recipe(find_recipe(name), command))
    values = lay_over(values, from_environment(schema))
    return check(schema, lay_over(values, flags or {}))


def said_by_variable() -> str:
    """What errors about an endpoint add where one may come from the environment, unseen."""
    variable = f"{PREFIX}ENDPOINT"
    return f" ({variable} is set)" if os.environ.get(variable) else ""


def lay_over(values: Mapping[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with stronger ones over them; endpoints imply their engine, whatever a weaker one was."""
    implied = {"engine": "openai"} if stronger.get("endpoint") else {}
    return {**values, **implied, **stronger}


def check(schema: type[C], values: Mapping[str, Any]) -> C:
    """Validate `values` against `schema`; raises UserError with every fault in one line."""
    for key in values:
        if key not in schema.model_fields:
            raise unknown_key(schema.__name__, key, schema.model_fields)
    try:
        config = schema.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(describe_faults(error)) from None
    config.check_together()
    return config


def describe_faults(error: ValidationError) -> str:
    """Say in one line what is wrong with each value."""
    faults = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        faults.append(f"{name} = {fault['input']!r}: {message[0].lower()}{message[1:]}")
    return "; ".join(faults)
