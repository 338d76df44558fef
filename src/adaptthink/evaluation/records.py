"""Records as JSON, and JSON as records: the one way in which results are stored and read back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def to_json(value: object) -> Any:
    """Return a record, or a collection of records, as JSON holds it.

    Verdicts that a record derives from its fields are written beside them. What is not finite becomes None, as JSON
    has no infinity.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if is_dataclass(value):
        record = {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
        derived = isinstance(getattr(type(value), "verdict", None), property)
        return record | ({"verdict": getattr(value, "verdict")} if derived else {})  # noqa: B009  (not of every record)
    return value


def from_json(kind: type[T], value: object) -> T:
    """Return the record that `to_json` wrote; raises ValueError that names the first fault."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise ValueError(f"{where}: {fault['msg']}" if where else fault["msg"]) from None
