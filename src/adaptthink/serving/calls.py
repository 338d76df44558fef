"""What clients may send, and how other calls are refused: no parameter that would change an answer is ignored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from adaptthink.config.schema import Positive, ReasoningFormat
from adaptthink.modes import Message, Mode
from adaptthink.serving.controls import (
    Controls,
    Effort,
    ThinkOptions,
    make_contradiction,
    merge_controls,
    read_budget,
    read_switch,
)
from adaptthink.serving.generation import CallError, GenerationRequest

# These change no answer: bookkeeping of clients and of other servers.
HARMLESS = frozenset(
    {
        *("cache_prompt", "id_slot", "session_id", "timings_per_token"),  # llama.cpp
        *("provider", "route", "trace", "usage"),  # OpenRouter
        "metadata",
        "prediction",  # makes it faster where it comes true
        "priority",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# These would change an answer; each with the values that do not.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "bad_words": ([],),
    "best_of": (1,),
    "continue_final_message": (False,),
    "detokenize": (True,),
    "dry_multiplier": (0,),
    "early_stopping": (False,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "logprobs": (False, 0),
    "min_p": (0,),
    "min_tokens": (0,),
    "mirostat": (0,),
    "modalities": (["text"],),
    "n_probs": (0,),
    "parallel_tool_calls": (False, True),  # without tools
    "plugins": ([],),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (False, True),  # there are none
    "stop_token_ids": ([],),
    "suffix": ("",),
    "tfs_z": (1,),
    "tool_choice": ("none", "auto"),  # without tools
    "tools": ([],),
    "top_a": (0,),
    "top_k": (0, -1),
    "top_logprobs": (0,),
    "transforms": ([],),
    "truncate_prompt_tokens": (-1,),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "xtc_probability": (0,),
}

MAX_DEPTH = 100  # of a body; no dialect needs a tenth of it
MAX_STOPS = 64  # every new piece of text is compared with each
Stop = Annotated[str, Field(max_length=256)]
Stops = Annotated[
    list[Stop], Field(max_length=MAX_STOPS), BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop)
]
Temperature = Annotated[float, Field(ge=0, le=10)]
TopP = Annotated[float, Field(gt=0, le=1)]
# Endings of model names.
ENDINGS = {mode.value: Controls(mode=mode.value) for mode in Mode} | {
    effort: Controls(effort=effort) for effort in get_args(Effort)
}
M = TypeVar("M", bound=BaseModel)


class Parameters(BaseModel):
    """An object of a body: what would change the answer, and nothing else.

    Left out are null, the `harmless` fields, and the `neutral` ones that have one of the values given there.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    harmless: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            name: value
            for name, value in values.items()
            if value is not None and name not in cls.harmless and value not in cls.neutral.get(name, ())
        }


class TextPart(Parameters):
    """Part of a message's content; only text is supported."""

    harmless = frozenset({"cache_control"})  # Anthropic's

    type: Literal["text"]
    text: str


def split_text(content: object) -> object:
    """Return a content that is a text as its only part."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Text = Annotated[list[TextPart], BeforeValidator(split_text)]


class _Turn(Parameters):
    """A message. The other fields of earlier answers, as clients pass them on, are left out of the prompt."""

    harmless = frozenset({"annotations", "name", "provider_specific_fields"}) | {
        *("reasoning", "reasoning_content", "reasoning_details", "reasoning_items", "thinking_blocks")
    }
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"images": ([],), "tool_calls": ([],)}

    role: Literal["system", "developer", "user", "assistant"]
    content: Text = []

    @property
    def message(self) -> Message:
        """The message for the chat template."""
        return Message(self.role, join_text(self.content))


def join_text(parts: Iterable[TextPart]) -> str:
    """Return the text of a content."""
    return "".join(part.text for part in parts)


class _TemplateKeywords(Parameters):
    """The switches of known chat templates."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    thinking_budget: int | None = None

    def read(self) -> dict[str, Controls]:
        """Return what each switch says, by its name."""
        return {
            "enable_thinking": read_switch(self.enable_thinking),
            "thinking": read_switch(self.thinking),
            "chat_template_kwargs.thinking_budget": read_budget(self.thinking_budget),
        }


class _Reasoning(Parameters):
    """OpenRouter's parameter of this name."""

    effort: Effort | None = None
    max_tokens: int | None = None
    enabled: bool | None = None
    exclude: bool | None = None  # the thinking is not sent

    def read(self) -> dict[str, Controls]:
        """Return what each field says, by its name."""
        return {
            "reasoning.effort": Controls(effort=self.effort),
            "reasoning.max_tokens": read_budget(self.max_tokens),
            "reasoning.enabled": read_switch(self.enabled),
        }


class _StreamOptions(Parameters):
    harmless = frozenset({"include_obfuscation"})  # pads chunks to hide their lengths: ours are never padded

    include_usage: bool = False


class AnyCall(Parameters):
    """What the calls of every dialect have in common."""

    model: str
    x_think: ThinkOptions = ThinkOptions()

    def read_controls(self, name: str) -> dict[str, Controls]:
        """Return what each parameter says about thinking, by its name; raises CallError for another model."""
        return {"model": read_model(self.model, name)} | self.x_think.read()


class Call(AnyCall):
    """The parameters of OpenAI's older calls."""

    harmless = HARMLESS
    neutral = NEUTRAL

    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_tokens: Positive | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stop: Stops = []
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()


