"""Signs of a training that learns nothing, or the wrong thing: each is reported when it begins, and kept with the step.

Pure functions of the metrics of the steps so far. `metrics.jsonl` has the kinds under `alarms`, the report shows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError
from adaptthink.modes import Mode
from adaptthink.training.methods import load_method
from adaptthink.training.mismatch import find_excess
from adaptthink.training.rows import Row, is_probed

WINDOW = 5  # steps that are looked at together
TRUNCATED = 0.9  # of a mode's responses, from which on there is an alarm
STUCK = 0.99  # of the held-out problems, answered in one mode
BESIDE = 0.5  # of the decision's probability, on neither start
WORSE = 0.1  # in reward, against the first steps
MASKED = 0.2  # of the responses, left out by `mismatch = "mask"`
FLAT = 0.1  # of the first steps' entropy


class Kind(StrEnum):
    """What an alarm is about."""

    MISMATCH = "mismatch"
    NO_SIGNAL = "no_signal"
    TRUNCATED = "truncated"
    ALWAYS_NO_THINK = "always_no_think"
    NEVER_NO_THINK = "never_no_think"
    BESIDE_STARTS = "beside_starts"
    WORSE = "worse"
    ENTROPY = "entropy"


@dataclass(frozen=True, slots=True)
class Alarm:
    """One sign: what was seen, and what to do about it."""

    kind: Kind
    message: str


def find_alarms(rows: Sequence[Row], config: TrainConfig) -> list[Alarm]:
    """Return the alarms after the last of `rows`, the metrics of all steps so far."""
    recent = rows[-WINDOW:]
    found = [*find_mismatch(rows[-1]), *find_no_signal(recent), *find_truncated(recent, config)]
    if len(rows) >= 2 * WINDOW:
        found += [*find_worse(rows[:WINDOW], recent), *find_flat(rows[:WINDOW], recent)]
    probed = next((row for row in reversed(rows) if is_probed(row)), None)
    if probed is not None:
        found += find_choice(probed, config, share_done=len(rows) / config.steps)
    return found


def find_mismatch(row: Row) -> Iterator[Alarm]:
    """Yield an alarm where trainer and sampler disagree in a step."""
    excess = next(find_excess(row), None)
    if not excess:
        return
    advice = "compute both in the same precision, or give mismatch = 'truncate'"
    masked = (row.get("mismatch_masked") or 0) / row.get("responses", math.inf)
    if masked > MASKED:
        advice += f"; 'mask' leaves out {masked:.0%} of the responses, and those that remain are no fair sample"
    yield Alarm(Kind.MISMATCH, f"trainer and sampler disagree: {excess}; {advice}")


def find_no_signal(recent: Sequence[Row]) -> Iterator[Alarm]:
    """Yield an alarm where no response of the last steps had an advantage."""
    if len(recent) < WINDOW or any(row.get("update_tokens") for row in recent):
        return
    right = average(recent, "verdict_share_correct")
    cause = "all advantages are zero; take other problems, or another method"
    if right == 0:
        cause = "no response was right; take easier problems, or raise the token limits"
    elif right == 1:
        cause = "all responses were right; take harder problems"
    yield Alarm(Kind.NO_SIGNAL, f"nothing was learned in the last {len(recent)} steps: {cause}")


def find_truncated(recent: Sequence[Row], config: TrainConfig) -> Iterator[Alarm]:
    """Yield an alarm for each mode whose responses hardly ever end."""
    for mode, limit in ((Mode.THINK, "max_think_tokens"), (Mode.NO_THINK, "max_no_think_tokens")):
        share = average(recent, f"truncated_share_{mode}")
        if share is not None and share >= TRUNCATED:
            yield Alarm(
                Kind.TRUNCATED,
                f"{share:.0%} of the {mode} responses do not end within {limit} = {getattr(config, limit)}; raise it, "
                "or check the model's end token with adaptthink doctor",
            )


def find_worse(first: Sequence[Row], recent: Sequence[Row]) -> Iterator[Alarm]:
    """Yield an alarm for each mode that earns much less than at the start."""
    for mode in Mode:
        before, now = average(first, f"reward_{mode}"), average(recent, f"reward_{mode}")
        if before is not None and now is not None and now < before - WORSE:
            yield Alarm(
                Kind.WORSE,
                f"the reward of {mode} fell from {before:.2f} in the first steps to {now:.2f}; lower learning_rate, or "
                "see method = 'gap', which keeps both modes whole",
            )


def find_flat(first: Sequence[Row], recent: Sequence[Row]) -> Iterator[Alarm]:
    """Yield an alarm for each mode whose responses have hardly any randomness left."""
    for mode in Mode:
        before, now = average(first, f"entropy_{mode}"), average(recent, f"entropy_{mode}")
        if before and now is not None and now < FLAT * before:
            yield Alarm(
                Kind.ENTROPY,
                f"the entropy of {mode} tokens fell from {before:.3f} to {now:.4f} nats: samples are nearly the same; "
                "lower learning_rate, or raise temperature",
            )


def find_choice(probed: Row, config: TrainConfig, share_done: float) -> Iterator[Alarm]:
    """Yield alarms for the mode choice on held-out problems."""
    share, mass = probed["probe_no_think_share"], probed.get("probe_mode_mass")
    from_store = load_method(config.method).from_store  # such a method need not aim at no_think
    if share >= STUCK:
        yield Alarm(
            Kind.ALWAYS_NO_THINK,
            f"P(no_think) is {share:.3f} on the held-out problems: the model answers all of them at once; lower delta",
        )
    elif config.no_think_share > 0 and not from_store and share_done >= 0.5 and share <= 1 - STUCK:
        yield Alarm(
            Kind.NEVER_NO_THINK,
            f"P(no_think) is {share:.1e} on the held-out problems after {share_done:.0%} of the steps: the model "
            "thinks on all of them; raise delta, learning_rate or steps, if no_think answers are good enough",
        )
    if mass is not None and mass < BESIDE:
        yield Alarm(
            Kind.BESIDE_STARTS,
            f"only {mass:.0%} of the first token's probability is on the two starts; give another think_start, or the "
            "reference store as think_start, whose starts are then sampled",
        )


def average(rows: Sequence[Row], name: str) -> float | None:
    """Return the mean of a metric over the rows that have it; None if none has."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return fmean(values) if values else None


def check_idle(rows: Sequence[Row], limit: int, step: int) -> None:
    """Raise UserError if nothing was learned in the last `limit` steps."""
    last = rows[-limit:]
    if len(last) == limit and not any(row.get("update_tokens") for row in last):
        [alarm, *_] = [*find_no_signal(last[-WINDOW:])] or [Alarm(Kind.NO_SIGNAL, "no response had an advantage")]
        raise UserError(
            f"step {step}: stopped after {limit} steps that changed nothing ({alarm.message}); the last checkpoint is "
            "intact; a larger max_idle_steps goes on"
        )
