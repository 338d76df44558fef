"""Tables of text, shown in the terminal and written as Markdown alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from rich.cells import cell_len

from adaptthink.cli.console import console
from adaptthink.evaluation.formats import MEASURES, choose_token_digits, escape_markdown, write_number
from adaptthink.evaluation.levels import write_level
from adaptthink.evaluation.scores import Scores
from adaptthink.grading import Verdict

GAP = "  "  # between columns
VERDICTS = {  # columns, with the verdicts in each
    "correct": (Verdict.CORRECT,),
    "wrong": (Verdict.WRONG,),
    "unparsed": (Verdict.UNPARSED,),
    "truncated": (Verdict.TRUNCATED,),
    "unclosed": (Verdict.UNCLOSED,),
    "failed": (Verdict.TIMEOUT, Verdict.ERROR),
}
PIECE = re.compile(r"\([^()]*\)\S*|\S+(?: /)?")  # what a line break leaves whole: a word, an interval in brackets


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text: a name, then numbers. `grouped`: before the name stands one that several rows share."""

    title: str
    headings: tuple[str, ...]  # all empty for a plain list of names and what they are
    rows: tuple[tuple[str, ...], ...]
    grouped: bool = False
    note: str = ""


def make_scores_table(title: str, rows: Mapping[str, Mapping[str, Scores]], note: str = "") -> TextTable:
    """Every measure with its 95% interval: a group for each row, a line for each of its levels or sets."""
    digits = choose_token_digits(chain.from_iterable(scores.values() for scores in rows.values()))
    lines = [
        (name, write_level(level), *(measure.write_both(one, digits) for measure in MEASURES))
        for name, scores in rows.items()
        for level, one in scores.items()
    ]
    return TextTable(title, ("", "", *(measure.heading for measure in MEASURES)), tuple(lines), grouped=True, note=note)


def make_verdicts_table(rows: Mapping[str, Mapping[str, int]]) -> TextTable:
    """Return the shares of verdicts by row, from how many responses got each; a verdict of none has no column."""
    columns = {
        name: verdicts
        for name, verdicts in VERDICTS.items()
        if any(counts.get(verdict) for counts in rows.values() for verdict in verdicts)
    }
    lines = []
    for name, counts in rows.items():
        total = sum(counts.values())
        shares = (sum(counts.get(verdict, 0) for verdict in verdicts) / total for verdicts in columns.values())
        lines.append((name, *(write_number(100 * share) for share in shares), write_number(total, 0)))
    return TextTable("verdicts, % of the responses", ("", *columns, "responses"), tuple(lines))


# ---- the terminal ---------------------------------------------------------------------------------------------------


def show_text_table(table: TextTable) -> None:
    """Print a table, no wider than the terminal as far as its words allow."""
    print_line(table.title, bold=True)
    for line, bold in lay_out(table, console.width):
        print_line(line, bold=bold)
    if table.note:
        console.print(table.note, markup=False)
    console.print()


def print_line(line: str, *, bold: bool) -> None:
    """Print one line as it is."""
    console.print(line, style="bold" if bold else None, markup=False, emoji=False, soft_wrap=True)


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


# ---- Markdown -------------------------------------------------------------------------------------------------------


def write_markdown(path: Path, tables: Iterable[TextTable]) -> None:
    """Write tables into a Markdown file, one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(map(to_markdown, tables)) + "\n", encoding="utf-8")


def to_markdown(table: TextTable) -> str:
    """A table as Markdown."""
    names = 1 + table.grouped
    rule = ["---" if index < names else "---:" for index in range(len(table.headings))]
    lines = ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in (table.headings, rule, *table.rows)]
    note = ["", escape_markdown(table.note)] if table.note else []
    return "\n".join([f"**{escape_markdown(table.title)}**", "", *lines, *note])
