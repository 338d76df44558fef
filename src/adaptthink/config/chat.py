"""Settings of chat endpoints: the APIs that are spoken (`Dialect`), how a mode is requested (`Switch`), the schema.

A new dialect is added here and as a module of its name in `adaptthink.chat`.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from adaptthink.config.schema import EvaluationConfig, Positive, Unread


class Dialect(StrEnum):
    """The API that a server speaks; each is a module of `adaptthink.chat`."""

    OPENAI = "openai"  # /v1/chat/completions: OpenAI, DeepSeek, OpenRouter, vLLM, SGLang, llama.cpp and many more
    ANTHROPIC = "anthropic"  # /v1/messages


class Switch(StrEnum):
    """How a mode is requested. It is sent for think and for no_think: servers have defaults of their own."""

    NONE = "none"  # not at all: the model decides
    ENABLE_THINKING = "enable_thinking"  # chat_template_kwargs: {enable_thinking: bool}; Qwen3, GLM
    TEMPLATE_THINKING = "template_thinking"  # chat_template_kwargs: {thinking: bool}; DeepSeek-V3.1, Granite
    REASONING_EFFORT = "reasoning_effort"  # reasoning_effort: level; OpenAI
    THINKING_TYPE = "thinking_type"  # thinking: {type: enabled | disabled}; DeepSeek
    REASONING = "reasoning"  # reasoning: {enabled: bool}; OpenRouter
    BUDGET = "budget"  # thinking: {type: enabled, budget_tokens} | {type: disabled}; Anthropic up to 4.6
    ADAPTIVE = "adaptive"  # thinking: {type: adaptive | disabled}; Anthropic since 4.6


HOSTED_SWITCHES = (Switch.REASONING_EFFORT, Switch.THINKING_TYPE, Switch.REASONING)
EFFORT_SWITCHES = (*HOSTED_SWITCHES, Switch.ADAPTIVE)  # that know levels of thinking
BUDGET_SWITCHES = (Switch.BUDGET, Switch.REASONING)  # that know a number of tokens
SWITCHES = {
    Dialect.OPENAI: (Switch.NONE, Switch.ENABLE_THINKING, Switch.TEMPLATE_THINKING, *HOSTED_SWITCHES),
    Dialect.ANTHROPIC: (Switch.NONE, Switch.BUDGET, Switch.ADAPTIVE),
}
KEY_VARIABLES = {Dialect.OPENAI: "OPENAI_API_KEY", Dialect.ANTHROPIC: "ANTHROPIC_API_KEY"}

Price = Annotated[float, Field(ge=0)] | None


class ChatConfig(EvaluationConfig):
    """Evaluation of a model behind a chat endpoint (`evaluate --chat`)."""

    chat: str = Field(description="Evaluate the model named MODEL behind this chat API, such as https://host/v1.")
    dialect: Dialect = Field(Dialect.OPENAI, description="The API that the endpoint speaks.")
    switch: Switch = Field(
        Switch.NONE, description="How a mode is requested; none: not at all, and only auto is evaluated."
    )
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = Field(
        None,
        repr=False,  # where a key itself is given by mistake
        description="Environment variable with the key; not given: OPENAI_API_KEY, ANTHROPIC_API_KEY.",
    )
    concurrency: Positive = Field(8, description="Requests in flight.")
    effort: str | None = Field(None, description="Level of thinking, where the switch knows levels.")
    no_think_effort: str = Field(
        "none", description="Level that stands for no_think with the switch reasoning_effort; for older models minimal."
    )
    budget_tokens: Positive | None = Field(
        None, description="Token budget of the thinking, for the switches budget and reasoning."
    )
    completion_cap: bool = Field(
        False, description="Send the token limit as max_completion_tokens (OpenAI's own models)."
    )
    inline_thinking: bool = Field(
        False,
        description="The endpoint leaves the thinking in the text, and its prompts open it (vLLM without a parser).",
    )
    server_sampling: bool = Field(
        False, description="Leave temperature and top_p to the endpoint; some models refuse them."
    )
    price_input: Price = Field(None, description="Price of a million prompt tokens.")
    price_output: Price = Field(None, description="Price of a million generated tokens.")

    def unread(self) -> Iterator[Unread]:
        """Yield what the switch, the dialect, the server's sampling or a missing price leaves without an effect."""
        yield from super().unread()
        readers = {
            "effort": EFFORT_SWITCHES,
            "no_think_effort": (Switch.REASONING_EFFORT,),
            "budget_tokens": BUDGET_SWITCHES,
        }
        for key, switches in readers.items():
            if self.switch not in switches:
                yield Unread(
                    (key,),
                    ("switch",),
                    f"the switch '{self.switch}' does not send it",
                    f"give --switch {' or '.join(switches)}, or leave it out",
                )
        if self.dialect is Dialect.ANTHROPIC:
            yield Unread(
                ("completion_cap",), ("dialect",), "the dialect 'anthropic' has one name for the limit", "leave it out"
            )
        if self.server_sampling:
            yield Unread(
                ("temperature", "top_p"),
                ("server_sampling",),
                "server_sampling leaves them to the endpoint",
                "leave out one or the other",
            )
        for key, other in (("price_input", "price_output"), ("price_output", "price_input")):
            if getattr(self, other) is None:
                yield Unread((key,), (other,), f"a cost needs {other} too", "give both, or leave it out")
