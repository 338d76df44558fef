"""What `adaptthink compare` does, and the mode quality at the end of `adaptthink evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adaptthink.cli.console import console
from adaptthink.cli.markdown import Sheet, change, number, show_sheet, write_markdown
from adaptthink.evaluation.compare import Change, Compared, Comparison, Scores, check_alike, compare, read_rows
from adaptthink.evaluation.mode_choice import Quality, assess
from adaptthink.evaluation.statistics import Difference, plain
from adaptthink.modes import Convention
from adaptthink.storage.runs import write_json


def compare_job(names: Sequence[str], *, forced: bool, markdown: Path | None) -> dict[str, Any]:
    """Compare rows with the first of them, print the tables, and return everything."""
    rows = read_rows(names)
    if not forced:
        check_alike(rows)
    comparison = compare(rows)
    for difference in comparison.differences:
        console.print(f"forced, although {difference}", markup=False, soft_wrap=True)
    sheets = comparison_sheets(comparison)
    for sheet in sheets:
        show_sheet(sheet)
    if markdown:
        write_markdown(markdown, sheets)
        console.print(f"tables in {markdown}", markup=False, soft_wrap=True)
    result: dict[str, Any] = plain(comparison)
    return result


def comparison_sheets(comparison: Comparison) -> list[Sheet]:
    """The paper's table, the same with intervals, pass@k, and what of the differences can be told apart."""
    base, *others = comparison.rows
    counts = ", ".join(f"{set_title(name)}: {count}" for name, count in comparison.sets.items())
    avg = ", ".join(f"avg@{samples(row)} of {row.name}" for row in comparison.rows)
    forced = f"; forced, although {'; '.join(comparison.differences)}" if comparison.differences else ""
    paper = Sheet(
        "accuracy % / mean tokens / no_think %",
        ("", *map(set_title, comparison.sets), "ΔAcc", "ΔLength"),
        tuple(
            (row.name, *(paper_cell(row, name) for name in comparison.sets), *deltas_of(row)) for row in comparison.rows
        ),
        note=f"ΔAcc and ΔLength: means over the sets, against {base.name}{forced}",
    )
    scores = Sheet(
        "with 95% intervals",
        ("", "", "accuracy %", "mean tokens", "no_think %"),
        lines_of(comparison, lambda one: (number(one.accuracy, 100), number(one.tokens), number(one.no_think, 100))),
        grouped=True,
        note=f"problems in {counts}; accuracy is {avg}",
    )
    sheets = [paper, scores]
    ks = [2**power for power in range(1, min(row.samples[0] for row in comparison.rows).bit_length())]
    if ks:
        passes = lines_of(comparison, lambda one: tuple(number(one.pass_at[k], 100) for k in ks))
        sheets.append(Sheet("pass@k, %", ("", "", *(f"pass@{k}" for k in ks)), passes, grouped=True))
    sheets.append(difference_sheet(f"accuracy against {base.name}, points", others, lambda one: one.accuracy))
    sheets.append(difference_sheet(f"mean length against {base.name}, %", others, lambda one: one.tokens))
    return sheets


