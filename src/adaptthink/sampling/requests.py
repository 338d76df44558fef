"""What an engine is asked for: how a mode is forced, which random stream a response has, and what its cap counts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from adaptthink.engines.base import Request
from adaptthink.modes import Mode, ThinkTemplate
from adaptthink.problems import Problem

STREAM_STEP = 0x9E3779B97F4A7C15  # between the random streams of one problem's responses


@dataclass(frozen=True, slots=True)
class MaxTokens:
    """Response caps in tokens, one per mode, forced tokens included; an unconstrained response may use the larger."""

    think: int
    no_think: int

    def of(self, mode: Mode | None) -> int:
        """The cap of a mode; None stands for the model's own choice."""
        return self.no_think if mode is Mode.NO_THINK else max(self.think, self.no_think)


def make_request(
    template: ThinkTemplate,
    prompt_ids: tuple[int, ...],
    mode: Mode | None,
    stream: int,
    max_tokens: MaxTokens,
    *,
    force_think_start: bool = False,
) -> Request:
    """Return the request for one response in a forced mode, or with None in the mode that the model chooses.

    No_think is forced by its prefix. Think is forced by its prefix if `force_think_start`, else by banning the no_think
    decision token, so that the model begins its thinking in its own way.
    """
    forced = mode is Mode.NO_THINK or (mode is Mode.THINK and force_think_start)
    banned = mode is Mode.THINK and not force_think_start
    return Request(
        prompt_ids,
        max_tokens.of(mode),
        stream,
        prefix_ids=template.prefix_ids(mode) if mode and forced else (),
        banned_first_ids=(template.no_think_id,) if banned else (),
    )


def stream_of(problem: Problem, index: int) -> int:
    """The random stream of a problem's response at `index`: the same whatever else is sampled."""
    return int(problem.id, 16) + index * STREAM_STEP


def stream_seed(seed: int, *purpose: str | int) -> int:
    """Derive the seed of one purpose (for example a training step) from the run's seed."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
