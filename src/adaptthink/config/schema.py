"""What can be set: one schema per command, and the enumerations that settings choose from.

A schema holds the keys that its command reads, and no others. `unread` says which of them have no effect beside the
values of others. Chat endpoints have a schema of their own (`chat`); `resolve` puts values together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from adaptthink.errors import UserError
from adaptthink.ratio import Ratio

PREFIX = "ADAPTTHINK_"  # of environment variables
MAX_FAILED_GRADES = 0.05  # share of responses

# How a training runs, and not what it is: these may change when it is resumed, and a model's card leaves them out.
HOW = frozenset(
    {
        "data", "device", "endpoint", "engine_memory", "gradient_checkpointing", "grading_seconds", "keep_checkpoints",
        "max_concurrent_sequences", "max_failed_grades", "max_idle_steps", "max_prompt_tokens", "max_skipped_steps",
        "micro_batch_tokens", "offload", "overrides", "ray_address", "rehearsal_problems", "tensor_parallel",
    }
)  # fmt: skip

# Which problems of its set a training uses.
STEP_KEYS = frozenset({"probe_problems_per_level", "problems_per_step", "steps"})

DEFAULT_METHOD = "adaptthink"  # the paper's, which reads every key and has none of its own

# What the objective is made of; a method reads some of them (`training.methods`).
METHOD_KEYS = frozenset(
    {
        "clip", "delta", "force_think", "implicit_thinking", "no_think_share", "ratio", "samples_per_problem",
        "token_share",
    }
)  # fmt: skip

# What the estimate of a training (`adaptthink plan`) depends on.
PLANNED = frozenset(
    {
        "data", "dtype", "endpoint", "engine", "engine_memory", "fields", "gpus_per_node", "gradient_checkpointing",
        "lora_rank", "max_concurrent_sequences", "max_no_think_tokens", "max_problems", "max_prompt_tokens",
        "max_think_tokens", "micro_batch_tokens", "model", "no_think_share", "nodes", "offload",
        "probe_problems_per_level", "problems", "problems_per_level", "problems_per_step", "reference_samples",
        "samples_per_problem", "steps", "tensor_parallel",
    }
)  # fmt: skip

# What only a server that generates by itself reads.
HERE = (
    "device", "dtype", "endpoint", "engine", "engine_memory", "force_think", "max_concurrent_sequences", "threads",
)  # fmt: skip

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(gt=0, le=10)]
TopP = Annotated[float, Field(gt=0, le=1)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
Seed = Annotated[int, Field(description="Seed of everything random.")]


def check_date(value: str) -> str:
    """Return a day in ISO format; raises ValueError for anything else."""
    return date.fromisoformat(value).isoformat()


def split_text(value: object) -> object:
    """Split a text at its commas, as an environment variable holds several values."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def check_samples(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return numbers of samples by set; raises ValueError for another form than NAME=NUMBER, and for a name twice."""
    for value in values:
        name, _, number = value.rpartition("=")
        if not name or not number.isdecimal() or int(number) < 1:
            raise ValueError(f"'{value}' is not NAME=NUMBER, such as aime24=16")
    if len({value.rpartition("=")[0] for value in values}) < len(values):
        raise ValueError("a set is named twice")
    return values


Samples = Annotated[tuple[str, ...], BeforeValidator(split_text), AfterValidator(check_samples)]
PromptDate = Annotated[str, AfterValidator(check_date)]
Dtype = Literal["auto", "float32", "bfloat16"]
Schedule = Literal["constant", "stable_decay"]
ImplicitThinking = Literal["allowed", "no_reward"]
LogFormat = Literal["text", "json"]
MismatchGate = Literal["warn", "mask", "truncate", "stop"]
ReasoningFormat = Literal["separate", "inline"]
RequestedMode = Literal["auto", "think", "no_think"]


class Kind(StrEnum):
    """How an arithmetic problem is worded."""

    CHAIN = "chain"
    STORY = "story"


class ForceThink(StrEnum):
    """How a thought begins where one is requested."""

    START = "start"  # with the think start
    BAN = "ban"  # with any token but the no_think one, sampled from the model


