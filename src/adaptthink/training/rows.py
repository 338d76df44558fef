"""What one row of `metrics.jsonl` says of its step; read without anything that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def is_probed(row: Row) -> bool:
    """Return whether a step's metrics have a probe."""
    return "probe_no_think_share" in row


def list_begun(rows: Sequence[Row]) -> list[str]:
    """Return a line for each alarm of the last of `rows` that the one before it did not have."""
    last, before = rows[-1], rows[-2].get("alarms", {}) if len(rows) > 1 else {}
    begun = {kind: message for kind, message in last.get("alarms", {}).items() if kind not in before}
    return [f"warning: step {last['step']}: {message}" for message in begun.values()]
