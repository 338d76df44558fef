"""Which settings of problems have no effect: each kind of source reads its own."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType

from adaptthink.config.schema import Unread
from adaptthink.problems.sources import ArithmeticSource, FileSource, Procedural, Purpose, SetSource, Source, parse_name

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
