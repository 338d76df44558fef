"""Settings of stored results: what was made with some settings is not continued with others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from adaptthink.errors import UserError, show_value


def find_changes(
    old: Mapping[str, Any], new: Mapping[str, Any], *, ignoring: Collection[str] = ()
) -> list[tuple[str, Any, Any]]:
    """Return (name, old value, new value) of each setting that differs; None stands for a value that is missing."""
    names = (name for name in {**new, **old} if name not in ignoring)
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def refuse_changes(
    what: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    *,
    ignoring: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Raise UserError naming each setting of `what` that is not as it was; `ignoring` names those that may change.

    A setting that one of them lacks, as it is younger, has the value that it has in `defaults`: with its default, a new
    setting must leave everything as it was without it.
    """
    filled = ({**(defaults or {}), **settings} for settings in (old, new))
    changes = find_changes(*filled, ignoring=ignoring)
    if changes:
        listed = ", ".join(f"{name} was {show_value(old)} and is now {show_value(new)}" for name, old, new in changes)
        raise UserError(f"{what} was made with other settings: {listed}; return to the old ones or give another path")