class EngineName(StrEnum):
    """What generates. How each is started: `sampling.engine`."""

    NATIVE = "native"  # this program
    VLLM = "vllm"  # vLLM beside it, on the same device
    OPENAI = "openai"  # servers of vLLM that are running already

    @property
    def in_process(self) -> bool:
        """Whether it runs in this program, and takes the memory that it needs."""
        return self is EngineName.NATIVE

    @property
    def reserves_memory(self) -> bool:
        """Whether it takes a fixed share of the device's memory (`engine_memory`)."""
        return self is EngineName.VLLM

    @property
    def has_endpoints(self) -> bool:
        """Whether it consists of servers, which `endpoint` names."""
        return self is EngineName.OPENAI


@dataclass(frozen=True, slots=True)
class Unread:
    """Keys without an effect, and why: `because` names the keys whose values make it so, if any do.

    `reason` and `advice` are parts of a sentence: "lora_alpha has no effect: REASON; ADVICE".
    """

    keys: tuple[str, ...]
    because: tuple[str, ...]
    reason: str
    advice: str


class Config(BaseModel):
    """Base of all schemas: strict about names, finite numbers only, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def check_together(self) -> None:
        """Raise UserError where values that are fine alone do not go together."""

    def unread(self) -> Iterator[Unread]:
        """Yield the keys that have no effect beside the values of others."""
        return iter(())


class ModelConfig(Config):
    """Which model answers, and how long its responses may be."""

    model: str = Field("tiny", description="A model folder, a hub id, or 'tiny' or 'tiny_long' (embedded).")
    max_think_tokens: Positive = Field(
        16384,
        description="Token limit of a forced think response, thinking included; unconstrained: the larger limit.",
    )
    max_no_think_tokens: Positive = Field(
        4096, description="Token limit of a forced no_think response; unconstrained: the larger limit."
    )


class WeightsConfig(Config):
    """How a model is loaded here."""

    think_start: str = Field(
        "Alright",
        description="w_start: the text that forced thinking begins with, or a reference store, whose starts are "
        "sampled as often as the reference used them.",
    )
    prompt_date: PromptDate | None = Field(
        None,
        description="The day, YYYY-MM-DD, for chat templates that write it into prompts; not given: that of the store, "
        "evaluation or run that is continued, else today.",
    )
    device: Device = Field(
        "auto", description="Where the model is: cpu, cuda, cuda:N, or auto (a GPU if there is one)."
    )
    dtype: Dtype = Field(
        "auto",
        description="Arithmetic of generation and of the update's forward; auto: bfloat16 on a GPU, float32 on a CPU. "
        "Trained weights are float32 in any case.",
    )
    seed: Seed = 0


class EngineConfig(ModelConfig, WeightsConfig):
    """How a model is loaded and what generates with it."""

    max_concurrent_sequences: Positive = Field(1024, description="Responses generated at the same time; bounds memory.")
    engine: EngineName = Field(
        EngineName.NATIVE, description="What generates: this program, vLLM beside it, or running servers of vLLM."
    )
    endpoint: Annotated[tuple[str, ...], BeforeValidator(split_text)] = Field(
        (), description="Where the servers of the openai engine are, such as http://localhost:8000; implies the engine."
    )
    engine_memory: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="Share of the device's memory that the vllm engine takes; a model in training needs the rest."
    )

    @model_validator(mode="before")
    @classmethod
    def add_implied_engine(cls, values: object) -> object:
        """Set the engine that endpoints imply (`imply_engine`)."""
        return imply_engine(values) if isinstance(values, dict) else values

    def check_together(self) -> None:
        """Raise UserError if there is an endpoint without the engine that needs one, or the other way round."""
        super().check_together()
        if self.engine.has_endpoints and not self.endpoint:
            raise UserError(f"engine = '{self.engine}' needs the address of its server; give --endpoint URL")
        if self.endpoint and not self.engine.has_endpoints:
            raise UserError(
                f"engine = '{self.engine}' has no endpoint, but endpoint = {', '.join(self.endpoint)}"
                f"{name_endpoint_variable()}; give --engine openai, or no endpoint"
            )

    def unread(self) -> Iterator[Unread]:
        """Yield the share of memory that only some engines take."""
        yield from super().unread()
        if not self.engine.reserves_memory:
            yield Unread(
                ("engine_memory",),
                ("engine",),
                f"engine = '{self.engine}' takes no fixed share of the device's memory",
                "give --engine vllm, or leave it out",
            )


class ProblemsConfig(ModelConfig):
    """Which problems are answered, and how answers are graded."""

    seed: Seed = 0
    problems: str = Field(
        "arithmetic",
        description="'arithmetic', 'words', a set such as gsm8k or mmlu:stem, reasoning_gym:FAMILY, a file, or several "
        "(a,b).",
    )
    data: Path | None = Field(None, description="Folder with local copies of named sets; what is not there: the hub.")
    fields: str | None = Field(
        None, description="Columns of a file, such as prompt=question,answer=final_answer (level, kind, choices too)."
    )
    instruction: str | None = Field(
        None, description="Text put after each prompt; not given: the source's own; '': nothing."
    )
    max_problems: Positive | None = Field(None, description="Maximum number of problems, chosen by their ids.")
    boxed_only: bool = Field(
        True, description="Read answers in \\boxed{} only (as the paper), not where they are announced or stand alone."
    )
    reward: str | None = Field(
        None,
        description="Reward function of your own, as MODULE:FUNCTION, in place of the comparison with the reference "
        "answer (docs/how-to/rewards.md).",
    )
    reward_seconds: Annotated[float, Field(gt=0)] = Field(
        10.0, description="Time-out of a call of the reward function."
    )
    grading_seconds: Annotated[float, Field(gt=0)] = Field(
        2.0, description="Seconds of processor time after which a symbolic comparison of one answer is stopped."
    )
    max_failed_grades: Share = Field(
        MAX_FAILED_GRADES,
        description="Stop if grading timed out or failed on more than this share of the responses (in training, of the "
        "last ten steps').",
    )

    def unread(self) -> Iterator[Unread]:
        """Yield what only one of the two ways to grade reads."""
        yield from super().unread()
        if self.reward:
            yield Unread(
                ("boxed_only", "grading_seconds"),
                ("reward",),
                "the reward function grades in place of the comparison with the reference answer",
                "leave out one or the other",
            )
        else:
            yield Unread(
                ("reward_seconds",), ("reward",), "there is no reward function", "give --reward, or leave it out"
            )


class PolicyConfig(ProblemsConfig, EngineConfig):
    """A model that is loaded here answers problems."""


class ReferenceConfig(PolicyConfig):
    """The reference R̄_ref, K unconstrained samples per problem before training, and which problems need one."""

    problems_per_level: Positive = Field(
        100, description="Problems of each level (arithmetic, words and reasoning_gym)."
    )
    reference_samples: Positive = Field(16, description="K of R̄_ref: samples per problem.")
    reference_temperature: Temperature = Field(0.6, description="Sampling temperature of the reference.")
    reference_top_p: TopP = Field(0.95, description="Nucleus of the reference.")
    steps: Positive = Field(314, description="Optimiser steps.")
    problems_per_step: Positive = Field(128, description="Problems in a batch.")
    probe_problems_per_level: Positive = Field(16, description="Held-out problems of each level for the probe.")


class PresampleConfig(ReferenceConfig):
    """Reference pre-sampling of the problems that the steps of a training use."""

    all_problems: bool = Field(
        False, description="Sample every problem of the set, not only those that the training's steps use."
    )
    keep_responses: bool = Field(
        False,
        description="Store the tokens of each response, for methods that learn from them "
        "(docs/explanation/methods.md).",
    )
    no_think_samples: Annotated[int, Field(ge=0)] = Field(
        0, description="Also store this many forced no_think responses per problem, tokens included; R̄_ref stays."
    )

    def unread(self) -> Iterator[Unread]:
        """Yield the training's steps where every problem is sampled."""
        yield from super().unread()
        if self.all_problems:
            yield Unread(
                tuple(sorted(STEP_KEYS)),
                ("all_problems",),
                "all_problems samples them all",
                "leave out one or the other",
            )


