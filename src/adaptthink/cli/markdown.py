"""Tables of text, shown in the terminal and written as Markdown alike; how their numbers are written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from adaptthink.cli.console import console
from adaptthink.evaluation.statistics import Interval


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of text: a name, then numbers. `grouped`: before the name stands one that several rows share."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    grouped: bool = False
    note: str = ""


def show_sheet(sheet: Sheet) -> None:
    """Print a sheet; a group's name stands on a line of its own, which keeps the table narrow."""
    listed = not any(sheet.headings)
    console.print(escape(sheet.title), style="bold", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_header=not listed)
    for index, heading in enumerate(sheet.headings[sheet.grouped :]):
        fixed = sheet.grouped == bool(index)  # where the terminal is narrow, group names fold, else the cells do
        justify: Literal["left", "right"] = "right" if index and not listed else "left"
        table.add_column(escape(heading), justify=justify, no_wrap=fixed, overflow="fold")
    group = None
    for row in sheet.rows:
        if sheet.grouped and row[0] != group:
            group = row[0]
            table.add_row(escape(group), style="bold")
        name, *numbers = row[sheet.grouped :]
        table.add_row(f"  {escape(name)}" if sheet.grouped else escape(name), *map(escape, numbers))
    console.print(table)
    if sheet.note:
        console.print(sheet.note, markup=False, soft_wrap=True)


def write_markdown(path: Path, sheets: Iterable[Sheet]) -> None:
    """Write sheets into a Markdown file, one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(map(markdown, sheets)) + "\n", encoding="utf-8")


def markdown(sheet: Sheet) -> str:
    """A sheet as Markdown."""
    names = 1 + sheet.grouped
    rule = ["---" if index < names else "---:" for index in range(len(sheet.headings))]
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in (sheet.headings, rule, *sheet.rows)]
    return "\n".join([f"**{cell(sheet.title)}**", "", *lines, *(["", cell(sheet.note)] if sheet.note else [])])


def cell(text: str) -> str:
    """A text that can stand in a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def number(interval: Interval | None, scale: float = 1.0) -> str:
    """An estimate and its ends: 97.5 [90.6, 99.7]."""
    if interval is None:
        return "-"
    return f"{scale * interval.estimate:.1f} [{scale * interval.low:.1f}, {scale * interval.high:.1f}]"


def change(interval: Interval, scale: float = 1.0) -> str:
    """A difference and its ends, with signs: +1.2 [-0.4, +2.8]."""
    return f"{scale * interval.estimate:+.1f} [{scale * interval.low:+.1f}, {scale * interval.high:+.1f}]"
