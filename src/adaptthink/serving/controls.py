"""How much a request lets the model think, whatever the dialect: read here once, and contradictions refused.

A dialect collects `Controls` from each of its parameters, by the parameter's name, and merges them. What a request says
comes before the server's settings; within a request nothing comes before anything else: two parameters that do not mean
the same are an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from adaptthink.dial.efforts import ALWAYS, FORCED
from adaptthink.modes import Mode
from adaptthink.serving.generation import CallError

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
ThinkMode = Literal["auto", "think", "no_think"]


@dataclass(frozen=True, slots=True)
class Controls:
    """What one parameter says; None: nothing."""

    mode: ThinkMode | None = None
    effort: str | None = None
    threshold: float | None = None
    tolerance: float | None = None
    thinking_budget: int | None = None
    second_look: bool | None = None


class ThinkOptions(BaseModel):
    """Our own extension, `x_think`, of every dialect."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    mode: ThinkMode | None = None
    effort: Effort | None = None
    threshold: Annotated[float, Field(ge=0)] | None = None  # above 1: always thinks
    tolerance: Annotated[float, Field(ge=0, lt=1, description="A share, not points: 0.05 is 5 points.")] | None = None
    thinking_budget: Annotated[int, Field(ge=0)] | None = None
    second_look: bool | None = None

    def read(self) -> dict[str, Controls]:
        """Return what each field says, by its name."""
        given = self.model_dump(exclude_none=True)
        return {
            f"x_think.{name}": read_budget(value) if name == "thinking_budget" else Controls(**{name: value})
            for name, value in given.items()
        }


def read_switch(on: bool | None) -> Controls:
    """Return what a switch such as `enable_thinking` says."""
    return Controls() if on is None else Controls(mode="think" if on else "no_think")


def read_budget(tokens: int | None) -> Controls:
    """Return what a budget of thinking tokens says: 0 is no thinking, and a negative number sets no limit."""
    if tokens == 0:
        return Controls(mode="no_think")
    return Controls() if tokens is None or tokens < 0 else Controls(thinking_budget=tokens)


def merge_controls(sources: Mapping[str, Controls]) -> Controls:
    """Return what all parameters of a call say together; raises CallError for two that contradict each other."""
    merged: dict[str, Any] = {}
    source_of: dict[str, str] = {}  # the parameter that gave it
    for field in fields(Controls):
        for source, controls in sources.items():
            value = getattr(controls, field.name)
            if value is None:
                continue
            value = ALWAYS if value == "xhigh" else value  # OpenAI's name of the largest effort
            if merged.setdefault(field.name, value) != value:
                raise make_contradiction(describe(field.name, merged[field.name]), source_of[field.name], value, source)
            source_of.setdefault(field.name, source)
    found = Controls(**merged)
    _check_decision(found, source_of)
    _check_effect(found, source_of)
    return found


def _check_decision(found: Controls, source_of: Mapping[str, str]) -> None:
    """Raise CallError where more than one thing decides the mode."""
    deciding = {
        name: getattr(found, name)
        for name in ("mode", "effort", "threshold", "tolerance")
        if getattr(found, name) is not None
    }
    if deciding.get("mode") == "auto" and FORCED.get(found.effort or "") is None:
        del deciding["mode"]  # a threshold is how auto is decided
    if found.effort and deciding.get("mode") == FORCED.get(found.effort):
        deciding.pop("mode", None)  # both say the same
    if len(deciding) > 1:
        (first, one), (second, other) = list(deciding.items())[:2]
        raise make_contradiction(describe(first, one), source_of[first], describe(second, other), source_of[second])


def _check_effect(found: Controls, source_of: Mapping[str, str]) -> None:
    """Raise CallError for what would have no effect."""
    mode = found.mode if found.mode in tuple(Mode) else FORCED.get(found.effort or "")
    source = source_of.get("mode") if found.mode in tuple(Mode) else source_of.get("effort")
    if mode == Mode.NO_THINK and found.thinking_budget is not None:
        raise make_contradiction(
            describe("thinking_budget", found.thinking_budget), source_of["thinking_budget"], mode, source
        )
    if mode is not None and found.second_look:
        raise make_contradiction("a second look", source_of["second_look"], mode, source)


def describe(name: str, value: object) -> object:
    """Return a value with what it is."""
    return value if name == "mode" else f"{name} {value}"


def make_contradiction(first: object, first_source: str, second: object, second_source: str | None) -> CallError:
    """Return the error for two parameters that contradict each other."""
    return CallError(
        f"the call requests {first} by {first_source} and {second} by {second_source}; request one of them",
        param=second_source,  # the model's name, if it is one of them, comes first
        code="invalid_value",
    )
