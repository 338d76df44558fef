"""The tables that commands share, and tables as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path

from adaptthink.cli.layout import TextTable
from adaptthink.evaluation.formats import MEASURES, choose_token_digits, escape_markdown, write_number
from adaptthink.evaluation.levels import write_level
from adaptthink.evaluation.scores import Scores, Speed
from adaptthink.grading import Verdict

VERDICTS = {  # columns, with the verdicts in each
    "correct": (Verdict.CORRECT,),
    "wrong": (Verdict.WRONG,),
    "unparsed": (Verdict.UNPARSED,),
    "truncated": (Verdict.TRUNCATED,),
    "unclosed": (Verdict.UNCLOSED,),
    "failed": (Verdict.TIMEOUT, Verdict.ERROR),
}


def make_scores_table(title: str, rows: Mapping[str, Mapping[str, Scores]], note: str = "") -> TextTable:
    """Every measure with its 95% interval: a group for each row, a line for each of its levels or sets."""
    digits = choose_token_digits(chain.from_iterable(scores.values() for scores in rows.values()))
    lines = [
        (name, write_level(level), *(measure.write_both(one, digits) for measure in MEASURES))
        for name, scores in rows.items()
        for level, one in scores.items()
    ]
    return TextTable(title, ("", "", *(measure.heading for measure in MEASURES)), tuple(lines), grouped=True, note=note)


def make_speed_table(rows: Mapping[str, Speed]) -> TextTable | None:
    """Return how fast the responses of each row came; None if nothing is known, and no column for what is not."""
    columns: dict[str, Callable[[Speed], float | None]] = {
        "median, s": lambda one: one.median_seconds,
        "95th percentile, s": lambda one: one.p95_seconds,
        "tokens per second": lambda one: one.tokens_per_second,
    }
    known = {name: read for name, read in columns.items() if any(read(one) is not None for one in rows.values())}
    lines = tuple((name, *(write_number(read(one)) for read in known.values())) for name, one in rows.items())
    note = "seconds: of a request, beside those in flight with it; tokens per second: of all responses together"
    return TextTable("speed of the responses", ("", *known), lines, note=note) if known else None


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
