"""Which settings of problems have no effect: each kind of source reads its own."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType

from adaptthink.config.schema import EvaluationConfig, Unread
from adaptthink.problems.sources import (
    ArithmeticSource,
    FileSource,
    Procedural,
    Purpose,
    SetSource,
    Source,
    name_problem_set,
    parse_name,
)

READERS: dict[str, tuple[type[Source] | UnionType, str]] = {  # the sources that read a key, and their name in messages
    "problems_per_level": (Procedural, "arithmetic, words or reasoning_gym"),
    "kind": (ArithmeticSource, "arithmetic"),
    "data": (SetSource, "a named set"),
    "fields": (FileSource, "a file"),
}


def unread_settings(name: str, purpose: Purpose) -> Iterator[Unread]:
    """Yield the settings that problems of this name do not read; raises UserError for an unknown name."""
    sources = parse_name(name, purpose)
    for key, (reader, title) in READERS.items():
        if not any(isinstance(source, reader) for source in sources):
            yield Unread((key,), ("problems",), f"it is for problems of {title}, not for '{name}'", "leave it out")


def unread_samples(config: EvaluationConfig) -> Iterator[Unread]:
    """Yield `samples_by_set` where it names a set that is not evaluated."""
    names = [name_problem_set(source) for source in parse_name(config.problems, Purpose.EVALUATION)]
    missing = [name for name in config.parse_samples() if name not in names]
    if missing:
        reason = f"the problems are of {', '.join(names)}, not of {', '.join(missing)}"
        yield Unread(("samples_by_set",), ("problems",), reason, "leave it out")
