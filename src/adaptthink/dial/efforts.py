"""Levels of the dial that a request can name, each a loss that was certified beside the calibration's own threshold.

Each level holds with the confidence of its own test. A request uses one of them, so there is no correction for their
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adaptthink.dial.curve import ALWAYS_THINK, Measured, Point
from adaptthink.dial.guarantee import Choice, choose_loss
from adaptthink.modes import Mode

TOLERANCES = {"minimal": 0.1, "low": 0.05, "medium": 0.02, "high": 0.01}  # of accuracy, against always thinking
NEVER, ALWAYS = "none", "max"  # the levels that need no certificate: they request a mode
FORCED = {NEVER: Mode.NO_THINK, ALWAYS: Mode.THINK, "xhigh": Mode.THINK}  # OpenAI's largest is xhigh, Anthropic's max


@dataclass(frozen=True, slots=True)
class Effort:
    """One level of a calibration."""

    name: str
    choice: Choice


@dataclass(frozen=True, slots=True)
class Level:
    """A level as it is offered. What it gives was measured on held-out problems; None: nothing was measured."""

    name: str
    threshold: float  # on P(no_think)
    tolerance: float | None  # certified; None: not bounded
    accuracy: float | None = None
    mean_tokens: float | None = None
    no_think_share: float | None = None


def certify_efforts(problems: Sequence[Measured]) -> tuple[Effort, ...]:
    """Choose a threshold for each level; those that cannot be certified are kept with their reason."""
    return tuple(Effort(name, choose_loss(problems, tolerance)) for name, tolerance in TOLERANCES.items())


def list_levels(efforts: Sequence[Effort] = (), curve: Sequence[Point] = ()) -> tuple[Level, ...]:
    """Return the levels to offer, by rising effort: those that are certified, between never and always thinking.

    `curve` is that of the dial, from always think to always no_think.
    """
    always, never = (curve[0], curve[-1]) if curve else (None, None)
    between = (
        make_level(one.name, one.choice.held_out.point, one.choice.tolerance)
        for one in efforts
        if one.choice.certified and one.choice.held_out
    )
    ends = Level(NEVER, 0.0, None), Level(ALWAYS, ALWAYS_THINK, 0.0)
    return (
        make_level(NEVER, never, None) if never else ends[0],
        *between,
        make_level(ALWAYS, always, 0.0) if always else ends[1],
    )


def make_level(name: str, point: Point, tolerance: float | None) -> Level:
    """Return a level with what was measured at its threshold."""
    return Level(name, point.threshold, tolerance, point.accuracy, point.mean_tokens, point.no_think_share)


def choose_level(levels: Sequence[Level], tolerance: float) -> Level:
    """Return the level that thinks least of those certified to lose at most `tolerance`; always thinking loses 0."""
    return min(
        (one for one in levels if one.tolerance is not None and one.tolerance <= tolerance),
        key=lambda one: one.threshold,
    )
