"""Tables of text as lines that fit a width; shown in the terminal (`console`) and written as Markdown (`tables`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len

GAP = "  "  # between columns
# What a line break leaves whole: a word, an interval, 98.0 / 20 / 4.
PIECE = re.compile(r"\([^()]*\)\S*|\S+(?: / \S+)*")


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text: a name, then numbers. `grouped`: before the name stands one that several rows share."""

    title: str
    headings: tuple[str, ...]  # all empty for a plain list of names and what they are
    rows: tuple[tuple[str, ...], ...]
    grouped: bool = False
    note: str = ""


def stack(table: TextTable) -> TextTable:
    """Return a table with a line for each of its cells, the heading before it, below the names of the row."""
    names = 1 + table.grouped
    lines = (
        (", ".join(row[:names]), heading, cell)
        for row in table.rows
        for heading, cell in zip(table.headings[names:], row[names:], strict=True)
    )
    return TextTable(table.title, ("", "", ""), tuple(lines), grouped=True, note=table.note)


def lay_out(table: TextTable, width: int) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a table, and whether each is bold: headings and the names of groups are.

    Where columns do not fit, headings wrap first, then the widest numbers, names last; no word or interval is broken.
    """
    indent = GAP if table.grouped else ""
    headings = table.headings[table.grouped :]
    rows = [[f"{indent}{name}", *cells] for name, *cells in (row[table.grouped :] for row in table.rows)]
    listed = not any(headings)
    widths = [
        max([measure_longest_word(heading), *map(cell_len, column)])
        for heading, *column in zip(headings, *rows, strict=True)
    ]
    while count_width(widths) > width:
        narrower = [
            max(cell_len(line) for cell in (heading, *column) for line in wrap(cell, old - 1))
            for heading, *column, old in zip(headings, *rows, widths, strict=True)
        ]
        shrinkable = [index for index, (new, old) in enumerate(zip(narrower, widths, strict=True)) if new < old]
        if not shrinkable:
            break
        widest = max(shrinkable, key=lambda index: (index > 0, widths[index]))
        widths[widest] = narrower[widest]
    if not listed:
        yield from ((line, True) for line in align(headings, widths, listed=False))
        yield "─" * count_width(widths), False
    group = None
    for whole, row in zip(table.rows, rows, strict=True):
        if table.grouped and whole[0] != group:
            group = whole[0]
            yield group, True
        yield from ((line, False) for line in align(row, widths, listed=listed))


def count_width(widths: Sequence[int]) -> int:
    """The width of a whole line."""
    return sum(widths) + len(GAP) * (len(widths) - 1)


def align(cells: Sequence[str], widths: Sequence[int], *, listed: bool) -> Iterator[str]:
    """The lines of one row: the first column to the left, numbers to the right."""
    for parts in zip_longest(*map(wrap, cells, widths), fillvalue=""):
        padding = [" " * (width - cell_len(part)) for part, width in zip(parts, widths, strict=True)]
        pairs = zip(parts, padding, strict=True)
        yield GAP.join(
            part + space if listed or not index else space + part for index, (part, space) in enumerate(pairs)
        ).rstrip()


def wrap(cell: str, width: int) -> list[str]:
    """The lines of a cell, none longer than `width` unless a word is."""
    if cell_len(cell) <= width:
        return [cell]
    indent = " " * (len(cell) - len(cell.lstrip()))
    lines = [""]
    for word in PIECE.findall(cell):
        longer = f"{lines[-1]} {word}" if lines[-1] else indent + word
        if lines[-1] and cell_len(longer) > width:
            lines.append(indent + word)
        else:
            lines[-1] = longer
    return lines


def measure_longest_word(text: str) -> int:
    """Cells of the longest word of a text."""
    return max(map(cell_len, PIECE.findall(text)), default=0)
