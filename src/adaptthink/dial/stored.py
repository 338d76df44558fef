"""A calibrated dial, and the file that stores it beside a model's weights. Reading one needs no model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from adaptthink.dial.curve import Measured, Point, compute_curve
from adaptthink.dial.guarantee import Choice, choose_budget, choose_loss
from adaptthink.errors import UserError
from adaptthink.evaluation.records import from_json, to_json
from adaptthink.evaluation.store import Setting
from adaptthink.storage.runs import write_json

VERSION = 1
STORED = "adaptthink.json"  # beside the weights


@dataclass(frozen=True, slots=True)
class Dial:
    """A calibrated model's dial: the threshold in use, every choice that was made, and the curve."""

    version: int
    threshold: Choice
    choices: tuple[Choice, ...]
    curve: tuple[Point, ...]  # from always think to always no_think
    fingerprint: str  # of the weights that it was calibrated for
    problems: str  # the name of the set
    num_problems: int
    date: str  # ISO 8601, UTC
    setting: Setting  # how the samples were generated


def calibrate(
    problems: Sequence[Measured], setting: Setting, name: str, *, tolerance: float, token_budget: float | None = None
) -> Dial:
    """Compute the curve and choose thresholds; with a `token_budget` the threshold in use is the one chosen for it.

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
    )


def choose_dial_path(model: str, folder: Path) -> Path:
    """Where a model's dial is stored: beside its weights where that is a folder to write to, else in `folder`."""
    beside = Path(model)
    own = model != "tiny" and (beside / "config.json").is_file() and os.access(beside, os.W_OK)
    return (beside if own else folder) / STORED


def write_dial(path: Path, dial: Dial) -> None:
    """Store a dial so that a reader sees the old one or the new one, never half of it."""
    write_json(path, to_json(dial))


def read_dial(path: Path, fingerprint: str | None = None) -> Dial:
    """Read a stored dial; with a `fingerprint`, one of a model with these weights only.

    Raises UserError for a missing or damaged file, one of another version, and one of another model.
    """
    try:
        dial = from_json(Dial, json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise UserError(f"no dial '{path}', so no threshold; make it: adaptthink calibrate MODEL") from None
    except ValueError as error:  # not JSON, or another record
        raise UserError(f"{path} holds no dial ({error}); make it again: adaptthink calibrate MODEL") from None
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
