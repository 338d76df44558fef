"""A calibrated dial, and the file that stores it beside a model's weights. Reading one needs no model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from adaptthink.dial.curve import Measured, Point, compute_curve, thin_curve
from adaptthink.dial.efforts import Effort, certify_efforts
from adaptthink.dial.guarantee import (
    Choice,
    choose_budget,
    choose_loss,
    describe_limit,
    describe_rule,
    describe_shortage,
)
from adaptthink.dial.second_look import SecondLook
from adaptthink.errors import UserError
from adaptthink.evaluation.store import Setting
from adaptthink.models.embedded import EMBEDDED
from adaptthink.storage.records import read_record_file, to_json
from adaptthink.storage.runs import write_json

VERSION = 1
STORED = "adaptthink.json"  # beside the weights
REMEDY = "make it again: adaptthink calibrate MODEL; a threshold of your own is given by --threshold"


@dataclass(frozen=True, slots=True)
class Dial:
    """A calibrated model's dial: the choice to use, if it is certified, every choice that was made, and the curve."""

    version: int
    threshold: Choice
    choices: tuple[Choice, ...]
    curve: tuple[Point, ...]  # from always think to always no_think
    fingerprint: str  # of the weights that it was calibrated for
    problems: str  # the name of the set
    num_problems: int
    date: str  # ISO 8601, UTC
    setting: Setting  # how the samples were generated
    efforts: tuple[Effort, ...] = ()  # the levels that requests can name; none in a dial of an earlier version
    second_look: SecondLook | None = None  # in an evaluation folder only: what thinking about doubtful answers gives


def calibrate(
    problems: Sequence[Measured],
    setting: Setting,
    name: str,
    *,
    tolerance: float,
    token_budget: float | None = None,
    second_look: SecondLook | None = None,
) -> Dial:
    """Compute the curve and choose thresholds; with a `token_budget` the threshold to use is the one chosen for it.

    `name` is that of the problem set. Raises ValueError as `choose_loss` and `choose_budget` do.
    """
    choices = [choose_loss(problems, tolerance)]
    if token_budget is not None:
        max_tokens = max(setting.max_think_tokens, setting.max_no_think_tokens)
        choices.append(choose_budget(problems, token_budget, max_tokens))
    return Dial(
        version=VERSION,
        threshold=choices[-1],
        choices=tuple(choices),
        curve=compute_curve(problems),
        fingerprint=setting.fingerprint,
        problems=name,
        num_problems=len(problems),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        setting=setting,
        efforts=certify_efforts(problems),
        second_look=second_look,
    )


def choose_dial_path(model: str, folder: Path) -> Path:
    """Where a model's dial is stored: beside its weights where that is a folder to write to, else in `folder`."""
    beside = Path(model)
    own = model not in EMBEDDED and (beside / "config.json").is_file() and os.access(beside, os.W_OK)
    return (beside if own else folder) / STORED


def write_dial(path: Path, dial: Dial) -> None:
    """Store a dial so that a reader sees the old one or the new one, never half of it."""
    write_json(path, to_json(dial))


def install_dial(path: Path, dial: Dial, *, overwrite: bool = False) -> str:
    """Store a certified dial at `path` with a thinned curve, for the model to use; return what was done and why.

    Nothing is stored without a certificate. A dial of the same weights that was certified on more problems stays,
    unless it is to be `overwrite`n.
    """
    choice, earlier = dial.threshold, _read_certified(path, dial.fingerprint)
    held = f"the dial in {path} ({_summarise(earlier)})" if earlier else ""
    if not choice.certified:
        stays = f"{held} stays" if earlier else "no threshold is stored: the mode stays the model's own choice"
        others = [f"{describe_limit(one)} is certified, but not in use" for one in dial.choices if one.certified]
        return "; ".join([f"not certified: {describe_limit(choice)}", *others, stays])
    if earlier and earlier.num_problems > dial.num_problems and not overwrite:
        return f"not stored: {held} was certified on more problems and stays; to replace it give --overwrite"
    thresholds = [one.no_think_probability for one in dial.choices if one.no_think_probability is not None]
    write_dial(path, replace(dial, curve=thin_curve(dial.curve, thresholds), second_look=None))
    instead = f", in place of {_summarise(earlier)}" if earlier else ""
    return f"stored in {path}: {_summarise(dial)}{instead}"


def _read_certified(path: Path, fingerprint: str) -> Dial | None:
    """Return the certified dial of a model in `path`; None if there is none, or none that could be used."""
    try:
        found = read_dial(path, fingerprint)
    except UserError:
        return None
    return found if found.threshold.certified else None


def _summarise(dial: Dial) -> str:
    choice = dial.threshold
    rule, limit = describe_rule(choice.no_think_probability), describe_limit(choice)
    half = f"certified on {choice.num_problems:,} of {dial.num_problems:,} problems"
    return f"{rule}; {limit}, {half} of {dial.problems}, {dial.date[:10]}"


def require_threshold(dial: Dial, path: Path) -> float:
    """Return the certified threshold of the dial in `path`; raises UserError if nothing was certified."""
    choice = dial.threshold
    if not choice.certified or choice.no_think_probability is None:
        raise UserError(
            f"{path} has no threshold: {describe_limit(choice)}: {describe_shortage(choice)}; calibrate with more "
            "problems or another limit, or give --threshold"
        )
    return choice.no_think_probability


def read_dial(path: Path, fingerprint: str | None = None) -> Dial:
    """Read a stored dial; with a `fingerprint`, one of a model with these weights only.

    Raises UserError for a missing or damaged file, one of another version, and one of another model.
    """
    try:
        dial = read_record_file(Dial, path, remedy=REMEDY)
    except FileNotFoundError:
        raise UserError(f"no dial '{path}', so no threshold; make it: adaptthink calibrate MODEL") from None
    if dial.threshold.certified and dial.threshold not in dial.choices:
        raise UserError(f"{path}: damaged (the threshold is none of the choices); {REMEDY}")
    if dial.version != VERSION:
        raise UserError(f"{path}: version {dial.version}, but this program reads {VERSION}; calibrate the model again")
    if fingerprint is not None:
        check_weights(dial, fingerprint, path)
    return dial


def check_weights(dial: Dial, fingerprint: str, path: Path) -> None:
    """Raise UserError if the dial in `path` was calibrated for other weights than those with this fingerprint."""
    if dial.fingerprint != fingerprint:
        raise UserError(
            f"{path}: calibrated for other weights (fingerprint {dial.fingerprint}, the model's is {fingerprint}); "
            "a threshold holds for one model only; calibrate this one: adaptthink calibrate MODEL"
        )
