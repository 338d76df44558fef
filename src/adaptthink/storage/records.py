"""Records as JSON, and JSON as records: the one way in which results are stored and read back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from adaptthink.errors import UserError
from adaptthink.storage.jsonl import read_object

Count = Annotated[int, Field(ge=0, lt=2**63)]  # that fits where numbers are held in arrays
Probability = Annotated[float, Field(ge=0, le=1)]

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


def from_json(kind: type[T], value: object, *, exact: bool = False) -> T:
    """Return the record that `to_json` wrote; raises ValueError that names the first fault.

    With `exact` there may be no other names than those of the record's fields: one that is misspelt is not passed over
    where its field has a default.
    """
    try:
        record: T = _make_reader(cast(Any, kind), "forbid" if exact else "ignore").validate_python((value,))[0]
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"][1:])
        raise ValueError(f"{where}: {fault['msg']}" if where else fault["msg"]) from None
    return record


@cache
def _make_reader(kind: Any, extra: Literal["forbid", "ignore"]) -> TypeAdapter[Any]:
    """Return what checks a record; in a tuple, as pydantic passes settings on to dataclasses only from outside."""
    return TypeAdapter(tuple[kind], config=ConfigDict(allow_inf_nan=False, extra=extra))


def read_record_file(kind: type[T], path: Path, *, remedy: str) -> T:
    """Return the record in a JSON file; raises UserError as `read_object` does, and for another record."""
    value = read_object(path, remedy=remedy)
    try:
        return from_json(kind, value)
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); {remedy}") from None