def lines_of(comparison: Comparison, cells: Callable[[Scores], tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """One line for each row and set."""
    return tuple((row.name, set_title(name), *cells(one)) for row in comparison.rows for name, one in row.sets.items())


def set_title(name: str) -> str:
    """A level as text says that it is one."""
    return f"level {name}" if name.isdigit() else name


def samples(row: Compared) -> str:
    """The samples of a problem: 4, or 3-4 where they differ."""
    least, most = row.samples
    return str(most) if least == most else f"{least}-{most}"


def paper_cell(row: Compared, name: str) -> str:
    """A row on one set, as the paper's tables have it."""
    one = row.sets[name]
    tokens = f"{one.tokens.estimate:.0f}" if one.tokens else "-"
    return f"{100 * one.accuracy.estimate:.1f} / {tokens} / {100 * one.no_think.estimate:.0f}"


def deltas_of(row: Compared) -> tuple[str, str]:
    """ΔAcc and ΔLength of a row; empty for the base."""
    if not row.mean_change:
        return "", ""
    accuracy, tokens = row.mean_change.accuracy, row.mean_change.tokens
    return f"{100 * accuracy.interval.estimate:+.1f}", f"{100 * tokens.interval.estimate:+.1f}%" if tokens else "-"


def difference_sheet(title: str, rows: Sequence[Compared], what: Callable[[Change], Difference | None]) -> Sheet:
    """One kind of difference to the base: by set, and as mean over the sets where there are several."""
    lines = []
    for row in rows:
        changes = {set_title(name): one for name, one in row.changes.items()}
        if row.mean_change and len(changes) > 1:
            changes["mean"] = row.mean_change
        for name, one in changes.items():
            difference = what(one)
            lines.append((row.name, name, *(verdict_cells(difference) if difference else ("-",) * 4)))
    note = (
        "p: adjusted for the number of means, and of lines that are not means (Holm); detectable: the difference that "
        "such data would show four times out of five"
    )
    headings = ("", "", "difference", "p", "detectable", "verdict")
    return Sheet(title, headings, tuple(lines), grouped=True, note=note)


def verdict_cells(difference: Difference) -> tuple[str, ...]:
    """A difference of shares or a relative change, in points or percent."""
    p = difference.p_value
    return (
        change(difference.interval, 100),
        "<0.001" if p < 0.001 else f"{p:.3f}",
        f"{100 * difference.smallest_detectable:.1f}",
        difference.verdict,
    )


# ---- mode quality ---------------------------------------------------------------------------------------------------


def quality_job(folder: Path, convention: Convention | None, *, reference: Path | None, delta: float) -> Quality:
    """Assess an evaluation folder, write its quality.json, and print what matters."""
    quality = assess(folder, convention=convention, reference=reference, delta=delta)
    write_json(folder / "quality.json", plain(quality))
    show_sheet(quality_sheet(quality))
    for note in quality.notes:
        console.print(f"not known: {note}", markup=False, soft_wrap=True)
    return quality


def quality_sheet(quality: Quality) -> Sheet:
    """The figures that say how well a model chooses, each with what it is."""
    rows: list[tuple[str, str]] = []
    if quality.against_think:
        accuracy, tokens = quality.against_think.accuracy, quality.against_think.tokens
        rows.append(("auto against forced think, points", f"{change(accuracy.interval, 100)}, {accuracy.verdict}"))
        if tokens:
            rows.append(("  its length, %", f"{change(tokens.interval, 100)}, {tokens.verdict}"))
    if quality.better_mode:
        better = quality.better_mode
        rows.append(("chose the better mode, %", number(better.hybrid_accuracy, 100)))
        if better.regret:
            rows.append(("lost against the better mode, points", change(better.regret.interval, 100)))
            rows.append(("  naively, which is too high", f"{100 * better.naive_regret:+.1f}"))
    if quality.no_think_by_pass_rate:
        rates = quality.no_think_by_pass_rate
        rows.append(("no_think %, by pass rate of", rates.reference))
        rows += [
            (f"  pass rate {name}", f"{number(share, 100)}, {share.num_problems} problems")
            for name, share in rates.bins.items()
        ]
        if rates.unknown:
            rows.append(("  without a pass rate", f"{rates.unknown} problems"))
    if quality.calibration:
        table = quality.calibration
        rows.append(
            ("calibration error of P(no_think)", f"{table.error:.3f}, by chance {table.error_if_calibrated:.3f}")
        )
    if quality.mass:
        mass = quality.mass
        rows.append(("P(either mode's token), mean and least", f"{mass.mean:.3f}, {mass.least:.3f}"))
        rest = "open thoughts too" if mass.others_think else f"leak: {number(mass.leaking, 100)} % of the problems"
        rows.append(("  other first tokens", rest))
    if quality.chosen_accuracy:
        chosen = quality.chosen_accuracy
        rows.append(("accuracy % where it thought", f"{number(chosen.think, 100)} ({chosen.label})"))
        rows.append(("accuracy % where it did not", f"{number(chosen.no_think, 100)} ({chosen.label})"))
    for requested, one in quality.implicit_thinking.items():
        rows.append((f"no_think answers that think, {requested}, %", number(one.share, 100)))
        rows.append(("  by keywords alone", number(one.by_keywords, 100)))
    return Sheet(f"mode quality, delta {quality.delta:g}", ("", ""), tuple(rows))
