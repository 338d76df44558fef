"""The ways in which the embedded models work a chain in their thoughts, to write and to read them.

| way | 47+8-3 | tokens an operation |
|---|---|---:|
| long | each operation, then its sum, then the value: ``+8``, ``47+8``, ``=55``, ``-3``, ``55-3``, ``=52`` | 12 |
| medium | each operation as an equation of its own: ``47+8=55``, ``55-3=52`` | 8 |
| short | running values: ``47+8=55-3=52`` | 5 |

Commas stand for line breaks. With one operation, medium and short are the same.
"""

from __future__ import annotations

import re
from enum import StrEnum

from adaptthink.problems.arithmetic import Chain


class Way(StrEnum):
    """A way of working a chain."""

    LONG = "long"
    MEDIUM = "medium"
    SHORT = "short"


_OPENINGS = {Way.LONG: r"[+-]\d", Way.MEDIUM: r"\d+[+-]\d=\d+\n\d", Way.SHORT: r"\d+[+-]\d="}  # the first that fits


def write_work(chain: Chain, way: Way) -> str:
    """Return one pass over a chain."""
    steps = list(zip(chain.values, chain.steps, chain.values[1:], strict=False))
    if way is Way.LONG:
        return "\n".join(f"{step:+d}\n{before}{step:+d}\n={after}" for before, step, after in steps)
    if way is Way.MEDIUM:
        return "\n".join(chain.equations)
    return str(chain.first) + "".join(f"{step:+d}={after}" for _, step, after in steps)


def read_way(thinking: str) -> Way | None:
    """Return the way in which a thought begins, None for any other beginning; medium with one operation is short."""
    work = thinking.partition("\n")[2]
    return next((way for way, opening in _OPENINGS.items() if re.match(opening, work)), None)
