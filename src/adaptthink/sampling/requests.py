"""Requests to an engine: how a mode is forced, a response's random stream, and what its max_tokens counts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from adaptthink.config.schema import ForceThink
from adaptthink.engines.base import Request
from adaptthink.modes import Mode, ThinkTemplate
from adaptthink.problems import Problem

STREAM_STEP = 0x9E3779B97F4A7C15  # between the random streams of one problem's responses


@dataclass(frozen=True, slots=True)
class MaxTokens:
    """Maximum tokens of a response, by mode, forced tokens included; an unconstrained response may use the larger."""

    think: int
    no_think: int

    def of(self, mode: Mode | None) -> int:
        """Return the maximum of a mode; None means the model's own choice."""
        return self.no_think if mode is Mode.NO_THINK else max(self.think, self.no_think)


def make_request(
    template: ThinkTemplate,
    prompt_ids: tuple[int, ...],
    mode: Mode | None,
    stream: int,
    max_tokens: MaxTokens,
    *,
    force_think: ForceThink = ForceThink.START,
    seed: int = 0,
) -> Request:
    """Return the request for one response in a forced mode, or with None in the mode that the model chooses.

    No_think is forced by its prefix, and think by its own; where the template has several starts, by one that `seed`
    and stream choose. A ban of the no_think decision token leaves the first token to what remains, which on problems
    that a trained model answers at once is seldom a thought.
    """
    prefix: tuple[int, ...] = ()
    banned: tuple[int, ...] = ()
    if mode is Mode.NO_THINK:
        prefix = template.no_think_prefix_ids
    elif mode is Mode.THINK and force_think is ForceThink.BAN:
        banned = (template.no_think_id,)
    elif mode is Mode.THINK:
        prefix = template.sample_think_prefix(make_seed(seed, "think start", stream))
    return Request(prompt_ids, max_tokens.of(mode), stream, prefix_ids=prefix, banned_first_ids=banned)


def derive_stream(problem: Problem, index: int) -> int:
    """Return the random stream of a problem's response at `index`; it does not depend on what else is sampled."""
    return int(problem.id, 16) + index * STREAM_STEP


def make_seed(seed: int, *purpose: str | int) -> int:
    """Return the seed, 64 bits, of one purpose (for example a training step), derived from the run's seed."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
