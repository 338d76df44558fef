"""A reference answer out of a row of somebody's file: of problems, or of responses to be graded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal

from adaptthink.grading.extract import join_parts
from adaptthink.storage.rows import RowError, check_text, show_fields


def read_reference_answer(value: object, name: str, *, option: str = "") -> str:
    """Return a reference answer as text: a text, a number, or a list of those, the parts of one answer.

    `name` is the field that it was found in, `option` what reaches into objects, if anything does. Raises RowError that
    says what was found for anything else.
    """
    if isinstance(value, list) and value and not any(isinstance(part, list) for part in value):
        parts = [read_reference_answer(part, name, option=option) for part in value]
        return join_parts(parts) if len(parts) > 1 else parts[0]
    match value:
        case str():
            return check_text(value, name)
        case bool():
            found, remedy = str(value).lower(), 'write it as text, such as "true" or "yes"'
        case int() | float() | Decimal() if math.isfinite(value):
            return str(value)
        case int() | float() | Decimal():
            found, remedy = f"{value}, which is no number", "repair the row"
        case Mapping():
            inside = next((key for key in value if isinstance(value[key], str | int | float)), "FIELD")
            found = f"an object with {show_fields(value)}"
            remedy = f"reach into it with {option}{name}.{inside}" if option else "give what is inside"
        case list():
            found, remedy = "a list of lists" if value else "an empty list", "give its parts as one list"
        case _:
            found, remedy = f"of type {type(value).__name__}", "write it as text"
    raise RowError(f"'{name}' is {found}; one text or number is needed: {remedy}")
