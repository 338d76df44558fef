"""How numbers and texts are written, the same in both twins; `FILTERS` are the filters of the templates."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from typing import Any


def signed(value: float, unit: str = "") -> str:
    """Write a difference with one decimal, its sign and a true minus."""
    return ("0.0" if round(value, 1) == 0 else f"{value:+.1f}".replace("-", "−")) + unit


def duration(seconds: float) -> str:
    """Write seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def clip(text: str, limit: int) -> str:
    """Leave out the middle of a text that is longer than its part of the page."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]}\n[… {len(text) - head - tail:,} characters left out …]\n{text[-tail:]}"


def cell(text: str) -> str:
    """Make a text harmless inside a Markdown table, heading or paragraph."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(escaped.split()))


def fenced(text: str) -> str:
    """Put a text into a Markdown code block whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def dashed(write: Callable[..., str]) -> Callable[..., str]:
    """Return `write`, with a dash for None."""
    return lambda value, *options: "–" if value is None else write(value, *options)


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": dashed(lambda share, unit="": f"{100 * share:.1f}{unit}"),
    "count": dashed(lambda value, digits=0: f"{value:,.{digits}f}"),
    "interval": dashed(lambda bounds: f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}"),
    "span": dashed(lambda bounds, digits=0: f"{bounds[0]:,.{digits}f}–{bounds[1]:,.{digits}f}"),
    "base64": lambda content: b64encode(content).decode(),
    "significant": dashed(lambda value: f"{value:.3g}".replace("-", "−")),
    "setting": dashed(lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)),
    "signed": dashed(signed),
    "duration": dashed(duration),
    "clip": clip,
    "cell": cell,
    "fenced": fenced,
}