class ChatCall(Call):
    """A call of /v1/chat/completions."""

    messages: Annotated[list[_Turn], Field(min_length=1)]
    max_completion_tokens: Positive | None = None
    chat_template_kwargs: _TemplateKeywords = _TemplateKeywords()
    reasoning_effort: Effort | None = None
    reasoning: _Reasoning = _Reasoning()
    thinking_budget: int | None = None
    thinking_token_budget: int | None = None  # vLLM's name
    reasoning_format: ReasoningFormat | None = None
    include_reasoning: bool | None = None

    def read_visibility(self) -> bool:
        """Return whether the thinking is sent; raises CallError where parameters contradict each other."""
        exclude, include = self.reasoning.exclude, self.include_reasoning
        names = "reasoning.exclude", "include_reasoning"
        if exclude is not None and exclude == include:
            sent = "thinking", "no thinking"
            raise make_contradiction(sent[exclude], names[0], sent[not include], names[1])
        hidden_by = names[0] if exclude else names[1] if include is False else None
        if hidden_by and self.reasoning_format == "inline":
            raise make_contradiction("no thinking", hidden_by, "thinking in the answer", "reasoning_format")
        return hidden_by is None

    def read_controls(self, name: str) -> dict[str, Controls]:
        """See `Call`."""
        budgets = {
            "thinking_budget": read_budget(self.thinking_budget),
            "thinking_token_budget": read_budget(self.thinking_token_budget),
        }
        effort = {"reasoning_effort": Controls(effort=self.reasoning_effort)}
        switches = self.chat_template_kwargs.read() | self.reasoning.read()
        return super().read_controls(name) | switches | effort | budgets


class TextCall(Call):
    """A call of /v1/completions."""

    prompt: str


def read_call(schema: type[M], body: bytes) -> M:
    """Return a call's parameters; raises CallError with the faulty parameter and the reason."""
    try:
        return schema.model_validate(read_object(body))
    except ValidationError as error:
        raise make_call_error(error) from None


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body; raises CallError for anything else."""
    try:
        values = json.loads(body)
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CallError("the body holds half a character, a lone surrogate; repair the text") from None
    except (ValueError, RecursionError) as error:
        raise CallError(f"the body is not JSON: {error}; send an object") from None
    if not isinstance(values, dict):
        raise CallError("the body is not a JSON object; send one")
    check_depth(values)
    return values


def check_depth(values: object) -> None:
    """Raise CallError for what is nested so deeply that writing it back would fail."""
    level: list[object] = [values]
    for _ in range(MAX_DEPTH):
        nested = [one for one in level if isinstance(one, dict | list)]
        if not nested:
            return
        level = [inner for one in nested for inner in (one.values() if isinstance(one, dict) else one)]
    raise CallError(f"the body is nested more than {MAX_DEPTH} levels deep; flatten it")


def make_call_error(error: ValidationError) -> CallError:
    """Return the error for the first faulty parameter, in one line."""
    fault = error.errors()[0]
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return CallError(
            f"'{name}' is not supported and would change the answer; leave it out",
            param=name,
            code="unsupported_parameter",
        )
    if fault["type"] == "missing":
        return CallError(f"'{name}' is missing; give it", param=name, code="missing_required_parameter")
    if fault["type"] == "union_tag_invalid":
        message = f"'{name}' has the type '{fault['ctx']['tag']}', which is not supported; use text"
        return CallError(message, param=name, code="invalid_value")
    message = fault["msg"]
    return CallError(f"'{name}': {message[0].lower()}{message[1:]}; correct it", param=name, code="invalid_value")


def read_request(call: Call, name: str) -> GenerationRequest:
    """Return what a call requests of the model of this name; raises CallError where that cannot be."""
    max_tokens = call.max_tokens
    prompt: str | tuple[Message, ...]
    if isinstance(call, ChatCall):
        prompt = check_prompt([turn.message for turn in call.messages])
        max_tokens = call.max_completion_tokens or max_tokens
    else:
        assert isinstance(call, TextCall)
        prompt = call.prompt
    return make_request(
        prompt,
        call.read_controls(name),
        max_tokens=max_tokens,
        temperature=call.temperature,
        top_p=call.top_p,
        seed=call.seed,
        stops=tuple(call.stop),
        n=call.n,
        stream=call.stream,
    )


def make_request(
    prompt: str | tuple[Message, ...], controls: Mapping[str, Controls], **sampling: Any
) -> GenerationRequest:
    """Return a request with what all parameters say about thinking; raises CallError where they contradict."""
    merged = merge_controls(controls)
    return GenerationRequest(
        prompt=prompt,
        mode=None if merged.mode in (None, "auto") else Mode(merged.mode),
        effort=merged.effort,
        threshold=merged.threshold,
        tolerance=merged.tolerance,
        thinking_budget=merged.thinking_budget,
        second_look=bool(merged.second_look),
        **sampling,
    )


def check_prompt(messages: Sequence[Message], param: str = "messages") -> tuple[Message, ...]:
    """Return a conversation; raises CallError where its last message is not the user's."""
    if not messages or messages[-1].role != "user":
        raise CallError("the last message must be the user's: an answer cannot be continued", param=param)
    return tuple(messages)


def read_model(model: str, name: str) -> Controls:
    """Return what the ending of a model's name says; raises CallError for another model."""
    if model == name:
        return Controls()
    ending = model.removeprefix(f"{name}:")
    if ending not in ENDINGS:
        known = ", ".join([name, *(f"{name}:{mode}" for mode in Mode)])
        message = f"no model '{model}'; available: {known}, and those of efforts that GET /v1/models lists"
        raise CallError(message, param="model", code="model_not_found", status=404)
    return ENDINGS[ending]