class UpdateConfig(WeightsConfig):
    """How weights are changed, whatever is learned."""

    steps: Positive = Field(314, description="Optimiser steps.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(2e-6, description="Peak learning rate (AdamW).")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="Steps of linear warm-up.")
    schedule: Schedule = Field(
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
        16384, description="Maximum tokens per forward pass of the update, padding included; bounds memory."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, about a third more work."
    )
    checkpoint_every: Positive = Field(20, description="Steps between two checkpoints.")
    keep_checkpoints: Annotated[int, Field(ge=2)] = Field(2, description="Checkpoints kept.")

    def unread(self) -> Iterator[Unread]:
        """Yield what needs an adapter, where there is none."""
        yield from super().unread()
        if not self.lora_rank:
            yield Unread(
                ("lora_alpha", "lora_targets"),
                ("lora_rank",),
                "lora_rank is 0, so the weights themselves are trained",
                "give --lora-rank, or leave it out",
            )


class TrainConfig(ReferenceConfig, UpdateConfig):
    """Training with the paper's settings as defaults."""

    method: str = Field(
        DEFAULT_METHOD,
        description="What is learned from the samples: adaptthink (the paper), gap (ours), grpo; from other papers "
        "adapt, degrpo, tnt (both modes), dler, thinkprune, tlmre (short thoughts); see docs/explanation/methods.md.",
    )
    delta: Share = Field(0.05, description="δ: how much accuracy no_think may cost.")
    no_think_share: Share = Field(0.5, description="Share of no_think samples; 0 forces nothing (plain on-policy).")
    samples_per_problem: Positive = Field(16, description="K: responses per problem and step.")
    token_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Share of the tokens to sample (ours): below 1, samples with a low expected learning signal per "
        "token are dropped at random; the kept ones are reweighted by 1/p.",
    )
    force_think: ForceThink = Field(
        ForceThink.START,
        description="How forced thinking begins: with think_start (the paper), or with any token but the no_think one, "
        "sampled from the policy (ban).",
    )
    ratio: Ratio = Field(
        "sequence_mean", description="Importance ratio: length-normalised (official code), Eq. 9 literally, per token."
    )
    clip: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="ε of the clipped loss.")
    implicit_thinking: ImplicitThinking = Field(
        "allowed",
        description="no_think answers that think all the same: rewarded like others (the paper), or never (ours).",
    )
    temperature: Temperature = Field(0.6, description="Sampling temperature of the policy.")
    mismatch: MismatchGate = Field(
        "warn",
        description="What is done where the sampler's log-probabilities are too far from the trainer's: it is reported "
        "(warn, the paper), the response is left out (mask), gaps are bounded (truncate), training ends (stop).",
    )
    rehearsal_problems: Annotated[int, Field(ge=0)] = Field(
        4, description="Problems that are answered in both modes before the first step, to see what would go wrong."
    )
    max_idle_steps: Positive = Field(
        25, description="Steps in a row in which no response has an advantage, after which training stops."
    )
    max_skipped_steps: Annotated[int, Field(ge=0)] = Field(
        3, description="Steps in a row that are skipped, as loss or gradient are not finite, before training ends."
    )
    probe_every: Positive = Field(5, description="Steps between two probes of the mode choice on held-out problems.")
    probe_samples: Annotated[int, Field(ge=0)] = Field(
        0, description="Responses to each held-out problem in a probe, in the mode the model chooses; graded."
    )

    def check_together(self) -> None:
        """Raise UserError unless the no_think share is a whole number of samples, above 0 with a token share."""
        super().check_together()
        if len(self.endpoint) > 1:
            raise UserError(
                f"training sends its weights to one server, and endpoint names {len(self.endpoint)}"
                f"{name_endpoint_variable()}; give one or none, or presample on all of them and train with --reference"
            )
        if self.token_share < 1 and self.no_think_share == 0:
            raise UserError("token_share < 1 allocates samples to the modes, but no_think_share = 0 forces none; use 1")
        num_no_think = self.samples_per_problem * self.no_think_share
        if abs(num_no_think - round(num_no_think)) > 1e-9:
            raise UserError(
                f"no_think_share = {self.no_think_share} of samples_per_problem = {self.samples_per_problem} is "
                f"{num_no_think:g} samples; choose a share that gives a whole number, "
                f"such as {max(1, round(num_no_think)) / self.samples_per_problem}"
            )

    def unread(self) -> Iterator[Unread]:
        """Yield what needs forced thinking, where there is none."""
        yield from super().unread()
        if self.no_think_share in (0, 1):
            yield Unread(
                ("force_think",),
                ("no_think_share",),
                f"no_think_share is {self.no_think_share:g}, so no thinking is forced",
                "give a share between 0 and 1, or leave it out",
            )


