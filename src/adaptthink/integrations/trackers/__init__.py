"""Trackers: Weights & Biases, Trackio, TensorBoard and MLflow as callbacks of a job (docs/how-to/tracking.md).

Each function returns a callback; the tracker itself is imported and runs in a process of its own (`process.py`).

>>> import adaptthink as at
>>> at.trackers.wandb(project="mine")  # doctest: +SKIP
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from adaptthink.errors import UserError
from adaptthink.integrations.trackers.process import Tracker

__all__ = ["Tracker", "mlflow", "parse_tracker", "parse_trackers", "tensorboard", "trackio", "wandb"]

PROJECT = "adaptthink"


def wandb(
    project: str = PROJECT,
    *,
    entity: str | None = None,
    name: str | None = None,
    group: str | None = None,
    tags: str | Sequence[str] | None = None,
    notes: str | None = None,
    mode: str | None = None,
) -> Tracker:
    """Return a callback that logs to Weights & Biases; the options are those of `wandb.init`.

    The name defaults to the output folder's, and wandb's files lie in that folder. Everything else is wandb's: its
    login, its WANDB_* variables. Raises UserError if wandb is not installed.
    """
    options = {"project": project, "entity": entity, "name": name, "group": group, "notes": notes, "mode": mode}
    return make_tracker("wandb", options | {"tags": [tags] if isinstance(tags, str) else tags})


def trackio(
    project: str = PROJECT, *, name: str | None = None, group: str | None = None, space_id: str | None = None
) -> Tracker:
    """Return a callback that logs to Trackio, on this machine or in a Hugging Face Space; options of `trackio.init`.

    The name defaults to the output folder's. Raises UserError if trackio is not installed.
    """
    return make_tracker("trackio", {"project": project, "name": name, "group": group, "space_id": space_id})


def tensorboard(folder: str | Path | None = None) -> Tracker:
    """Return a callback that writes event files for TensorBoard, by default into OUTPUT/tensorboard.

    Raises UserError if tensorboard is not installed.
    """
    return make_tracker("tensorboard", {"folder": None if folder is None else str(folder)})


def mlflow(experiment: str = PROJECT, *, name: str | None = None, uri: str | None = None) -> Tracker:
    """Return a callback that logs to MLflow, at the tracking `uri` or that in MLFLOW_TRACKING_URI.

    The name of the run defaults to the output folder's. Raises UserError if mlflow is not installed.
    """
    return make_tracker("mlflow", {"experiment": experiment, "name": name, "uri": uri})


def make_tracker(kind: str, options: Mapping[str, object]) -> Tracker:
    """Return a tracker with the options that are given; raises UserError if its package is not installed."""
    spec = find_spec(kind)
    if spec is None or spec.origin is None:  # a folder of that name, such as wandb's own, is no package
        raise UserError(f"{kind} is not installed; install it: pip install '.[{kind}]' in the project's folder")
    return Tracker(kind, {name: value for name, value in options.items() if value is not None})


FACTORIES: Mapping[str, Callable[..., Tracker]] = {
    "wandb": wandb,
    "trackio": trackio,
    "tensorboard": tensorboard,
    "mlflow": mlflow,
}


def parse_tracker(text: str) -> Tracker:
    """Read a tracker as a flag has it: wandb, or wandb:project=mine,group=first. Raises UserError for what is none."""
    name, _, rest = text.partition(":")
    factory = FACTORIES.get(name)
    if factory is None:
        raise UserError(f"unknown tracker '{name}'; there are {', '.join(FACTORIES)}")
    known = inspect.signature(factory).parameters
    options: dict[str, str] = {}
    for option in filter(None, rest.split(",")):
        key, equals, value = option.partition("=")
        if not equals or key not in known or key in options:
            raise UserError(f"tracker '{text}': '{option}' is no option of {name}; its options: {', '.join(known)}")
        options[key] = value
    return factory(**options)


def parse_trackers(texts: Iterable[str]) -> list[Tracker]:
    """Read several; raises UserError if one is given twice."""
    trackers = [parse_tracker(text) for text in texts]
    labels = [tracker.label for tracker in trackers]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"tracker '{twice}' is given twice; leave one out")
    return trackers
