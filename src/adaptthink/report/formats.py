"""What the templates may call to write numbers and texts, the same in HTML and in Markdown: `FILTERS`."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any

from adaptthink.evaluation.formats import DASH, escape_markdown, write_number, write_range
from adaptthink.evaluation.levels import write_level
from adaptthink.evaluation.statistics import Interval


def write_duration(seconds: float) -> str:
    """Write seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def clip_middle(text: str, limit: int) -> str:
    """Leave out the middle of a text that is longer than its part of the page."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]}\n[… {len(text) - head - tail:,} characters left out …]\n{text[-tail:]}"


def fence(text: str) -> str:
    """Put a text into a Markdown code block whose fence is longer than any run of backticks inside."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}text\n{text}\n{ticks}"


def write_percent(share: float | None, unit: str = "") -> str:
    """Write a share in percent."""
    return write_number(None if share is None else 100 * share, 1, unit)


def write_ends(interval: Interval) -> str:
    """Write the ends of a share's interval in percent."""
    return write_range((interval.low, interval.high), scale=100)


def with_dash(write: Callable[..., str]) -> Callable[..., str]:
    """Return `write`, with a dash for None."""
    return lambda value, *options: DASH if value is None else write(value, *options)


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": write_percent,
    "count": lambda value, digits=0: write_number(value, digits),
    "ends": write_ends,
    "signed": partial(write_number, signed=True),
    "write_level": write_level,
    "base64": lambda content: b64encode(content).decode(),
    "significant": with_dash(lambda value: f"{value:.3g}".replace("-", "−")),
    "setting": with_dash(lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)),
    "duration": with_dash(write_duration),
    "clip": clip_middle,
    "cell": escape_markdown,
    "fenced": fence,
}
