"""Methods: which samples each asks for, what credit they get, which loss. A method is one file of this folder.

`method = "gap"` is the class `METHOD` in `gap.py`; `method = "gap:tau=0.1"` gives it a value of its own. To add one,
add a file (docs/explanation/methods.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from importlib import import_module
from pkgutil import iter_modules
from typing import ClassVar, Protocol

from torch import Tensor

from adaptthink.config.schema import METHOD_KEYS, TrainConfig, Unread
from adaptthink.errors import UserError
from adaptthink.modes import Mode
from adaptthink.objective import PolicyLoss
from adaptthink.sampling.sampler import Rollout
from adaptthink.training.advantages import find_implicit_thinkers
from adaptthink.training.batch import Batch, summarise_rollout
from adaptthink.training.credit import Credit
from adaptthink.training.reference import Reference


class Method(Protocol):
    """What every method has; its own settings are the fields of a frozen dataclass, numbers from 0 on."""

    reads: ClassVar[frozenset[str]]  # which of METHOD_KEYS
    samples_from_is: ClassVar[bool]  # whether the decision token's log-probability becomes that under π_IS (Eq. 7)
    from_store: ClassVar[bool]  # whether its rollouts are stored responses (`training.offline`), not new samples

    @property
    def initial_modes(self) -> frozenset[Mode]:
        """The modes whose rollouts need their log-probabilities under the model before training."""
        ...

    def check(self, config: TrainConfig) -> None:
        """Raise UserError for settings that do not go with this method."""
        ...

    def assign_modes(self, config: TrainConfig) -> Sequence[Mode | None]:
        """Return the forced modes of a problem's samples, no_think first; None leaves the choice to the model."""
        ...

    def assign_credit(self, batch: Batch, config: TrainConfig) -> list[Credit]:
        """Return the credit of a step's rollouts, none for those that could not be graded."""
        ...

    def compute_loss(
        self, logprob_BT: Tensor, behavior_BT: Tensor, credit_BT: Tensor, mask_BT: Tensor, config: TrainConfig
    ) -> PolicyLoss:
        """Return the loss of each sequence; the update divides their sum by the number of the step's samples."""
        ...


def credit_rollouts(
    rollouts: Sequence[Rollout], reference: Mapping[str, Reference], config: TrainConfig, step: int
) -> list[Credit]:
    """Return the credit of the rollouts of a step (from 1) as configured; `reference` is by problem id."""
    unrewarded = find_implicit_thinkers(rollouts) if config.implicit_thinking == "no_reward" else ()
    summaries = [summarise_rollout(one) for one in rollouts]
    for index in unrewarded:
        if summaries[index].reward is not None:
            summaries[index] = replace(summaries[index], own_reward=0.0)
    references = [reference[one.problem.id].reward for one in rollouts]
    batch = Batch(summaries, references, (step - 1) / config.steps)
    return load_method(config.method).assign_credit(batch, config)


def list_methods() -> list[str]:
    """Return the names of all methods."""
    return sorted(module.name for module in iter_modules(__path__))


@lru_cache
def load_method(text: str) -> Method:
    """Return the method of a setting such as 'gap' or 'gap:tau=0.1,pull=0.3'.

    Raises UserError for an unknown method, an unknown setting of it, and a value that is no number.
    """
    name, _, options = text.partition(":")
    if name not in list_methods():
        raise UserError(
            f"method = '{name}' is unknown; there are: {', '.join(list_methods())}; a method of your own is a file "
            f"NAME.py in {__path__[0]}"
        )
    found = import_module(f"{__name__}.{name}").METHOD
    known = [field.name for field in fields(found)]
    values = {}
    for option in options.split(",") if options else ():
        key, _, value = option.partition("=")
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"method = '{text}': {name} has no setting '{key}'; {has}")
        if key in values:
            raise UserError(f"method = '{text}': {key} is given twice; give it once")
        try:
            values[key] = float(value)
        except ValueError:
            values[key] = math.nan
        if not 0 <= values[key] < math.inf:
            raise UserError(f"method = '{text}': {key} takes a number from 0 on, not '{value}'")
    method: Method = found(**values)
    return method


def check_method(config: TrainConfig) -> None:
    """Raise UserError for an unknown method, and for settings that do not go with it or that it would not read."""
    method = load_method(config.method)
    for key in sorted(METHOD_KEYS - method.reads):
        if getattr(config, key) != TrainConfig.model_fields[key].default:
            raise UserError(f"{key} has no effect: the method {name_method(config)} does not read it; leave it out")
    method.check(config)


def refuse_stored(method: str, trainer: str) -> None:
    """Raise UserError for a method that learns from stored responses, in a trainer that samples."""
    if load_method(method).from_store:
        raise UserError(
            f"method = '{method}' learns from stored responses, and {trainer} samples its own; train with adaptthink "
            "train --backend native"
        )


def name_method(config: TrainConfig) -> str:
    """Return the name of the configured method, without its own settings."""
    return config.method.partition(":")[0]


def find_unread(config: TrainConfig) -> Iterator[Unread]:
    """Yield the settings of the objective that the configured method does not read; raises as `check_method`."""
    check_method(config)
    unread = sorted(METHOD_KEYS - load_method(config.method).reads)
    if unread:
        yield Unread(tuple(unread), ("method",), f"the method {name_method(config)} does not read it", "leave it out")