class SftConfig(UpdateConfig):
    """The cold start: supervised training on traces."""

    model: str = Field("tiny", description="The model to start with: a folder or a hub id; it need not know thinking.")
    steps: Positive = Field(300, description="Optimiser steps.")
    traces_per_step: Positive = Field(
        16, description="Traces in a batch, each in both forms: with its thought, and answered at once."
    )
    no_think_weight: Annotated[float, Field(ge=0)] = Field(
        3.0, description="Weight of a token of an answer at once in the loss; one with a thought has 1."
    )
    max_trace_tokens: Positive = Field(
        4096, description="Traces that are longer in tokens, question included, are left out."
    )
    held_out_traces: Positive = Field(
        64, description="Traces that are held out to measure the loss on; a tenth of them at most."
    )
    probe_every: Positive = Field(50, description="Steps between two measurements of the held-out loss.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(2e-5, description="Peak learning rate (AdamW).")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(10, description="Steps of linear warm-up.")
    schedule: Schedule = Field(
        "stable_decay",
        description="Learning rate after the warm-up; stable_decay falls to 0 over the last 30% of the steps.",
    )
    checkpoint_every: Positive = Field(50, description="Steps between two checkpoints.")


class VerlConfig(TrainConfig):
    """Training on verl (`train --backend verl`): the same settings, and where it runs."""

    nodes: Positive = Field(1, description="verl: machines of the Ray cluster.")
    gpus_per_node: Positive = Field(8, description="verl: GPUs of each machine.")
    tensor_parallel: Positive = Field(1, description="verl: GPUs that one vLLM replica is spread over.")
    ray_address: str | None = Field(
        None, description="verl: a running Ray cluster, such as auto or host:6379; not given: Ray on this machine."
    )
    max_prompt_tokens: Positive = Field(2048, description="verl: token limit of a prompt; a longer one is an error.")
    offload: bool = Field(False, description="verl: keep weights and optimiser in host memory during generation.")
    overrides: tuple[str, ...] = Field(
        (), description="verl: settings of its own (key=value), which win over those that follow from these."
    )

    def unread(self) -> Iterator[Unread]:
        """Yield the engine: verl has its own, which takes `engine_memory`."""
        yield from (one for one in super().unread() if "engine_memory" not in one.keys)
        yield Unread(("engine",), (), "verl generates with a vLLM of its own", "leave it out")


class EvaluationConfig(ProblemsConfig):
    """What an evaluation consists of, whoever answers: modes with the paper's decoding."""

    problems_per_level: Positive = Field(
        200, description="Problems of each level (arithmetic, words and reasoning_gym)."
    )
    kind: Kind = Field(Kind.CHAIN, description="Wording (arithmetic only); story is out of distribution.")
    samples_per_problem: Positive = Field(1, description="Responses per problem and mode.")
    samples_by_set: Samples = Field(
        (), description="Other numbers of responses for some of several sets, such as aime24=16."
    )
    temperature: Temperature = Field(0.6, description="Sampling temperature.")
    top_p: TopP = Field(0.95, description="Nucleus.")

    def parse_samples(self) -> dict[str, int]:
        """Return `samples_by_set` as numbers."""
        return {name: int(number) for name, _, number in (value.rpartition("=") for value in self.samples_by_set)}


class EvaluateConfig(EvaluationConfig, PolicyConfig):
    """Evaluation of a model that is loaded here."""

    force_think: ForceThink = Field(
        ForceThink.START,
        description="How requested thinking begins: with think_start, or with any token but the no_think one (ban).",
    )


class ServeConfig(EngineConfig):
    """A server with an OpenAI-style interface."""

    host: str = Field("127.0.0.1", description="Address to listen on; give keys where others can reach it.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port to listen on; 0: any free port.")
    name: str | None = Field(None, description="What clients call the model; not given: the last part of its name.")
    threshold: Share | None = Field(
        None,
        description="P(no_think) from which on a request in mode auto is answered without thinking, and below which "
        "with thinking; not given: the one in the model folder's adaptthink.json, else the model chooses.",
    )
    online_state: str | None = Field(
        None,
        description="File of an online dial, which decides in mode auto and learns from POST /v1/feedback; made if it "
        "is not there.",
    )
    online_tolerance: Annotated[float, Field(gt=0, lt=100)] | None = Field(
        None,
        description="Points of accuracy that the online dial may lose against always thinking; not given: the file's, "
        "and 5 for a new one.",
    )
    force_think: ForceThink = Field(
        ForceThink.START,
        description="How requested thinking begins: with think_start, or with any token but the no_think one (ban).",
    )
    temperature: Annotated[float, Field(ge=0, le=10)] = Field(
        0.6, description="Sampling temperature of requests without one; 0: the most likely token."
    )
    top_p: TopP = Field(0.95, description="Nucleus of requests without one.")
    closing_sentence: str | None = Field(
        None,
        description="What a thought that reaches its request's thinking budget ends with; not given: a short English "
        "sentence, and nothing for a model of an embedded one's vocabulary, which has no words.",
    )
    reasoning_format: ReasoningFormat = Field(
        "separate", description="Thinking in a field of its own, or in the answer's text between a pair of markers."
    )
    api_key: tuple[str, ...] = Field(
        (),
        exclude=True,
        repr=False,
        description="Keys that clients must have one of; better as ADAPTTHINK_API_KEY, separated by commas, than as a "
        "flag, which other users of the machine may see.",
    )
    max_concurrent_sequences: Positive = Field(64, description="Responses generated at the same time; bounds memory.")
    max_requests: Positive = Field(
        256, description="Requests accepted at the same time, those that wait included; more are refused with 429."
    )
    requests_per_minute: Positive | None = Field(
        None, description="Requests of one key (without keys: of one address) in a minute; more are refused with 429."
    )
    log_format: LogFormat | None = Field(
        None, description="Log a line for each request to standard error, without prompts and answers; not given: none."
    )
    upstream: str | None = Field(
        None,
        description="URL of a running server to generate with, in place of an engine here: vLLM, SGLang, llama.cpp, "
        "Ollama. MODEL is then read for its tokenizer and dial alone.",
    )
    upstream_key: str | None = Field(
        None,
        exclude=True,
        repr=False,
        description="Key that the upstream wants; better as ADAPTTHINK_UPSTREAM_KEY than as a flag.",
    )
    threads: Positive | None = Field(
        None,
        description="Processor threads that generate; not given: PyTorch's choice, often too many on a busy machine.",
    )

    def unread(self) -> Iterator[Unread]:
        """Yield what an upstream, an engine of its own, or an online dial leaves without an effect."""
        yield from super().unread()
        if self.online_state:
            yield Unread(("threshold",), ("online_state",), "the online dial decides", "leave one of the two out")
        else:
            yield Unread(("online_tolerance",), (), "there is no online dial", "give --online-state FILE for one")
        if self.upstream is not None:
            yield Unread(HERE, ("upstream",), f"the server at {self.upstream} generates", "leave it out")
        elif self.upstream_key is not None:
            yield Unread(("upstream_key",), (), "there is no upstream", "give --upstream URL too, or leave it out")
        if not self.engine.in_process:
            yield Unread(
                ("threads",),
                ("engine",),
                f"engine = '{self.engine}' has processor threads of its own",
                "leave it out",
            )

    @field_validator("api_key", mode="before")
    @classmethod
    def split_keys(cls, value: object) -> object:
        """Split a text of keys, separated by commas, as an environment variable holds them."""
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


def imply_engine(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with the engine that has endpoints, where endpoints but no engine are given."""
    return {"engine": EngineName.OPENAI, **values} if values.get("endpoint") else dict(values)


def name_endpoint_variable() -> str:
    """Return what messages about an endpoint add where it may come from the environment."""
    variable = f"{PREFIX}ENDPOINT"
    return f" ({variable} is set)" if os.environ.get(variable) else ""
